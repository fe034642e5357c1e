"""examples/desktop_chat.py under Xvfb: chats, stops, refusals and ends, by the events of its own widgets."""

import pytest

from chat_models import PLAIN_TEMPLATE, with_metadata
from desktop import Window, display
from maskprobe import Engine, Model, SamplingParams
from maskprobe.cli.conversation import Conversation

REFUSING = "{% if 'forbidden' in messages[-1].content %}{{ raise_exception('not\nsuch a word') }}{% endif %}"
LONG = "def add(a, b):"  # the answer goes on until the context is full
N_CTX, ROWS = 256, 8


@pytest.fixture(scope="module")
def screen():
    with display() as name:
        yield name


@pytest.fixture(scope="module")
def chat_model(bundled_model_path, tmp_path_factory):
    """The bundled model with a chat template, which refuses one word."""
    target = tmp_path_factory.mktemp("desktop") / "chat.gguf"
    return with_metadata(bundled_model_path, target, tokenizer__chat_template=REFUSING + PLAIN_TEMPLATE)


@pytest.fixture
def open_window(screen):
    """open_window(options): a window, gone after the test."""
    opened = []

    def open_one(*options: object, rows: int | str = "auto") -> Window:
        opened.append(Window(screen, *options, rows=rows))
        return opened[-1]

    yield open_one
    for window in opened:
        window.process.kill()
        window.process.communicate()


class Expected:
    """The same conversation without a window."""

    def __init__(self, path) -> None:
        self.model = Model(path, n_threads=1)
        self.engine = Engine(self.model, n_ctx=N_CTX, n_threads=1, rows=ROWS)
        self.plain = Engine(
            self.model, n_ctx=N_CTX, n_threads=1, proposer="none"
        )  # from which the other learns nothing
        self.talk = Conversation(self.model, N_CTX)

    def ask(self, message: str) -> tuple[list[tuple[str, bool]], int]:
        """The characters of the answer with whether they were drafted, and how many turns were left out."""
        prompt = self.talk.ask(message)
        text = "".join(token.text for token in self.plain.generate(prompt.tokens, SamplingParams(temp=0)))
        generation = self.engine.generate(prompt.tokens, SamplingParams(temp=0))
        found = [(c, token.from_draft and c != "\n") for token in generation for c in token.text]
        assert "".join(c for c, _ in found) == text
        self.talk.answered(text, generation.stats.tokens)
        return found, prompt.n_dropped


def test_a_chat_has_the_texts_of_plain_decoding_with_drafted_tokens_shaded(open_window, chat_model):
    window = open_window("-c", N_CTX, rows=ROWS)
    assert window.state() == "no model is open"
    window.tcl("set states {}; trace add execution .bottom.state enter {apply {{call _} {lappend ::states $call}}}")
    window.open(chat_model)
    window.until_idle()
    assert window.lines("note") == [f"chat.gguf, a context of {N_CTX} tokens"] and window.state() == "ready"
    assert "loading, 100%" in window.tcl("set states")
    expected = Expected(chat_model)
    for i, message in enumerate([LONG, "def one():\n    return", "class A:"]):
        answer, n_dropped = expected.ask(message)
        window.ask(message)
        assert window.answer() == answer
        assert 0 < sum(shaded for _, shaded in answer) < len(answer)
        assert n_dropped == (i > 0)
        assert len(window.lines("note")) == 1 + i
        assert window.state().startswith("the context is full: ")
        assert " tokens/s, " in window.state() and window.state().endswith(" tokens per pass")
    assert "reading: " in window.tcl("set states") and "answering: " in window.tcl("set states")
    window.tcl(".top.new invoke")
    window.until_idle()
    assert window.log() == ""
    window.ask("class A:")
    expected.talk.clear()
    assert window.answer() == expected.ask("class A:")[0]


@pytest.mark.parametrize("stop", [".row.stop invoke", "event generate .row.input <Escape>"], ids=["button", "key"])
def test_an_answer_is_stopped_and_the_chat_goes_on(open_window, chat_model, stop):
    window = open_window(chat_model)
    window.until_idle()
    window.tcl(f"proc watch {{}} {{ if {{[.log index end] > 5}} {{ {stop} }} else {{ after 1 watch }} }}; watch")
    window.type(LONG)
    window.tcl(".row.send invoke")
    assert window.tcl(".row.send instate disabled") == "1"
    window.until_idle()
    assert window.state().startswith("stopped: ")
    assert window.lines("error") == [] and window.input() == ""
    text = "".join(c for c, _ in window.answer())
    assert text
    window.tcl("proc watch {} {}")
    window.ask("x = 1")
    assert window.lines("message") == [LONG, "x = 1"]
    assert "".join(c for c, _ in window.answer())
    assert text in window.log()


def test_a_key_that_comes_while_the_window_is_busy_does_not_begin_a_second_job(open_window, chat_model):
    window = open_window(chat_model)
    window.until_idle()
    window.type(LONG)
    window.press("<Return>")
    window.type("and then?")
    for key in ("<Return>", "<Control-o>", "<Control-n>"):
        window.press(key)
    window.press("<Escape>")
    window.until_idle()
    assert window.lines("message") == [LONG] and window.input() == "and then?"
    window.press("<Shift-Return>")
    assert window.input() == "and then?\n"


def test_errors_are_lines_and_the_window_goes_on(open_window, chat_model, bundled_model_path, tmp_path):
    window = open_window(tmp_path / "missing.gguf", "-c", N_CTX)
    window.until_idle()
    assert "missing.gguf" in window.lines("error")[-1]
    window.ask("hello")
    assert "open one first" in window.lines("error")[-1] and window.input() == "hello"
    window.tcl(".row.input delete 1.0 end")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(chat_model.read_bytes()[:200_000])
    for path in (broken, bundled_model_path):  # the second has no chat template
        window.open(path)
        window.until_idle()
        assert window.state() == "no model is open"
    assert "template" in window.lines("error")[-1]
    window.open(chat_model)
    window.until_idle()
    assert window.state() == "ready"
    for message, said in (("forbidden", "such a word"), ("def add(a, b):\n" * N_CTX, f"has {N_CTX}")):
        window.ask(message)
        assert said in window.lines("error")[-1] and window.input() == message
        window.tcl(".row.input delete 1.0 end")
    window.open(broken)
    window.until_idle()
    assert len(window.lines("error")) == 7
    window.ask(LONG)  # of the model that was there
    assert window.answer() and len(window.lines("error")) == 7
    window.open("")  # the dialog was left without a choice
    assert window.tcl(".top.open instate !disabled") == "1"


def test_loading_is_given_up(open_window, chat_model):
    window = open_window()
    window.tcl(f'proc tk_getOpenFile args {{ return "{chat_model}" }}; .top.open invoke; .row.stop invoke')
    window.until_idle()
    assert window.state() == "no model is open" and window.lines("error") == []
    assert len(window.lines("note")) == 1
    window.open(chat_model)
    window.until_idle()
    assert window.state() == "ready"


@pytest.mark.parametrize("end", ["close", "signal"])
def test_the_process_ends_with_the_window_while_an_answer_runs(open_window, chat_model, end):
    window = open_window(chat_model)
    window.until_idle()
    close = "eval [wm protocol . WM_DELETE_WINDOW]" if end == "close" else f"exec kill -TERM {window.process.pid}"
    window.tcl(f"proc watch {{}} {{ if {{[.log index end] > 5}} {{ {close} }} else {{ after 1 watch }} }}; watch")
    window.type(LONG)
    window.press("<Return>")
    assert window.ended() == (0, "")


def test_without_a_display_one_line_says_so(screen):
    window = Window("")
    status, errors = window.ended()
    assert status == 1 and errors.startswith("no window can be opened: ") and errors.count("\n") == 1
