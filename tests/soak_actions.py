"""All actions of the soak, and how often each is done."""

from collections.abc import Callable

from soak_forks import forks
from soak_generations import (
    cancels,
    cancels_another,
    cancels_the_context,
    closes_early,
    closes_the_engine,
    drops,
    generates,
    generates_async,
    lets_others_cancel,
    looks,
    opens_another_engine,
    opens_the_model_again,
    repeats,
    takes_turns,
    uses_the_standing_engine,
)
from soak_parts import draws, drives_sessions, reads_and_writes_text
from soak_refusals import bad_arguments, fails_in_a_constraint, fails_in_a_proposer
from soak_world import Turn

ACTIONS: dict[Callable[[Turn], str], float] = {
    generates: 24,
    repeats: 20,
    takes_turns: 5,
    generates_async: 7,
    cancels: 7,
    lets_others_cancel: 6,
    cancels_another: 6,
    drops: 6,
    closes_early: 4,
    uses_the_standing_engine: 6,
    cancels_the_context: 1.5,
    closes_the_engine: 0.3,
    looks: 4,
    opens_another_engine: 1.5,
    opens_the_model_again: 0.6,
    forks: 1.5,
    fails_in_a_proposer: 5,
    fails_in_a_constraint: 5,
    bad_arguments: 4,
    reads_and_writes_text: 3,
    drives_sessions: 4,
    draws: 2,
}
