"""JSON schemas, regular expressions and Lark grammars: what is finished obeys, whatever is drafted; what cannot be
obeyed is refused in one line."""

import json
import re
import threading

import pytest

from conftest import SHARED
from gguf_bytes import File
from maskprobe import ArgumentError, CallbackError, Engine, JsonSchema, LarkGrammar, Model, Regex, SamplingParams

PROMPT = "The answer is"
N = 160


@pytest.fixture(scope="module", params=["byte-level BPE", "SentencePiece", "trained BPE"])
def engine(request, tiny_model_path):
    """Random weights; a story model whose tokenizer puts a space in front; the bundled model of Python."""
    if request.param == "SentencePiece":
        path = request.getfixturevalue("shared_folder") / "models" / "stories260K.gguf"
    elif request.param == "trained BPE":
        path = request.getfixturevalue("bundled_model_path")
    else:
        path = tiny_model_path("tiny-llama")
    with Model(path, n_threads=1) as model, Engine(model, n_ctx=512, n_parallel=2, **SHARED) as engine:
        yield engine


@pytest.fixture(scope="module")
def tiny(tiny_model_path):
    with Model(tiny_model_path("tiny-llama"), n_threads=1) as model, Engine(model, n_ctx=512, **SHARED) as engine:
        yield engine


def run(engine, constraint, temp=0.0, seed=1, n=N, **settings):
    """The text, and the generation after its end."""
    tokens = engine.model.tokenize(PROMPT)
    generation = engine.generate(
        tokens, SamplingParams(temp=temp, seed=seed), max_tokens=n, constraint=constraint, **settings
    )
    return "".join(result.text for result in generation), generation


def both(engine, rules, temp, seed=1, **settings):
    """The text with drafts, which is that without; and how it ended."""
    text, drafted = run(engine, rules, temp, seed, **settings)
    plain_text, plain = run(engine, rules, temp, seed, draft=False, **settings)
    assert (plain.stats.tokens, plain_text) == (drafted.stats.tokens, text)
    assert plain.stats.finish_reason == drafted.stats.finish_reason
    return text, drafted.stats.finish_reason


CHAIN = {"type": "object", "required": ["next"], "additionalProperties": False}
SCHEMAS = {
    "text": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"],
             "additionalProperties": False},
    "integers": {"type": "array", "items": {"type": "integer", "minimum": -12, "maximum": 345}, "maxItems": 4},
    "above and below": {"type": "integer", "exclusiveMinimum": 8, "exclusiveMaximum": 12},
    "numbers": {"type": "number", "minimum": -0.25, "maximum": 2.5},
    "escapes": {"enum": ["tab\there", "back\\slash", 'a "word"', "\u2028\u00e9\U0001f600", "/\u2581 \u2581"]},
    "const": {"const": {"key \"\\\n": [None, True, -1.5, "", {"\u2581": "a\x85b"}]}},
    "names": {"type": "object", "properties": {"a b\n": {"type": "null"}, "\"": {"const": 0}},
              "required": ["a b\n", "\""], "additionalProperties": False},
    "recursion": {"$ref": "#/$defs/n", "$defs": {"n": {**CHAIN, "properties": {
        "next": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}}}}},
    "alternatives": {"type": "string", "pattern": r"^(ab|cd\d{2}|\w-[xyz]{1,3})$"},
    "long texts": {"type": "string", "maxLength": 30000},
    "lengths": {"type": "string", "minLength": 2, "maxLength": 5},
    "choice": {"anyOf": [{"type": "boolean"}, {"type": "array", "items": {"type": "null"}, "maxItems": 3}]},
    "tuple": {"type": "array", "prefixItems": [{"const": 1}, {"enum": ["x", "y"]}], "items": False, "minItems": 2},
    "format": {"type": "string", "format": "date"},
    "anything": True,
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("flexible", [False, True], ids=["fixed white space", "free white space"])
def test_what_is_finished_obeys_its_schema(engine, name, flexible):
    jsonschema = pytest.importorskip("jsonschema")
    schema = SCHEMAS[name]
    rules = JsonSchema(engine.model, schema, flexible_whitespace=flexible)
    n_finished = 0
    for temp, seed in ((0.0, 1), (0.8, 1), (1.5, 1), (1.5, 2)):
        text, reason = both(engine, rules, temp, seed)
        assert reason in ("stop", "length")
        if reason == "stop":
            jsonschema.validate(json.loads(text), schema)
            n_finished += 1
    if name in ("above and below", "escapes", "const", "alternatives", "lengths", "tuple", "format"):
        assert n_finished == 4 or flexible  # free white space has no end


PATTERNS = [
    r"\d{3}-\d{2}",
    r"(yes|no|perhaps not)",
    r"[A-F][0-9]+(\.\d+)?\n",
    r"^a{2,4}b*$",
    r"(?i)hello|x\"/\\y",
    r"[^\x00-\x7f]{2}",
    r"\w+@\w+\.(com|org)",
    "",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_regular_expression_matches_the_whole_text(engine, pattern):
    rules = Regex(engine.model, pattern)
    for temp, seed in ((0.0, 1), (0.8, 2), (1.5, 3)):
        text, reason = both(engine, rules, temp, seed)
        assert reason == "length" or (reason == "stop" and re.fullmatch(pattern, text))


def test_a_grammar(engine):
    rules = LarkGrammar(engine.model, 'start: sum "\\n"\nsum: NUMBER | "(" sum "+" sum ")"\nNUMBER: /[1-9][0-9]{0,2}/')
    for seed in range(4):
        text, reason = both(engine, rules, 0.8, seed)
        if reason == "stop":
            assert text.endswith("\n") and str(eval(text)).isdigit()
            assert not set(text) - set("0123456789()+\n")


CONSTANT = {"identifier": "value of it", "list": [1, 22, 333], "nothing": None, "text": "two  words\t\u00e9"}


def test_what_is_certain_is_drafted_in_the_tokenizers_own_tokens(engine):
    rules = JsonSchema(engine.model, {"const": CONSTANT})
    text, generation = run(engine, rules)
    assert json.loads(text) == CONSTANT
    stats = generation.stats
    assert stats.finish_reason == "stop" and engine.model.is_end(stats.tokens[-1])
    assert stats.accepted_by["constraint"] > 0.85 * len(stats.tokens)
    assert stats.passes <= len(stats.tokens) / 8
    body = stats.tokens[:-1]
    assert engine.model.detokenize(body) == text.encode()
    after_a_line = engine.model.tokenize("\n" + text, add_special=False)
    assert body == after_a_line[len(engine.model.tokenize("\n", add_special=False)) :]


def test_separators(tiny):
    schema = {"const": {"a": 1, "b": [2, 3]}}
    assert run(tiny, JsonSchema(tiny.model, schema))[0] == '{"a": 1, "b": [2, 3]}'
    free = JsonSchema(tiny.model, schema, flexible_whitespace=True)
    assert any("\n" in text or '":1' in text for text in (run(tiny, free, 1.5, seed)[0] for seed in range(5)))


@pytest.mark.parametrize("draft", [True, False])
def test_without_end_tokens_the_text_ends_with_the_rules(engine, draft):
    text, generation = run(engine, JsonSchema(engine.model, {"enum": [17, "b"]}), draft=draft, ignore_eos=True)
    assert json.loads(text) in (17, "b")
    assert generation.stats.finish_reason == "constraint"
    assert not any(map(engine.model.is_end, generation.stats.tokens))


def test_a_model_without_end_tokens(tiny_model_path, tmp_path):
    file = File.parse(tiny_model_path("tiny-llama").read_bytes())
    file.set("tokenizer.ggml.eos_token_id", None)
    types = file.get("tokenizer.ggml.token_type")
    file.set("tokenizer.ggml.token_type", types)
    path = tmp_path / "no-end.gguf"
    path.write_bytes(file.pack())
    with Model(path, n_threads=1) as model, Engine(model, n_ctx=128, **SHARED) as engine:
        text, generation = run(engine, JsonSchema(model, {"const": "a,b + c"}))
        assert json.loads(text) == "a,b + c"
        assert generation.stats.finish_reason == ("stop" if model.end_tokens else "constraint")


def test_one_schema_for_many_texts_at_once(engine):
    rules = JsonSchema(engine.model, SCHEMAS["text"])
    expected = {seed: run(engine, rules, 1.0, seed)[1].stats.tokens for seed in range(6)}
    found = {}

    def work(seeds):
        for seed in seeds:
            found[seed] = run(engine, rules, 1.0, seed)[1].stats.tokens

    threads = [threading.Thread(target=work, args=(range(first, 6, 2),)) for first in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_several_threads_compile_for_a_new_model(tiny_model_path):
    with Model(tiny_model_path("tiny-gpt2"), n_threads=1) as model:
        made = []
        threads = [threading.Thread(target=lambda: made.append(Regex(model, r"\d+"))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 4


def test_each_generation_asks_for_a_constraint_of_its_own(tiny):
    class Counts:
        n_made = 0

        def constraint(self):
            self.n_made += 1
            return rules.constraint()

    rules, counts = Regex(tiny.model, "abc"), Counts()
    assert [run(tiny, counts)[0] for _ in range(3)] == ["abc"] * 3
    assert counts.n_made == 3


def test_rules_belong_to_a_model(tiny, tiny_model_path):
    with Model(tiny_model_path("tiny-gpt2"), n_threads=1) as other:
        for rules in (Regex(other, "a"), JsonSchema(other, True), LarkGrammar(other, 'start: "a"')):
            with pytest.raises(ArgumentError, match="is for another Model"):
                tiny.generate([5], constraint=rules)


def test_a_closed_model_lets_open_texts_end(tiny_model_path):
    model = Model(tiny_model_path("tiny-llama"), n_threads=1)
    engine = Engine(model, n_ctx=256, **SHARED)
    generation = engine.generate([5], SamplingParams(temp=0.8), constraint=JsonSchema(model, SCHEMAS["names"]))
    text = next(generation).text
    model.close()
    assert json.loads(text + "".join(result.text for result in generation)) == {"a b\n": None, '"': 0}
    engine.close()


# --- refused ---------------------------------------------------------------------------------------------------------

DEEP = "[" * 100_000
CHAIN_OF_REFS = {"$defs": {f"a{i}": {"$ref": f"#/$defs/a{i + 1}"} for i in range(9000)}, "$ref": "#/$defs/a0"}
REFUSED = [
    (JsonSchema, "{", "not JSON.*line 1"),
    (JsonSchema, DEEP, "nested too deeply|not JSON"),
    (JsonSchema, '{"type": "string", "type": "null"}', "member 'type' twice"),
    (JsonSchema, '{"const": NaN}', "NaN"),
    (JsonSchema, '{"type": "number", "multipleOf": 1e400}', "the number 1e400 is too large"),  # once without end
    (JsonSchema, {"const": float("inf")}, "not JSON"),
    (JsonSchema, {"const": {1, 2}}, "not JSON.*set"),
    (JsonSchema, "[1]", "an object, true or false, not list"),
    (JsonSchema, False, "no|empty"),
    (JsonSchema, {"enum": []}, "empty"),
    (JsonSchema, {"type": "strnig"}, "/type"),
    (JsonSchema, {"type": "string", "pattern": "("}, "unclosed group"),
    (JsonSchema, {"type": "string", "pattern": "(?=a)b"}, "look-ahead"),
    (JsonSchema, {"type": "string", "pattern": "^a$", "minLength": 3}, "[Uu]nsatisfiable"),
    (JsonSchema, {"type": "string", "pattern": "a?" * 15_000}, "too long"),
    (JsonSchema, {"items": {"multipleOf": 99991}}, "99991 states"),
    (JsonSchema, {"$ref": "#/$defs/nowhere"}, "nowhere"),
    (JsonSchema, {"$ref": "#"}, "refers to itself"),
    (JsonSchema, CHAIN_OF_REFS, "a9000"),
    (JsonSchema, {"description": "x" * 1_000_001}, "1000000 at most"),
    (JsonSchema, '{"const": "\\ud800"}', "surrogate"),
    (Regex, "a(", "unclosed group"),
    (Regex, r"\bfoo", "lookarounds"),
    (Regex, r"(a)\1", "backreferences"),
    (Regex, r"[^\x00-\x{10FFFF}]", "no text satisfies it"),
    (Regex, "(" * 5000 + ")" * 5000, "nest"),
    (Regex, "a" * 20_001, "20000 at most"),
    (Regex, "a\ud800", "not valid Unicode"),
    (Regex, 7, "must be text, not int"),
    (LarkGrammar, 'start: %json {"multipleOf": 1e400}', "the number 1e400 is too large"),
    (LarkGrammar, 'start: %json {"type": "object", "type": "null"}', "member 'type' twice"),
    (LarkGrammar, "", "no start rule"),
    (LarkGrammar, "{}", "grammar"),
    (LarkGrammar, "start: start", "no text satisfies it"),
    (LarkGrammar, "start: nowhere", "nowhere"),
    (LarkGrammar, "start: " + "(" * 40_000, "nested"),
    (LarkGrammar, 'start[temperature=0.5]: "a"', "temperature"),
    (LarkGrammar, "start: <|nowhere|>", "special token"),
    (LarkGrammar, "start: A\nA: " + " & ".join(f"/.*x{i}.*/" for i in range(30)), "29 intersections"),
    (LarkGrammar, 'start: "' + "a" * 50_000 + '"', "50000 at most"),
    (LarkGrammar, b"start:", "must be text, not bytes"),
]


@pytest.mark.parametrize(("kind", "given", "said"), REFUSED, ids=lambda value: str(value)[:30])
def test_what_cannot_be_used_is_refused_in_a_line(tiny, kind, given, said):
    with pytest.raises(ArgumentError, match=said) as error:
        kind(tiny.model, given)
    line = str(error.value)
    assert "\n" not in line and len(line) < 400


def test_words_of_a_grammar_that_only_look_refused(tiny):
    text = 'start: "x[temperature=1]" // [temperature=2]\n  | /,temperature=3/'
    assert run(tiny, LarkGrammar(tiny.model, text))[0] in ("x[temperature=1]", ",temperature=3")


HARD = [
    (JsonSchema, {"type": "string", "maxLength": 1_000_000}),
    (JsonSchema, {"type": "array", "minItems": 50_000, "items": {"type": "string"}}),
    (JsonSchema, {"enum": [f"value {i * 7919}" for i in range(20_000)]}),
    (JsonSchema, {"const": "long " * 50_000}),
    (JsonSchema, {**CHAIN_OF_REFS, "$defs": {**CHAIN_OF_REFS["$defs"], "a9000": {"type": "null"}}}),
    (JsonSchema, {"type": "integer", "multipleOf": 9999}),
    (JsonSchema, {"type": "number", "multipleOf": 0.00025, "minimum": 1}),
    (Regex, "(a|b)*a(a|b){60}"),
    (Regex, "((a|bc){0,1000}x){0,1000}"),
    (Regex, r"(\w{1,300}|\d{1,300})*x.{300}"),
    (LarkGrammar, "start: r0\n" + "\n".join(f"r{i}: r{i + 1}" for i in range(4000)) + '\nr4000: "a"'),
    (LarkGrammar, "start: R0\n" + "\n".join(f"R{i}: R{i + 1} R{i + 1}" for i in range(24)) + '\nR24: "a"'),
    (LarkGrammar, 'start: start start | "a" | "b"'),
]


@pytest.mark.parametrize(("kind", "given"), HARD, ids=lambda value: str(value)[:30])
def test_hard_ones_are_followed_or_refused(tiny, kind, given):
    try:
        rules = kind(tiny.model, given)
        text, reason = both(tiny, rules, 0.8, n=40)
        assert text and reason in ("stop", "length")
    except (ArgumentError, CallbackError) as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("draft", [True, False])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('start: "ab" rest\nrest: rest', "no token for what must come"),
        ("start: /[ab]/ END /[ab]/", "goes on after token"),
    ],
    ids=["nothing can come", "an end token inside"],
)
def test_a_text_that_cannot_be_finished_fails_alone(tiny, text, said, draft):
    model = tiny.model
    (end,) = model.end_tokens
    expected = run(tiny, Regex(model, "a{30}"))[0]
    with pytest.raises((ArgumentError, CallbackError), match=said) as error:
        run(tiny, LarkGrammar(model, text.replace("END", f"<[{end}]>")), draft=draft)
    assert "\n" not in str(error.value)
    assert run(tiny, Regex(model, "a{30}"))[0] == expected == "a" * 30


# --- many schemas ----------------------------------------------------------------------------------------------------


def random_schema(random, depth=0):
    simple = [
        lambda: {"type": "integer", "minimum": random.randint(-50, 0), "maximum": random.randint(1, 5000)},
        lambda: {"type": "boolean"},
        lambda: {"type": "string", "maxLength": random.randint(0, 12)},
        lambda: {"enum": random.sample(["a", "b\n", 'c"', 4, None, 1.5, [], {"x": 1}], 3)},
        lambda: {"type": "string", "pattern": random.choice([r"^\d{2}:\d{2}$", "^(x|yy|zzz)$", "^[a-f]{1,4}$"])},
        lambda: {"type": "number", "minimum": 0, "maximum": 1},
    ]
    nested = [
        lambda: {"type": "array", "items": random_schema(random, depth + 1), "maxItems": random.randint(0, 3)},
        lambda: {"anyOf": [random_schema(random, depth + 1), {"type": "null"}]},
        lambda: object_of([f"k{i} {random.choice('aé')}" for i in range(random.randint(0, 4))]),
    ]

    def object_of(names):
        properties = {name: random_schema(random, depth + 1) for name in names}
        return {"type": "object", "properties": properties, "required": names[::2], "additionalProperties": False}

    return random.choice(simple if depth > 2 else simple + 2 * nested)()


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_random_schemas(engine, first):
    import random

    jsonschema = pytest.importorskip("jsonschema")
    n_finished = 0
    for seed in range(first, first + 20):
        schema = random_schema(random.Random(seed))
        rules = JsonSchema(engine.model, schema)
        for temp in (0.0, 1.5):
            text, reason = both(engine, rules, temp, seed, n=250)
            if reason == "stop":
                jsonschema.validate(json.loads(text), schema)
                n_finished += 1
    assert n_finished >= 32


def test_forced_tokens_and_what_follows_share_a_pass(tiny):
    """Candidates stand after a forced chain: a text that was there before needs few passes for both."""
    rules = Regex(tiny.model, "(name: [ab]{8}; ){6}")
    text, first = run(tiny, rules, 0.0)
    again, second = run(tiny, rules, 0.0)
    assert again == text and second.stats.accepted_by["constraint"] > 0
    others = sum(second.stats.accepted_by.values()) - second.stats.accepted_by["constraint"]
    assert others > 0 and second.stats.passes < first.stats.passes
