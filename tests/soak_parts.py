"""Actions of the soak without an engine: text, samplers, and sessions that are driven by hand."""

from collections.abc import Callable
from typing import Any

import numpy as np

from maskprobe import (
    ArgumentError,
    Cancelled,
    Context,
    ContextFull,
    Error,
    ModelError,
    Sampler,
    SamplingParams,
    Session,
    StateError,
    TokenTree,
)
from soak_inputs import N_CTX_LEAST, random_prompt, random_sampling
from soak_text import random_text
from soak_world import Turn


def reads_and_writes_text(turn: Turn) -> str:
    rng, model = turn.rng, turn.model
    text = random_text(rng, rng.randint(0, 200))
    tokens = model.tokenize(text, False)
    assert model.detokenize(tokens).decode().strip() == text.strip()
    ids = [rng.randrange(model.info.n_vocab) for _ in range(5)]
    assert model.embedding_rows(ids).shape == (5, model.info.n_embd)
    message = text.strip()
    try:
        assert message in model.chat_format([{"role": "user", "content": message}])
    except ModelError as error:
        assert "template" in str(error) and "\n" not in str(error)
        return "no template"
    return "done"


def drives_sessions(turn: Turn) -> str:
    """Trees by hand in a context of its own, which has exactly the committed tokens after everything."""
    rng, model = turn.rng, turn.world.models[turn.rng.choice(["ours", "stock"])]
    with Context(model, n_ctx=N_CTX_LEAST, n_sessions_max=3, n_rows_max=16, n_threads=1) as context:
        held: dict[Session, list[int]] = {context.session(): []}
        for _ in range(rng.randint(5, 15)):
            session = rng.choice(list(held))
            try:
                _one_call(turn, context, session, held)
            except Cancelled:
                assert turn.doing.endswith("cancelled"), "nobody cancelled it"
                held[session] = held[session][: session.n_past]
            for other, tokens in held.items():
                assert other.n_past == len(tokens), f"{other.n_past} tokens are in the cache, not {len(tokens)}"
        for session in held:
            if rng.random() < 0.5:
                session.close()
    return "done"


def _one_call(turn: Turn, context: Context, session: Session, held: dict[Session, list[int]]) -> None:
    rng, tokens, n_vocab = turn.rng, held[session], context.model.info.n_vocab
    turn.doing = rng.choice(["prefix", "prefix", "tree", "tree", "tree", "fork", "full", "wrong", "close", "cancelled"])
    if turn.doing in ("prefix", "cancelled"):
        wanted = random_prompt(rng, context.model, context.n_ctx)
        n_kept = rng.randint(0, len(tokens))
        wanted = (tokens[:n_kept] + wanted)[: context.n_ctx]
        held[session] = wanted
        if turn.doing == "cancelled":
            context.cancel()
        session.set_prefix(wanted, n_outputs=rng.randint(0, 4), n_top=3)
    elif turn.doing == "tree":
        tree = TokenTree(rng.randrange(n_vocab))
        for _ in range(rng.randint(0, 8)):
            tree.add(rng.randrange(tree.n_nodes), rng.randrange(n_vocab), -1.0)
        if context.model.info.can_probe and rng.random() < 0.4:
            tree.add_masks(rng.randrange(tree.n_nodes), np.zeros((2, context.model.info.n_embd), np.float32))
        if len(tokens) + tree.n_rows > context.n_ctx:
            _refused(ContextFull, lambda: session.decode(tree))
            return
        result = session.decode(tree)
        assert np.isfinite(session.logits(0)).all() and result.best[0] == result.top_tokens[0, 0]
        with Sampler(context.model, SamplingParams(temp=0.0)) as sampler:
            assert sampler.sample(session, 0) == result.best[0]
        path = tree.path_to(rng.randrange(tree.n_nodes))
        if rng.random() < 0.3:
            _refused(ArgumentError, lambda: session.commit([0, tree.n_nodes]))
            session.rollback()
        elif rng.random() < 0.2:
            session.rollback()
        else:
            session.commit(path)
            held[session] = tokens + [tree.tokens[node] for node in path]
    elif turn.doing == "fork":
        if len(held) == 3:
            _refused(StateError, session.fork)
        else:
            held[session.fork()] = list(tokens)
    elif turn.doing == "full":
        _refused(ContextFull, lambda: session.set_prefix([1] * (context.n_ctx + 1)))
        held[session] = tokens[: session.n_past]
    elif turn.doing == "wrong":
        _refused(ArgumentError, lambda: session.set_prefix([n_vocab]))
        _refused((ArgumentError, StateError), lambda: session.logprob(99, 0))  # no such row, or no pass
        held[session] = tokens[: session.n_past]
    elif len(held) > 1:
        session.close()
        del held[session]


def _refused(expected: type[Error] | tuple[type[Error], ...], call: Callable[[], Any]) -> None:
    try:
        call()
    except expected as error:
        assert "\n" not in str(error)
    else:
        raise AssertionError(f"it was not refused with {expected}")


def draws(turn: Turn) -> str:
    """Samplers of any kind, opened and closed."""
    for _ in range(5):
        params = SamplingParams(**random_sampling(turn.rng, turn.world.vocabulary))
        with Sampler(turn.model, params) as sampler:
            sampler.prime(random_prompt(turn.rng, turn.model, N_CTX_LEAST))
    return "opened"
