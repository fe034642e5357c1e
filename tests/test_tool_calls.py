"""Calls of tools in what models write: every form, whole and in any pieces."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskprobe.openai.tool_calls import ToolReader, parse_calls
from maskprobe.openai.tools import ToolUse, style_of

NAMES = ("weather", "clock")
ROME = '{"city": "Rome"}'
CALL = f'{{"name": "weather", "arguments": {ROME}}}'
TIME = '{"name": "clock", "arguments": {}}'
ONE = [("weather", {"city": "Rome"})]
BOTH = [*ONE, ("clock", {})]

# What a model writes -> the text before, the calls.
FORMS = {
    "hermes": (f"<tool_call>\n{CALL}\n</tool_call>", "", ONE),
    "hermes, two": (f"<tool_call>{CALL}</tool_call>\n<tool_call>\n{TIME}</tool_call>", "", BOTH),
    "hermes, two in one": (f"<tool_call>{CALL}\n{TIME}</tool_call>", "", BOTH),
    "hermes, not closed": (f"<tool_call>{CALL}", "", ONE),
    "hermes after text": (f"I look.\n\n<tool_call>{CALL}</tool_call>", "I look.", ONE),
    "hermes, another name": ('<tool_call>{"name": "x", "arguments": {}}</tool_call>', "", [("x", {})]),
    "hermes, a line break in a string": (
        '<tool_call>{"name": "weather", "arguments": {"city": "a\nb"}}</tool_call>',
        "",
        [("weather", {"city": "a\nb"})],
    ),
    "hermes, arguments as text": (
        '<tool_call>{"name": "weather", "arguments": "{\\"city\\": \\"Rome\\"}"}</tool_call>',
        "",
        ONE,
    ),
    "llama 3": ('{"name": "weather", "parameters": {"city": "Rome"}}', "", ONE),
    "llama 3, tag": (f"<|python_tag|>{CALL}", "", ONE),
    "llama 3, two": (f"{CALL}; {TIME}", "", BOTH),
    "mistral": (f"[TOOL_CALLS][{CALL}]", "", ONE),
    "mistral, two": (f"[TOOL_CALLS] [{CALL}, {TIME}]", "", BOTH),
    "mistral, by name": (f"[TOOL_CALLS]weather{ROME}[TOOL_CALLS]clock[ARGS]{{}}", "", BOTH),
    "fenced": (f"```json\n{CALL}\n```", "", ONE),
}
# What calls nothing.
TEXTS = [
    "",
    " ",
    "It is warm.",
    "{",
    "{}",
    "[]",
    "[1]",
    '{"name": "x", "arguments": {}}',
    '{"name": "weather"}',
    '{"name": 5, "arguments": {}}',
    '{"name": "weather", "arguments": 5}',
    f"{CALL} and more",
    "<tool_call>",
    "<tool_call>no JSON</tool_call>",
    f"<tool_call>{CALL}</tool_call><tool_call>no JSON</tool_call>",
    "[TOOL_CALLS]",
    "[TOOL_CALLS]weather{no",
    "[TOOL_CALLS]weather[1]",
    "<|python_tag|>print(1)",
    "a <tool_cal b",
    "x [TOOL_CALLS",
    "```json\n{}\n```",
    "```python\nprint(1)\n```",
    "{" * 100_000,
    "[" * 100_000,
]


def free(style: str = "hermes") -> ToolUse:
    return ToolUse((), "auto", NAMES, style, legacy=False)


def calls_of(calls) -> list:
    return [(call.name, json.loads(call.arguments)) for call in calls]


@pytest.mark.parametrize("text, before, calls", FORMS.values(), ids=FORMS)
def test_forms(text, before, calls):
    found = parse_calls(text, NAMES)
    assert found is not None and found[0] == before and calls_of(found[1]) == calls


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:30]))
def test_texts_that_call_nothing(text):
    assert parse_calls(text, NAMES) is None
    reader = ToolReader(free())
    events = reader.push(text) + reader.finish()
    assert "".join(value for kind, value in events if kind == "content") == reader.content == text
    assert not reader.calls


def read(use: ToolUse, pieces: list[str]) -> ToolReader:
    """A reader that has seen everything. What it gave piece by piece is what it says in the end."""
    reader = ToolReader(use)
    events = [event for piece in pieces for event in reader.push(piece)] + reader.finish()
    content, calls = "", []
    for kind, value in events:
        if kind == "content":
            assert not calls
            content += value
        elif kind == "call":
            assert value[0] == len(calls)
            calls.append([value[1], ""])
        else:
            calls[value[0]][1] += value[1]
    assert content == reader.content and [tuple(call) for call in calls] == reader.calls
    return reader


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([*(text for text, _, _ in FORMS.values()), *TEXTS[:-2]]), st.lists(st.integers(0, 80)))
def test_pieces_do_not_matter(text, cuts):
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(edges)]
    whole, cut = read(free(), [text]), read(free(), pieces)
    assert cut.calls == whole.calls
    assert cut.content == whole.content or (whole.calls and cut.content.rstrip() == whole.content.rstrip())


def test_text_is_not_held_back_without_need():
    reader = ToolReader(free())
    assert reader.push("It is") == [("content", "It is")]
    assert reader.push(" <b>") == [("content", " <b>")]
    assert reader.push(" <tool") == []
    assert reader.push("box>") == [("content", " <toolbox>")]


def test_arguments_of_a_forced_tool_come_as_they_are_written():
    use = ToolUse((), "named", ("weather",), "hermes", legacy=False)
    reader = read(use, ["", '{"city"', ': "Rome"}'])
    assert calls_of(reader.calls) == ONE and reader.content == ""
    assert ToolReader(use).push("{") == [("call", (0, "weather")), ("arguments", (0, "{"))]


@pytest.mark.parametrize(
    "template, style",
    [
        ("<tool_call>", "hermes"),
        ("[TOOL_CALLS]", "mistral"),
        ('<|python_tag|> "parameters"', "llama3"),
        ("<|python_tag|>", "json"),
        ("", "json"),
    ],
)
def test_styles(template, style):
    assert style_of(template) == style
