#include "model/grammar_reader.h"

#include "gguf/reader.h"
#include "model/text.h"
#include "model/utf8.h"
#include "status.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>

namespace mp {

constexpr int32_t DEEPEST = 200;                // groups within groups
constexpr uint64_t MOST_REPETITIONS = 2000;     // llama.cpp's limit, of the product too where repetitions are nested
constexpr uint64_t MOST_ELEMENTS = 1000000;     // with all repetitions written out
constexpr uint64_t NO_MOST = UINT64_MAX;        // {m,}
constexpr uint64_t LARGEST_NUMBER = 1000000000; // a number of more digits is taken for this one
constexpr size_t EXCERPT = 24;                  // bytes of the text in a message

namespace {

using elements = std::vector<grammar_element>;

class reader {
public:
    reader(const mp_model & model, const std::string & text) : model(model), text(text), at(text.c_str()), counted(at) {}

    read_grammar read() {
        skip_space(true);
        while (*at) {
            read_rule_of_text();
        }
        const auto root = ids.find("root");
        result.root = root == ids.end() ? -1 : (int32_t) root->second;
        return std::move(result);
    }

private:
    // --- places and messages ---

    // Goes on from the last place that was asked for: each byte is looked at once.
    int32_t line_of(const char * place) {
        if (place < counted) {
            counted = text.c_str();
            n_lines = 1;
        }
        for (; counted < place; counted++) {
            n_lines += *counted == '\n' || (*counted == '\r' && counted[1] != '\n');
        }
        return n_lines;
    }

    // What stands at a place, up to the end of its line.
    std::string seen(const char * place) const {
        const auto is_break = [](const char * c) {
            return (unsigned char) *c < ' ' || (strncmp(c, "\xC2\x85", 2) == 0) || strncmp(c, "\xE2\x80\xA8", 3) == 0 ||
                   strncmp(c, "\xE2\x80\xA9", 3) == 0;
        };
        size_t n = 0;
        while (n < EXCERPT && !is_break(place + n)) {
            n++;
        }
        n = valid_utf8_length(place, n);
        if (n == 0) {
            return !*place                            ? "the end of the grammar"
                   : *place == '\r' || *place == '\n' ? "the end of the line"
                                                      : "an odd sign";
        }
        return "'" + std::string(place, n) + "'";
    }

    [[noreturn]] void refuse(const char * place, const std::string & what) {
        fail(MP_ERR_ARGUMENT, "line %d of the grammar: %s", line_of(place), what.c_str());
    }

    // --- small parts of the text ---

    static bool is_digit(char c) { return c >= '0' && c <= '9'; }
    static bool is_of_name(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || is_digit(c); }

    void skip_space(bool lines_too) {
        while (*at == ' ' || *at == '\t' || *at == '#' || (lines_too && (*at == '\r' || *at == '\n'))) {
            if (*at == '#') {
                at += strcspn(at, "\r\n");
            } else {
                at++;
            }
        }
    }

    std::string_view read_name() {
        const char * start = at;
        while (is_of_name(*at)) {
            at++;
        }
        if (at == start) {
            refuse(at, "a rule begins with its name, of letters, digits and '-', not with " + seen(at));
        }
        return {start, (size_t) (at - start)};
    }

    uint64_t read_number(const char * what_for) {
        if (!is_digit(*at)) {
            refuse(at, std::string("a number ") + what_for + " is missing before " + seen(at));
        }
        uint64_t number = 0;
        for (; is_digit(*at); at++) {
            number = std::min(number * 10 + (*at - '0'), LARGEST_NUMBER * 10);
        }
        return number;
    }

    uint32_t read_hex(int32_t n_digits) {
        uint32_t value = 0;
        for (int32_t i = 0; i < n_digits; i++, at++) {
            const char c = *at;
            if (!is_digit(c) && !(c >= 'a' && c <= 'f') && !(c >= 'A' && c <= 'F')) {
                refuse(at, format("an escape of %d hexadecimal digits has %d", n_digits, i));
            }
            value = value * 16 + (is_digit(c) ? c - '0' : (c | 32) - 'a' + 10);
        }
        return value;
    }

    // A character of a string or of a class.
    uint32_t read_character(const char * start) {
        if (!*at) {
            refuse(start,
                   std::string("the ") + *start + " has no end: its closing " + (*start == '"' ? '"' : ']') + " is missing");
        }
        if (*at == '\\') {
            at += 2;
            switch (at[-1]) {
            case 'x':
                return read_hex(2);
            case 'u':
                return read_hex(4);
            case 'U':
                return read_hex(8);
            case 't':
                return '\t';
            case 'r':
                return '\r';
            case 'n':
                return '\n';
            case '\\':
            case '"':
            case '[':
            case ']':
            case '-':
                return (unsigned char) at[-1];
            default:
                at -= 2;
                refuse(at, "there is no escape like " + seen(at) + R"(: \" \\ \[ \] \- \n \r \t \xNN \uNNNN \UNNNNNNNN)");
            }
        }
        const unsigned char c = (unsigned char) *at++; // of valid UTF-8
        const int32_t n_more = c >= 0xF0 ? 3 : c >= 0xE0 ? 2 : c >= 0xC0 ? 1 : 0;
        uint32_t value = n_more == 0 ? c : c & (0x3F >> n_more);
        for (int32_t i = 0; i < n_more; i++) {
            value = value << 6 | (*at++ & 0x3F);
        }
        return value;
    }

    // --- rules ---

    uint32_t rule_of(std::string_view name, const char * place) {
        const auto [found, is_new] = ids.emplace(name, (uint32_t) result.rules.size());
        if (is_new) {
            result.rules.push_back({name, line_of(place)});
        }
        return found->second;
    }

    uint32_t part_of(std::string_view name, const char * place) {
        result.rules.push_back({name, line_of(place)});
        return (uint32_t) result.rules.size() - 1;
    }

    void define(uint32_t rule, elements && as) {
        result.rules[rule].elements = std::move(as);
        result.rules[rule].is_defined = true;
    }

    void count(uint64_t n_more, const char * place) {
        n_elements += n_more;
        if (n_elements > MOST_ELEMENTS) {
            refuse(place, format("with its repetitions written out the grammar has more than %llu elements: repeat less, or "
                                 "without an upper limit, as in {2,}",
                                 (unsigned long long) MOST_ELEMENTS));
        }
    }

    void push(elements & to, grammar_element::kind is, uint32_t value, const char * place) {
        count(1, place);
        to.push_back({is, value});
    }

    void read_rule_of_text() {
        const char * start = at;
        const std::string_view name = read_name();
        const uint32_t rule = rule_of(name, start);
        skip_space(false);
        if (strncmp(at, "::=", 3) != 0) {
            refuse(at, "'::=' is missing after " + quoted(name) + ", before " + seen(at) +
                           " (a name has letters, digits and '-' only)");
        }
        at += 3;
        skip_space(true);
        result.rules[rule].line = line_of(start);
        read_alternatives(name, rule, 0);
        if (*at && *at != '\r' && *at != '\n') {
            refuse(at, *at == ')' ? "a ')' without its '('"
                                  : "a rule of " + quoted(name) + " cannot go on with " + seen(at) +
                                        ": a new rule begins on a line of its own");
        }
        skip_space(true);
    }

    void read_alternatives(std::string_view name, uint32_t rule, int32_t depth) {
        elements all;
        read_sequence(all, name, depth);
        while (*at == '|') {
            push(all, grammar_element::alternative, 0, at);
            at++;
            skip_space(true);
            read_sequence(all, name, depth);
        }
        push(all, grammar_element::end, 0, at);
        define(rule, std::move(all));
    }

    // One alternative. In a group it may go over several lines.
    void read_sequence(elements & to, std::string_view name, int32_t depth) {
        last = to.size();
        n_rules_of_last = 1;
        while (true) {
            const char * start = at;
            if (*at == '"' || *at == '[' || *at == '<' || *at == '!' || *at == '.' || is_of_name(*at)) {
                last = to.size();
                n_rules_of_last = 1;
                read_element(to);
            } else if (*at == '(') {
                read_group(to, name, depth);
            } else if (*at == '*' || *at == '+' || *at == '?') {
                const char sign = *at++;
                repeat(to, name, sign == '+', sign == '?' ? 1 : NO_MOST, start);
            } else if (*at == '{') {
                read_repetition(to, name, depth);
            } else {
                return;
            }
            skip_space(depth > 0);
        }
    }

    void read_element(elements & to) {
        const char * start = at;
        if (*at == '"') {
            for (at++; *at != '"';) {
                push(to, grammar_element::character, read_character(start), start);
            }
            at++;
        } else if (*at == '[') {
            read_class(to);
        } else if (*at == '.') {
            at++;
            push(to, grammar_element::any, 0, start);
        } else if (*at == '<' || *at == '!') {
            at += *at == '!';
            push(to, *start == '!' ? grammar_element::other_token : grammar_element::token, read_token(), start);
        } else {
            push(to, grammar_element::rule, rule_of(read_name(), start), start);
        }
    }

    void read_class(elements & to) {
        const char * start = at++;
        character_class read = {*at == '^', {}};
        at += read.is_negated;
        while (*at != ']') {
            const uint32_t from = read_character(start);
            uint32_t upto = from;
            if (*at == '-' && at[1] != ']') {
                at++;
                upto = read_character(start);
            }
            read.ranges.push_back({from, upto});
            count(1, start);
        }
        at++;
        if (!read.ranges.empty()) { // llama.cpp reads [] and [^] as nothing
            to.push_back({grammar_element::one_of, (uint32_t) result.classes.size()});
            result.classes.push_back(std::move(read));
        }
    }

    // <[123]> by its id, <think> by its text.
    uint32_t read_token() {
        const char * start = at;
        if (*at != '<') {
            refuse(at, "after '!' comes a token, as in !<[123]>, not " + seen(at));
        }
        if (at[1] == '[') {
            at += 2;
            const uint64_t id = read_number("of a token");
            if (strncmp(at, "]>", 2) != 0) {
                refuse(at, "a token by its id is written <[123]>: ']>' is missing before " + seen(at));
            }
            at += 2;
            if (id > INT32_MAX) {
                refuse(start, format("no token has an id above %d", INT32_MAX));
            }
            return (uint32_t) id;
        }
        const char * close = strchr(at, '>');
        if (!close) {
            refuse(start, "the token " + seen(start) + " has no end: its '>' is missing");
        }
        at = close + 1;
        int32_t tokens[2];
        const int32_t n = tokenize(model, start, at - start, false, true, tokens, 2);
        if (n != 1) {
            refuse(start, format("%s is no token of this model: it takes %d", seen(start).c_str(), n));
        }
        return (uint32_t) tokens[0];
    }

    void read_group(elements & to, std::string_view name, int32_t depth) {
        const char * start = at++;
        if (depth == DEEPEST) {
            refuse(start, format("groups are nested more than %d deep: give inner groups rules of their own", DEEPEST));
        }
        skip_space(true);
        const size_t n_before = result.rules.size();
        const uint32_t group = part_of(name, start);
        read_alternatives(name, group, depth + 1);
        if (*at != ')') {
            refuse(start, "the '(' has no ')' before " + seen(at));
        }
        at++;
        n_rules_of_last = std::max<uint64_t>(1, result.rules.size() - n_before);
        last = to.size();
        push(to, grammar_element::rule, group, start);
    }

    // --- repetitions ---

    void read_repetition(elements & to, std::string_view name, int32_t depth) {
        const char * start = at++;
        skip_space(depth > 0);
        const uint64_t least = read_number("of repetitions");
        uint64_t most = least;
        skip_space(depth > 0);
        if (*at == ',') {
            at++;
            skip_space(depth > 0);
            most = is_digit(*at) ? read_number("of repetitions") : NO_MOST;
            skip_space(depth > 0);
        }
        if (*at != '}') {
            refuse(at, "a repetition is written {2}, {2,} or {2,5}: '}' is missing before " + seen(at));
        }
        at++;
        if (most < least) {
            refuse(start, format("{%llu,%llu} repeats at least %llu and at most %llu times: the smaller number comes first",
                                 (unsigned long long) least, (unsigned long long) most, (unsigned long long) least,
                                 (unsigned long long) most));
        }
        repeat(to, name, least, most, start);
    }

    // What was read last becomes itself `least` times, then what may follow, as rules of their own:
    //     x{2,4}   x x more2      more2 ::= x more1 |      more1 ::= x |
    //     x{2,}    x x more       more  ::= x more |
    void repeat(elements & to, std::string_view name, uint64_t least, uint64_t most, const char * place) {
        if (last == to.size()) {
            refuse(place, "there is nothing before " + seen(place) + " that could be repeated");
        }
        const bool is_counted = most != NO_MOST && most <= MOST_REPETITIONS && most > 0;
        const uint64_t n_times = is_counted ? most : std::max<uint64_t>(least, 1);
        if (least > MOST_REPETITIONS) {
            refuse(place, format("more than %llu repetitions at least", (unsigned long long) MOST_REPETITIONS));
        }
        if (n_rules_of_last * n_times > MOST_REPETITIONS) {
            refuse(place, format("%llu repetitions of a part of %llu rules: their product must not be above %llu",
                                 (unsigned long long) n_times, (unsigned long long) n_rules_of_last,
                                 (unsigned long long) MOST_REPETITIONS));
        }
        n_rules_of_last *= n_times;
        const elements part(to.begin() + last, to.end());
        const uint64_t n_optional = most == NO_MOST ? 1 : most - least;
        count(least * part.size(), place);
        if (n_optional > 0) {
            count(std::min(n_optional, MOST_ELEMENTS) * (part.size() + 3), place);
        }
        to.resize(last);
        for (uint64_t i = 0; i < least; i++) {
            to.insert(to.end(), part.begin(), part.end());
        }
        uint32_t more = 0;
        for (uint64_t i = 0; i < n_optional; i++) {
            const uint32_t before = more;
            more = part_of(name, place);
            elements as = part;
            if (i > 0 || most == NO_MOST) {
                as.push_back({grammar_element::rule, most == NO_MOST ? more : before});
            }
            as.push_back({grammar_element::alternative, 0});
            as.push_back({grammar_element::end, 0});
            define(more, std::move(as));
        }
        if (n_optional > 0) {
            to.push_back({grammar_element::rule, more});
        }
    }

    const mp_model & model;
    const std::string & text;
    const char * at;
    const char * counted; // the lines before it are
    int32_t n_lines = 1;
    read_grammar result;
    std::unordered_map<std::string_view, uint32_t> ids; // of the rules of the text
    uint64_t n_elements = 0;

    // What a repetition would repeat: the elements from here on, and how many rules belong to them.
    size_t last = 0;
    uint64_t n_rules_of_last = 1;
};

} // namespace

read_grammar read_gbnf(const mp_model & model, const std::string & text) {
    const size_t n_valid = valid_utf8_length(text.data(), text.size());
    if (n_valid < text.size()) {
        fail(MP_ERR_ARGUMENT, "the grammar is not valid UTF-8 at byte %zu (0x%02x): convert it first", n_valid,
             (unsigned char) text[n_valid]);
    }
    return reader(model, text).read();
}

} // namespace mp
