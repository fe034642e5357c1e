"""What docs/exactness.md says: with maskprobe's kernels, float weights and every type of the cache that these know
give, with drafting on, the bits of plain decoding, and so the same tokens with every seed."""

import pytest

from maskprobe import Engine, Model, SamplingParams
from quantise import quantise

N = 40
SAMPLINGS = [SamplingParams(temp=0.0), *(SamplingParams(temp=0.8, seed=seed) for seed in range(6))]
CACHES = ["f32", "f16", "bf16", "q8_0"]


@pytest.fixture(scope="module", params=["f32", "f16", "bf16"])
def path(request, tiny_model_path, tmp_path_factory):
    source = tiny_model_path("tiny-qwen3")
    return quantise(source, tmp_path_factory.mktemp("floats") / f"{request.param}.gguf", request.param)


@pytest.mark.parametrize("cache", CACHES)
def test_drafting_changes_no_bit(path, cache):
    n_accepted = 0
    with (
        Model(path, kernels="ours", n_threads=1) as model,
        Engine(model, n_ctx=512, n_threads=1, type_k=cache, type_v=cache, proposer="none", n_rows_max=1) as plain,
        Engine(model, n_ctx=512, n_threads=1, type_k=cache, type_v=cache, rows=12) as drafts,
    ):
        for sampling in SAMPLINGS:
            for prompt in ([5, 60, 7, 5, 60, 7, 5], list(range(20, 90)) * 2):
                texts = []
                for engine in (plain, drafts):
                    generation = engine.generate(prompt, sampling, max_tokens=N, ignore_eos=True)
                    texts.append([(r.token, r.logprob) for r in generation])
                    n_accepted += generation.stats.n_accepted
                assert texts[0] == texts[1]
    assert n_accepted > 100
