#include "gguf/archs.h"

#include "gguf/check.h"

namespace mp {

// From the asserts of llama.cpp's graph builders.
static const struct arch_group {
    arch_kind kind;
    unsigned flags;
    std::string_view names;
} GROUPS[] = {
    {arch_kind::decoder, ONE_HEAD_WIDTH | ROPE_FILLS_HEAD,
     "apertus arcee arctic baichuan chameleon codeshell cogvlm dbrx deepseek dots1 ernie4_5 ernie4_5-moe exaone exaone4 "
     "falcon granite graniteswitch grok grovemoe hunyuan-dense hunyuan-moe hunyuan_vl hy_v3 internlm2 jais2 llama "
     "maincoder mistral3 olmo olmoe orion pangu-embedded plamo qwen2 qwen2moe qwen3 qwen3moe seed_oss smollm3 starcoder2 "
     "talkie xverse"},
    {arch_kind::decoder, ONE_HEAD_WIDTH | ROPE_FILLS_HEAD | WINDOW_PATTERN,
     "cohere2moe exaone-moe granite_swa llama4 mellum olmo2 smallthinker"},
    {arch_kind::decoder, ONE_HEAD_WIDTH | ROPE_FILLS_HEAD | ROPE_SECTIONS, "paddleocr qwen2vl qwen3vl qwen3vlmoe"},
    {arch_kind::decoder, ONE_HEAD_WIDTH | ROPE_FILLS_HEAD | HEADLESS_LAYERS | HEADS_PER_LAYER, "deci"},
    {arch_kind::decoder, ONE_HEAD_WIDTH,
     "bailingmoe2 bitnet chatglm command-r glm4 glm4moe gptneox minimax-m2 minimax-m3 nanbeige nemotron phi2 phi3 qwen "
     "stablelm starcoder"},
    {arch_kind::decoder, ONE_HEAD_WIDTH | NO_ROPE, "bloom gpt2 jais mpt refact"},
    {arch_kind::decoder, ONE_HEAD_WIDTH | WINDOW_PATTERN, "afmoe cohere2 maple muse-glimmer"},
    {arch_kind::decoder, ONE_HEAD_WIDTH | WINDOW_PATTERN | HEADS_PER_LAYER, "laguna spark2_5"},
    {arch_kind::decoder, ONE_HEAD_WIDTH | HEADS_PER_LAYER, "openelm"},
    {arch_kind::decoder, ONE_HEAD_WIDTH | WINDOW_PATTERN | HEADS_PER_LAYER, "gemma4"},
    {arch_kind::decoder, WINDOW_PATTERN | HEADS_PER_LAYER, "mimo2 plamo3 step35"},
    {arch_kind::decoder, WINDOW_PATTERN | HEADS_PER_LAYER | LATENT_CACHE, "dots3note"},
    {arch_kind::decoder, WINDOW_PATTERN, "gemma2 gemma3 gemma3n gpt-oss"},
    {arch_kind::decoder, 0, "bailingmoe deepseek2-ocr gemma granitemoe hrm_text minicpm minicpm3 phimoe plm"},
    {arch_kind::decoder, LATENT_CACHE, "deepseek2 deepseek32 glm-dsa hy_v4 mistral4"},
    {arch_kind::hybrid, ONE_HEAD_WIDTH, "deepseek4 granitehybrid minimax-01 qwen3next"},
    {arch_kind::hybrid, ONE_HEAD_WIDTH | NO_ROPE, "nemotron_h nemotron_h_moe"},
    {arch_kind::hybrid, ONE_HEAD_WIDTH | ROPE_SECTIONS, "qwen35 qwen35moe qwen4exp"},
    {arch_kind::hybrid, NO_ROPE, "jamba"},
    {arch_kind::hybrid, NO_ROPE | LATENT_CACHE, "glm5-next kimi-k3 kimi-linear"},
    {arch_kind::hybrid, LATENT_CACHE, "bailingmoe3"},
    {arch_kind::hybrid, 0, "falcon-h1 lfm2 lfm2moe plamo2"},
    {arch_kind::recurrent, 0, "arwkv7 mamba mamba2 rwkv6 rwkv6qwen2 rwkv7"},
    {arch_kind::encoder, 0,
     "bert eurobert jina-bert-v2 jina-bert-v3 modern-bert neo-bert nomic-bert nomic-bert-moe t5encoder"},
    {arch_kind::encoder_decoder, 0, "t5"},
    {arch_kind::embedding, 0, "gemma-embedding llama-embed"},
    {arch_kind::diffusion, 0, "dream llada llada-moe rnd1"},
    {arch_kind::draft, 0, "dflash eagle3 gemma4-assistant"},
    {arch_kind::speech, 0, "pockettts qwen3tts wavtokenizer-dec"},
    {arch_kind::image, 0, "clip"},
    {arch_kind::no_loader, 0, "gptj"},
};

bool is_one_of(std::string_view name, std::string_view names) {
    while (!names.empty()) {
        const size_t end = names.find(' ');
        if (names.substr(0, end) == name) {
            return true;
        }
        names = end == std::string_view::npos ? "" : names.substr(end + 1);
    }
    return false;
}

arch_info arch_lookup(const std::string & name) {
    for (const arch_group & group : GROUPS) {
        if (is_one_of(name, group.names)) {
            return {group.kind, group.flags};
        }
    }
    return {};
}

bool aborts_on_embeddings(const std::string & arch) {
    // the GLM graphs take embedding rows for images, and stop where the file does not describe image positions
    return is_one_of(arch, "graniteswitch glm4 glm4moe");
}

bool has_states_or_logits(const std::string & arch) {
    return is_one_of(arch, "lfm2 lfm2moe");
}

} // namespace mp
