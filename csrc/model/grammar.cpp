#include "model/grammar.h"

#include "model/grammar_check.h"
#include "status.h"

#include <algorithm>
#include <cmath>

namespace mp {

constexpr uint32_t WHOLE_TEXT = 0; // a frame
constexpr uint32_t NONE = UINT32_MAX;
// Of the work for one token: mask() may look at every token of the vocabulary.
constexpr int64_t MOST_STEPS = 10000000, MOST_STEPS_OF_TOKEN = 1000;
constexpr size_t MOST_EDGES = 4000000;

using element = grammar_element;

grammar::grammar(const mp_model & model, const std::string & gbnf)
    : model(model), pieces(model.pieces()), rules(checked_grammar(model, gbnf)), places(1), frames{{NONE}},
      frame_of(rules.n_rules()), rule_of(1, NONE) {
    place & start = begin(0);
    for (uint32_t a = rules.first[rules.root]; a < rules.first[rules.root + 1]; a++) {
        follow({rules.starts[a], WHOLE_TEXT}, start);
    }
    if (start.is_dead()) {
        fail(MP_ERR_ARGUMENT, "no text follows the grammar: its rules call each other without ever coming to a character");
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// readings

void grammar::reading_set::clear() {
    round++;
    n = 0;
}

bool grammar::reading_set::insert(reading r) {
    if (2 * n >= slots.size()) {
        grow();
    }
    const uint64_t key = (uint64_t) r.frame << 32 | r.at;
    for (size_t i = (key * 0x9E3779B97F4A7C15u) >> 32;; i++) {
        slot & s = slots[i & (slots.size() - 1)];
        if (s.round != round) {
            s = {key, round};
            n++;
            return true;
        }
        if (s.key == key) {
            return false;
        }
    }
}

void grammar::reading_set::grow() {
    std::vector<slot> old(slots.size() * 2);
    old.swap(slots);
    n = 0;
    for (const slot & s : old) {
        if (s.round == round) {
            insert({(uint32_t) s.key, (uint32_t) (s.key >> 32)});
        }
    }
}

void grammar::spend(int64_t n) {
    n_steps += n;
    if (n_steps > MOST_STEPS + MOST_STEPS_OF_TOKEN * model.info.n_vocab || edges.size() > MOST_EDGES) {
        fail(MP_ERR_ARGUMENT,
             "the grammar can be read in too many ways at this place of the text: repeat nothing that may be "
             "empty, and let alternatives begin differently");
    }
}

void grammar::forget_trials() {
    frames.resize(places[0].n_frames);
    rule_of.resize(places[0].n_frames);
    edges.resize(places[0].n_edges);
    path.clear();
    n_steps = 0;
}

// An empty place after that of depth - 1; deeper ones are forgotten.
grammar::place & grammar::begin(size_t depth) {
    if (places.size() <= depth) {
        places.resize(depth + 1);
    }
    if (depth > 0) {
        frames.resize(places[depth - 1].n_frames);
        rule_of.resize(frames.size());
        edges.resize(places[depth - 1].n_edges);
    }
    n_old_frames = frames.size();
    seen.clear();
    place & made = places[depth];
    made.readings.clear();
    made.is_complete = false;
    made.n_frames = frames.size();
    made.n_edges = edges.size();
    return made;
}

// Adds to a place all readings that a reading comes to without a character. A rule that may be empty is passed over as well
// as called; so a frame that was made for this place need not be returned from here.
void grammar::follow(reading r, place & to) {
    work.push_back(r);
    while (!work.empty()) {
        r = work.back();
        work.pop_back();
        if (!seen.insert(r)) {
            continue;
        }
        spend(1);
        const element e = rules.elements[r.at];
        if (e.is == element::end) {
            to.is_complete = to.is_complete || r.frame == WHOLE_TEXT;
            if (r.frame < n_old_frames) {
                for (uint32_t i = frames[r.frame].first_edge; i != NONE; i = edges[i].next) {
                    work.push_back({edges[i].go_on, edges[i].frame});
                    spend(1);
                }
            }
        } else if (e.is != element::rule) {
            to.readings.push_back(r);
        } else {
            if (rules.may_be_empty[e.value]) {
                work.push_back({r.at + 1, r.frame});
            }
            uint32_t called = r.frame; // at the end of an alternative what goes on after the rule is what goes on after this
            bool is_new = true;
            if (rules.elements[r.at + 1].is != element::end) {
                called = frame_of[e.value];
                is_new = called < n_old_frames || called >= frames.size() || rule_of[called] != e.value;
                if (is_new) {
                    called = frame_of[e.value] = (uint32_t) frames.size();
                    frames.push_back({NONE});
                    rule_of.push_back(e.value);
                }
                edges.push_back({r.at + 1, r.frame, frames[called].first_edge});
                frames[called].first_edge = (uint32_t) edges.size() - 1;
            }
            for (uint32_t a = rules.first[e.value]; is_new && a < rules.first[e.value + 1]; a++) {
                work.push_back({rules.starts[a], called});
                spend(1);
            }
        }
    }
    to.n_frames = frames.size();
    to.n_edges = edges.size();
}

// From the place of a depth to that of the next one.
void grammar::step(size_t depth, uint32_t character) {
    place & to = begin(depth + 1);
    const place & from = places[depth];
    spend((int64_t) from.readings.size());
    for (const reading & r : from.readings) {
        if (takes(rules.elements[r.at], character)) {
            follow({r.at + 1, r.frame}, to);
        }
    }
}

// From the place of a depth over the token that was read last; returns the depth after it. Only a `whole` token, which
// neither ends within a character nor begins in one, meets elements that are tokens.
size_t grammar::step_over(size_t depth, int32_t token, bool whole) {
    const size_t start = depth;
    for (const uint32_t character : characters) {
        step(depth++, character);
    }
    for (size_t i = 0; whole && i < places[start].readings.size(); i++) {
        const reading r = places[start].readings[i];
        if (takes_token(rules.elements[r.at], token)) {
            follow({r.at + 1, r.frame}, places[depth]);
        }
    }
    return depth;
}

// ---------------------------------------------------------------------------------------------------------------------
// characters and tokens

bool grammar::takes(const element & e, uint32_t character) const {
    switch (e.is) {
    case element::any:
        return true;
    case element::character:
        return e.value == character;
    case element::one_of: {
        const character_class & c = rules.classes[e.value];
        const bool is_in = std::any_of(c.ranges.begin(), c.ranges.end(), [&](const auto & range) {
            return range.first <= character && character <= range.second;
        });
        return is_in != c.is_negated;
    }
    default:
        return false;
    }
}

bool grammar::takes_token(const element & e, int32_t token) const {
    return (e.is == element::token && e.value == (uint32_t) token) ||
           (e.is == element::other_token && e.value != (uint32_t) token);
}

// Whether an element may take a character that begins with these bytes. As in llama.cpp a class with a '^' takes none if one
// of those characters is in the class.
bool grammar::may_take(const element & e, const unfinished & rest) const {
    if (rest.n_missing < 0 || (rest.n_missing == 1 && rest.value < 2)) {
        return false;
    }
    uint32_t low = rest.value << (rest.n_missing * 6);
    const uint32_t high = low | ((1u << (rest.n_missing * 6)) - 1);
    if (low == 0 && rest.n_missing > 1) { // shorter ways to write a character are none
        low = rest.n_missing == 2 ? 1u << 11 : 1u << 16;
    }
    switch (e.is) {
    case element::any:
        return true;
    case element::character:
        return low <= e.value && e.value <= high;
    case element::one_of: {
        const character_class & c = rules.classes[e.value];
        const bool meets = std::any_of(c.ranges.begin(), c.ranges.end(),
                                       [&](const auto & range) { return range.first <= high && low <= range.second; });
        return meets != c.is_negated;
    }
    default:
        return false;
    }
}

bool grammar::may_go_on(const place & from, const unfinished & rest) const {
    if (rest.n_missing == 0) {
        return !from.is_dead();
    }
    return std::any_of(from.readings.begin(), from.readings.end(),
                       [&](const reading & r) { return may_take(rules.elements[r.at], rest); });
}

// Puts the characters that a token completes into `characters`. `rest` is what came before, and then what is left. False
// where the token has no bytes, or such that are not UTF-8.
bool grammar::read(int32_t token, unfinished & rest) {
    const std::string_view bytes = pieces.bytes(token);
    characters.clear();
    for (const char c : bytes) {
        const uint8_t byte = (uint8_t) c;
        if (rest.n_missing > 0) {
            if ((byte & 0xC0) != 0x80) {
                return false;
            }
            rest = {rest.value << 6 | (byte & 0x3F), rest.n_missing - 1};
        } else if (byte < 0x80) {
            rest.value = byte;
        } else if (byte < 0xC0 || byte >= 0xF8) {
            return false;
        } else {
            const int32_t n_missing = byte >= 0xF0 ? 3 : byte >= 0xE0 ? 2 : 1;
            rest = {byte & (0x3Fu >> n_missing), n_missing};
        }
        if (rest.n_missing == 0) {
            characters.push_back(rest.value);
        }
    }
    return !bytes.empty();
}

// ---------------------------------------------------------------------------------------------------------------------
// the text

bool grammar::allows(const int32_t * tokens, int32_t n) {
    forget_trials();
    size_t depth = 0;
    unfinished rest = pending;
    for (int32_t i = 0; i < n; i++) {
        if (pieces.is_end(tokens[i])) {
            return i + 1 == n && places[depth].is_complete && rest.n_missing == 0;
        }
        const bool from_boundary = rest.n_missing == 0;
        if (!read(tokens[i], rest)) {
            return false;
        }
        depth = step_over(depth, tokens[i], from_boundary && rest.n_missing == 0);
        if (!may_go_on(places[depth], rest)) {
            return false;
        }
    }
    return true;
}

// Tokens that begin alike share the places of their beginning.
void grammar::mask(llama_token_data_array & candidates) {
    forget_trials();
    allowed.assign(model.info.n_vocab, false);
    bool is_dead = false; // the place at the end of the path
    for (const int32_t token : pieces.sorted()) {
        unfinished rest = pending;
        if (pieces.is_end(token)) {
            allowed[token] = places[0].is_complete && pending.n_missing == 0;
        } else if (read(token, rest)) {
            const auto differs = std::mismatch(path.begin(), path.end(), characters.begin(), characters.end());
            if (!is_dead || differs.first != path.end()) {
                is_dead = false;
                path.erase(differs.first, path.end());
                while (!is_dead && path.size() < characters.size()) {
                    const uint32_t character = characters[path.size()];
                    step(path.size(), character);
                    path.push_back(character);
                    is_dead = places[path.size()].is_dead();
                }
            }
            allowed[token] = (!is_dead && may_go_on(places[path.size()], rest)) ||
                             (pending.n_missing == 0 && rest.n_missing == 0 && may_be_token(token));
        }
    }
    for (size_t i = 0; i < candidates.size; i++) {
        if (!allowed[candidates.data[i].id]) {
            candidates.data[i].logit = -INFINITY;
        }
    }
}

bool grammar::may_be_token(int32_t token) const {
    const std::vector<reading> & readings = places[0].readings;
    return std::any_of(readings.begin(), readings.end(),
                       [&](const reading & r) { return takes_token(rules.elements[r.at], token); });
}

void grammar::accept(int32_t token) {
    forget_trials();
    unfinished rest = pending;
    if (pieces.is_end(token) || !read(token, rest)) {
        return;
    }
    const size_t depth = step_over(0, token, pending.n_missing == 0 && rest.n_missing == 0);
    std::swap(places[0], places[depth]);
    pending = rest;
    if (frames.size() > 2 * n_reachable + 1024) {
        drop_unreachable();
    }
}

// Frames that no reading will return from go; the others move together.
void grammar::drop_unreachable() {
    std::vector<uint32_t> moved(frames.size(), NONE), kept;
    const auto keep = [&](uint32_t f) {
        if (moved[f] == NONE) {
            moved[f] = (uint32_t) kept.size();
            kept.push_back(f);
        }
        return moved[f];
    };
    keep(WHOLE_TEXT);
    for (reading & r : places[0].readings) {
        r.frame = keep(r.frame);
    }
    std::vector<frame> new_frames;
    std::vector<edge> new_edges;
    for (size_t k = 0; k < kept.size(); k++) {
        new_frames.push_back({NONE});
        for (uint32_t i = frames[kept[k]].first_edge; i != NONE; i = edges[i].next) {
            new_edges.push_back({edges[i].go_on, keep(edges[i].frame), new_frames[k].first_edge});
            new_frames[k].first_edge = (uint32_t) new_edges.size() - 1;
        }
    }
    frames.swap(new_frames);
    edges.swap(new_edges);
    rule_of.assign(frames.size(), NONE); // of this place no frame is made any more
    places[0].n_frames = n_reachable = frames.size();
    places[0].n_edges = edges.size();
}

} // namespace mp
