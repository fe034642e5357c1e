"""Rows that are not finite: a damaged file must not harm a text that never comes to its damaged tokens."""

import gguf
import numpy as np
import pytest

from conftest import N_THREADS
from fakes import Oracle
from maskprobe import (
    CallbackError,
    DecodeError,
    Engine,
    Model,
    Proposer,
    SamplingParams,
    Session,
    TokenTree,
    mask_embedding,
)
from random_gguf import SHAPES, tiny, write_random_gguf

PROMPT = [5, 60, 7, 5, 60, 9]
N = 40
SAMPLINGS = [SamplingParams(temp=0.0), SamplingParams(temp=0.8, seed=4)]
KERNELS = pytest.mark.parametrize("kernels", ["ours", "stock"])
# Flash attention: as the context chooses, off, on.
FLASH = pytest.mark.parametrize("flash_attn", [-1, 0, 1])


def texts_of(engine, **settings) -> list[list[int]]:
    generations = [
        engine.generate(PROMPT, sampling, max_tokens=N, ignore_eos=True, **settings) for sampling in SAMPLINGS
    ]
    return [[result.token for result in generation] for generation in generations]


@pytest.fixture(scope="module")
def sound_path(tmp_path_factory):
    """Its output matrix is another one than its embeddings: only what sees a damaged token is damaged."""
    path = tmp_path_factory.mktemp("models") / "sound.gguf"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SHAPES, "untied", tiny("llama", add_begin=True, tied_head=False))
        write_random_gguf(path, "untied")
    return path


@pytest.fixture(scope="module")
def path(sound_path):
    """Most embeddings are NaN: all that no plain text needs, nor the self-check."""
    path = sound_path.with_name("nan.gguf")
    path.write_bytes(sound_path.read_bytes())
    with Model(path, n_threads=1) as model:
        n_vocab = model.info.n_vocab
    needed = {1, *PROMPT, *range(20, 60), *(n_vocab * (2 * i + 1) // 8 for i in range(4))}
    for kernels in ("ours", "stock"):
        with Model(path, kernels=kernels, n_threads=1) as model, Engine(model, n_ctx=256, n_threads=1) as engine:
            needed |= {token for text in texts_of(engine, draft=False) for token in text}
    reader = gguf.GGUFReader(path, "r+")
    (embeddings,) = [tensor for tensor in reader.tensors if tensor.name == "token_embd.weight"]
    embeddings.data[sorted(set(range(n_vocab)) - needed), :] = np.nan
    reader.data.flush()
    return path


@pytest.fixture(scope="module")
def damaged(path) -> int:
    """One of the damaged tokens."""
    with Model(path, self_check=False) as model:
        rows = model.embedding_rows(range(model.info.n_vocab))
    return int(np.flatnonzero(np.isnan(rows[:, 0]))[-1])


@pytest.fixture(scope="module", params=["ours", "stock"])
def model(request, path):
    with Model(path, kernels=request.param, n_threads=N_THREADS) as model:
        assert model.info.can_probe
        yield model


class Tempts(Oracle):
    """Offers what is coming, and a damaged token beside each."""

    def __init__(self, text, damaged: int) -> None:
        super().__init__(text, 6)
        self.damaged = damaged

    def propose(self, context, room):
        tree = super().propose(context, room)
        for node in range(tree.n_nodes):
            if tree.n_nodes < min(self.n_rows_max, room):
                tree.add(node, self.damaged, -1.0)
        return tree


@FLASH
@pytest.mark.parametrize("n_parallel", [1, 2])
@pytest.mark.parametrize("proposer", ["all", "lookup", "recycle", "logits", "marginal", "esp", "esp-soft", "tempts"])
def test_damaged_candidates_change_no_token(model, damaged, flash_attn, n_parallel, proposer):
    if n_parallel > 1 and flash_attn == 0:
        pytest.skip("shared contexts need flash attention")
    settings = {"n_ctx": 256, "n_threads": 1, "flash_attn": flash_attn, "n_parallel": n_parallel}
    with Engine(model, **settings) as engine:
        expected = texts_of(engine, draft=False)
        assert all(len(text) == N for text in expected)
        for _ in range(2):
            source = proposer if proposer != "tempts" else lambda: Tempts(PROMPT + expected[0], damaged)
            assert texts_of(engine, proposer=source) == expected


@pytest.mark.parametrize("masks", ["mean", "soft"])
def test_the_engines_masks(model, masks):
    with Engine(model, n_ctx=256, n_threads=1, masks=masks, rows=12) as engine:
        expected = texts_of(engine, draft=False)
        for _ in range(3):
            assert texts_of(engine) == expected


@FLASH
def test_good_prompts_after_a_damaged_one(model, damaged, flash_attn):
    with Engine(model, n_ctx=256, n_threads=1, flash_attn=flash_attn) as engine:
        expected = texts_of(engine, draft=False)
        for bad in ([damaged], [*PROMPT, damaged], [*PROMPT, damaged, *PROMPT], [damaged] * 100):
            with pytest.raises(DecodeError) as caught:
                list(engine.generate(bad, SAMPLINGS[0], max_tokens=5))
            assert caught.value.status == "numeric"
            assert texts_of(engine) == expected


@FLASH
def test_a_session_after_damaged_rows(model, damaged, flash_attn):
    """Seen in a pass, or evaluated where nobody looked."""
    tree = TokenTree(20)
    tree.add(0, 21, -1.0)
    settings = {"n_ctx": 256, "n_threads": 1, "flash_attn": flash_attn}
    with Session(model, **settings) as fresh, Session(model, **settings) as session:
        fresh.set_prefix(PROMPT)
        expected = fresh.decode(tree).top_logprobs.copy()

        def check():
            result = session.decode(tree)
            assert result.best.min() >= 0
            np.testing.assert_allclose(result.top_logprobs, expected, atol=1e-3)
            session.rollback()
            assert session.n_past == len(PROMPT)

        session.set_prefix(PROMPT)
        check()
        for _ in range(2):
            assert session.decode(TokenTree(damaged)).best.tolist() == [-1]
            check()
        session.set_prefix([*PROMPT, damaged, *PROMPT])
        session.set_prefix(PROMPT)
        check()
        assert len(session.set_prefix([*PROMPT, damaged], n_outputs=1).top_tokens) == 0
        session.set_prefix([*PROMPT, 20])
        assert len(session.set_prefix([*PROMPT, 21], n_outputs=1).top_tokens) == 1
        session.set_prefix([*PROMPT, damaged])
        copy_of = session.n_past
        session.set_prefix(PROMPT)
        assert copy_of == len(PROMPT) + 1
        check()
        session.decode(tree)
        session.commit([0, 1])
        assert session.n_past == len(PROMPT) + 2


class Offers(Proposer):
    """A tree that cannot be decoded."""

    n_rows_max = 8

    def __init__(self, n_embd: int, value: float, as_mask: bool) -> None:
        self.vector, self.as_mask = np.full(n_embd, value, np.float32), as_mask

    def propose(self, context, room):
        tree = TokenTree(context[-1])
        if room > 1 and self.as_mask:
            tree.add_masks(0, self.vector[None])
        elif room > 1:
            tree.add_embedding(0, self.vector)
        return tree


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("as_mask", [True, False])
@KERNELS
def test_a_proposers_vectors_harm_its_own_generation_only(sound_path, kernels, value, as_mask):
    with (
        Model(sound_path, kernels=kernels, n_threads=1) as model,
        Engine(model, n_ctx=256, n_threads=1, n_parallel=2) as engine,
    ):
        expected = texts_of(engine, draft=False)[0]
        neighbour = engine.generate(PROMPT, SAMPLINGS[0], max_tokens=N, ignore_eos=True)
        found = [next(neighbour).token]
        bad = engine.generate(PROMPT, SAMPLINGS[0], proposer=Offers(model.info.n_embd, value, as_mask), max_tokens=9)
        found += [result.token for result in neighbour]  # which makes the steps of both
        assert found == expected
        with pytest.raises(CallbackError, match=r"the proposer's draft: .* has NaN or infinite values"):
            list(bad)


@pytest.mark.parametrize("spec", ["mean", "last-k", "sample", "soft"])
def test_mask_vectors_are_finite(path, damaged, spec):
    with Model(path, n_threads=1) as model:
        mask = mask_embedding(spec, model, update=0.1)
        mask.begin([5, damaged, 7], 2)
        assert np.isfinite(mask.vectors([5, damaged])).all()
        with Session(model, n_ctx=256, n_threads=1) as session:
            tree = TokenTree(5)
            result = session.decode(tree)
            result.top_tokens[0, :] = damaged
            mask.observe(tree, result, [0], [damaged])
            assert np.isfinite(mask.vectors([5])).all()
