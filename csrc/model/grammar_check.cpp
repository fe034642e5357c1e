#include "model/grammar_check.h"

#include "gguf/reader.h"
#include "model/grammar_reader.h"
#include "status.h"

#include <algorithm>

namespace mp {

constexpr int32_t LONGEST_CHAIN = 4000; // rules that begin with each other; llama.cpp calls itself for each

static grammar_rules flatten(const read_grammar & read) {
    grammar_rules rules;
    rules.first.push_back(0);
    for (const read_rule & rule : read.rules) {
        bool begins = true;
        for (grammar_element e : rule.elements) {
            if (begins) {
                rules.starts.push_back((uint32_t) rules.elements.size());
            }
            begins = e.is == grammar_element::alternative;
            rules.elements.push_back(begins ? grammar_element{grammar_element::end, 0} : e);
        }
        rules.first.push_back((uint32_t) rules.starts.size());
    }
    rules.classes = read.classes;
    rules.root = (uint32_t) read.root;
    return rules;
}

static void check_names(const read_grammar & read) {
    if (read.rules.empty()) {
        fail(MP_ERR_ARGUMENT, "the grammar has no rules: a text begins with that of the rule named root");
    }
    for (const read_rule & rule : read.rules) {
        for (const grammar_element & e : rule.elements) {
            if (e.is == grammar_element::rule && !read.rules[e.value].is_defined) {
                fail(MP_ERR_ARGUMENT, "line %d of the grammar: there is no rule named %s", read.rules[e.value].line,
                     quoted(read.rules[e.value].name).c_str());
            }
        }
    }
    if (read.root < 0 || !read.rules[read.root].is_defined) {
        fail(MP_ERR_ARGUMENT, "the grammar has no rule named root: a text begins with that one");
    }
}

// From the empty alternatives on, to whatever consists of rules that may be empty.
static void find_empty(grammar_rules & rules) {
    const uint32_t n_alternatives = (uint32_t) rules.starts.size();
    std::vector<uint32_t> n_left(n_alternatives), rule_of(n_alternatives), empty;
    std::vector<std::vector<uint32_t>> users(rules.n_rules()); // alternatives with this rule, once for each time
    rules.may_be_empty.assign(rules.n_rules(), false);
    for (uint32_t rule = 0; rule < rules.n_rules(); rule++) {
        for (uint32_t a = rules.first[rule]; a < rules.first[rule + 1]; a++) {
            rule_of[a] = rule;
            for (uint32_t i = rules.starts[a]; rules.elements[i].is != grammar_element::end; i++) {
                n_left[a]++;
                if (rules.elements[i].is == grammar_element::rule) {
                    users[rules.elements[i].value].push_back(a);
                }
            }
            if (n_left[a] == 0) {
                empty.push_back(a);
            }
        }
    }
    while (!empty.empty()) {
        const uint32_t rule = rule_of[empty.back()];
        empty.pop_back();
        if (!rules.may_be_empty[rule]) {
            rules.may_be_empty[rule] = true;
            for (const uint32_t a : users[rule]) {
                if (--n_left[a] == 0) {
                    empty.push_back(a);
                }
            }
        }
    }
}

// Walks through what rules begin with, as llama.cpp does: past rules that have an alternative without anything, not past
// those whose alternatives can become empty.
static void check_beginnings(const grammar_rules & rules, const std::vector<read_rule> & named) {
    const uint32_t n_rules = rules.n_rules();
    std::vector<bool> begins_empty(n_rules);
    for (uint32_t rule = 0; rule < n_rules; rule++) {
        for (uint32_t a = rules.first[rule]; a < rules.first[rule + 1]; a++) {
            begins_empty[rule] = begins_empty[rule] || rules.elements[rules.starts[a]].is == grammar_element::end;
        }
    }
    struct visit {
        uint32_t rule, alternative, at; // at: the next element to look at
    };
    enum { NEW, UNDER_WAY, DONE };
    std::vector<uint8_t> stage(n_rules, NEW);
    std::vector<int32_t> chain(n_rules, 1); // the longest one from this rule on
    std::vector<visit> path;
    const auto enter = [&](uint32_t rule) {
        stage[rule] = UNDER_WAY;
        path.push_back({rule, rules.first[rule], rules.starts[rules.first[rule]]});
    };
    for (uint32_t start = 0; start < n_rules; start++) {
        if (stage[start] == NEW && rules.first[start] < rules.first[start + 1]) {
            enter(start);
        }
        while (!path.empty()) {
            visit & v = path.back();
            const grammar_element e = rules.elements[v.at];
            if (e.is == grammar_element::rule && stage[e.value] == NEW) {
                enter(e.value);
                continue;
            }
            const read_rule & name = named[v.rule];
            if (e.is == grammar_element::rule && stage[e.value] == UNDER_WAY) {
                fail(MP_ERR_ARGUMENT,
                     "line %d of the grammar: the rule %s comes back to itself before any character (left recursion): put "
                     "a character first, or repeat with * and +",
                     name.line, quoted(name.name).c_str());
            }
            if (e.is == grammar_element::rule) {
                chain[v.rule] = std::max(chain[v.rule], 1 + chain[e.value]);
                if (chain[v.rule] > LONGEST_CHAIN) {
                    fail(MP_ERR_ARGUMENT,
                         "line %d of the grammar: from the rule %s more than %d rules begin with each other before any "
                         "character: make the chain shorter",
                         name.line, quoted(name.name).c_str(), LONGEST_CHAIN);
                }
            }
            if (e.is == grammar_element::rule && begins_empty[e.value]) {
                v.at++;
            } else if (++v.alternative < rules.first[v.rule + 1]) {
                v.at = rules.starts[v.alternative];
            } else {
                stage[v.rule] = DONE;
                path.pop_back();
            }
        }
    }
}

grammar_rules checked_grammar(const mp_model & model, const std::string & gbnf) {
    const read_grammar read = read_gbnf(model, gbnf);
    check_names(read);
    grammar_rules rules = flatten(read);
    check_beginnings(rules, read.rules);
    find_empty(rules);
    return rules;
}

} // namespace mp
