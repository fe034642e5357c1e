// The C functions of a planner: what a caller gives is checked here; the work is in plan/.
#include "plan/planner.h"

#include "draft/drafter.h"
#include "status.h"

#include <algorithm>
#include <vector>

using namespace mp;

static const mp_planner & checked(const mp_planner * planner, const char * function) {
    if (!planner) {
        fail(MP_ERR_ARGUMENT, "%s: the planner must not be NULL", function);
    }
    return *planner;
}

static mp_planner & checked(mp_planner * planner, const char * function) {
    return const_cast<mp_planner &>(checked((const mp_planner *) planner, function));
}

static mp_planner & measured(mp_planner * planner, const char * function) {
    mp_planner & p = checked(planner, function);
    if (!p.cost.measured()) {
        fail(MP_ERR_STATE, "%s: a pass of one row must be measured first", function);
    }
    return p;
}

static void check_rows(int32_t n_rows) {
    if (n_rows < 1 || n_rows > MP_N_ROWS_LIMIT) {
        fail(MP_ERR_ARGUMENT, "a pass of %d rows: 1..%d", n_rows, MP_N_ROWS_LIMIT);
    }
}

static void check_out(const double * out) {
    if (!out) {
        fail(MP_ERR_ARGUMENT, "the place for the result must not be NULL");
    }
}

static void check_time(double us) {
    if (!(us > 0 && us < 1e12)) {
        fail(MP_ERR_ARGUMENT, "a pass of %g microseconds", us);
    }
}

static void check_draft(const mp_draft & draft) {
    if (draft.n_nodes < 1 || draft.n_nodes > MP_N_ROWS_LIMIT || !draft.tokens || !draft.parents || !draft.probabilities) {
        fail(MP_ERR_ARGUMENT, "a draft of %d nodes: 1..%d, and its arrays must not be NULL", draft.n_nodes, MP_N_ROWS_LIMIT);
    }
    for (int32_t node = 1; node < draft.n_nodes; node++) {
        const float probability = draft.probabilities[node];
        if (!(probability >= 0 && probability <= 1)) {
            fail(MP_ERR_ARGUMENT, "a probability of %g at node %d", probability, node);
        }
        if (draft.parents[node] < 0 || draft.parents[node] >= node) {
            fail(MP_ERR_ARGUMENT, "node %d has parent %d: it must come before", node, draft.parents[node]);
        }
    }
}

const int32_t * mp_planner_shapes(int32_t * n) {
    if (n) {
        *n = (int32_t) PLANNED_ROWS.size();
    }
    return PLANNED_ROWS.data();
}

mp_status mp_planner_open(int32_t n_rows_max, mp_planner ** out) {
    return guarded([&] {
        if (!out) {
            fail(MP_ERR_ARGUMENT, "mp_planner_open: out must not be NULL");
        }
        *out = nullptr;
        check_rows(n_rows_max);
        *out = new mp_planner(n_rows_max);
    });
}

void mp_planner_free(mp_planner * planner) {
    delete planner;
}

const mp_outlook * mp_planner_outlook(const mp_planner * planner) {
    return planner ? &planner->outlook : nullptr;
}

mp_status mp_planner_at_depth(mp_planner * planner, int64_t n_past) {
    return guarded([&] { checked(planner, "mp_planner_at_depth").cost.at_depth(n_past); });
}

mp_status mp_planner_rows(mp_planner * planner, int64_t n_past, const mp_draft * draft, int32_t * n_rows) {
    return guarded([&] {
        mp_planner & p = measured(planner, "mp_planner_rows");
        if (!draft || !n_rows) {
            fail(MP_ERR_ARGUMENT, "mp_planner_rows: draft and n_rows must not be NULL");
        }
        check_draft(*draft);
        p.cost.at_depth(n_past);
        *n_rows = p.rows(*draft, draft->n_nodes, false,
                         [&](int32_t n) { return n < draft->n_nodes ? draft->probabilities[n] : 0.0f; });
    });
}

mp_status mp_planner_observe(mp_planner * planner, const mp_draft * draft, const mp_plan_result * result) {
    return guarded([&] {
        mp_planner & p = checked(planner, "mp_planner_observe");
        if (!result || !result->path || !result->emitted || result->n_path < 1 || result->n_path > MP_N_ROWS_LIMIT) {
            fail(MP_ERR_ARGUMENT, "mp_planner_observe: a result with a path of at least the root, not NULL");
        }
        const mp_plan_result & r = *result;
        check_rows(r.n_rows);
        check_time(r.core_us);
        check_time(r.total_us);
        if (draft) {
            check_draft(*draft);
            if (r.n_nodes < 1 || r.n_nodes > draft->n_nodes) {
                fail(MP_ERR_ARGUMENT, "%d nodes decoded, the draft has %d", r.n_nodes, draft->n_nodes);
            }
        }
        p.observe(draft, r);
    });
}

mp_status mp_planner_draft(mp_planner * planner, mp_drafter * drafter, int64_t n_past, int32_t n_max, mp_draft * out,
                           int32_t * n_rows) {
    const mp_status status = mp_drafter_grow(drafter, 1, out);
    return status != MP_OK ? status : guarded([&] {
        mp_planner & p = measured(planner, "mp_planner_draft");
        check_rows(n_max);
        if (!n_rows) {
            fail(MP_ERR_ARGUMENT, "mp_planner_draft: n_rows must not be NULL");
        }
        p.cost.at_depth(n_past);
        const bool repeats = drafter->n_repeated() >= MP_N_REPEATED;
        *n_rows = p.rows(*out, n_max, repeats, [&](int32_t n) { return drafter->grow(n, *out); });
    });
}

mp_status mp_planner_learn(mp_planner * planner, mp_drafter * drafter, const mp_draft * draft,
                           const mp_draft_result * result, double core_us, double total_us) {
    const mp_status status = mp_drafter_observe(drafter, result);
    if (status != MP_OK) {
        return status;
    }
    const mp_draft_result & r = *result;
    const mp_plan_result plan = {r.n_nodes + r.n_masks, r.n_nodes, r.n_path, r.path, r.emitted, core_us, total_us};
    return mp_planner_observe(planner, draft, &plan);
}

mp_status mp_planner_rest(mp_planner * planner, int32_t n, int32_t n_repeated) {
    return guarded([&] {
        mp_planner & p = measured(planner, "mp_planner_rest");
        if (n < 0) {
            fail(MP_ERR_ARGUMENT, "a rest of %d passes", n);
        }
        p.rest(n, n_repeated);
    });
}

mp_status mp_planner_next_to_measure(mp_planner * planner, int32_t after, int32_t n_max, int32_t * n_rows) {
    return guarded([&] {
        mp_planner & p = checked(planner, "mp_planner_next_to_measure");
        if (!n_rows) {
            fail(MP_ERR_ARGUMENT, "mp_planner_next_to_measure: n_rows must not be NULL");
        }
        *n_rows = p.cost.next_to_measure(after, n_max);
    });
}

mp_status mp_planner_measured(mp_planner * planner, int32_t n_rows, double us) {
    return guarded([&] {
        mp_planner & p = checked(planner, "mp_planner_measured");
        check_rows(n_rows);
        check_time(us);
        p.measured(n_rows, us);
    });
}

mp_status mp_planner_time(mp_planner * planner, int32_t n_rows, double * us) {
    return guarded([&] {
        check_rows(n_rows);
        check_out(us);
        *us = measured(planner, "mp_planner_time").cost.time(n_rows);
    });
}

mp_status mp_planner_change(mp_planner * planner, double * us) {
    return guarded([&] {
        check_out(us);
        *us = measured(planner, "mp_planner_change").cost.change();
    });
}

mp_status mp_planner_probability(const mp_planner * planner, double claimed, double * probability) {
    return guarded([&] {
        if (!(claimed >= 0 && claimed <= 1)) {
            fail(MP_ERR_ARGUMENT, "a probability of %g", claimed);
        }
        check_out(probability);
        *probability = checked(planner, "mp_planner_probability").claims.probability(claimed);
    });
}

mp_status mp_planner_costs(const mp_planner * planner, mp_cost * costs, size_t capacity, size_t * n) {
    return guarded([&] {
        const mp_planner & p = checked(planner, "mp_planner_costs");
        if (!n || (!costs && capacity > 0)) {
            fail(MP_ERR_ARGUMENT, "mp_planner_costs: n must not be NULL, nor an array with a capacity");
        }
        const std::vector<mp_cost> saved = p.cost.save();
        std::copy_n(saved.begin(), std::min(capacity, saved.size()), costs);
        *n = saved.size();
    });
}

mp_status mp_planner_load_costs(mp_planner * planner, const mp_cost * costs, size_t n) {
    return guarded([&] {
        mp_planner & p = checked(planner, "mp_planner_load_costs");
        if ((!costs && n > 0) || !p.cost.load(costs, n)) {
            fail(MP_ERR_FORMAT, "%zu times of passes that make no sense: all positive, one row among those of every depth",
                 n);
        }
    });
}

mp_status mp_planner_learned(const mp_planner * planner, mp_learned * learned) {
    return guarded([&] {
        const mp_planner & p = checked(planner, "mp_planner_learned");
        if (!learned) {
            fail(MP_ERR_ARGUMENT, "mp_planner_learned: learned must not be NULL");
        }
        p.claims.save(*learned);
    });
}

mp_status mp_planner_load_learned(mp_planner * planner, const mp_learned * learned) {
    return guarded([&] {
        mp_planner & p = checked(planner, "mp_planner_load_learned");
        if (!learned || !p.claims.load(*learned)) {
            fail(MP_ERR_FORMAT, "a calibration that makes no sense: its sums must be from 0 to a million");
        }
    });
}
