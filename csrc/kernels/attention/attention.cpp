#include "kernels/attention/attention_sets.h"

#include <algorithm>

namespace mp {

static constexpr int32_t MAX_HEAD_SIZE = 512;

static bool type_supported(ggml_type type, int32_t head_size) {
    switch (type) {
    case GGML_TYPE_F16:
    case GGML_TYPE_F32:
    case GGML_TYPE_BF16:
        return true;
    case GGML_TYPE_Q8_0:
        return head_size % 32 == 0;
    default:
        return false;
    }
}

bool attention_supports(const attention_job & job, instruction_set set) {
    if (job.head_size < 4 || job.head_size > MAX_HEAD_SIZE || job.head_size % 4 != 0) {
        return false;
    }
    if (job.n_head_kv < 1 || job.n_head < 1 || job.n_head % job.n_head_kv != 0) {
        return false;
    }
    return type_supported(job.k_type, job.head_size) && type_supported(job.v_type, job.head_size) &&
           (MP_ATTENTION_X86 || MP_ATTENTION_NEON || set == instruction_set::portable);
}

int32_t attention_chunk_rows(const attention_job & job) {
    return std::min(job.n, std::max(1, 1024 / job.n_head));
}

size_t attention_scratch_size(const attention_job & job) {
    const size_t block = ATTENTION_BLOCK, tile = 4, max_lanes = 16; // of attention_kernel.h
    const size_t rows = attention_chunk_rows(job);
    const size_t lines = rows * job.n_head;
    const size_t floats = (2 * block + max_lanes) * job.head_size + (tile + rows) * block + 2 * lines;
    const size_t doubles = lines * job.head_size + tile * block + lines;
    return (floats * sizeof(float) + doubles * sizeof(double) + 63) / 64 * 64;
}

void attention_run(const attention_job & job, instruction_set set, int32_t head_begin, int32_t head_end, void * scratch) {
    if (job.head_size % 16 != 0) { // of tiny models: the vectors of the other sets are too long
        return attention_run_portable(job, head_begin, head_end, scratch);
    }
#if MP_ATTENTION_NEON
    (void) set; // what every 64-bit ARM processor has is enough, whatever the products use
    return attention_run_neon(job, head_begin, head_end, scratch);
#else
    switch (set) {
#    if MP_ATTENTION_X86
    case instruction_set::avx512_vnni:
        return attention_run_avx512(job, head_begin, head_end, scratch);
    case instruction_set::avx_vnni:
    case instruction_set::avx2:
        return attention_run_avx2(job, head_begin, head_end, scratch);
#    endif
    default:
        return attention_run_portable(job, head_begin, head_end, scratch);
    }
#endif
}

} // namespace mp
