// The architectures that llama.cpp knows, and what the checks must know of each.
#pragma once

#include <string>
#include <string_view>

namespace mp {

enum class arch_kind {
    unknown,
    decoder,   // attention in every layer
    hybrid,    // attention in some layers, a recurrent state in the others
    recurrent, // no attention
    encoder,
    encoder_decoder,
    embedding,
    diffusion,
    draft, // part of another model, cannot run alone
    speech,
    image,     // mmproj
    no_loader, // a name without code behind it
};

enum arch_flag : unsigned {
    ONE_HEAD_WIDTH = 1,   // llama.cpp asserts that key_length = value_length
    ROPE_FILLS_HEAD = 2,  // llama.cpp asserts that rope.dimension_count = value_length
    HEADLESS_LAYERS = 4,  // some layers of a decoder have no heads
    ROPE_SECTIONS = 8,    // positions have several axes, whose sections may not all be empty
    HEADS_PER_LAYER = 16, // the layers of a decoder may differ in their head counts
    WINDOW_PATTERN = 32,  // llama.cpp asserts that some layer has a sliding window
    NO_ROPE = 64,         // nothing is rotated
    LATENT_CACHE = 128,   // keys and values are kept compressed (MLA), where the file has the *_mla lengths
};

struct arch_info {
    arch_kind kind = arch_kind::unknown;
    unsigned flags = 0;
};

arch_info arch_lookup(const std::string & name);

// Whether a name is in a list separated by single blanks.
bool is_one_of(std::string_view name, std::string_view names);

} // namespace mp
