// Generations whose candidates are right at known rates, on machines whose passes take known times: what a planner makes of
// them. All is drawn from seeds, pass by pass, so that two runs of one scenario meet the same texts and disturbances.
#pragma once

#include "plan/planner.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <queue>
#include <random>
#include <string>
#include <vector>

// What passes take, in microseconds.
struct machine {
    std::vector<std::pair<int32_t, double>> curve; // rows, T(n) / T(1); straight lines between them and beyond
    double one_us;
    double noise = 0.03;       // standard deviation
    double spikes = 1.0 / 300; // passes that take four times as long
    double build = 0.05;       // of T(1), for a graph of another number of rows
    double growth = 0.1;       // of a row's part for each 1,000 tokens
    double draft_us = 8, candidate_us = 1.5;

    double ratio(int32_t n) const {
        size_t i = 1;
        while (i + 1 < curve.size() && curve[i].first < n) {
            i++;
        }
        const auto & [n0, t0] = curve[i - 1];
        const auto & [n1, t1] = curve[i];
        return t0 + (t1 - t0) * (n - n0) / (n1 - n0);
    }
    double time(int32_t n, int64_t depth) const { return one_us * ratio(n) * (1 + growth * depth / 1000); }
};

inline machine ours() {
    return {{{1, 1}, {2, 1.07}, {4, 1.4}, {8, 2.2}, {16, 3.8}, {32, 7.5}}, 6000};
}
inline machine stock() {
    return {{{1, 1}, {2, 1.9}, {4, 2.7}, {8, 4.5}, {16, 7.5}, {32, 14}}, 16000};
}
inline machine metal() {
    return {{{1, 1}, {2, 1.5}, {4, 2.1}, {8, 3.2}, {9, 3.25}, {32, 3.5}, {64, 6}}, 9000};
}

// How right candidates are, and what they claim.
struct text {
    bool is_chain = false;
    double rate = 0;           // of a chain: each candidate, given the one before it
    double easy = 0.27;        // share of the tokens after which the most likely one has a probability of 0.6 to 0.98;
    double hard = 0.42;        // after the others it has up to this
    double repetitive = 0;     // share of the passes in stretches where all candidates are nearly certain
    double boldness = 1;       // claims are probabilities to the power of 1 / boldness
    bool is_adversary = false; // claims 1 and is never right
};

struct mind : mp::candidates {               // one generation
    static constexpr int32_t N_CHILDREN = 8; // tokens are 10 x parent + index

    mp::calibration claims;
    text of;
    std::mt19937_64 random;
    bool is_easy_pass = false;
    int32_t n_stretch = 0;

    struct node {
        int32_t parent, token, winner;
        double exact, top; // probability of the path; of the most likely child, given this
    };
    std::vector<node> nodes;
    std::vector<int32_t> tokens, parents;
    std::vector<float> claimed;
    struct opening {
        double exact;
        int32_t parent, index;
        bool operator<(const opening & o) const {
            return exact != o.exact ? exact < o.exact : parent != o.parent ? parent > o.parent : index > o.index;
        }
    };
    std::priority_queue<opening> heap;

    double uniform(double low, double high) { return std::uniform_real_distribution<>(low, high)(random); }

    // Of the index-th most likely child.
    static double child(double top, int32_t index, bool is_chain) {
        return index == 0 ? top : is_chain || index >= N_CHILDREN ? 0 : top * std::pow(0.65 * (1 - top), index);
    }

    void start(uint64_t seed, int32_t pass) {
        random.seed(seed * 1000003 + pass);
        // Stretches of 40 passes
        std::mt19937_64 stretch(seed * 7919 + pass / 40);
        is_easy_pass = std::uniform_real_distribution<>(0, 1)(stretch) < of.repetitive;
        nodes.clear(), tokens.clear(), parents.clear(), claimed.clear();
        heap = {};
        add(-1, 0, 1);
    }

    void add(int32_t parent, int32_t index, double exact) {
        double top = of.rate;
        if (!of.is_chain) {
            top = is_easy_pass ? uniform(0.9, 0.995) : uniform(0, 1) < of.easy ? uniform(0.6, 0.98) : uniform(0.03, of.hard);
        }
        int32_t winner = 0;
        double draw = uniform(0, 1);
        while (winner < N_CHILDREN && (draw -= child(top, winner, of.is_chain)) >= 0) {
            winner++;
        }
        const int32_t id = (int32_t) nodes.size();
        nodes.push_back({parent, parent * 10 + index, of.is_adversary ? -1 : winner, exact, top});
        tokens.push_back(parent * 10 + index);
        parents.push_back(parent);
        claimed.push_back((float) claim(exact));
        push(id, 0);
    }

    double claim(double exact) const { return of.is_adversary ? 1 : std::pow(exact, 1 / of.boldness); }

    void push(int32_t parent, int32_t index) {
        const double p = nodes[parent].exact * child(nodes[parent].top, index, of.is_chain);
        if (p > 1e-4) {
            heap.push({p, parent, index});
        }
    }

    float next() override { return heap.empty() ? 0 : (float) claim(heap.top().exact); }

    void take() override {
        const opening o = heap.top();
        heap.pop();
        add(o.parent, o.index, o.exact);
        push(o.parent, o.index + 1);
    }

    // Tokens that a pass over the first n_rows nodes emits; the calibration learns.
    int32_t finish(int32_t n_rows) {
        std::vector<int32_t> path = {0}, emitted;
        while (true) {
            const int32_t at = path.back(), token = nodes[at].winner < 0 ? -2 : at * 10 + nodes[at].winner;
            emitted.push_back(token);
            const auto found = std::find(tokens.begin(), tokens.begin() + n_rows, token);
            if (found == tokens.begin() + n_rows) {
                break;
            }
            path.push_back((int32_t) (found - tokens.begin()));
        }
        claims.learn(claimed.data(), parents.data(), tokens.data(), (int32_t) nodes.size(), n_rows, path.data(),
                     emitted.data(), (int32_t) path.size());
        return (int32_t) path.size();
    }
};

constexpr int32_t PLAIN = -1;

struct outcome {
    double us = 0;
    int64_t n_tokens = 0, n_passes = 0;
    std::vector<int64_t> rows;         // of each generation
    std::vector<int32_t> rows_of_pass; // of all

    double rate() const { return n_tokens / us; }
};

// A scenario under way.
struct simulation {
    machine on;
    std::vector<std::unique_ptr<mind>> minds;
    mp::planner planner;
    uint64_t seed;
    int32_t n_rows_max = 64, pass = 0, n_last = 0;
    int64_t n_tokens = 0;

    simulation(machine on, const std::vector<text> & texts, uint64_t seed) : on(std::move(on)), seed(seed) {
        for (const text & t : texts) {
            minds.push_back(std::make_unique<mind>());
            minds.back()->of = t;
        }
    }

    int64_t depth() const { return 200 + n_tokens / (int64_t) minds.size() % 1500; }

    double took(int32_t n_rows, int32_t n_taken) {
        std::mt19937_64 random(seed * 31 + pass);
        double us = on.time(n_rows, depth()) * (1 + on.noise * std::normal_distribution<>()(random));
        us += n_rows != n_last ? on.build * on.one_us : 0;
        us *= std::uniform_real_distribution<>(0, 1)(random) < on.spikes ? 4 : 1;
        n_last = n_rows;
        return us + on.draft_us + n_taken * on.candidate_us;
    }

    // `fixed` rows for each generation; 0: as planned; PLAIN: without drafts.
    outcome run(int32_t n_passes, int32_t fixed = 0) {
        outcome out;
        out.rows.resize(minds.size());
        for (int32_t i = 0; i < n_passes; i++, pass++) {
            std::vector<mp::share> shares;
            for (size_t j = 0; j < minds.size(); j++) {
                minds[j]->start(seed * 64 + j, pass);
                shares.push_back({minds[j].get(), &minds[j]->claims, fixed > 0 ? fixed : n_rows_max, 1});
            }
            if (fixed == 0) {
                planner.choose(shares.data(), (int32_t) shares.size(), depth(), n_rows_max);
            }
            int32_t n_rows = 0, n_new = 0, n_taken = 0;
            for (size_t j = 0; j < minds.size(); j++) {
                for (; fixed > 0 && shares[j].n_rows < fixed && minds[j]->next() > 0; shares[j].n_rows++) {
                    minds[j]->take();
                }
                n_rows += shares[j].n_rows;
                out.rows[j] += shares[j].n_rows;
                n_taken += (int32_t) minds[j]->nodes.size() - 1;
                n_new += minds[j]->finish(shares[j].n_rows);
            }
            const double us = took(n_rows, n_taken) - (fixed < 0 ? on.draft_us : 0);
            if (fixed == 0) {
                planner.observe(n_rows, depth(), us);
            }
            out.us += us;
            out.n_tokens += n_new;
            out.rows_of_pass.push_back(n_rows);
            n_tokens += n_new;
        }
        out.n_passes = n_passes;
        return out;
    }
};

// Half of the passes, then the other half of other texts or on another machine.
struct scenario {
    std::string kind, name;
    machine on, later_on;
    std::vector<text> texts, later_texts;
    int32_t n_passes;

    // Tokens per microsecond; rows as in simulation::run.
    double rate(uint64_t seed, int32_t fixed = 0) const {
        simulation s(on, texts, seed);
        const outcome first = s.run(n_passes / 2, fixed);
        s.on = later_on;
        for (size_t i = 0; i < texts.size(); i++) {
            s.minds[i]->of = later_texts[i];
        }
        const outcome second = s.run(n_passes / 2, fixed);
        return (first.n_tokens + second.n_tokens) / (first.us + second.us);
    }

    // Of the best fixed number of rows for each generation.
    double best_fixed_rate(uint64_t seed) const {
        double best = 0;
        for (int32_t fixed : {1, 2, 3, 4, 6, 8, 12, 16, 24, 32}) {
            best = std::max(best, fixed * texts.size() <= 64 ? rate(seed, fixed) : 0);
        }
        return best;
    }
};

inline std::vector<scenario> scenarios() {
    text usual, varied, repetitive, modest, bold, chain6, chain85, wrong;
    varied.easy = 0.18;
    repetitive.repetitive = 0.3;
    modest.boldness = 0.6;
    bold.boldness = 2;
    chain6.is_chain = chain85.is_chain = true;
    chain6.rate = 0.6;
    chain85.rate = 0.85;
    wrong.is_adversary = true;
    const std::vector<text> four = {usual, usual, varied, repetitive}, one_good = {repetitive, wrong, wrong, wrong};
    const std::vector<std::pair<std::string, machine>> machines = {{"ours", ours()}, {"stock", stock()}, {"metal", metal()}};
    std::vector<scenario> all;
    for (const auto & [name, m] : machines) {
        machine slower = m; // another program takes a core: rows cost twice as much, reading weights does not
        for (auto & [n, ratio] : slower.curve) {
            ratio = 1.2 + 2 * (ratio - 1);
        }
        const auto add = [&, on = name, m = m](const std::string & kind, const std::string & what, std::vector<text> texts,
                                               int32_t n_passes = 2000) {
            all.push_back({kind, on + ", " + what, m, m, texts, texts, n_passes});
        };
        add("one text", "usual", {usual});
        add("one text", "varied", {varied});
        add("one text", "modest claims", {modest});
        add("one text", "bold claims", {bold});
        add("repetitive", "repetitive", {repetitive});
        add("steady rate", "chain of 0.6", {chain6});
        add("steady rate", "chain of 0.85", {chain85});
        add("adversary", "adversary", {wrong});
        add("four", "four", four);
        add("four", "one good of four", one_good);
        add("first 200", "first 200 passes", {usual}, 200);
        add("first 200", "first 200 passes, chain of 0.85", {chain85}, 200);
        add("change", "becomes repetitive", {usual});
        all.back().later_texts[0].repetitive = 0.8;
        add("change", "becomes right", {wrong});
        all.back().later_texts[0] = usual;
        add("change", "becomes slower", {usual});
        all.back().later_on = slower;
        add("change", "becomes faster", {usual});
        all.back().on = slower;
    }
    return all;
}
