#include "engine/state_format.h"

#include "status.h"

#include <cstring>
#include <string_view>

namespace mp {

constexpr std::string_view MAGIC = "maskprobe-state 5\n";
constexpr std::string_view MAGIC_OF_ANY = "maskprobe-state ";     // version 4 and later
constexpr std::string_view MAGIC_OF_OLD = "{\"maskprobe_state\""; // versions 1 to 3, a line of JSON
constexpr size_t N_HEADER = 2 * sizeof(uint64_t);                 // checksum and length

enum section_kind : uint64_t {
    SECTION_MODEL = 1,
    SECTION_KNOWN = 2,
    SECTION_CLAIMS = 3,
    SECTION_SETTING = 4,
    SECTION_COSTS = 5
};

static bool starts_with(const std::string & bytes, std::string_view magic) {
    return bytes.compare(0, magic.size(), magic) == 0;
}

static void put_number(std::string & bytes, uint64_t number) {
    bytes.append((const char *) &number, sizeof(number));
}

static void put_section(std::string & bytes, section_kind kind, const std::string & contents) {
    put_number(bytes, kind);
    put_number(bytes, contents.size());
    bytes += contents;
}

std::string encode_state(const state_contents & contents) {
    std::string body;
    put_section(body, SECTION_MODEL, contents.model);
    put_section(body, SECTION_KNOWN, contents.known);
    put_section(body, SECTION_CLAIMS, contents.claims);
    for (const auto & [setting, costs] : contents.costs) {
        put_section(body, SECTION_SETTING, setting);
        put_section(body, SECTION_COSTS, costs);
    }
    std::string bytes(MAGIC);
    put_number(bytes, digest(body.data(), body.size()));
    put_number(bytes, body.size());
    return bytes + body;
}

namespace {

// Reads what was put; false where the bytes end too early.
class section_reader {
public:
    section_reader(const std::string & bytes, size_t at) : bytes(bytes), at(at) {}

    bool number(uint64_t & out) {
        if (bytes.size() - at < sizeof(out)) {
            return false;
        }
        memcpy(&out, bytes.data() + at, sizeof(out));
        at += sizeof(out);
        return true;
    }

    bool section(section_kind kind, std::string & out) {
        uint64_t found, length;
        if (!number(found) || found != kind || !number(length) || length > bytes.size() - at) {
            return false;
        }
        out.assign(bytes, at, length);
        at += length;
        return true;
    }

    bool at_end() const { return at == bytes.size(); }

private:
    const std::string & bytes;
    size_t at;
};

} // namespace

std::string decode_state(const std::string & bytes, state_contents & contents) {
    if (!starts_with(bytes, MAGIC)) {
        return "it is of another version";
    }
    uint64_t checksum, n_body;
    section_reader reader(bytes, MAGIC.size());
    if (!reader.number(checksum) || !reader.number(n_body)) {
        return format("it ends after %zu bytes", bytes.size());
    }
    const size_t n_there = bytes.size() - MAGIC.size() - N_HEADER;
    if (n_body != n_there) {
        return format("%zu bytes of %llu", n_there, (unsigned long long) n_body);
    }
    if (digest(bytes.data() + bytes.size() - n_there, n_there) != checksum) {
        return "its bytes have changed since they were written";
    }
    contents = {};
    bool sound = reader.section(SECTION_MODEL, contents.model) && reader.section(SECTION_KNOWN, contents.known) &&
                 reader.section(SECTION_CLAIMS, contents.claims);
    while (sound && !reader.at_end()) {
        std::string setting, costs;
        sound = reader.section(SECTION_SETTING, setting) && reader.section(SECTION_COSTS, costs) &&
                contents.costs.size() < N_COSTS_MAX;
        contents.costs.emplace_back(std::move(setting), std::move(costs));
    }
    return sound ? "" : "its sections make no sense";
}

bool begins_like_state(const std::string & bytes) {
    return starts_with(bytes, MAGIC_OF_ANY) || starts_with(bytes, MAGIC_OF_OLD);
}

} // namespace mp
