"""MTP heads: what they compute, files that are refused, and engines that have them."""

import numpy as np
import pytest

from conftest import SHARED
from heads import look_ahead, mtp_keys_of, opened_after_changes, random_mtp_tensors, write_heads
from maskprobe import Engine, Model, ModelError, Regex, SamplingParams, Session, StateError, TokenTree

GREEDY = SamplingParams(temp=0.0)
SAMPLED = SamplingParams(temp=0.8, seed=11)
N = 40
TEXT = "def add(first, second):\n"


@pytest.fixture(scope="module")
def model(bundled_model_path):
    with Model(bundled_model_path, n_threads=1) as model:
        yield model


def written(model, path, layers=(), n_distances=3, **settings):
    """Of heads that know nothing and are sure of it, so that they are drafted."""
    tensors = random_mtp_tensors(model, layers, n_distances, **settings)
    tensors["short.weight"] *= 6
    return write_heads(path / "heads.gguf", mtp_keys_of(model, n_distances), tensors)


def states_of(model, n: int, seed: int = 5) -> np.ndarray:
    """Of very different sizes, as those of layers are."""
    random = np.random.default_rng(seed)
    sizes = np.exp(random.uniform(-2, 4, (n - 1, 1)))
    return (np.append(sizes, [[1.0]], 0) * random.standard_normal((n, model.info.n_embd))).astype(np.float32)


# --- what they compute -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers, n_distances, temperature", [((), 1, 1.0), ((0, 2), 3, 0.7), ((1,), 8, 1.5)])
def test_heads_compute_their_formula(model, head_library, tmp_path, layers, n_distances, temperature):
    tensors = random_mtp_tensors(model, layers, n_distances)
    keys = mtp_keys_of(model, n_distances) | {"maskprobe.heads.temperature": temperature}
    heads = head_library.open(write_heads(tmp_path / "heads.gguf", keys, tensors), model)
    states = states_of(model, len(layers) + 1)
    odds = look_ahead(tensors, states, temperature)
    likely, probabilities = heads.look_ahead(states)
    assert len(likely) == len(odds) == n_distances
    for i in range(n_distances):
        best = np.argsort(-odds[i], kind="stable")[:12]
        assert np.allclose(probabilities[i], odds[i, best], rtol=1e-3)
        same = likely[i] == tensors["short.tokens"][best]
        assert same.all() or np.allclose(odds[i, best], probabilities[i], rtol=1e-4)


def test_each_head_reads_its_own_mix(model, head_library, tmp_path):
    """A state that has no weight is not read."""
    tensors = random_mtp_tensors(model, [0, 2])
    tensors["ahead.3.mix"][:] = [0, 0.4, 0.6]
    heads = head_library.open(write_heads(tmp_path / "heads.gguf", mtp_keys_of(model), tensors), model)
    states = states_of(model, 3)
    before = heads.look_ahead(states)[1]
    states[0] = states_of(model, 3, 6)[0]
    after = heads.look_ahead(states)[1]
    assert np.array_equal(before[1], after[1])
    assert not np.array_equal(before[0], after[0]) and not np.array_equal(before[2], after[2])


def test_of_states_that_are_not_finite_nothing_is_said(model, head_library, tmp_path):
    heads = head_library.open(written(model, tmp_path, [1]), model)
    for at, value in ((0, np.nan), (1, np.inf)):
        states = states_of(model, 2)
        states[at, 3] = value
        assert (heads.look_ahead(states)[0] == -1).all()


# --- files that are refused ------------------------------------------------------------------------------------------


def changed(name, change):
    return lambda keys, tensors: tensors.update({name: change(tensors[name])})


def with_number(at, number):
    def change(values):
        values = values.copy()
        values[at] = number
        return values

    return change


REFUSED = {
    "no number of distances": (
        lambda keys, tensors: keys.update({"maskprobe.heads.distances": None}),
        r"the key maskprobe.heads.distances is missing",
    ),
    "no distance": (
        lambda keys, tensors: keys.update({"maskprobe.heads.distances": 0}),
        r"maskprobe.heads.distances is 0, it must be from 1 to 8",
    ),
    "too many distances": (
        lambda keys, tensors: keys.update({"maskprobe.heads.distances": 9}),
        r"maskprobe.heads.distances is 9, it must be from 1 to 8",
    ),
    "a distance too few": (
        lambda keys, tensors: keys.update({"maskprobe.heads.distances": 4}),
        r"tensor 'ahead.5.0.weight' is missing",
    ),
    "a distance too many": (
        lambda keys, tensors: keys.update({"maskprobe.heads.distances": 2}),
        r"tensor 'ahead.4.0.weight' is no part of a file of mtp heads",
    ),
    "a sampler head's tensors": (
        lambda keys, tensors: keys.update({"maskprobe.heads.kind": "sampler"}),
        r"tensor 'mix.layers' is no part of a file of sampler heads",
    ),
    "no layers": (lambda keys, tensors: tensors.pop("mix.layers"), r"tensor 'mix.layers' is missing"),
    "no mix": (lambda keys, tensors: tensors.pop("ahead.2.mix"), r"tensor 'ahead.2.mix' is missing"),
    "without the last norm": (
        lambda keys, tensors: tensors.update({"mix.layers": np.array([0, 1], np.int32)}),
        r"'mix.layers' ends with layer 1, it must end with \d+, the last norm",
    ),
    "a layer that is not there": (
        lambda keys, tensors: tensors.update({"mix.layers": np.array([1, 1000], np.int32)}),
        r"'mix.layers' has 1000 at 1: they must be ascending, from 0 and below \d+",
    ),
    "layers out of order": (
        changed("mix.layers", lambda values: values[::-1].copy()),
        r"'mix.layers' has 1 at 1: they must be ascending",
    ),
    "a mix of other layers": (
        changed("ahead.3.mix", lambda values: values[:1]),
        r"tensor 'ahead.3.mix' has the shape \(1, 1, 1, 1\), expected \(1, 2\)",
    ),
    "a weight of a mix that is NaN": (
        changed("ahead.2.mix", with_number(1, np.nan)),
        r"tensor 'ahead.2.mix' has -?nan at 1, it must be finite",
    ),
    "a matrix that is too wide": (
        changed("ahead.2.0.weight", lambda values: np.append(values, values, 1)),
        r"tensor 'ahead.2.0.weight' has the shape \(1, 1, 64, 1024\), expected \(64, 512\)",
    ),
    "a matrix that is too short": (
        changed("ahead.3.1.weight", lambda values: values[:-1]),
        r"tensor 'ahead.3.1.weight' has the shape \(1, 1, 511, 64\), expected \(512, 64\)",
    ),
    "a mix of another type": (
        changed("ahead.4.mix", lambda values: values.astype(np.float16)),
        r"tensor 'ahead.4.mix' has type f16, expected f32",
    ),
    "a bias that is infinite": (
        changed("ahead.4.1.bias", with_number(3, np.inf)),
        r"tensor 'ahead.4.1.bias' has inf at 3, it must be finite",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused_with_one_line(model, tmp_path, what):
    change, line = REFUSED[what]
    keys, tensors = mtp_keys_of(model), random_mtp_tensors(model, [1])
    change(keys, tensors)
    path = write_heads(tmp_path / "heads.gguf", keys, tensors)
    with pytest.raises(ModelError, match=r"heads.gguf: .*" + line) as refused:
        Engine(model, n_ctx=64, n_threads=1, heads=path)
    assert "\n" not in str(refused.value)


def test_no_changed_byte_does_harm(model, head_library, tmp_path):
    """Whatever is in the file: it is refused with one line, or what it says is finite or nothing."""
    whole = written(model, tmp_path, [1], n_hidden=32, n_short=8)
    for heads in opened_after_changes(head_library, model, whole, model.embedding_rows([0]), 200):
        likely, probabilities = heads.look_ahead(states_of(model, 2))
        assert ((likely >= -1) & (likely < model.info.n_vocab)).all() and (probabilities[likely >= 0] >= 0).all()


# --- engines ---------------------------------------------------------------------------------------------------------


def opened(model, heads, **settings) -> Engine:
    return Engine(model, **{"n_ctx": 256, "rows": 8, "heads": heads, **SHARED, **settings})


def run(engine, sampling=GREEDY, text=TEXT, **settings):
    prompt = engine.model.tokenize(text)
    generation = engine.generate(prompt, sampling, max_tokens=N, ignore_eos=True, **settings)
    return [(r.token, r.logprob, r.margin) for r in generation], generation.stats


def drafted_by(engine, text=TEXT) -> list[set[str]]:
    """The sources of the draft of each pass."""
    generation = engine.generate(engine.model.tokenize(text), GREEDY, max_tokens=12, ignore_eos=True)
    found = []
    for _ in generation:
        draft = generation.newest_draft()
        if draft is not None:
            found.append(set(draft.sources))
    return found


@pytest.mark.parametrize("layers", [(), (0, 2)], ids=["last norm", "layers"])
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "T 0.8"])
def test_heads_that_know_nothing_change_no_bit(model, tmp_path, layers, sampling):
    with opened(model, None) as without, opened(model, written(model, tmp_path, layers, n_short=300)) as engine:
        assert "heads" in set().union(*drafted_by(engine, "import os\n"))
        plain, _ = run(without, sampling, draft=False)
        drafted, stats = run(engine, sampling)
        assert drafted == plain == run(engine, sampling, draft=False)[0]
        assert stats.n_drafted > stats.passes


def test_generations_that_share_passes_are_as_alone(model, tmp_path):
    texts = (TEXT, "import os\n", TEXT * 3)
    with opened(model, None) as engine:
        expected = [run(engine, SAMPLED, text)[0] for text in texts]
    with opened(model, written(model, tmp_path, [1], n_short=300), n_parallel=3) as engine:
        all_of = [
            engine.generate(model.tokenize(text), SAMPLED, max_tokens=N, ignore_eos=True, hidden=i == 1)
            for i, text in enumerate(texts)
        ]
        found = [[r.token for r in generation] for generation in all_of]
    assert found == [[token for token, *_ in tokens] for tokens in expected]


def test_heads_read_the_states_of_the_row_that_the_root_was_drawn_from(model, tmp_path):
    """What the first pass after a cached prompt drafts is what the formula says of the states of its last token."""
    layers = [0, 2]
    tensors = random_mtp_tensors(model, layers, n_short=200, seed=9)
    tensors["short.weight"] *= 6
    path = write_heads(tmp_path / "heads.gguf", mtp_keys_of(model), tensors)
    with opened(model, None, layers=layers) as engine:
        result = next(engine.generate(model.tokenize(TEXT), GREEDY, max_tokens=2, hidden=True))
    assert result.hidden.shape == (3, model.info.n_embd)
    odds = look_ahead(tensors, result.hidden)
    with opened(model, path) as engine:
        run(engine, draft=False)  # nothing is learned from it
        generation = engine.generate(model.tokenize(TEXT), GREEDY, max_tokens=8, ignore_eos=True)
        next(generation)
        next(generation)
        draft = generation.newest_draft()
    assert generation.stats.n_prompt_reused == len(model.tokenize(TEXT)) - 1
    of_heads = [i for i, source in enumerate(draft.sources) if source == "heads" and draft.parents[i] == 0]
    best = tensors["short.tokens"][np.argsort(-odds[0])[:12]]
    assert of_heads and all(draft.tokens[i] in best for i in of_heads)


def test_tokens_come_with_the_states_of_the_engines_layers(model):
    """The prompt's and the passes', each as a session of its own has them."""
    last = model.info.n_layer
    with opened(model, None, layers=[1]) as engine, opened(model, None) as plain:
        prompt = model.tokenize(TEXT)
        results = list(engine.generate(prompt, GREEDY, max_tokens=6, ignore_eos=True, hidden=True))
        alone = list(plain.generate(prompt, GREEDY, max_tokens=6, ignore_eos=True, hidden=True))
    assert [r.token for r in results] == [r.token for r in alone]
    for one, other in zip(results, alone, strict=True):
        assert np.array_equal(one.hidden[-1], other.hidden) and other.hidden.shape == (model.info.n_embd,)
    with Session(model, n_ctx=256, n_rows_max=8, n_threads=1, taps=True) as session:
        session.tap([1, last])
        tokens = prompt + [r.token for r in results]
        for i, result in enumerate(results[:3]):
            session.set_prefix(tokens[: len(prompt) + i - 1])
            session.decode(TokenTree(tokens[len(prompt) + i - 1]), 1)
            np.testing.assert_allclose(result.hidden[0], session.hidden(0, 1), rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose(result.hidden[1], session.hidden(0, last), rtol=1e-3, atol=1e-3)


def test_after_forced_tokens_heads_wait_for_the_next_pass(model, tmp_path):
    rules = Regex(model, r"    return (first|second) and the rest is certain(, [a-z]+)*\n")
    with opened(model, written(model, tmp_path, [1], n_short=300)) as engine:
        prompt = model.tokenize(TEXT)
        found = [
            "".join(r.text for r in engine.generate(prompt, SAMPLED, max_tokens=N, constraint=rules, draft=draft))
            for draft in (True, False)
        ]
    assert found[0] == found[1] and "the rest is certain" in found[0]


def test_layers_that_are_tapped_for_heads_stay(model, tmp_path):
    with opened(model, written(model, tmp_path, [1])) as engine, pytest.raises(StateError, match="engine's heads"):
        engine.context.tap([0])


def test_a_model_that_takes_chains_has_heads_of_the_last_norm_alone(tiny_model_path, tmp_path):
    with Model(tiny_model_path("tiny-mamba"), n_threads=1) as model:
        with pytest.raises(StateError, match="read hidden states of 1 layers, the context was opened without taps"):
            opened(model, written(model, tmp_path, [0]))
        with opened(model, written(model, tmp_path)) as engine:
            tokens, _ = run_tokens(engine)
            assert tokens == run_tokens(engine, draft=False)[0]


def run_tokens(engine, **settings):
    generation = engine.generate([5, 6, 7], GREEDY, max_tokens=20, ignore_eos=True, **settings)
    return [r.token for r in generation], generation.stats
