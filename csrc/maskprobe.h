// maskprobe: embedding-space probing for GGUF models, on top of llama.cpp.
//
// A model is opened once; a session holds one KV cache over it. One step of decoding is
//
//     mp_session_set_prefix(session, tokens, n, ...) the cache holds exactly these tokens; only what is new is evaluated
//     mp_session_decode    (session, &tree, &out)    one pass over  [ root | nodes | masks ]
//     mp_session_commit    (session, path, n)        the root and the accepted nodes stay in the cache, all else goes
//
// Rules that hold for every call:
//   - every function that can fail returns an mp_status; mp_last_error() then has one line that says why (per thread);
//   - after a failure, an error or a cancel, the cache holds exactly the committed tokens;
//   - a session belongs to one thread at a time (a second one gets MP_ERR_BUSY); only mp_session_cancel is free of that;
//   - a model lives until its last session and sampler are freed, whatever the order of the mp_*_free calls;
//   - all sizes are counts of elements, all times microseconds, all log-probabilities natural logarithms.
#ifndef MASKPROBE_H
#define MASKPROBE_H

// clang-format off: the columns of this file are for reading

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#    define MP_API __attribute__((visibility("default")))
#else
#    define MP_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mp_model   mp_model;
typedef struct mp_session mp_session;
typedef struct mp_sampler mp_sampler;
typedef struct mp_drafter mp_drafter;
typedef struct mp_planner mp_planner;

enum { MP_N_ROWS_LIMIT = 256 };  // rows of a pass at most: each may need a sequence of its own, llama.cpp has so many

typedef enum mp_status {
    MP_OK               = 0,
    MP_ERR_ARGUMENT     = 1,  // a value that the caller gave is out of range
    MP_ERR_FILE         = 2,  // the file cannot be read: missing, a directory, no permission
    MP_ERR_FORMAT       = 3,  // the file is not a sound GGUF model
    MP_ERR_UNSUPPORTED  = 4,  // the file is sound, but this kind of model is not run
    MP_ERR_MEMORY       = 5,  // it does not fit, with the numbers
    MP_ERR_CONTEXT_FULL = 6,  // no room left in the context
    MP_ERR_CANCELLED    = 7,  // mp_session_cancel, or a progress callback that returned false
    MP_ERR_DECODE       = 8,  // llama.cpp refused or failed the pass
    MP_ERR_NUMERIC      = 9,  // the model produced NaN or infinite logits
    MP_ERR_BUSY         = 10, // another thread is inside this session
    MP_ERR_STATE        = 11, // call out of order: commit without a pass, use after fork
    MP_ERR_INTERNAL     = 12, // an exception that should not have happened
} mp_status;

// --- library ---------------------------------------------------------------------------------------------------------

// "0.1.0"
MP_API const char * mp_version(void);

// What it was compiled with: "gcc 12.2.0".
MP_API const char * mp_compiler(void);

// The last failure on this thread, one line without a line break; "" if there was none. Valid until the next failure.
MP_API const char * mp_last_error(void);

// The name of a status, for instance "context full".
MP_API const char * mp_status_name(mp_status status);

// llama.cpp's own log lines: off (the default), or passed on to stderr.
MP_API void mp_set_verbose(bool verbose);

typedef struct mp_device {
    const char * name;        // "CPU", "Metal", ...
    const char * description;
    const char * kind;        // "cpu", "gpu", "igpu", "accel"
    size_t       memory_free; // bytes
    size_t       memory_total;
} mp_device;

// The i-th compute device of ggml. MP_ERR_ARGUMENT past the last.
MP_API mp_status mp_device_get(int32_t i, mp_device * out);

// Ceilings for the time of a pass, measured now (half a second): reading a large buffer, and the dot instructions of the
// kernels' instruction set on registers alone (0 where it has none). n_threads = 0: the physical cores. Errors: ARGUMENT.
typedef struct mp_machine_speed {
    double read_bytes_per_second;
    double int8_macs_per_second; // multiplications with accumulation
} mp_machine_speed;

MP_API mp_status mp_measure_machine(int32_t n_threads, mp_machine_speed * out);

// --- model -----------------------------------------------------------------------------------------------------------

// Called while weights are loaded, with 0..1. Return false to cancel.
typedef bool (*mp_progress_callback)(float progress, void * user_data);

typedef enum mp_kernels {
    MP_KERNELS_AUTO  = 0,     // ours where the weights lie on the CPU and most of their bytes have a type of ours, else stock
    MP_KERNELS_OURS  = 1,     // maskprobe's own, where there is one for a matrix; its weights are repacked into memory and no
                              // longer mapped. The environment variable MASKPROBE_ISA ("avx2", "portable", ...), read once,
                              // forces an instruction set
    MP_KERNELS_STOCK = 2,     // llama.cpp's
} mp_kernels;

// A LoRA adapter of a model, in a GGUF file of its own.
typedef struct mp_lora {
    const char * path;
    float        scale;       // of what it adds, 1: as it was trained; 0: as if it were not there
} mp_lora;

typedef struct mp_model_params {
    int32_t n_gpu_layers;     // layers kept on the GPU, < 0 = all. Default -1 (no effect without a GPU backend)
    bool    use_mmap;         // map the file rather than read it. Default true
    bool    use_mlock;        // keep the weights in RAM. Default false
    bool    check_tensors;    // refuse NaN and infinite weights while loading (reads the whole file). Default false
    bool    self_check;       // compare embedding input with token input at load; without it probing is off. Of a recurrent
                              // state, try whether it goes back; without it llama.cpp's word counts. Default true
    mp_kernels kernels;       // CPU kernels. Default MP_KERNELS_AUTO
    int32_t n_threads;        // threads of the self-check, 0 = the physical cores. Default 0
    int32_t n_loras;          // adapters, added up in every session of the model. Default 0
    const mp_lora * loras;    // (n_loras)
    mp_progress_callback progress;
    void *  progress_user_data;
} mp_model_params;

typedef struct mp_model_info {
    char    arch[64];         // general.architecture
    char    name[128];        // general.name, or ""
    char    description[128]; // llama.cpp's own, for instance "llama 1B Q4_0"
    int64_t size;             // bytes of all tensors
    int64_t n_params;
    int32_t n_vocab;
    int32_t n_embd;
    int32_t n_layer;
    int32_t n_ctx_train;
    int32_t token_bos;        // -1 where the model has none
    int32_t token_eos;
    bool    add_bos;          // the tokenizer puts BOS first
    bool    can_tree;         // the cache can be rolled back: trees of tokens can be verified
    int32_t max_chain;        // without can_tree: candidates of the longest chain that can be verified; 0 = none
    int64_t state_size;       // bytes of one recurrent state, 0 = the model has none or it is not known
    bool    can_probe;        // embedding rows work as input: mask vectors can be used
    float   embd_scale;       // what token embeddings are multiplied by before they enter as embedding rows
    char    kernels[32];      // "llama.cpp", or the instruction set of maskprobe's own
    char    kernels_reason[160]; // one line: the share of the weights that these compute, or why they are llama.cpp's
    int64_t packed_size;      // bytes of weights in memory that are packed for maskprobe's kernels, not mapped from the file
    char    note[512];        // one line: why can_tree or can_probe is false, what was limited, and which weights llama.cpp
                              // computes so that drafting may change a token; or ""
} mp_model_info;

MP_API mp_model_params mp_model_default_params(void);

// Opens a GGUF model (for a split one: its first file). It and its adapters are checked before llama.cpp sees them.
// params may be NULL. Errors: FILE, FORMAT, UNSUPPORTED, MEMORY, CANCELLED.
MP_API mp_status mp_model_open(const char * path, const mp_model_params * params, mp_model ** out);
MP_API void      mp_model_free(mp_model * model);

MP_API mp_status mp_model_get_info(const mp_model * model, mp_model_info * out);

// A metadata value as text, NULL if the model has no such key. Valid as long as the model.
MP_API const char * mp_model_metadata(const mp_model * model, const char * key);

// The input embeddings of tokens, as the file has them, dequantised: out is (n, n_embd).
// Errors: ARGUMENT (token out of range), UNSUPPORTED (the file has no such table).
MP_API mp_status mp_model_embedding_rows(const mp_model * model, const int32_t * tokens, int32_t n, float * out);

// Text to tokens. text need not end in NUL. Writes at most capacity tokens; *n is the number needed, so a first call
// with capacity 0 tells it. Errors: ARGUMENT (NULL, invalid UTF-8, embedded NUL).
MP_API mp_status mp_tokenize(const mp_model * model, const char * text, size_t n_text, bool add_special,
                             bool parse_special, int32_t * tokens, int32_t capacity, int32_t * n);

// The bytes of one token, which may be part of a UTF-8 character. *n is the number needed, as above; no NUL is added.
MP_API mp_status mp_token_bytes(const mp_model * model, int32_t token, bool special, char * bytes, int32_t capacity,
                                int32_t * n);

// Whether a token ends the generation (EOS, EOT, ...). false for a token out of range.
MP_API bool mp_token_is_end(const mp_model * model, int32_t token);

// The conversation through the model's chat template as llama.cpp knows it. roles and contents hold n strings.
// *n_text is the number of bytes needed, as above. Errors: UNSUPPORTED (no template, or one llama.cpp does not know).
MP_API mp_status mp_chat_format(const mp_model * model, const char * const * roles, const char * const * contents,
                                int32_t n, bool add_assistant, char * text, int32_t capacity, int32_t * n_text);

// --- session ---------------------------------------------------------------------------------------------------------

typedef struct mp_session_params {
    int32_t      n_ctx;           // context in tokens, 0 = the model's, reduced to what memory holds. Default 0
    int32_t      n_batch;         // tokens given to llama.cpp at once while a prompt is evaluated. Default 2048
    int32_t      n_ubatch;        // tokens in one graph; 0 = 512, less where the attention scores would be huge
    int32_t      n_rows_max;      // rows of the largest tree pass, 1..MP_N_ROWS_LIMIT. Default 64
    int32_t      n_top_max;       // candidates kept per row at most. Default 64
    int32_t      n_threads;       // threads of tree passes, 0 = the physical cores. Default 0
    int32_t      n_threads_batch; // threads of prompt evaluation, 0 = n_threads. Default 0
    const char * type_k;          // K cache: "f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0". Default "f16"
    const char * type_v;          // V cache, likewise; a quantised one needs flash attention
    int32_t      flash_attn;      // 1 on, 0 off, -1 = on with maskprobe's kernels; with llama.cpp's off on the CPU (slower
                                  // for few rows there) and its own choice on a GPU
    bool         offload_kqv;     // keep the cache on the GPU if layers are there. Default true
} mp_session_params;

MP_API mp_session_params mp_session_default_params(void);

// params may be NULL. Errors: ARGUMENT, MEMORY.
MP_API mp_status mp_session_open(mp_model * model, const mp_session_params * params, mp_session ** out);
MP_API void      mp_session_free(mp_session * session);

MP_API int32_t   mp_session_n_ctx    (const mp_session * session); // tokens that fit
MP_API int32_t   mp_session_n_past   (const mp_session * session); // committed tokens in the cache
MP_API int32_t   mp_session_n_threads(const mp_session * session); // threads of a tree pass

// Where the model can verify chains only: candidates of the longest one, 0 = none. At most the model's max_chain and
// n_rows_max - 1, less where memory is short: a session keeps one recurrent state more than that.
MP_API int32_t   mp_session_max_chain(const mp_session * session);

// What came of setting the prefix. The arrays belong to the session and are valid until its next call.
typedef struct mp_prefix {
    int32_t         n_reused;     // tokens that the cache held already
    int32_t         n_rows;       // row i is the output behind token n - n_rows + i: the last tokens that were evaluated, as
                                  // many as were wanted; fewer where others follow a row that is not finite
    int32_t         n_top;
    const int32_t * top_tokens;   // (n_rows, n_top) most likely first, equals by id
    const float *   top_logprobs; // (n_rows, n_top)
} mp_prefix;

// Makes the cache hold exactly tokens[0..n). The common prefix with what it holds is kept, the rest is evaluated.
// Of the last n_outputs (0..MP_N_ROWS_LIMIT) of the rest, the n_top (1..n_top_max) most likely successors are put into *out:
// what is computed anyway but for the output matrix. They change nothing in the cache; with n_outputs = 0 they cost nothing
// and n_top does not count. out may be NULL. A cancelled call keeps the part that is complete, and leaves no rows.
// Errors: ARGUMENT, CONTEXT_FULL, CANCELLED, DECODE.
MP_API mp_status mp_session_set_prefix(mp_session * session, const int32_t * tokens, int32_t n, int32_t n_outputs,
                                       int32_t n_top, mp_prefix * out);

// One pass over a token tree with masks.
//
//   node 0 is the root: the newest token, not in the cache yet. It follows the committed tokens.
//   node i > 0 is a candidate for the place after node parent[i]; parents come before their children.
//   mask j of an owner stands j places behind it and sees what the owner sees, the owner, and its masks before j.
//   no node ever sees a mask, so a node's logits are those of plain decoding.
//
//   row:        root  a  b  c | m(root) m(a)      a, b children of the root, c a child of a
//   position:   p     p+1 p+1 p+2 | p+1  p+2
//   root          x
//   a             x   x
//   b             x      x
//   c             x   x     x
//   m(root)       x             x
//   m(a)          x   x               x
typedef struct mp_tree {
    int32_t         n_nodes;
    const int32_t * tokens;       // (n_nodes), -1: the next row of `embd` stands here instead of a token
    const int32_t * parents;      // (n_nodes), parents[0] = -1, parents[i] < i
    const float *   embd;         // (number of tokens that are -1, n_embd), or NULL
    const uint8_t * node_outputs; // (n_nodes), non-zero: logits are wanted; NULL: of every node
    int32_t         n_masks;
    const int32_t * mask_owners;  // (n_masks), in the order of their places behind the owner
    const float *   masks;        // (n_masks, n_embd), in the space of token embeddings
    const uint8_t * mask_outputs; // (n_masks), likewise
    int32_t         n_top;        // candidates wanted per output row, 1..n_top_max
} mp_tree;

// The outputs of a pass. All pointers belong to the session and are valid until its next decode.
// Rows are numbered: node i is row i, mask j is row n_nodes + j. Rows without an output have best = -1 and undefined rest.
typedef struct mp_pass {
    int32_t         n_rows;       // n_nodes + n_masks
    int32_t         n_top;
    const int32_t * best;         // (n_rows) the most likely token, the lowest id among equals
    const int32_t * top_tokens;   // (n_rows, n_top) most likely first, equals by id
    const float *   top_logprobs; // (n_rows, n_top)
    int64_t         decode_us;    // inside llama_decode
    int64_t         engine_us;    // all else inside mp_session_decode: layout, cache, top-K
} mp_pass;

// Errors: ARGUMENT (with the index of the offending node), CONTEXT_FULL, CANCELLED, DECODE, NUMERIC,
// UNSUPPORTED (a tree, too long a chain, or embedding rows, on a model that cannot).
MP_API mp_status mp_session_decode(mp_session * session, const mp_tree * tree, mp_pass * out);

// The full logits of a row of the last pass, (n_vocab), valid until the next decode or change of the prefix.
// Errors: ARGUMENT if the row had no output, STATE if there was no pass.
MP_API mp_status mp_session_logits(mp_session * session, int32_t row, const float ** logits);

// The log-probability of one token in a row of the last pass.
MP_API mp_status mp_session_logprob(mp_session * session, int32_t row, int32_t token, float * logprob);

// Keeps nodes path[0..n) of the last pass in the cache and drops every other row. path[0] = 0, each next node is a
// child of the one before. n = 0 drops them all, as does any other call that follows a decode.
MP_API mp_status mp_session_commit(mp_session * session, const int32_t * path, int32_t n);

// What maskprobe's kernels have cost in this session so far.
typedef struct mp_part {
    char    name[16];         // products by the type of their weights, for instance "q4_0"; "head", the output matrix;
                              // "attention"
    int64_t n_ops;
    int64_t ns;               // nanoseconds of the session's thread
    int64_t bytes;            // of packed weights, or of keys and values, that the operations went through
    int64_t macs;             // multiplications with accumulation
} mp_part;

// The i-th part that cost something. MP_ERR_ARGUMENT past the last one; with llama.cpp's kernels there is none.
MP_API mp_status mp_session_get_part(mp_session * session, int32_t i, mp_part * out);

// Stops the pass that is running, from any thread (on the CPU within the pass), or the next one.
// It returns MP_ERR_CANCELLED; then the session is ready for use again.
MP_API void mp_session_cancel(mp_session * session);

// --- sampler ---------------------------------------------------------------------------------------------------------

typedef struct mp_sampler_params {
    float        temp;              // 0: greedy. Default 0.8
    int32_t      top_k;             // <= 0: off. Default 40
    float        top_p;             // >= 1: off. Default 0.95
    float        min_p;             // <= 0: off. Default 0.05
    int32_t      penalty_last_n;    // tokens looked back at, -1 = the whole context. Default 64
    float        penalty_repeat;    // 1: off. Default 1
    float        penalty_frequency; // 0: off
    float        penalty_presence;  // 0: off
    uint32_t     seed;              // 0xFFFFFFFF: a random one. Default
    int32_t      n_logit_bias;
    const int32_t * bias_tokens;    // (n_logit_bias)
    const float *   bias_values;    // (n_logit_bias), -INFINITY forbids a token
    const char * grammar;           // GBNF with a rule named root, or NULL
} mp_sampler_params;

MP_API mp_sampler_params mp_sampler_default_params(void);

// libllama's own sampler chain. Errors: ARGUMENT (NaN, negative temperature, token out of range, bad grammar).
MP_API mp_status mp_sampler_open(mp_model * model, const mp_sampler_params * params, mp_sampler ** out);
MP_API void      mp_sampler_free(mp_sampler * sampler);

// Shows prompt tokens to the penalties.
MP_API mp_status mp_sampler_prime(mp_sampler * sampler, const int32_t * tokens, int32_t n);

// Draws the token that follows a row of the session's last pass and accepts it into the sampler's state: one draw per
// emitted token, so that a seed gives the same text with any proposer. Errors: ARGUMENT, STATE.
MP_API mp_status mp_sampler_sample(mp_sampler * sampler, mp_session * session, int32_t row, int32_t * token);

// --- drafter ---------------------------------------------------------------------------------------------------------
// Candidates for the next tokens from what is known without another pass: what the model itself gave as likely behind a
// token, a pair or a triple, prompt and rejected rows included (Token Recycling, arXiv 2408.08696); n-grams of the text and of
// earlier ones; what the last pass found likely in the same places (LogitSpec, arXiv 2507.01449), its masks among it (ESP, arXiv 2603.17942).
// Each candidate gets a probability from a logistic model that is learned while decoding. One thread at a time.

typedef struct mp_draft {
    int32_t         n_nodes;
    const int32_t * tokens;        // (n_nodes), tokens[0] is the root, the newest token
    const int32_t * parents;       // (n_nodes), as in mp_tree
    const float *   probabilities; // (n_nodes) that the node is accepted, not increasing: any first part is a tree too
    const int8_t *  sources;       // (n_nodes) what spoke most for it: successors of 0 the token before it, 1 the two,
                                   // 2 the three; 3 n-grams, 4 masks, 5 the row before, 6 rejected rows,
                                   // 7 n-grams of earlier texts; -1 the root
    float           mask_gain;     // by how much, lately, the masks behind the last accepted node had raised the emitted
                                   // token's probability, per pass
} mp_draft;

// What became of the first n_nodes of a draft.
typedef struct mp_draft_result {
    int32_t         n_nodes;
    int32_t         n_masks;
    const int32_t * mask_owners;  // (n_masks)
    int32_t         n_top;
    const int32_t * top_tokens;   // (n_nodes + n_masks, n_top), as in mp_pass
    const float *   top_logprobs; // (n_nodes + n_masks, n_top)
    int32_t         n_path;
    const int32_t * path;         // (n_path) the root and the accepted nodes
    const int32_t * emitted;      // (n_path) the tokens drawn behind them
} mp_draft_result;

MP_API mp_status mp_drafter_open(int32_t n_vocab, mp_drafter ** out);
MP_API void      mp_drafter_free(mp_drafter * drafter);

// From the next draft on: whether each is the most probable chain instead of the most probable tree.
MP_API mp_status mp_drafter_chains_only(mp_drafter * drafter, bool chains_only);

// A new text: the one before becomes an earlier one, of which some n-grams stay; so does what is known of the model.
MP_API mp_status mp_drafter_begin(mp_drafter * drafter, const int32_t * tokens, int32_t n);

// What the model found likely behind the n_rows tokens before the newest one, the next root: row i belongs to the token
// n_rows - i places before it, as mp_session_set_prefix() of all but the root gives them. Learned like the rows of a pass.
MP_API mp_status mp_drafter_learn_prompt(mp_drafter * drafter, int32_t n_rows, int32_t n_top, const int32_t * top_tokens,
                                         const float * top_logprobs);

// Tokens of which no row was learned yet though rows gave them as likely, at most n_max, the likeliest first: a drafter that
// knows little of the model learns from a pass over the newest token and these as its children, of which none becomes text.
// Row 0 of such a pass is the newest token's, row 1 + i that of tokens[i].
MP_API mp_status mp_drafter_unseen(const mp_drafter * drafter, int32_t n_max, int32_t * tokens, int32_t * n);
MP_API mp_status mp_drafter_learn_unseen(mp_drafter * drafter, const int32_t * tokens, int32_t n, int32_t n_top,
                                         const int32_t * top_tokens, const float * top_logprobs);

// Tokens that were emitted without a draft.
MP_API mp_status mp_drafter_extend(mp_drafter * drafter, const int32_t * tokens, int32_t n);

// Of all candidates that were accepted so far, how many by each source (of mp_draft).
enum { MP_N_SOURCES = 8 };
MP_API mp_status mp_drafter_earned(const mp_drafter * drafter, int64_t earned[MP_N_SOURCES]);

// A candidate that followed an accepted node, in the tree or not, and whether it was right.
typedef struct mp_example {
    uint8_t depth;               // its parent's: 0, 1, 2 or more
    uint8_t right;
    uint8_t level[MP_N_SOURCES]; // what spoke for it (csrc/draft/acceptance_model.h)
} mp_example;

// What the last mp_drafter_observe() learned from: for learning the first weights (bench/learn_prior.py). At most n_max are
// written, *n is how many there are.
MP_API mp_status mp_drafter_examples(const mp_drafter * drafter, int32_t n_max, mp_example * examples, int32_t * n);

// How many of the last tokens followed, each of them, what the same two tokens before it foretold. From MP_N_REPEATED on the
// text counts as one that repeats itself.
enum { MP_N_REPEATED = 4 };
MP_API int32_t   mp_drafter_n_repeated(const mp_drafter * drafter);

// At most n_max nodes, the root included. The arrays belong to the drafter and are valid until its next call.
MP_API mp_status mp_drafter_grow(mp_drafter * drafter, int32_t n_max, mp_draft * out);

// Learns from a pass over the first part of the last draft; the emitted tokens become part of the text.
MP_API mp_status mp_drafter_observe(mp_drafter * drafter, const mp_draft_result * result);

// What is known of the model and of earlier texts, to be kept between runs. *n is the number of bytes needed, as above. A state that makes no
// sense is MP_ERR_FORMAT and leaves the drafter as new.
MP_API mp_status mp_drafter_save(const mp_drafter * drafter, void * bytes, size_t capacity, size_t * n);
MP_API mp_status mp_drafter_load(mp_drafter * drafter, const void * bytes, size_t n);

// --- planner ---------------------------------------------------------------------------------------------------------
// How many rows the next pass should have, from what passes cost on this machine and what claimed probabilities turned out
// to be worth; none beside the root where candidates do not pay. It serves a drafter or any other source of candidates.
// One thread at a time.

enum { MP_N_CLAIM_BINS = 16 };  // of claimed probabilities, one for each power of two

// One measured pass.
typedef struct mp_cost {
    int32_t depth;   // class of the number of tokens in the cache: bits of that number, 9 at least
    int32_t n_rows;
    double  us;
} mp_cost;

// What is known of a model and its source of candidates; what passes cost belongs to a machine.
typedef struct mp_learned {
    double  claimed[MP_N_CLAIM_BINS];   // sums of claimed probabilities, fading
    double  accepted[MP_N_CLAIM_BINS];  // how many of these candidates were accepted, fading
} mp_learned;

// What a pass brought.
typedef struct mp_plan_result {
    int32_t         n_rows;    // masks included
    int32_t         n_nodes;   // of the draft that were decoded, its first ones
    int32_t         n_path;
    const int32_t * path;      // (n_path) the root and the accepted nodes
    const int32_t * emitted;   // (n_path) the tokens drawn behind them
    double          core_us;   // in the core
    double          total_us;  // all the step took
} mp_plan_result;

// Kept up to date by the calls below.
typedef struct mp_outlook {
    bool    napping;  // no draft: they have cost more than they gained. After some passes without one, mp_planner_rest()
    bool    plain;    // the next passes should be made without a draft, to see what that takes
    bool    repeats;  // mp_planner_draft() found a text that repeats itself: drafts of such a text go further
    int32_t n_same;   // so many more passes should have as many rows, as long as `repeats` holds: asking for each would cost
                      // more than it brings
    float   weakest;  // calibrated probability of the last node that mp_planner_rows() chose
} mp_outlook;

// The numbers of rows that a planner chooses from, increasing: few, so that llama.cpp's graphs are used again.
MP_API const int32_t * mp_planner_shapes(int32_t * n);

MP_API mp_status mp_planner_open(int32_t n_rows_max, mp_planner ** out);
MP_API void      mp_planner_free(mp_planner * planner);

// Valid as long as the planner.
MP_API const mp_outlook * mp_planner_outlook(const mp_planner * planner);

// The number of tokens in the cache, on which it depends what a pass costs. mp_planner_rows() sets it too.
MP_API mp_status mp_planner_at_depth(mp_planner * planner, int64_t n_past);

// Rows for a pass over the first nodes of a draft, with n_past tokens in the cache. MP_ERR_STATE before a pass of one row
// was measured.
MP_API mp_status mp_planner_rows(mp_planner * planner, int64_t n_past, const mp_draft * draft, int32_t * n_rows);

// What came of the pass; `draft` is NULL for one that was made without.
MP_API mp_status mp_planner_observe(mp_planner * planner, const mp_draft * draft, const mp_plan_result * result);

// Both for a drafter's own draft: mp_planner_rows() with a draft of up to n_max nodes that grows only as far as more could
// pay; mp_drafter_observe() and mp_planner_observe().
MP_API mp_status mp_planner_draft(mp_planner * planner, mp_drafter * drafter, int64_t n_past, int32_t n_max, mp_draft * out,
                                  int32_t * n_rows);
MP_API mp_status mp_planner_learn(mp_planner * planner, mp_drafter * drafter, const mp_draft * draft,
                                  const mp_draft_result * result, double core_us, double total_us);

// In a nap: n passes were made without a draft. If so many of the last tokens repeat what was there before, it may end.
MP_API mp_status mp_planner_rest(mp_planner * planner, int32_t n, int32_t n_repeated);

// First measurements: the next number of rows to be measured, 0 for none: one beyond `after`, or, while passes are short, any
// of which there are few samples; and a sample of such a pass.
MP_API mp_status mp_planner_next_to_measure(mp_planner * planner, int32_t after, int32_t n_max, int32_t * n_rows);
MP_API mp_status mp_planner_measured(mp_planner * planner, int32_t n_rows, double us);

// What a pass of n rows costs at this depth, in microseconds; what another number of rows than the last one's adds, once;
// and what a claimed probability is worth. MP_ERR_STATE before a pass of one row was measured.
MP_API mp_status mp_planner_time(mp_planner * planner, int32_t n_rows, double * us);
MP_API mp_status mp_planner_change(mp_planner * planner, double * us);
MP_API mp_status mp_planner_probability(const mp_planner * planner, double claimed, double * probability);

// To be kept between runs. *n is the number of costs there are, whatever the capacity. What makes no sense is
// MP_ERR_FORMAT and changes nothing.
MP_API mp_status mp_planner_costs(const mp_planner * planner, mp_cost * costs, size_t capacity, size_t * n);
MP_API mp_status mp_planner_load_costs(mp_planner * planner, const mp_cost * costs, size_t n);
MP_API mp_status mp_planner_learned(const mp_planner * planner, mp_learned * learned);
MP_API mp_status mp_planner_load_learned(mp_planner * planner, const mp_learned * learned);

#ifdef __cplusplus
}
#endif

#endif // MASKPROBE_H
