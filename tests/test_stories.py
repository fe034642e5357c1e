"""The lossless claim on a real tiny model, if the folder of extra models is there: 24 story prompts, F32."""

import pytest

from conftest import EXACT, PROJECT
from maskprobe import Engine, MaskProbe, Model, SamplingParams, mask_embedding

N_GEN = 120
PROMPTS = [line for line in (PROJECT / "bench" / "prompts" / "stories.txt").read_text("utf-8").splitlines() if line]
SHAPES = {
    "4": ({"tree": "4"}, "mean", 1.05),
    "14": ({"tree": "14"}, "mean", 1.2),
    "29": ({"tree": "29"}, "mean", 1.32),
    "7,2": ({"tree": "7,2"}, "mean", 1.1),
    "dynamic": ({"tree": "dynamic", "rows": 30}, "mean", 1.08),
    "4 soft": ({"tree": "4"}, "soft", 1.28),
    "14 soft": ({"tree": "14"}, "soft", 1.38),
    "29 soft": ({"tree": "29"}, "soft", 1.48),
    "14 sparse": ({"tree": "14", "mask_children": 2}, "mean", 1.15),
}


def decode(engine, proposer, sampling, prompts):
    """The tokens of every prompt, and tokens per pass over all of them."""
    outputs, n_gen, passes = [], 0, 0
    for prompt in prompts:
        tokens = engine.model.tokenize(prompt)
        generation = engine.generate(tokens, sampling, max_tokens=N_GEN, ignore_eos=True, proposer=proposer)
        outputs.append([r.token for r in generation])
        n_gen, passes = n_gen + generation.stats.n_gen - 1, passes + generation.stats.passes
    return outputs, n_gen / passes


@pytest.fixture(scope="module")
def engine(shared_folder):
    path = shared_folder / "models" / "stories260K.gguf"
    if not path.exists():
        pytest.skip(f"no {path.name}")
    return Engine(Model(path), n_ctx=512, **EXACT)


@pytest.fixture(scope="module", params=[0.0, 0.8], ids=["greedy", "temperature 0.8"])
def plain(request, engine):
    sampling = SamplingParams(temp=request.param, seed=7)
    return sampling, decode(engine, "none", sampling, PROMPTS)[0]


@pytest.mark.parametrize("name", list(SHAPES))
def test_probing_changes_no_token(name, engine, plain):
    settings, mask, fewest = SHAPES[name]
    sampling, expected = plain
    proposer = MaskProbe(engine.model, mask=mask_embedding(mask, engine.model), **settings)
    outputs, tokens_per_pass = decode(engine, proposer, sampling, PROMPTS)
    assert outputs == expected
    if sampling.temp == 0.0:
        assert tokens_per_pass > fewest
