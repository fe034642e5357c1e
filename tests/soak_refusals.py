"""Actions of the soak that must fail: callbacks of its own, and arguments that make no sense."""

import math
from collections.abc import Callable
from typing import Any

from maskprobe import (
    ArgumentError,
    Context,
    ContextFull,
    Engine,
    Error,
    Generation,
    Model,
    ModelError,
    Sampler,
    SamplingParams,
)
from soak_callbacks import SENSELESS, Breaks, BreaksDown, CallsBack, Planned, Wrong
from soak_inputs import N_CTX_LEAST, random_prompt
from soak_world import Turn

# --- callbacks that fail ---------------------------------------------------------------------------------------------


def fails_in_a_proposer(turn: Turn) -> str:
    kind = turn.rng.choice(["begin", "propose", "observe", "root is token", "must not call the engine"])
    if kind == "root is token":
        proposer: Any = Wrong()
    elif kind == "must not call the engine":
        proposer = CallsBack(turn.engine)
    else:
        proposer = BreaksDown(kind, turn.rng.randint(0, 4))
    generation = turn.generate(turn.job(), proposer=proposer, draft=True)
    return f"proposer: {kind}, {_read_failing(turn, generation, kind)}"


def fails_in_a_constraint(turn: Turn) -> str:
    job = turn.job()
    if turn.rng.random() < 0.5:
        said = turn.rng.choice(["allowed", "accept", "n_valid", "logits"])
        rules: Any = Breaks(turn.world.vocabulary.letters, said, turn.rng.randint(0, 6))
    else:
        methods, said = turn.rng.choice(SENSELESS)
        rules = type("Senseless", (), methods)()
    settings = {**turn.settings(job), "constraint": rules}
    generation = turn.engine.generate(job.prompt, job.params, **settings)
    return f"constraint: {said}, {_read_failing(turn, generation, said)}"


def _read_failing(turn: Turn, generation: Generation, said: str) -> str:
    """What comes out of a generation whose callback fails, unless it ends before."""
    try:
        list(generation)
    except Planned as error:
        assert said in str(error)
        outcome = "came out"
    except Error as error:
        if turn.round.expects(error):
            raise
        assert said in str(error).lower() and "\n" not in str(error), f"instead of {said!r}: {error!r}"
        outcome = type(error).__name__
    else:
        outcome = "ended before"
    assert list(generation) == []
    return outcome


# --- bad arguments ---------------------------------------------------------------------------------------------------


def bad_arguments(turn: Turn) -> str:
    engine, model, rng = turn.engine, turn.model, turn.rng
    n_vocab, n_ctx = model.info.n_vocab, engine.context.n_ctx
    prompt = random_prompt(rng, model, n_ctx)
    calls: list[tuple[type[Error], Callable[[], Any]]] = [
        (ArgumentError, lambda: engine.generate([])),
        (ArgumentError, lambda: engine.generate([n_vocab])),
        (ArgumentError, lambda: engine.generate([-1])),
        (ArgumentError, lambda: engine.generate([2**31])),
        (ArgumentError, lambda: engine.generate([[1], [2]])),
        (ArgumentError, lambda: engine.generate([0.5])),
        (ArgumentError, lambda: engine.generate(prompt, max_tokens=-2)),
        (ArgumentError, lambda: engine.generate(prompt, max_tokens="many")),
        (ArgumentError, lambda: engine.generate(prompt, max_tokens=2**64)),
        (ArgumentError, lambda: engine.generate(prompt, stop=[""])),
        (ArgumentError, lambda: engine.generate(prompt, stop=[None])),
        (ArgumentError, lambda: engine.generate(prompt, stop="a\0")),
        (ArgumentError, lambda: engine.generate(prompt, stop="\ud800")),
        (ArgumentError, lambda: engine.generate(prompt, top_logprobs=-1)),
        (ArgumentError, lambda: engine.generate(prompt, top_logprobs=65)),
        (ArgumentError, lambda: engine.generate(prompt, proposer="magic")),
        (ArgumentError, lambda: engine.generate(prompt, constraint=7)),
        (ArgumentError, lambda: engine.generate(prompt, SamplingParams(temp=-1.0))),
        (ArgumentError, lambda: engine.generate(prompt, SamplingParams(temp=math.nan))),
        (ArgumentError, lambda: engine.generate(prompt, SamplingParams(top_p=math.nan))),
        (ArgumentError, lambda: engine.generate(prompt, SamplingParams(seed=2**32))),
        (ArgumentError, lambda: engine.generate(prompt, SamplingParams(logit_bias={n_vocab: 1.0}))),
        (ArgumentError, lambda: engine.generate(prompt, SamplingParams(logit_bias={1: math.nan}))),
        (ArgumentError, lambda: engine.generate(prompt, SamplingParams(grammar="root ::= ("))),
        (ArgumentError, lambda: engine.generate(prompt, SamplingParams(grammar="x ::= [a]"))),
        (ArgumentError, lambda: engine.pass_us(0)),
        (ArgumentError, lambda: model.tokenize(b"\xff\xfe")),
        (ArgumentError, lambda: model.tokenize("a\0b")),
        (ArgumentError, lambda: model.token_bytes(n_vocab)),
        (ArgumentError, lambda: model.embedding_rows([n_vocab])),
        (ArgumentError, lambda: Engine(model, n_ctx=N_CTX_LEAST, rows=-1)),
        (ArgumentError, lambda: Engine(model, n_ctx=N_CTX_LEAST, masks="magic")),
        (ArgumentError, lambda: Engine(model, n_ctx=N_CTX_LEAST, n_parallel=65)),
        (ArgumentError, lambda: Engine(model, n_ctx=N_CTX_LEAST, state="a\0")),
        (ArgumentError, lambda: Engine(model, n_ctx=N_CTX_LEAST, state=turn.world.path)),
        (ArgumentError, lambda: Context(model, n_ctx=-1)),
        (ArgumentError, lambda: Context(model, n_ctx=N_CTX_LEAST, type_k="f17")),
        (ArgumentError, lambda: Context(model, n_ctx=N_CTX_LEAST, n_threads=-1)),
        (ArgumentError, lambda: Sampler(model, SamplingParams(top_k="x"))),
        (ContextFull, lambda: engine.generate(prompt + [1] * n_ctx)),
        (ModelError, lambda: Model(turn.world.folder)),
        (ModelError, lambda: Model(turn.world.folder / "missing.gguf")),
        (ModelError, lambda: Model(__file__)),
    ]
    for number in rng.sample(range(len(calls)), 6):
        expected, call = calls[number]
        turn.doing = f"bad argument {number}"
        try:
            call()
        except Error as error:
            assert "\n" not in str(error), f"more than one line: {error}"
            if not isinstance(error, expected):
                raise
        else:
            raise AssertionError(f"bad argument {number} was taken")
    return "refused"
