"""The model's own chat template: what it writes, compared with llama-cpp-python's formatter, and what is refused."""

import copy
import datetime
import threading

import pytest
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

import random_gguf
from chat_templates import CALL, CONVERSATIONS, TEMPLATES, TOOLS
from fakes import TemplateModel
from maskprobe import ArgumentError, Error, Model, ModelError, StateError
from maskprobe.chat_template import ChatTemplate

USER = [{"role": "user", "content": "Hi"}]


def render(source: str, messages=USER, **settings) -> str:
    return ChatTemplate(TemplateModel(source)).render(messages, **settings)


def error_line(error: pytest.ExceptionInfo[Error]) -> str:
    line = str(error.value)
    assert line.isprintable() and len(line) < 450
    return line


# --- what it writes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("add", [True, False], ids=["prompt", "no prompt"])
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["plain", "tools"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_text_is_that_of_plain_jinja(name, tools, add):
    source = TEMPLATES[name]
    formatter = Jinja2ChatFormatter(source, "</s>", "<s>", add_generation_prompt=add)
    template = ChatTemplate(TemplateModel(source))
    texts = 0
    for messages in CONVERSATIONS.values():
        before = copy.deepcopy(messages)
        try:
            expected = formatter(messages=messages, tools=tools).prompt
        except Exception:
            with pytest.raises(Error):
                template.render(messages, tools=tools, add_generation_prompt=add)
            continue
        if tools and "tools" not in source:
            with pytest.raises(ArgumentError, match="no place for tools"):
                template.render(messages, tools=tools, add_generation_prompt=add)
        else:
            assert template.render(messages, tools=tools, add_generation_prompt=add) == expected
        assert messages == before
        texts += 1
    assert texts >= 2


@pytest.mark.parametrize("name", ["chatml", "llama 3 with tools", "qwen 3, the last question is searched"])
def test_long_conversations(name):
    """Of some million tokens: the budget grows with what is given."""
    source = TEMPLATES[name]
    turns = [{"role": "user", "content": "word " * 300}, {"role": "assistant", "content": "answer\n" * 200}]
    messages = [{"role": "system", "content": "rule " * 20000}, *turns * 2000]
    tools = TOOLS * 200 if "tools" in source else None
    expected = Jinja2ChatFormatter(source, "</s>", "<s>")(messages=messages, tools=tools).prompt
    assert render(source, messages, tools=tools) == expected


def test_the_default_system_message_of_a_real_model(real_model_path):
    with Model(real_model_path, self_check=False) as model:
        text = model.chat_format([{"role": "user", "content": "Hi"}])
        assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
        assert text.endswith("<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
        own = model.chat_format([{"role": "system", "content": "Be brief."}, *USER], add_assistant=False)
        assert own == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        with pytest.raises(ArgumentError, match="no place for tools"):
            model.chat_format(USER, tools=TOOLS)


def test_texts_of_special_tokens_are_tokens(real_model_path):
    """As in llama.cpp: a template puts contents in as they are."""
    with Model(real_model_path, self_check=False) as model:
        plain, marked = (
            model.tokenize(model.chat_format([{"role": "user", "content": text}]), False, parse_special=True)
            for text in ("Hi", "Hi<|im_end|>")
        )
        end = model.info.token_eos
        assert marked.count(end) == plain.count(end) + 1


@pytest.fixture(scope="module")
def named_templates_path(tmp_path_factory):
    """A file with a default template and one for tools."""
    plain = random_gguf.write_vocabulary
    with pytest.MonkeyPatch.context() as patch:

        def with_templates(writer, *rest):
            plain(writer, *rest)
            sources = {"default": "plain {{ messages[0].content }}", "tool_use": "{{ tools|length }} tools {{ x }}"}
            writer.add_chat_template([{"name": name, "template": source} for name, source in sources.items()])

        patch.setattr(random_gguf, "write_vocabulary", with_templates)
        return random_gguf.write_random_gguf(tmp_path_factory.mktemp("models") / "named.gguf", "tiny-llama")


def test_the_template_for_tools(named_templates_path):
    with Model(named_templates_path) as model:
        assert model.chat_format(USER) == model.chat_format(USER, tools=[]) == "plain Hi"
        assert model.chat_format(USER, tools=TOOLS) == "2 tools "
        assert model.chat_format(USER, tools=TOOLS, x="X") == "2 tools X"
    with pytest.raises(StateError, match="closed"):
        model.chat_format(USER)


def test_only_a_template_for_tools():
    template = ChatTemplate(TemplateModel(None, tool_use="{{ tools|length }}"))
    assert template.render(USER, tools=TOOLS) == "2"
    with pytest.raises(ModelError, match="only a chat template for tools"):
        template.render(USER)


def test_no_template(tiny_model_path):
    with (
        Model(tiny_model_path("tiny-llama")) as model,
        pytest.raises(ModelError, match="has no chat template") as error,
    ):
        model.chat_format(USER)
    assert error.value.status == "unsupported"


def test_special_tokens():
    source = "{{ [bos_token, eos_token, pad_token, unk_token is defined, sep_token is defined]|join('|') }}"
    keys = {"tokenizer.ggml.padding_token_id": "3", "tokenizer.ggml.seperator_token_id": "1000"}
    assert ChatTemplate(TemplateModel(source, keys)).render(USER) == "<s>|</s>|<pad>|False|False"
    assert ChatTemplate(TemplateModel(source, keys, bos=-1)).render(USER) == "|</s>|<pad>|False|False"


def test_variables():
    source = "{{ date_string if date_string is defined else strftime_now('%Y') }}{{ documents|length if documents }}"
    assert render(source) == str(datetime.datetime.now().year)
    assert render(source, date_string="a day", documents=[1, 2]) == "a day2"
    assert render(source, date_string="a day", enable_thinking=None) == "a day"
    with pytest.raises(ArgumentError, match=r"no place for enable_thinking, x$"):
        render(source, date_string="a day", enable_thinking=False, x=1)


def test_threads_do_not_share_a_budget():
    """Renderings beside one another, in threads that are not the main one; some are ended."""
    source = "{% for i in range(messages[0].content|length) %}{{ 'x' * 10000 * loop.length }}{% endfor %}"
    template = ChatTemplate(TemplateModel(source))
    results = {}

    def run(n):
        try:
            results[n] = len(template.render([{"role": "user", "content": "y" * n}]))
        except ModelError as error:
            results[n] = str(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in (3, 400, 5, 500, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[n] for n in (3, 5, 7)] == [90_000, 250_000, 490_000]
    assert all("too much text" in results[n] for n in (400, 500))


# --- messages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "at least one message"),
        ("Hi", "must be a list of mappings, not a str"),
        ({"role": "user", "content": "Hi"}, "must be a list of mappings, not a dict"),
        (None, "must be a list of mappings, not a NoneType"),
        (["Hi"], "message 0 must be a mapping, not a str"),
        ([{"role": "user"}], r"message 0 needs \"role\" and \"content\", it has \['role'\]"),
        ([*USER, {"content": "Hi"}], r"message 1 needs .* it has \['content'\]"),
        ([{"role": "assistant"}], "message 0 needs"),
        ([{"role": "tool", "tool_calls": [CALL]}], "message 0 needs"),
        ([{"role": 1, "content": "Hi"}], "the role of message 0 must be a text, not a int"),
        (
            [{"role": "user", "content": None}],
            "the content of message 0 must be a text or a list of parts, not a NoneType",
        ),
        ([{"role": "user", "content": 1.5}], "the content of message 0 must be a text or a list of parts, not a float"),
        ([{"role": "user", "content": b"Hi"}], "not a bytes"),
        ([{"role": "user", "content": [1]}], "a part of the content of message 0 is a int"),
        ([{"role": "user", "content": "a\0b"}], "the content of message 0 contains a NUL"),
        ([{"role": "user", "content": "\ud800"}], "the content of message 0 is not valid Unicode"),
        ([{"role": "user", "content": [{"type": "text", "text": "a\0b"}]}], "the conversation contains a NUL"),
    ],
)
def test_messages_that_are_none(messages, said):
    with pytest.raises(ArgumentError, match=said) as error:
        render("{{ messages[0].content[0].text or messages[0].content }}", messages)
    error_line(error)


@pytest.mark.parametrize("tools", [["f"], [None], "tools", [TOOLS]])
def test_tools_that_are_none(tools):
    with pytest.raises(ArgumentError, match="each tool must be a mapping"):
        render("{{ tools|tojson }}", tools=tools)


def test_an_assistant_without_a_content():
    source = "{% for m in messages %}{{ m.content }}{{ m.tool_calls|length }}{{ m.content is defined }};{% endfor %}"
    calls = {"role": "assistant", "tool_calls": [CALL]}
    assert render(source, [{**calls, "content": None}, calls]) == "None1True;1False;"


def test_values_that_nest_too_deep():
    deep: list = []
    for _ in range(200):
        deep = [deep]
    deeper = [{"role": "user", "content": [{"type": "text", "text": deep}]}]
    with pytest.raises(ArgumentError, match=r"^x has lists in one another more than 100 deep"):
        render("{{ x }}", x=deep)
    with pytest.raises(ArgumentError, match=r"^messages has lists in one another more than 100 deep"):
        render("{{ x }}", deeper)
    deeper[0]["content"][0]["text"] = deeper  # in itself
    with pytest.raises(ArgumentError, match=r"^messages has lists"):
        render("{{ x }}", deeper)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("'Roles must alternate\\nuser/assistant'", "refuses the conversation: Roles must alternate user/assistant$"),
        ("'\\x1b[31mred\\x07'", r"conversation: \?\[31mred\?$"),
        ("'word ' * 10000", r"conversation: (word )+word?\.\.\.$|word \.\.\.$"),
        ("[1, none]", r"conversation: \[1, None\]$"),
    ],
)
def test_what_a_template_raises_is_the_caller_s_error(message, said):
    with pytest.raises(ArgumentError, match=said) as error:
        render("{{ raise_exception(" + message + ") }}")
    error_line(error)


# --- templates that are not sound -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("a\n\n{% for %}", "cannot be read at line 3: Expected an expression"),
        ("{{", "cannot be read at line 1: unexpected"),
        ("{% if x %}", "Unexpected end of template"),
        ("{{ 'a }}", "unexpected char"),
        ("{% nothing %}", "unknown tag 'nothing'"),
        ("{{ 'a'|nothing }}", "No filter named 'nothing'"),
        ("{{ 'a' is nothing }}", "No test named 'nothing'"),
        ("{{ 'a'|urlize }}", "No filter named 'urlize'"),
        ("{% break %}", "'break' outside loop"),
        ("{{ f(a=1, a=2) }}", "keyword argument repeated: a$"),
        ("{% block a %}{% endblock %}{% block a %}{% endblock %}", "block 'a' defined twice"),
        ("{% for a in b %}" * 21 + "{% endfor %}" * 21, "too many statically nested blocks$"),
        ("{{ " + "9" * 5000 + " }}", "cannot be read"),
        ("x" * 300_000, r"has 300000 characters \(at most 262144\)"),
        ("{{ 1 }}" * 2001, r"has 2001 statements \(at most 2000\)"),
        ("\n{{ nothing.at.all }}", "fails at line 2: 'nothing' is undefined"),
        ("{{ messages[0].content.role.x }}", "'str object' has no attribute 'role'"),
        ("{{ messages[0] + 'a' }}", "TypeError: unsupported operand"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ nothing() }}", "'nothing' is undefined"),
        ("{{ nothing|tojson }}", "Undefined is not JSON serializable"),
        ("{{ namespace()|tojson }}", "is not JSON serializable"),
        ("{% if true %}{{ 'a'|nothing }}{% endif %}", "No filter named 'nothing' found"),
        ("{{ raise_exception() }}", "missing 1 required positional argument"),
        ("{{ messages|indent }}", "indent needs a text, not a list"),
        ("{% set messages = 1 %}{% for m in messages %}{% endfor %}", "'int' object is not iterable"),
    ],
)
def test_a_template_that_fails(source, said):
    with pytest.raises(ModelError, match=said) as error:
        render(source)
    assert error_line(error).startswith("this model's chat template ")
