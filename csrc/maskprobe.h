// maskprobe: embedding-space probing for GGUF models, on top of llama.cpp.
//
// A model is opened once; a context holds a KV cache over it. Most programs need no more than an engine:
//
//     mp_engine_open       (context, ...)          proposes, decodes, accepts, commits, learns
//     mp_generation_open   (engine, prompt, ...)   any number of them share the passes of one engine
//     mp_engine_step       (engine, &n_active)     one pass for all that are active
//     mp_generation_next   (generation, &token)    what it emitted, token by token
//
// Who builds trees himself uses sessions, each one sequence in the cache of its context:
//
//     mp_session_set_prefix(session, tokens, ...)  the session holds exactly these tokens; only what is new is evaluated
//     mp_context_decode    (context, n, sessions, trees, passes)   ONE pass over  [ root | nodes | masks ]  of each
//     mp_session_commit    (session, path, n)      the root and the accepted nodes stay in the cache, all else goes
//
// Rules that hold for every call:
//   - every function that can fail returns an mp_status; mp_last_error() then has one line that says why (per thread);
//   - after a failure, an error or a cancel, the cache holds exactly the committed tokens of every session;
//   - a context with its sessions, a sampler, an engine: one thread at a time, a second one gets MP_ERR_BUSY. Free of that
//     are mp_context_cancel and mp_generation_*, which may be called while another thread is in mp_engine_step;
//   - what an object was made from lives until the object is freed, whatever the order of the mp_*_free calls;
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

typedef struct mp_model mp_model;     typedef struct mp_context mp_context; typedef struct mp_session mp_session;
typedef struct mp_sampler mp_sampler; typedef struct mp_masks mp_masks;
typedef struct mp_engine mp_engine;   typedef struct mp_generation mp_generation;

// Sessions of a context; rows of a pass: each may need a sequence of its own, llama.cpp has so many.
enum { MP_N_SESSIONS_LIMIT = 64, MP_N_ROWS_LIMIT = 256 };

typedef enum mp_status {
    MP_OK = 0,
    MP_ERR_ARGUMENT     = 1,  // a value that the caller gave is out of range
    MP_ERR_FILE         = 2,  // the file cannot be read: missing, a directory, no permission; the host cannot be reached
    MP_ERR_FORMAT       = 3,  // the file is not a sound GGUF model
    MP_ERR_UNSUPPORTED  = 4,  // the file is sound, but this kind of model is not run
    MP_ERR_MEMORY       = 5,  // it does not fit, with the numbers
    MP_ERR_CONTEXT_FULL = 6,  // no room left in the context
    MP_ERR_CANCELLED    = 7,  // mp_context_cancel, or a progress callback that returned false
    MP_ERR_DECODE       = 8,  // llama.cpp refused or failed the pass
    MP_ERR_NUMERIC      = 9,  // the model produced NaN or infinite logits
    MP_ERR_BUSY         = 10, // another thread is inside this object
    MP_ERR_STATE        = 11, // call out of order: commit without a pass; in a child forked after a model was opened
    MP_ERR_INTERNAL     = 12, // an exception that should not have happened
    MP_ERR_CALLBACK     = 13, // a proposer or a constraint of the caller failed
    MP_AGAIN            = 14, // no failure: nothing to read yet, make a step
} mp_status;

// --- library ---------------------------------------------------------------------------------------------------------
MP_API const char * mp_version(void);                      // "0.1.0"
MP_API const char * mp_compiler(void);                     // what it was compiled with: "gcc 12.2.0"
MP_API const char * mp_last_error(void);                   // of this thread, one line; "" if there was none
MP_API const char * mp_status_name(mp_status status);      // for instance "context full"
MP_API void         mp_set_verbose(bool verbose);          // pass llama.cpp's own log lines on to stderr. Off by default
// kind: "cpu", "gpu", "igpu", "accel"; memory in bytes.
typedef struct mp_device { const char * name, * description, * kind; size_t memory_free, memory_total; } mp_device;
MP_API mp_status mp_device_get(int32_t i, mp_device * out); // the i-th of ggml. MP_ERR_ARGUMENT past the last
// Ceilings for the time of a pass, measured now (half a second): reading a large buffer, and the dot instructions of the
// kernels' instruction set on registers alone (0 where it has none). n_threads = 0: the physical cores. Errors: ARGUMENT.
typedef struct mp_machine_speed { double read_bytes_per_second, int8_macs_per_second; } mp_machine_speed;
MP_API mp_status mp_measure_machine(int32_t n_threads, mp_machine_speed * out);

// Computes layers of other machines' models at "address:port" (mp_model_params.rpc), one program at a time; never MP_OK.
// cache: a folder for large tensors, or NULL. No password, no encryption. Errors: ARGUMENT, UNSUPPORTED (no RPC), FILE.
MP_API mp_status mp_rpc_serve(const char * endpoint, int32_t n_threads, const char * cache);

// --- model -----------------------------------------------------------------------------------------------------------
// Called while weights are loaded, with 0..1. Return false to cancel.
typedef bool (*mp_progress_callback)(float progress, void * user_data);

typedef enum mp_kernels {
    MP_KERNELS_AUTO  = 0, // ours where the weights lie on the CPU and most of their bytes have a type of ours, else stock
    MP_KERNELS_OURS  = 1, // where there is one for a matrix; its weights are repacked into memory and no longer mapped. The
                          // environment variable MASKPROBE_ISA ("avx2", "portable", ...) forces an instruction set
    MP_KERNELS_STOCK = 2, // llama.cpp's
} mp_kernels;

// An adapter of a model, in a GGUF file of its own. scale: of what it adds, 1: as trained; 0: as if it were not there.
typedef struct mp_lora { const char * path; float scale; } mp_lora;
typedef struct mp_model_params {
    int32_t n_gpu_layers;     // layers kept on the GPU, < 0 = all. Default -1 (no effect without a GPU backend)
    bool    use_mmap, use_mlock; // map the file, which must not shrink then (SIGBUS), default true; keep it in RAM, default false
    bool    check_tensors;    // refuse NaN and infinite weights while loading (reads the whole file). Default false
    bool    self_check;       // compare embedding input with token input at load; without it probing is off. Of a recurrent
                              // state, try whether it goes back; without it llama.cpp's word counts. Default true
    bool    load_mtp;         // layers for multi-token prediction too, where the file has some: for engines. Default true
    bool    vocab_only;       // metadata and vocabulary alone: texts and tokens, nothing can be evaluated. Default false
    mp_kernels kernels;       // CPU kernels. Default MP_KERNELS_AUTO
    int32_t n_threads;        // threads of the self-check, 0 = the physical cores. Default 0
    int32_t n_loras;
    const mp_lora * loras;    // (n_loras) adapters, added up in every session of the model. Default none
    const char * rpc;         // "host:port,..." of ggml's RPC workers, which the layers of n_gpu_layers lie on; such a host can
                              // read all, and ggml ends the process where one dies (docs/hosts.md). Default NULL: none
    int32_t n_split;
    const float * split;      // (n_split) shares of these hosts' devices and then of GPUs. Default: by their free memory
    mp_progress_callback progress;
    void *  progress_user_data;
} mp_model_params;

typedef struct mp_model_info {
    char    arch[64];         // general.architecture
    char    name[128];        // general.name, or ""
    char    description[128]; // llama.cpp's own, for instance "llama 1B Q4_0"
    int64_t size, n_params;   // size: bytes of all tensors
    int32_t n_vocab, n_embd, n_layer, n_layer_mtp, n_ctx_train; // n_layer_mtp: for multi-token prediction, beside n_layer
    int32_t token_bos, token_eos, token_fim_pre, token_fim_suf, token_fim_mid; // -1 where the model has none
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
    char    placement[512];   // one line: which layers lie on which host; "" without mp_model_params.rpc
} mp_model_info;

// Opens a GGUF model (for a split one: its first file). It and its adapters are checked before llama.cpp sees them.
// params may be NULL. Errors: FILE, FORMAT, UNSUPPORTED, MEMORY, CANCELLED.
MP_API mp_model_params mp_model_default_params(void);
MP_API mp_status       mp_model_open    (const char * path, const mp_model_params * params, mp_model ** out);
MP_API void            mp_model_free    (mp_model * model);
MP_API mp_status       mp_model_get_info(const mp_model * model, mp_model_info * out);
MP_API const char *    mp_model_metadata(const mp_model * model, const char * key); // as text, NULL: no such key
MP_API const char *    mp_model_metadata_key(const mp_model * model, int32_t i); // of the i-th of these, NULL past the last
// What tells the model from others, and the place of heads for it in the user's cache folder, "" without a home. Both are
// valid until the thread's next call of this function.
MP_API mp_status       mp_model_identity(const mp_model * model, const char ** identity, const char ** heads);
// The input embeddings of tokens, as the file has them, dequantised: out is (n, n_embd).
// Errors: ARGUMENT (token out of range), UNSUPPORTED (the file has no such table), FILE (it has shrunk).
MP_API mp_status mp_model_embedding_rows(const mp_model * model, const int32_t * tokens, int32_t n, float * out);
// Masks that were trained for the model (docs/masks.md); *vectors is (n, n_embd) and lives as long as they do. Errors: FILE,
// FORMAT, UNSUPPORTED (the model cannot be probed, or a product that they change is not of our kernels).
MP_API mp_status mp_masks_open   (mp_model * model, const char * path, mp_masks ** out);
MP_API void      mp_masks_free   (mp_masks * masks);
MP_API mp_status mp_masks_vectors(const mp_masks * masks, int32_t * n, const float ** vectors);
// Text to tokens. text need not end in NUL. Writes at most capacity tokens; *n is the number needed, so a first call
// with capacity 0 tells it. Errors: ARGUMENT (NULL, invalid UTF-8, embedded NUL).
MP_API mp_status mp_tokenize(const mp_model * model, const char * text, size_t n_text, bool add_special,
                             bool parse_special, int32_t * tokens, int32_t capacity, int32_t * n);

// The bytes of one token, which may be part of a UTF-8 character. *n is the number needed, as above; no NUL is added.
MP_API mp_status mp_token_bytes(const mp_model * model, int32_t token, bool special, char * bytes, int32_t capacity,
                                int32_t * n);
MP_API bool mp_token_is_end(const mp_model * model, int32_t token); // EOS, EOT, ...; false for a token out of range
// The conversation in the format of llama.cpp's own list that fits the model's template, which is not run itself (Python's
// chat_format does). n roles and contents; *n_text bytes are needed, as above. Errors: UNSUPPORTED (none, or not known).
MP_API mp_status mp_chat_format(const mp_model * model, const char * const * roles, const char * const * contents,
                                int32_t n, bool add_assistant, char * text, int32_t capacity, int32_t * n_text);

// --- context and sessions --------------------------------------------------------------------------------------------
typedef struct mp_context_params {
    int32_t      n_ctx;           // tokens of each session, 0 = the model's, reduced to what memory holds. Default 0
    int32_t      n_sessions_max;  // at the same time, 1..MP_N_SESSIONS_LIMIT. Default 1
    int32_t      n_batch;         // tokens given to llama.cpp at once while a prompt is evaluated. Default 2048
    int32_t      n_ubatch;        // tokens in one graph; 0 = 512, less where the attention scores would be huge
    int32_t      n_rows_max;      // rows of the largest tree pass, 1..MP_N_ROWS_LIMIT. Default 64
    int32_t      n_top_max;       // candidates kept per row at most. Default 64
    int32_t      n_threads, n_threads_batch; // of tree passes, 0 = the physical cores; of prompts, 0 = n_threads. Default 0
    const char * type_k, * type_v; // of the cache: "f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0". Default
                                  // "f16"; a quantised V needs flash attention
    int32_t      flash_attn;      // 1 on, 0 off, -1 = on with maskprobe's kernels; with llama.cpp's off on the CPU (slower for
                                  // few rows there), its own choice on a GPU
    bool         offload_kqv, taps; // the cache stays on the GPU if layers are there, default true; mp_context_tap() works
} mp_context_params;

// params may be NULL. Errors: ARGUMENT, MEMORY, UNSUPPORTED (taps on a model that cannot).
MP_API mp_context_params mp_context_default_params(void);
MP_API mp_status mp_context_open(mp_model * model, const mp_context_params * params, mp_context ** out);
MP_API void      mp_context_free(mp_context * context);
MP_API int32_t   mp_context_n_ctx    (const mp_context * context); // tokens that fit into each session
MP_API int32_t   mp_context_n_threads(const mp_context * context); // threads of a tree pass
// Where the model can verify chains only: candidates of the longest one, 0 = none. At most the model's max_chain and
// n_rows_max - 1, less where memory is short: a session keeps one recurrent state more than that.
MP_API int32_t   mp_context_max_chain(const mp_context * context);

// An empty sequence in the cache, or one that shares all committed tokens of another. Errors: STATE (n_sessions_max are open).
MP_API mp_status mp_session_open  (mp_context * context, mp_session ** out);
MP_API mp_status mp_session_fork  (mp_session * session, mp_session ** out);
MP_API void      mp_session_free  (mp_session * session);
MP_API int32_t   mp_session_n_past(const mp_session * session); // committed tokens

// What came of setting the prefix. The arrays belong to the session and are valid until its next call.
typedef struct mp_prefix {
    int32_t         n_reused;     // tokens that the cache held already
    int32_t         n_rows, n_top; // row i is the output after token n - n_rows + i: the last tokens that were evaluated, as
                                  // many as were wanted; fewer where others follow a row that is not finite
    const int32_t * top_tokens;   // (n_rows, n_top) most likely first, equals by id
    const float *   top_logprobs; // (n_rows, n_top)
} mp_prefix;

// Makes the session hold exactly tokens[0..n). The common prefix with what it holds is kept, the rest is evaluated. Of the last
// n_outputs (0..MP_N_ROWS_LIMIT) of the rest, the n_top (1..n_top_max) most likely successors are put into *out, which may be
// NULL. A cancelled call keeps the part that is complete. Errors: ARGUMENT, CONTEXT_FULL, CANCELLED, DECODE.
MP_API mp_status mp_session_set_prefix(mp_session * session, const int32_t * tokens, int32_t n, int32_t n_outputs,
                                       int32_t n_top, mp_prefix * out);

// One pass over a token tree with masks.
//   node 0 is the root: the newest token, not in the cache yet. It follows the committed tokens.
//   node i > 0 is a candidate for the place after node parent[i]; parents come before their children.
//   mask j of an owner stands j places after it and sees what the owner sees, the owner, and its masks before j.
//   no node ever sees a mask, so a node's logits are those of plain decoding.
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
    int32_t         n_masks;
    const int32_t * mask_owners;  // (n_masks), in the order of their places after the owner
    const float *   masks;        // (n_masks, n_embd), in the space of token embeddings
    int32_t         n_top;        // candidates wanted per row, 1..n_top_max
    const mp_masks * trained;     // its matrices act on the mask rows, and on no other; NULL: none do
} mp_tree;

// The outputs of a pass. All pointers belong to the session and are valid until its next pass.
// Rows are numbered: node i is row i, mask j is row n_nodes + j.
typedef struct mp_pass {
    int32_t         n_rows, n_top; // n_rows = n_nodes + n_masks
    const int32_t * best;         // (n_rows) the most likely token, the lowest id among equals; -1: the row is not finite
    const int32_t * top_tokens;   // (n_rows, n_top) most likely first, equals by id; undefined where the row is not finite
    const float *   top_logprobs; // (n_rows, n_top)
    int64_t         decode_us, engine_us; // of the whole pass: inside llama_decode; all else: layout, cache, top-K
} mp_pass;

// One pass over the trees of n sessions, all different: trees[i] is that of sessions[i], passes[i] what came of it.
// Errors: ARGUMENT (with the index of the offending node), CONTEXT_FULL, CANCELLED, DECODE,
// UNSUPPORTED (a tree, too long a chain, chains of different lengths, or embedding rows, on a model that cannot).
MP_API mp_status mp_context_decode(mp_context * context, int32_t n, mp_session * const * sessions, const mp_tree * trees,
                                   mp_pass * passes);

// The full logits of a row of the session's last pass, (n_vocab), valid until the context's next pass or prefix; the
// log-probability of one token in such a row. Errors: ARGUMENT for no such row, STATE if there was no pass.
MP_API mp_status mp_session_logits (mp_session * session, int32_t row, const float ** logits);
MP_API mp_status mp_session_logprob(mp_session * session, int32_t row, int32_t token, float * logprob);

// The tree passes that follow keep the hidden states after these layers, n_layer: after the last norm. Then one row of the
// session's last pass, (n_embd), valid as its logits. Errors: ARGUMENT, STATE (not tapped), UNSUPPORTED (not in the graph).
MP_API mp_status mp_context_tap   (mp_context * context, const int32_t * layers, int32_t n);
MP_API mp_status mp_session_hidden(mp_session * session, int32_t row, int32_t layer, const float ** state);

// Keeps nodes path[0..n) of the last pass and drops every other row. path[0] = 0, each next node is a child of the one
// before. n = 0 drops them all, as does any other call that follows a decode.
MP_API mp_status mp_session_commit(mp_session * session, const int32_t * path, int32_t n);

// What maskprobe's kernels have cost in this context so far.
typedef struct mp_part {
    char    name[16];         // products by the type of their weights: "q4_0"; "head", the output matrix; "attention"
    int64_t n_ops, ns;        // nanoseconds of the calling thread
    int64_t bytes, macs;      // of packed weights, or of keys and values, that were gone through; multiplications
} mp_part;
// The i-th part that cost something, with llama.cpp's kernels none. MP_ERR_ARGUMENT past the last one.
MP_API mp_status mp_context_get_part(mp_context * context, int32_t i, mp_part * out);
// Stops the pass that is running (on the CPU within it), or the next one: it returns MP_ERR_CANCELLED.
MP_API void mp_context_cancel(mp_context * context);

// --- sampler ---------------------------------------------------------------------------------------------------------
typedef struct mp_sampler_params {
    float        temp;              // 0: greedy, as below 1e-8. Default 0.8
    int32_t      top_k;             // <= 0: off. Default 40
    float        top_p;             // >= 1: off. Default 0.95
    float        min_p;             // <= 0: off. Default 0.05
    int32_t      penalty_last_n;    // tokens looked back at, -1 = the whole context. Default 64
    float        penalty_repeat;    // 1: off. Default 1
    float        penalty_frequency, penalty_presence; // 0: off
    uint32_t     seed;              // 0xFFFFFFFF: a random one. Default
    int32_t      n_logit_bias;
    const int32_t * bias_tokens;    // (n_logit_bias)
    const float *   bias_values;    // (n_logit_bias), -INFINITY forbids a token
    const char * grammar;           // GBNF with a rule named root, or NULL
} mp_sampler_params;

// libllama's own sampler chain. Errors: ARGUMENT (NaN, negative temperature, token out of range, bad grammar).
MP_API mp_sampler_params mp_sampler_default_params(void);
MP_API mp_status mp_sampler_open (mp_model * model, const mp_sampler_params * params, mp_sampler ** out);
MP_API void      mp_sampler_free (mp_sampler * sampler);
MP_API mp_status mp_sampler_prime(mp_sampler * sampler, const int32_t * tokens, int32_t n); // shows prompt tokens to penalties

// Draws the token that follows a row of the session's last pass: one draw per emitted token, so that a seed gives the same
// text with any proposer. Errors: ARGUMENT, STATE (grammar and biases leave none), NUMERIC (the row is not finite).
MP_API mp_status mp_sampler_sample(mp_sampler * sampler, mp_session * session, int32_t row, int32_t * token);

// --- what can be plugged in ------------------------------------------------------------------------------------------
// Each callback may be NULL. A negative result says that it failed: that ends its own generation with MP_ERR_CALLBACK and
// touches no other. They are called by the thread that is in mp_engine_step, and must not call into the same engine.

typedef struct mp_draft { // candidates for the next tokens of one generation
    mp_tree       tree;          // its root is the newest token; n_top is not looked at
    const float * probabilities; // (n_nodes) of the paths down to the nodes: the pass has those that pay. NULL: all of them
} mp_draft;
typedef struct mp_proposer {
    void *  user;
    int32_t n_top;               // candidates per row that observe() wants to see
    // A draft of at most `room` rows, valid until the next callback. context[n - 1] is the newest token.
    int32_t (*propose)(void * user, const int32_t * context, int32_t n, int32_t room, mp_draft * draft);
    // What became of it: the part that was decoded, its accepted nodes (path[0] = 0) and the token drawn after each.
    int32_t (*observe)(void * user, const mp_draft * draft, const mp_pass * pass, const int32_t * path,
                       const int32_t * emitted, int32_t n_path);
} mp_proposer;

// Which tokens may come next. What it forbids is cut from the draft, what it forces is drafted.
typedef struct mp_constraint {
    void * user;
    int32_t (*allowed)(void * user, uint32_t * bits);                         // bit t % 32 of bits[t / 32] for token t
    int32_t (*accept) (void * user, int32_t token);                           // it was emitted
    int32_t (*n_valid)(void * user, const int32_t * tokens, int32_t n);       // how many of a chain would pass, from here on
    int32_t (*forced) (void * user, int32_t * tokens, int32_t capacity);      // the chain that must come; returns its length
    int32_t (*logits) (void * user, const int32_t * tokens, int32_t n, float * logits); // (n_vocab) to be changed at will
} mp_constraint;

// What guessed a token: nothing, the model alone; what the model had given as likely after the token before it, after the two,
// the three before it; what followed the same tokens earlier in the text; a mask of the last pass; another likely token of the
// row before; rows of rejected candidates; what followed in an earlier text; trained heads; an mp_proposer; a constraint.
typedef enum mp_source {
    MP_BY_MODEL = -1, MP_BY_TOKEN = 0, MP_BY_PAIR = 1, MP_BY_TRIPLE = 2, MP_BY_NGRAM = 3, MP_BY_MASK = 4, MP_BY_LAST = 5,
    MP_BY_SIBLING = 6, MP_BY_EARLIER = 7, MP_BY_HEAD = 8, MP_BY_PROPOSER = 9, MP_BY_CONSTRAINT = 10, MP_N_SOURCES = 11,
} mp_source;
MP_API const char * mp_source_name(mp_source source); // "model", "token", "pair", ...

// --- engine ----------------------------------------------------------------------------------------------------------
typedef struct mp_engine_params {
    int32_t      n_rows;     // rows of a pass per generation, 0 = as many as pay here. Default 0
    const char * masks;      // after the nodes of its own drafts: "none", "mean", "soft" or "file:PATH". Default "none"
    const char * state;      // file of what is learned; "" = the model's in the user's cache folder. Default NULL: none
    const char * heads;      // file of heads trained for it; "" = there, or else the file's own MTP layers. Default NULL: none
} mp_engine_params;

// Engines on one model learn into the same tables; the last one that is freed writes them. params may be NULL. Errors:
// ARGUMENT; where heads are named: FILE, FORMAT (also those of another model), UNSUPPORTED (it gives no hidden states).
MP_API mp_engine_params mp_engine_default_params(void);
MP_API mp_status mp_heads_need_taps(const mp_model * model, const char * heads, bool * taps); // of the context they are for
MP_API mp_status mp_engine_open(mp_context * context, const mp_engine_params * params, mp_engine ** out);
MP_API void      mp_engine_free(mp_engine * engine);

// What these would take, in bytes, as it is now; weights are not read for it. `total` is the sum of what comes beside `process`.
typedef struct mp_memory {
    int64_t process;          // resident now, with the model's vocabulary
    int64_t mapped, packed;   // weights: as they lie in the file, dropped and read again where memory is short; packed or read
    int64_t cache, compute, logits, tables, files; // of the context; what is learned of the model; adapters, heads and masks
    int64_t total, free, on_gpu; // free: what the process may take, -1 = not known; on_gpu: in none of the others
    int32_t n_ctx;            // of each session
    char    kernels[32], note[160], problem[512]; // as in mp_model_info; why it does not fit, and what would, or ""
} mp_memory;
// model, context and engine may be NULL: the defaults, no engine. Errors: as the calls that open them, but not MEMORY. With out
// NULL only MEMORY, where a context of an n_ctx that is not 0 does not fit: at once where there is plenty.
MP_API mp_status mp_memory_needed(const char * path, const mp_model_params * model, const mp_context_params * context,
                                  const mp_engine_params * engine, mp_memory * out);

// One step: a piece of a prompt, one pass for all generations that draw tokens. *n_active is how many go on. What concerns one
// generation (a callback, NaN) ends it and is no failure here. Errors: CANCELLED, DECODE, MEMORY; all go on with the next step.
MP_API mp_status mp_engine_step(mp_engine * engine, int32_t * n_active);

// The mean of the last hidden states after the tokens, n >= 1: out is (n_embd). MP_AGAIN: no session is free, make a step.
MP_API mp_status mp_engine_embed(mp_engine * engine, const int32_t * tokens, int32_t n, float * out);
// What a pass of n rows takes at the depth of the last one, 0 before there was any; one line about the state and heads, or "".
MP_API mp_status    mp_engine_pass_us(mp_engine * engine, int32_t n_rows, double * us);
MP_API const char * mp_engine_note   (const mp_engine * engine);
typedef struct mp_generation_params {
    const mp_sampler_params * sampler;  // NULL: the defaults
    int64_t              n_max;         // tokens to emit at most, -1 = no limit. Default -1
    const char * const * stop;          // (n_stop) the text ends before any of these, also before a special token's text
    int32_t              n_stop, n_top; // n_top: most likely tokens wanted with each token, 0..n_top_max. Default 0
    int32_t              n_rows;        // of a pass, 0 = the engine's; at most so many where it plans them. Default 0
    bool                 ignore_end;    // never emit a token that ends the text. Default false
    bool                 draft, hidden; // false: plain decoding, default true; with each token its hidden state, default false
    const mp_proposer *  proposer;      // NULL: the engine's own, all evidence in one tree
    const mp_constraint * constraint;   // NULL: none
} mp_generation_params;

// Why a generation ended: an end token or a stop string; n_max; the context is full; the constraint allows no token.
typedef enum mp_finish {
    MP_FINISH_NONE = 0, MP_FINISH_STOP, MP_FINISH_LENGTH, MP_FINISH_CONTEXT, MP_FINISH_CONSTRAINT, MP_FINISH_CANCELLED,
} mp_finish;

// One emitted token. The pointers belong to the generation and are valid until its next mp_generation_next.
typedef struct mp_token {
    int32_t         id;           // -1: the generation ends without another token
    float           logprob, margin; // in the model's own distribution, before the sampler; gap of its two best tokens there
    mp_source       source;       // what guessed it
    int32_t         n_top;
    const int32_t * top_tokens;   // (n_top) most likely first
    const float *   top_logprobs; // (n_top)
    int32_t         n_hidden;     // (n_states, n_embd) of the row it was drawn from: after the context's tapped layers, and
    const float *   hidden;       // at last after the last norm; NULL unless wanted
    const char *    text;         // (n_text) what is certain now: whole UTF-8, nothing that may become a stop string
    size_t          n_text;
    mp_finish       finish;       // NONE until the last
} mp_token;

// Counts and times of a generation so far. The first token comes with the prompt, the others with the passes.
typedef struct mp_stats {
    int64_t n_prompt, n_prompt_done, n_prompt_reused; // prompt tokens; of these, in the cache now; there already at first
    int64_t n_gen, n_drafted, n_accepted, n_passes, n_rows; // n_rows: of its own, in these passes
    int64_t prompt_us, gen_us, decode_us; // until its first token; after it; of that, inside llama_decode
} mp_stats;

// Starts after tokens[0..n), n >= 1, with the next step; where all sessions are taken they take turns. params may be NULL.
// Errors: ARGUMENT, CONTEXT_FULL (the prompt does not fit), UNSUPPORTED (hidden: this model has none). Freed under way, it
// ends; its callbacks may still be called by the step that another thread is in.
MP_API mp_generation_params mp_generation_default_params(void);
MP_API mp_status mp_generation_open(mp_engine * engine, const int32_t * tokens, int32_t n, const mp_generation_params * params,
                                    mp_generation ** out);
MP_API void      mp_generation_free(mp_generation * generation);

// The next token; MP_AGAIN while there is none. After the last: STATE. What ended the generation: NUMERIC, CALLBACK, DECODE.
MP_API mp_status mp_generation_next(mp_generation * generation, mp_token * out);
// It ends after the pass that is under way; where no other is active, that pass is stopped.
MP_API void      mp_generation_cancel   (mp_generation * generation);
MP_API mp_status mp_generation_get_stats(mp_generation * generation, mp_stats * out);

// The tree of its newest pass, to be shown: node 0 is the root, after each node of the path came an emitted token. n_pass
// counts from 1; 0: there was none. Valid until the next call of this function for the generation.
typedef struct mp_drafted {
    int64_t n_pass; int32_t n_nodes, n_path;
    const int32_t * tokens, * parents, * path, * emitted; // (n_nodes), (n_nodes), (n_path), (n_path)
    const int8_t *  sources; // (n_nodes), mp_source
} mp_drafted;
MP_API mp_status mp_generation_get_draft(mp_generation * generation, mp_drafted * out);

#ifdef __cplusplus
}
#endif
#endif // MASKPROBE_H
