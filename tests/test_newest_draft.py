"""The tree of the newest pass, as an engine tells it for a page to show."""

import pytest

from conftest import EXACT
from maskprobe import Engine, Model, SamplingParams

GREEDY = SamplingParams(temp=0.0)


@pytest.fixture(scope="module")
def engine(tiny_model_path):
    with Model(tiny_model_path("tiny-llama"), n_threads=1) as model, Engine(model, n_ctx=512, **EXACT) as engine:
        yield engine


def test_the_newest_draft(engine):
    """The tree of each pass: its accepted nodes carry the tokens that were emitted before them."""
    prompt = [9, 8, 7, 6]
    seen = {}
    with engine.generate(prompt, GREEDY, max_tokens=40, ignore_eos=True) as generation:
        assert generation.newest_draft() is None
        tokens = []
        for result in generation:
            tokens.append(result.token)
            draft = generation.newest_draft()
            if draft is not None:
                seen[draft.n_pass] = draft
        stats = generation.stats
        assert generation.newest_draft().n_pass == stats.passes
    assert set(seen) == set(range(1, stats.passes + 1))
    assert tokens == [tokens[0], *(token for n in sorted(seen) for token in seen[n].emitted)]
    for draft in seen.values():
        assert draft.parents[0] == -1 and draft.path[0] == 0 and len(draft.path) == len(draft.emitted)
        assert all(parent < i for i, parent in enumerate(draft.parents))
        for node, before, token in zip(draft.path[1:], draft.path, draft.emitted, strict=False):
            assert draft.parents[node] == before and draft.tokens[node] == token
        assert len(draft.sources) == len(draft.tokens) and draft.sources[0] == "model"
    assert sum(len(draft.tokens) for draft in seen.values()) == stats.rows
    assert any(len(draft.path) > 1 for draft in seen.values())


def test_the_draft_of_a_pass_that_ends_the_text_without_a_token(engine):
    sampling = SamplingParams(temp=0.0, grammar='root ::= "a" "b"')
    generation = engine.generate([9, 8], sampling, ignore_eos=True)
    assert [result.finish_reason for result in generation][-1] == "constraint"
    draft = generation.newest_draft()
    assert draft is None or (len(draft.path) == len(draft.emitted) and draft.tokens)
