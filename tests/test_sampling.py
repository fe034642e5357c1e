"""Every sampler setting: the same tokens with probing on and off, and what the setting promises."""

import math
import re

import pytest

from conftest import EXACT
from maskprobe import ArgumentError, Engine, MaskProbe, Model, Sampler, SamplingParams, Session, mask_embedding

DIGITS = 'root ::= [0-9]+ " " [a-c]+'
SETTINGS = {
    "greedy": SamplingParams(temp=0.0),
    "defaults": SamplingParams(seed=3),
    "hot": SamplingParams(temp=1.5, top_k=0, top_p=1.0, min_p=0.0, seed=4),
    "top-k": SamplingParams(temp=1.0, top_k=5, top_p=1.0, min_p=0.0, seed=5),
    "top-p": SamplingParams(temp=1.0, top_k=0, top_p=0.6, min_p=0.0, seed=6),
    "min-p": SamplingParams(temp=1.0, top_k=0, top_p=1.0, min_p=0.2, seed=7),
    "repeat penalty": SamplingParams(temp=0.0, penalty_repeat=1.3),
    "frequency and presence": SamplingParams(temp=0.7, penalty_frequency=0.5, penalty_presence=0.5, seed=8),
    "penalties over the context": SamplingParams(temp=0.0, penalty_repeat=1.2, penalty_last_n=-1),
    "logit bias": SamplingParams(temp=0.9, logit_bias={65: -math.inf, 66: 3.0}, seed=9),
    "greedy grammar": SamplingParams(temp=0.0, grammar=DIGITS),
    "sampled grammar": SamplingParams(temp=0.9, grammar=DIGITS, seed=10),
}


@pytest.fixture(scope="module")
def session(tiny_model_path):
    return Session(Model(tiny_model_path("tiny-llama")), n_ctx=256, n_rows_max=64, **EXACT)


def generate(session, sampling, proposer=None, n=48):
    engine = Engine(session, proposer)
    return list(engine.generate(session.model.tokenize("one two"), sampling, max_tokens=n))


@pytest.mark.parametrize("name", list(SETTINGS))
def test_probing_changes_no_token(session, name):
    expected = [r.token for r in generate(session, SETTINGS[name])]
    for tree, mask in (("4", "mean"), ("14", "soft"), ("7,2", "mean")):
        proposer = MaskProbe(session.model, tree=tree, mask=mask_embedding(mask, session.model))
        results = generate(session, SETTINGS[name], proposer)
        assert [r.token for r in results] == expected
        assert results[-1].n_gen == len(expected)


def test_a_seed_is_a_text(session):
    def tokens(seed):
        return [r.token for r in generate(session, SamplingParams(temp=1.2, seed=seed))]

    assert tokens(1) == tokens(1) != tokens(2)


@pytest.mark.parametrize("name", ["greedy grammar", "sampled grammar"])
def test_a_grammar_is_followed(session, name):
    text = "".join(r.text for r in generate(session, SETTINGS[name]))
    assert re.fullmatch("[0-9]+( [a-c]*)?", text)


def test_a_forbidden_token_never_comes(session):
    best = generate(session, SamplingParams(temp=0.0), n=1)[0].token
    others = generate(session, SamplingParams(temp=0.0, logit_bias={best: -math.inf}))
    assert best not in [r.token for r in others]


def test_a_repeat_penalty_needs_the_prompt(session):
    """The prompt counts as text that was seen: its tokens are penalised from the first draw on."""
    prompt = session.model.tokenize("one two")
    session.set_prefix([])
    strong = SamplingParams(temp=0.0, penalty_repeat=1e6, penalty_last_n=-1)
    tokens = [r.token for r in Engine(session).generate(prompt, strong, max_tokens=20)]
    assert not set(tokens) & set(prompt)
    assert len(set(tokens)) == len(tokens)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"temp": math.nan}, "temp"),
        ({"temp": -0.1}, "temp"),
        ({"top_p": math.inf}, "top_p"),
        ({"penalty_repeat": 0.0}, "penalty_repeat"),
        ({"penalty_last_n": -2}, "penalty_last_n"),
        ({"logit_bias": {512: 1.0}}, "512"),
        ({"logit_bias": {5: math.nan}}, "bias"),
        ({"grammar": "root ::= ("}, "grammar"),
        ({"grammar": "start ::= [a]"}, "root"),
    ],
)
def test_settings_that_are_refused(session, settings, word):
    with pytest.raises(ArgumentError, match=word) as error:
        Sampler(session.model, SamplingParams(**settings))
    assert "\n" not in str(error.value)
