"""What passes take, what claims are worth, how many rows a pass has: tests/plan_checks.cpp, one case for each check."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
CXX_COMPILER = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
CHECKS = [
    "times_between_and_beyond",
    "times_of_one_known_number",
    "times_never_fall",
    "times_of_a_first_graph_are_forgotten",
    "times_bound_disturbances",
    "times_follow_the_machine",
    "times_of_depths",
    "times_that_make_no_sense",
    "times_are_kept",
    "times_refuse_nonsense",
    "hope_is_for_what_is_unknown_or_old",
    "hope_rests_ever_longer",
    "claims_of_a_stranger",
    "claims_that_are_always_wrong",
    "claims_come_to_be_what_they_are_worth",
    "claims_near_one_are_apart",
    "claims_are_forgotten",
    "claims_of_any_size",
    "claims_count_whose_parent_was_decoded",
    "claims_are_kept",
    "claims_refuse_nonsense",
    "no_times_no_candidates",
    "certain_candidates_need_no_trust",
    "many_rows_where_they_cost_nothing",
    "one_row_where_more_cost_too_much",
    "limits_hold",
    "few_shapes",
    "rows_go_to_the_most_probable",
    "each_generation_has_its_own_calibration",
    "adversary_costs_little",
    "spikes_are_forgotten",
    "a_source_that_becomes_right_is_believed_again",
    "of_four_the_good_one_has_the_rows",
    "what_is_kept_is_there_at_once",
    "questions_that_pay_are_asked",
    "questions_that_do_not_pay_are_asked_now_and_then",
    "questions_go_as_deep_as_they_pay",
    "without_times_all_is_asked",
    "near_the_best_of_one_text",
    "near_the_best_of_repetitive_text",
    "near_the_best_of_steady_rates",
    "near_the_best_of_four",
    "near_the_best_from_the_start",
    "near_the_best_after_a_change",
]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    if not CXX_COMPILER:
        pytest.skip("no C++ compiler")
    target = tmp_path_factory.mktemp("plan") / "plan_checks"
    sources = [PROJECT / "tests" / "plan_checks.cpp", *sorted((PROJECT / "csrc" / "plan").glob("*.cpp"))]
    command = [CXX_COMPILER, "-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{PROJECT / 'csrc'}"]
    built = subprocess.run(
        [*command, *map(str, sources), "-o", str(target)], capture_output=True, text=True, timeout=600
    )
    assert built.returncode == 0, built.stderr
    return target


def test_every_check_has_a_case(program):
    assert subprocess.run([program], capture_output=True, text=True, check=True).stdout.split() == CHECKS


@pytest.mark.parametrize("name", CHECKS)
def test_plan(program, name):
    done = subprocess.run([program, name], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
