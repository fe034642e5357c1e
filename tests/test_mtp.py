"""Layers for multi-token prediction in a model's own file: they change no token, and what they know is drafted."""

import concurrent.futures
import math
from pathlib import Path

import pytest

from conftest import SHARED
from heads import keys_of, random_tensors, write_heads
from hybrids import engine_on, pair_of
from maskprobe import Engine, Model, Regex, SamplingParams
from mtp_models import after, write_mtp

GREEDY = SamplingParams(temp=0.0)
SAMPLED = SamplingParams(temp=0.8, seed=11)
N = 41  # tokens: less than the 64 after which an "orbit" comes back
ROWS = 5  # of a pass: the root and all four guesses
# A first token and passes of ROWS tokens each; the first passes may try other candidates as well.
FEW = math.ceil((N - 1) / ROWS) + 3
PROMPT = list(range(70, 90))
OTHERS = [list(range(3, 20)), list(range(130, 160)), list(range(205, 215))]
RIGHT = [("glm4moe", "orbit"), ("glm4moe", "copy"), ("qwen35", "orbit")]
ARCHS = ["glm4moe", "qwen35"]


@pytest.fixture(scope="module")
def path_of(tmp_path_factory):
    """path(arch, kind): a tiny model, made on first use."""
    folder = tmp_path_factory.mktemp("mtp")

    def path(arch: str, kind: str) -> Path:
        target = folder / f"{arch}-{kind}.gguf"
        return target if target.exists() else write_mtp(target, kind, arch)

    return path


@pytest.fixture(scope="module")
def opened(path_of):
    """model(arch, kind): opened once, with our kernels."""
    models = {}

    def model(arch: str, kind: str) -> Model:
        if (arch, kind) not in models:
            models[arch, kind] = Model(path_of(arch, kind), n_threads=1)
        return models[arch, kind]

    yield model
    for each in models.values():
        each.close()


def engine_of(model: Model, **settings) -> Engine:
    return engine_on(model, SHARED, **{"rows": ROWS, "heads": "", **settings})


def run(engine: Engine, prompt: list[int], sampling: SamplingParams = GREEDY, n: int = N, **settings):
    """The tokens and the counts."""
    generation = engine.generate(prompt, sampling, max_tokens=n, ignore_eos=True, **settings)
    return [r.token for r in generation], generation.stats


def plain(model: Model, prompt: list[int], sampling: SamplingParams = GREEDY, n: int = N) -> list[int]:
    with engine_of(model, heads=None) as engine:
        return run(engine, prompt, sampling, n, draft=False)[0]


# --- what they know --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "T 0.8"])
@pytest.mark.parametrize("kernels", ["ours", "stock"])
@pytest.mark.parametrize("arch, kind", RIGHT)
def test_a_layer_that_is_right_has_all_its_guesses_accepted(path_of, arch, kind, kernels, sampling):
    model, settings = pair_of(path_of(arch, kind), arch, kernels)
    with model, engine_on(model, settings, rows=ROWS, heads="") as engine:
        assert model.info.n_layer_mtp == 1 and engine.note == ""
        tokens, stats = run(engine, PROMPT, sampling)
        with engine_on(model, settings, rows=ROWS) as other:
            expected, without = run(other, PROMPT, sampling)
            assert run(other, PROMPT, sampling, draft=False)[0] == expected
    assert tokens == expected
    assert stats.passes <= FEW < without.passes
    assert stats.accepted_by["heads"] >= N // 4


def test_an_orbit_is_known_from_its_states_alone(opened):
    """The first draft after a prompt, before any pass has taught anything: all of it is the layer's."""
    with engine_of(opened("glm4moe", "orbit")) as engine:
        generation = engine.generate(PROMPT, GREEDY, max_tokens=8, ignore_eos=True)
        assert [next(generation).token for _ in range(2)] == [90, 91]
        draft = generation.newest_draft()
    chain = [0]
    while (n := len(chain)) <= 3:
        chain.append(next(i for i, t in enumerate(draft.tokens) if draft.parents[i] == chain[-1] and t == after(90, n)))
    assert [draft.sources[i] for i in chain[1:]] == ["heads"] * 3


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "T 0.8"])
@pytest.mark.parametrize("kernels", ["ours", "stock"])
@pytest.mark.parametrize("arch", ARCHS)
def test_a_layer_that_knows_nothing_changes_no_token(path_of, arch, kernels, sampling):
    model, settings = pair_of(path_of(arch, "random"), arch, kernels)
    with (
        model,
        engine_on(model, settings, heads="") as fixed,
        engine_on(model, settings, heads="", rows="auto") as planning,
    ):
        for prompt in (PROMPT, *OTHERS):
            expected, _ = run(fixed, prompt, sampling, draft=False)
            for engine in (fixed, planning, fixed):
                tokens, stats = run(engine, prompt, sampling)
                assert tokens == expected
            assert stats.n_drafted > stats.passes


def test_a_layer_whose_numbers_overflow_says_nothing(path_of):
    with Model(path_of("glm4moe", "overflow"), n_threads=1) as model, engine_of(model) as engine:
        generation = engine.generate(PROMPT, GREEDY, max_tokens=N, ignore_eos=True)
        tokens, found = [], set()
        for response in generation:
            tokens.append(response.token)
            draft = generation.newest_draft()
            found |= set(draft.sources) if draft else set()
        assert tokens == plain(model, PROMPT) and found and "heads" not in found


# --- many texts, and what becomes of them ----------------------------------------------------------------------------


@pytest.mark.parametrize("arch, kind", RIGHT)
def test_texts_that_share_passes_are_guessed_together(opened, arch, kind):
    model = opened(arch, kind)
    prompts = [PROMPT, *OTHERS]
    expected = [plain(model, prompt) for prompt in prompts]
    with engine_of(model, n_parallel=3) as engine, concurrent.futures.ThreadPoolExecutor(4) as threads:
        for (tokens, stats), wanted in zip(threads.map(lambda p: run(engine, p), prompts), expected, strict=True):
            assert tokens == wanted
            assert stats.passes <= FEW + 5  # where many text begin, chains of one length are the shortest one's


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "T 0.8"])
@pytest.mark.parametrize("arch", ARCHS)
def test_texts_that_share_passes_are_as_alone(opened, arch, sampling):
    model = opened(arch, "random")
    prompts = [PROMPT, *OTHERS, PROMPT + OTHERS[0]]
    expected = [plain(model, prompt, sampling) for prompt in prompts]
    wants = [{}, {"draft": False}, {}, {"proposer": "recycle"}, {}]
    with (
        engine_of(model, n_parallel=2, rows="auto") as engine,
        concurrent.futures.ThreadPoolExecutor(len(prompts)) as threads,
    ):
        tasks = [threads.submit(run, engine, p, sampling, **w) for p, w in zip(prompts, wants, strict=True)]
        assert [task.result()[0] for task in tasks] == expected


def test_a_prompt_in_the_cache_keeps_its_cells(opened):
    """A "copy" is right only if it sees the whole text: in a session that is used again, taken back, or forked."""
    model = opened("glm4moe", "copy")
    first, later = PROMPT * 3, [*(PROMPT * 2), *OTHERS[1]]
    longer = [*first, 7, 8, 9]
    with engine_of(model, n_parallel=2) as engine:
        assert run(engine, first, n=2)[1].n_prompt_reused == 0
        for prompt in (first, later, longer, first):
            tokens, stats = run(engine, prompt)
            assert stats.n_prompt_reused >= 2 * len(PROMPT)
            assert tokens == plain(model, prompt) and stats.passes <= FEW
        under_way = engine.generate(longer, GREEDY, max_tokens=N, ignore_eos=True)
        begun = [next(under_way).token for _ in range(9)]
        tokens, stats = run(engine, [*longer, *begun[:8], 5])  # forked from the one under way
        assert stats.n_prompt_reused >= len(longer)
        assert tokens == plain(model, [*longer, *begun[:8], 5]) and stats.passes <= FEW
        assert begun + [r.token for r in under_way] == plain(model, longer)


@pytest.mark.parametrize("arch", ARCHS)
def test_after_a_text_that_was_not_followed_it_begins_anew(opened, arch):
    model = opened(arch, "orbit")
    with engine_of(model) as engine:
        for prompt in (PROMPT, PROMPT, OTHERS[1]):
            tokens, _ = run(engine, prompt, draft=False)
            again, stats = run(engine, prompt)
            assert again == tokens == [after(prompt[-1], n + 1) for n in range(N)]
            assert stats.passes <= FEW


def test_generations_that_take_turns(opened):
    model = opened("glm4moe", "copy")
    prompts = [PROMPT, *OTHERS]
    expected = [plain(model, prompt, n=150) for prompt in prompts]
    with engine_of(model) as engine, concurrent.futures.ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda p: run(engine, p, n=150), prompts))
    assert [tokens for tokens, _ in found] == expected
    assert max(stats.passes for _, stats in found) < 60


def test_texts_for_embeddings_between(opened):
    model = opened("glm4moe", "copy")
    with engine_of(model) as engine:
        for prompt in (PROMPT, OTHERS[0], PROMPT):
            tokens, stats = run(engine, prompt)
            assert tokens == plain(model, prompt) and stats.passes <= FEW
            engine.embed(prompt[:5])


def test_a_long_prompt_comes_in_pieces(opened):
    model = opened("glm4moe", "copy")
    prompt = [(7 * i) % 500 for i in range(190)]
    with engine_of(model, n_batch=32, n_ubatch=32) as engine:
        tokens, stats = run(engine, prompt)
    assert tokens == plain(model, prompt) and stats.passes <= FEW


def test_the_end_of_the_context(opened):
    model = opened("glm4moe", "orbit")
    for n_ctx in (64, 65, 70):
        with engine_of(model, n_ctx=n_ctx) as engine:
            tokens, _ = run(engine, PROMPT, n=200)
            assert tokens == run(engine, PROMPT, n=200, draft=False)[0] and len(tokens) > 40


def test_forced_tokens(opened):
    model = opened("glm4moe", "random")
    rules = Regex(model, r"(one|two) and the rest is certain(, [a-z]+)*\n")
    with engine_of(model) as engine:
        found = [
            "".join(r.text for r in engine.generate(PROMPT, SAMPLED, max_tokens=N, constraint=rules, draft=draft))
            for draft in (True, False)
        ]
    assert found[0] == found[1] and "the rest is certain" in found[0]


# --- which, and whether ----------------------------------------------------------------------------------------------


def test_where_there_are_none_nothing_is_opened(tmp_path, path_of):
    only_named = write_mtp(tmp_path / "named.gguf", "orbit", with_layer=False)
    with Model(path_of("glm4moe", "orbit"), n_threads=1) as with_layer:
        for path, settings in ((only_named, {}), (with_layer.path, {"load_mtp": False})):
            with Model(path, n_threads=1, **settings) as model, engine_of(model) as engine:
                assert model.info.n_layer_mtp == 0 and engine.note == ""
                assert model.info.packed_size < with_layer.info.packed_size
                tokens, stats = run(engine, PROMPT)
                assert tokens[:2] == [90, 91] and stats.accepted_by["heads"] == 0
        assert with_layer.info.n_layer == 4
        with Model(with_layer.path, n_threads=1, load_mtp=False) as model:
            assert model.identity == with_layer.identity  # what is learned of one is known of the other


def test_off_is_off(opened):
    with engine_of(opened("glm4moe", "orbit"), heads=None) as engine:
        assert run(engine, PROMPT)[1].accepted_by["heads"] == 0


def test_heads_that_were_trained_come_first(opened, tmp_path):
    model = opened("glm4moe", "orbit")
    home = Path(model.heads_path)
    home.parent.mkdir(parents=True, exist_ok=True)
    write_heads(home, keys_of(model), random_tensors(model, 64, 100))
    with engine_of(model) as engine:
        assert engine.note == "" and run(engine, PROMPT)[1].passes > FEW
    home.write_bytes(home.read_bytes()[:-64])
    with engine_of(model) as engine:  # of a damaged file there is a line
        assert engine.note.startswith("the heads ") and run(engine, PROMPT)[1].passes <= FEW
