"""Every sampler setting: the same tokens with probing on and off, and what the setting promises."""

import ctypes
import dataclasses
import math
import re

import llama_cpp
import pytest

from conftest import EXACT
from maskprobe import (
    ArgumentError,
    Engine,
    MaskProbe,
    Model,
    Sampler,
    SamplingParams,
    Session,
    TokenTree,
    mask_embedding,
)

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


@pytest.fixture(scope="module")
def engine(session):
    return Engine(session.model, n_ctx=256, **EXACT)


def generate(engine, sampling, proposer="none", n=48):
    return list(engine.generate(engine.model.tokenize("one two"), sampling, max_tokens=n, proposer=proposer))


@pytest.mark.parametrize("name", list(SETTINGS))
def test_drafting_changes_no_token(engine, name):
    expected = [r.token for r in generate(engine, SETTINGS[name])]
    probes = [
        MaskProbe(engine.model, tree=tree, mask=mask_embedding(mask, engine.model))
        for tree, mask in (("4", "mean"), ("14", "soft"), ("7,2", "mean"))
    ]
    for proposer in ("all", "recycle", *probes):
        results = generate(engine, SETTINGS[name], proposer)
        assert [r.token for r in results] == expected
        assert results[-1].n_gen == len(expected)


def test_a_seed_is_a_text(engine):
    def tokens(seed):
        return [r.token for r in generate(engine, SamplingParams(temp=1.2, seed=seed))]

    assert tokens(1) == tokens(1) != tokens(2)


@pytest.mark.parametrize("name", ["greedy grammar", "sampled grammar"])
@pytest.mark.parametrize("proposer", ["none", "all", "lookup"])
def test_a_grammar_is_followed(engine, name, proposer):
    text = "".join(r.text for r in generate(engine, SETTINGS[name], proposer))
    assert re.fullmatch("[0-9]+( [a-c]*)?", text)


def test_a_forbidden_token_never_comes(engine):
    best = generate(engine, SamplingParams(temp=0.0), n=1)[0].token
    others = generate(engine, SamplingParams(temp=0.0, logit_bias={best: -math.inf}))
    assert best not in [r.token for r in others]


class WholeVocabulary:
    """llama.cpp's own chain, shown every token of the vocabulary."""

    def __init__(self, n_vocab, params):
        self.chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        biases = (llama_cpp.llama_logit_bias * len(params.logit_bias))(*params.logit_bias.items())
        links = [llama_cpp.llama_sampler_init_logit_bias(n_vocab, len(biases), biases)] if biases else []
        if params.temp == 0:
            links.append(llama_cpp.llama_sampler_init_greedy())
        else:
            links += [
                llama_cpp.llama_sampler_init_top_k(params.top_k),
                llama_cpp.llama_sampler_init_top_p(params.top_p, 1),
                llama_cpp.llama_sampler_init_min_p(params.min_p, 1),
                llama_cpp.llama_sampler_init_temp(params.temp),
                llama_cpp.llama_sampler_init_dist(params.seed),
            ]
        for link in links:
            llama_cpp.llama_sampler_chain_add(self.chain, link)

    def draw(self, logits):
        data = (llama_cpp.llama_token_data * len(logits))(*[(token, x, 0) for token, x in enumerate(logits)])
        array = llama_cpp.llama_token_data_array(data, len(logits), -1, False)
        llama_cpp.llama_sampler_apply(self.chain, ctypes.byref(array))
        return array.data[array.selected].id

    def close(self):
        llama_cpp.llama_sampler_free(self.chain)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temp=0.0, logit_bias={0: -math.inf, 1: -math.inf}),
        SamplingParams(temp=0.0, logit_bias={0: 5.0}),
        SamplingParams(temp=1.0, seed=3),
        SamplingParams(temp=3.0, top_k=3, min_p=0.0, seed=4),
        SamplingParams(temp=3.0, top_k=3, min_p=0.0, logit_bias={0: -math.inf, 1: -0.5, 2: -2.0}, seed=5),
        SamplingParams(temp=3.0, top_k=3, min_p=0.0, logit_bias={0: -0.5, 1: 2.0}, seed=6),
        SamplingParams(temp=3.0, top_k=0, top_p=0.9, min_p=0.0, seed=7),
        SamplingParams(temp=3.0, top_k=500, top_p=0.9, min_p=0.0, seed=8),
    ],
    ids=str,
)
def test_unlikely_tokens_make_no_difference(session, params):
    """The chain need not see tokens that top-k would drop: it draws what it would draw from all of them. The biases
    are those of the likeliest tokens."""
    session.set_prefix(session.model.tokenize("one"))
    likeliest = session.decode(TokenTree(session.model.tokenize("two")[0]), 3).top_tokens[0].tolist()
    params = dataclasses.replace(params, logit_bias={likeliest[rank]: b for rank, b in params.logit_bias.items()})
    session.rollback()
    whole = WholeVocabulary(session.model.info.n_vocab, params)
    token, drawn = session.model.tokenize("two")[0], []
    with Sampler(session.model, params) as sampler:
        for _ in range(48):
            session.decode(TokenTree(token))
            token = sampler.sample(session, 0)
            assert token == whole.draw(session.logits(0).tolist())
            session.commit([0])
            drawn.append(token)
    whole.close()
    assert not {t for t, bias in params.logit_bias.items() if bias == -math.inf} & set(drawn)


@pytest.mark.parametrize("proposer", ["none", "all"])
def test_a_repeat_penalty_needs_the_prompt(engine, proposer):
    """The prompt counts as text that was seen: its tokens are penalised from the first draw on."""
    strong = SamplingParams(temp=0.0, penalty_repeat=1e6, penalty_last_n=-1)
    tokens = [r.token for r in generate(engine, strong, proposer, n=20)]
    assert not set(tokens) & set(engine.model.tokenize("one two"))
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
