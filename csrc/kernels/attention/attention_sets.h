// What attention.cpp and the kernels of the instruction sets share.
#pragma once

#include "kernels/attention/attention.h"

#if defined(__x86_64__) || defined(__i386__)
#    define MP_ATTENTION_X86 1
#else
#    define MP_ATTENTION_X86 0
#endif
#if defined(__aarch64__)
#    define MP_ATTENTION_NEON 1
#else
#    define MP_ATTENTION_NEON 0
#endif

namespace mp {

constexpr int32_t ATTENTION_BLOCK = 64; // cells that are computed together

// Rows that are computed together: enough to make up for the conversion of K and V, few enough for the second-level cache.
int32_t attention_chunk_rows(const attention_job & job);

void attention_run_portable(const attention_job & job, int32_t head_begin, int32_t head_end, void * scratch);
void attention_run_avx2(const attention_job & job, int32_t head_begin, int32_t head_end, void * scratch);
void attention_run_avx512(const attention_job & job, int32_t head_begin, int32_t head_end, void * scratch);
void attention_run_neon(const attention_job & job, int32_t head_begin, int32_t head_end, void * scratch);

} // namespace mp
