"""Llama's lower level: what is evaluated, and what sample() draws."""

import numpy as np
import pytest

from maskprobe import Llama, LlamaGrammar, Session


@pytest.fixture(scope="module")
def llama(bundled_model_path):
    with Llama(bundled_model_path, verbose=False, n_threads=1) as llama:
        yield llama


def test_each_token_is_evaluated_once(llama, monkeypatch):
    set_prefix, decode = Session.set_prefix, Session.decode
    n_evaluated = []

    def counted_prefix(session, tokens):
        prefix = set_prefix(session, tokens)
        n_evaluated.append(len(tokens) - prefix.n_reused)
        return prefix

    def counted_decode(session, tree, n_top):
        n_evaluated.append(tree.n_rows)
        return decode(session, tree, n_top)

    tokens = llama.tokenize(b"def fibonacci(n):\n    return")
    llama.reset()
    llama.eval(tokens[:3])
    monkeypatch.setattr(Session, "set_prefix", counted_prefix)
    monkeypatch.setattr(Session, "decode", counted_decode)
    for token in tokens[3:]:
        llama.eval([token])
        assert llama.sample(temp=0) == int(np.argmax(llama.eval_logits[0]))
    assert sum(n_evaluated) == len(tokens) - 3
    stepwise = np.array(llama.eval_logits)
    llama.reset()
    llama.eval(tokens[:2])
    llama.eval(tokens[2:])
    np.testing.assert_allclose(stepwise, llama.eval_logits, atol=1e-3)


def test_a_state_that_goes_back(llama):
    """To tokens of which the session holds more, or others."""
    tokens = llama.tokenize(b"class Foo:\n    def __init__(self):")
    llama.reset()
    llama.eval(tokens[:5])
    expected, state = llama.eval_logits, llama.save_state()
    llama.eval(tokens[5:])
    llama.load_state(state)
    np.testing.assert_allclose(llama.eval_logits, expected, atol=1e-3)
    llama.eval(tokens[:1])
    llama.load_state(state)
    np.testing.assert_allclose(llama.eval_logits, expected, atol=1e-3)
    with pytest.raises(ValueError, match="token"):
        llama.eval([10**6])
    assert llama.eval_tokens == tokens[:5]
    np.testing.assert_allclose(llama.eval_logits, expected, atol=1e-3)


def test_penalties_see_the_tokens(llama):
    tokens = llama.tokenize(b"import os\nimport os\nimport os\nimport")
    llama.reset()
    llama.eval(tokens)
    assert llama.sample(temp=0) in tokens
    penalised = llama.sample(temp=0, presence_penalty=100.0)
    assert penalised not in tokens
    assert penalised == next(llama.generate(tokens, temp=0, presence_penalty=100.0))


def test_grammars(llama):
    llama.reset()
    llama.eval(llama.tokenize(b"x = "))
    for grammar in ('root ::= "7"', LlamaGrammar.from_string('root ::= "7"')):
        assert llama.detokenize([llama.sample(temp=0, grammar=grammar)]) == b"7"
    with pytest.raises(TypeError, match="schema"):
        llama.sample(grammar=LlamaGrammar.from_json_schema("{}"))
    with pytest.raises(TypeError, match="grammar"):
        llama.sample(grammar=5)
