"""Grammars: what is refused and how it is said, what is accepted, and that they mean what llama.cpp says they mean."""

import ctypes
import random

import llama_cpp
import numpy as np
import pytest

from cli_process import command, one_error_line
from conftest import EXACT
from maskprobe import ArgumentError, Engine, Model, Sampler, SamplingParams
from test_fuzz_grammars import SOUND


@pytest.fixture(scope="module")
def path(tiny_model_path):
    return tiny_model_path("tiny-llama")


@pytest.fixture(scope="module")
def engine(path):
    with Model(path, n_threads=1) as model, Engine(model, n_ctx=256, **EXACT) as engine:
        yield engine


def chain(n: int, begin: str = "") -> str:
    rules = "".join(f"r{i} ::= {begin} r{i + 1}\n" for i in range(n))
    return f'root ::= r0\n{rules}r{n} ::= "a"\n'


REFUSED = {
    # what ended the process, or took all memory
    "nested": ("root ::= " + "(" * 20000 + '"a"' + ")" * 20000, "nested"),
    "nested, no end": ('root ::= "a" ' + '("b" ' * 5000, "nested"),
    "chain": (chain(20000), "r16000"),
    "chain of groups": ('root ::= "a"' + "?" * 20000, "rules begin with each other"),
    "most below least": ('root ::= "a"\nb ::= [a-z]{3,1}', r"line 2 .*\{3,1\}"),
    "most of none": ('root ::= "a"{1,0}', r"\{1,0\}"),
    "repeated repetition": ('root ::= "a"{1000}{1000}', "2000"),
    "nested repetition": ('root ::= ((("a"{0,44}){0,44}){0,44}){0,44}', "2000"),
    "long part": ('root ::= "' + "abc" * 10000 + '"{2000}', "1000000"),
    "many signs": ('root ::= "a"' + "+" * 20000, "1000000"),
    "large least": ('root ::= "a"{2001,}', "2000"),
    "large number": ('root ::= "a"{99999999999999999999}', "2000"),
    "large most": ('root ::= "a"{0,99999999999999999999}', "1000000"),
    # rules
    "left recursion": ('root ::= "x" list\n\nlist ::= list "," | "a"', "line 3 .*'list' comes back to itself"),
    "left recursion past an empty one": ('root ::= b "a"\nb ::= e root\ne ::= | "x"', "comes back to itself"),
    "itself": ("root ::= root", "comes back to itself"),
    "never a character": ("root ::= a root\na ::= b\nb ::= ", "no text follows"),
    "no such rule": ('root ::= "a" |\n  missing-1', "line 2 .*'missing-1'"),
    "no root": ('start ::= "a"', "root"),
    "nothing": ("", "no rules"),
    "comments": ("# root ::= x\n\n", "no rules"),
    # spelling
    "no bracket": ('root ::= ("a" | "b"', "'\\(' has no '\\)'"),
    "bracket": ('root ::= "a")', "without its '\\('"),
    "open string": ('root ::= "a', "closing"),
    "open class": ("root ::= [a-", "closing"),
    "escape": (r'root ::= "\q"', "no escape"),
    "short escape": (r'root ::= "\u12"', "4 hexadecimal digits"),
    "half escape": ('root ::= "\\', "no escape"),
    "nothing to repeat": ('root ::= * "a"', "nothing before '\\*"),
    "nothing left to repeat": ('root ::= "a"{0}?', "nothing before"),
    "repetition": ('root ::= "a"{1;2}', "'}' is missing"),
    "repetition without number": ('root ::= "a"{,3}', "number"),
    "underscore": ('my_rule ::= "a"', "'::=' is missing after 'my'"),
    "one colon": ('root := "a"', "'::=' is missing"),
    "new line": ('root ::= "a"\n   | "b"', "line 2"),
    "sign": ('root ::= "a" % "b"', "cannot go on with '%"),
    "token without end": ("root ::= <[5", "']>' is missing"),
    "large token": ("root ::= <[99999999999]>", "id"),
    "no token": ("root ::= <|no such token|>", "no token of this model"),
    "not of no token": ('root ::= !"a"', "after '!'"),
    "separators of lines": ("root ::= \u2028\u0085x", "line 1"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_is_refused(engine, name, capfd):
    text, said = REFUSED[name]
    with pytest.raises(ArgumentError, match=said) as error:
        Sampler(engine.model, SamplingParams(grammar=text))
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 300
    assert capfd.readouterr().err == ""  # llama.cpp says it there


def test_the_command_names_its_option(path, tmp_path):
    file = tmp_path / "deep.gbnf"
    file.write_text(REFUSED["nested"][0])
    for option, value in (("--grammar", REFUSED["most below least"][0]), ("--grammar-file", file)):
        done = command("-m", path, "-p", "x", "-n", "3", option, value)
        assert done.returncode == 2 and done.stdout == b""
        assert "--grammar" in one_error_line(done.stderr)


ACCEPTED = [
    "root ::= " + "(" * 150 + '"a"' + ")" * 150,
    chain(3000),
    chain(30000, begin='"x"'),
    'root ::= "a"' + "?" * 1000,
    'root ::= "a"{0} "b"{2} [c]{0,2000}',
    'root ::= "a"{0,5000}',  # llama.cpp drops an upper limit above 2000
    "".join(f'r{i} ::= r{i + 1} "x" | r{i + 1} "y"\n' for i in range(60)) + 'r60 ::= "a"\nroot ::= r0',
    'root ::= ("a"*)* | "x"',
    'root ::= a root "z" | "x"\na ::= b\nb ::= | "y"',
    'root ::= "a"\r\nb ::= [^\\]]  # a comment\r\n\r\n',
    'root ::= "a" |\n  "b" (\n "c"\n | # c\n "d" )*',
    'root ::= "" | [] "a" | <[7]> | !<[900]> "\\u00e9\\U0001F600\\x41\\-\\["',
    *SOUND.values(),
]


@pytest.mark.parametrize("text", ACCEPTED, ids=lambda text: text[:40])
def test_what_is_accepted(engine, text):
    sampling = SamplingParams(temp=1.5, top_k=0, seed=3, grammar=text)
    expected = [r.token for r in engine.generate([5, 60], sampling, max_tokens=12, draft=False)]
    assert [r.token for r in engine.generate([5, 60], sampling, max_tokens=12)] == expected
    assert expected


@pytest.mark.parametrize(
    "text",
    [
        'root ::= ([a-z]? [a-z]? " "?){0,60} "Q"',
        'root ::= [a-zA-Z ] root "b" | [a-zA-Z ] root "c" | [^q] root [0-9] | "Q"',
        'root ::= x x x x x x "Q"\nx ::= ([a-z]* [a-z ]*)? .? .?',
        'root ::= . root root | "Q"',
    ],
)
def test_many_ways_to_read_a_text(engine, text):
    """llama.cpp keeps each way as a stack of its own: their number grows exponentially with the text."""
    sampling = SamplingParams(temp=2.0, top_k=0, top_p=1.0, min_p=0.0, seed=4, grammar=text)
    results = list(engine.generate([5, 60], sampling, max_tokens=60))
    assert len(results) == 60 or results[-1].finish_reason in ("stop", "constraint")


def test_a_grammar_with_too_much_to_do(engine):
    """There is an end to it, and a line, and the engine goes on."""
    sampling = SamplingParams(temp=2.0, top_k=0, seed=4, grammar='root ::= (.{0,40} ([a-z ]? .){0,40}){0,20} "Q"')
    with pytest.raises(ArgumentError, match="too many ways") as error:
        list(engine.generate([5, 60], sampling, max_tokens=100))
    assert len(str(error.value).splitlines()) == 1
    assert len(list(engine.generate([5, 60], SamplingParams(temp=0.0), max_tokens=8, ignore_eos=True))) == 8


# --- the meaning ------------------------------------------------------------------------------------------------------


class OwnLogits:
    """Random ones in the place of the model's; bytes that begin no character of UTF-8 are unlikely."""

    def __init__(self, model: Model, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        pieces = [model.token_bytes(token) for token in range(model.info.n_vocab)]
        self.base = np.array([-100.0 if max(piece, default=0) >= 0xF8 else 0.0 for piece in pieces], np.float32)
        self.next = self.draw()

    def draw(self) -> np.ndarray:
        return self.base + self.random.normal(0, 1, len(self.base)).astype(np.float32)

    def logits(self, tokens, logits) -> None:
        logits[:] = self.next

    def accept(self, token) -> None:
        self.next = self.draw()


class Reference:
    """llama.cpp's own grammar sampler, which picks the most likely token that it allows."""

    def __init__(self, path) -> None:
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)

    def text(self, grammar: str, source: OwnLogits, n: int) -> list[int]:
        sampler = llama_cpp.llama_sampler_init_grammar(self.vocab, grammar.encode(), b"root")
        assert sampler, grammar
        tokens: list[int] = []
        while len(tokens) < n:
            logits = source.next
            data = (llama_cpp.llama_token_data * len(logits))(*[(t, x, 0) for t, x in enumerate(logits.tolist())])
            array = llama_cpp.llama_token_data_array(data, len(logits), -1, False)
            llama_cpp.llama_sampler_apply(sampler, ctypes.byref(array))
            best = max(data, key=lambda candidate: candidate.logit)
            if best.logit == -np.inf:
                break
            tokens.append(best.id)
            if llama_cpp.llama_vocab_is_eog(self.vocab, best.id):
                break
            llama_cpp.llama_sampler_accept(sampler, best.id)
            source.accept(best.id)
        llama_cpp.llama_sampler_free(sampler)
        return tokens


@pytest.fixture(scope="module")
def reference(path):
    reference = Reference(path)
    yield reference
    llama_cpp.llama_model_free(reference.model)


STRINGS = ['"a"', '"the"', '" "', '"é"', '"日本"', '"th" "e"', '"\\n"', '""']
CLASSES = [
    "[a-z]",
    "[^a-m]",
    "[ -~]",
    '[^"\\\\]',
    "[éa]",
    "[^é]",
    "[\\u4e00-\\u9fff]",
    "[a-]",
    "[\\x41-\\x5A0]",
    ".",
    "[]",
]


def random_grammar(seed: int) -> str:
    """Rules that call later ones only, or themselves after a character; not many ways to read a text."""
    rng = random.Random(seed)
    names = ["root", "a", "b-1", "c"]

    def item(depth: int, callable_rules: list[str]) -> str:
        kind = rng.random()
        if kind < 0.35 or depth == 0:
            return rng.choice(STRINGS)
        if kind < 0.6:
            return rng.choice(CLASSES)
        if kind < 0.85 and callable_rules:
            return rng.choice(callable_rules)
        return "(" + " | ".join(sequence(depth - 1, callable_rules) for _ in range(rng.randint(1, 2))) + ")"

    def sequence(depth: int, callable_rules: list[str]) -> str:
        items = [item(depth, callable_rules) for _ in range(rng.randint(1, 3))]
        signs = [
            rng.choice(["", "", "?", "+", "{2}", "{1,3}"]) if i in STRINGS[:6] + CLASSES[:9] else "" for i in items
        ]
        return " ".join(i + s for i, s in zip(items, signs, strict=True))

    lines = []
    for i, name in enumerate(names):
        alternatives = [sequence(1, names[i + 1 :]) for _ in range(rng.randint(1, 3))]
        alternatives += [f"{rng.choice(CLASSES[:4])} {name}"] * rng.randint(0, 1)
        lines.append(f"{name} ::= {' | '.join(alternatives)}")
    return "\n".join(lines)


@pytest.mark.parametrize("draft", [True, False])
def test_the_meaning_is_that_of_llama_cpp(engine, reference, draft):
    grammars = [SOUND["json"], SOUND["program"], *(random_grammar(seed) for seed in range(60))]
    n_tokens = 0
    for seed, grammar in enumerate(grammars):
        source = OwnLogits(engine.model, seed)
        sampling = SamplingParams(temp=0.0, grammar=grammar)
        results = engine.generate([5, 60], sampling, max_tokens=16, constraint=source, draft=draft)
        tokens = [result.token for result in results if result.token >= 0]
        assert tokens == reference.text(grammar, OwnLogits(engine.model, seed), 16), grammar
        n_tokens += len(tokens)
    assert n_tokens > 4 * len(grammars)


def test_tokens_in_a_grammar(engine):
    """An element that is a token takes that one whole, and no piece of another."""
    model = engine.model
    word = max((t for t in range(model.info.n_vocab) if not model.is_end(t)), key=lambda t: len(model.token_bytes(t)))
    first = model.token_bytes(word)[:1].decode()
    others = {t for t in range(model.info.n_vocab) if not model.is_end(t)} - {word}
    for text, allowed in ((f"root ::= <[{word}]>", {word}), (f"root ::= !<[{word}]>", others)):
        seen = {
            next(engine.generate([5, 60], SamplingParams(temp=5.0, top_k=0, seed=seed, grammar=text))).token
            for seed in range(20)
        }
        assert seen <= allowed
    mixed = SamplingParams(temp=0.0, grammar=f'root ::= "{first}" <[{word}]>')
    tokens = [r.token for r in engine.generate([5, 60], mixed, max_tokens=4) if r.token >= 0]
    assert model.token_bytes(tokens[0]) == first.encode() and tokens[1] == word and model.is_end(tokens[2])
