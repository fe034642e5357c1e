"""maskprobe-chat on a terminal: the editor, Ctrl-C and Ctrl-D, what goes where."""

import json
import os
import signal
import stat
from pathlib import Path

import pytest

from chat_models import PLAIN_TEMPLATE, with_metadata
from chat_process import Terminal

pytest.importorskip("prompt_toolkit")

INPUT = ">[\x08 ]"  # the editor leaves out the space and moves the cursor instead
READY = f"/help lists the commands.*{INPUT}"
LINE = "[\r\n]+"
CACHED = "from the cache"
ANSWERED = f"{CACHED}[^\n]*\n.*{INPUT}"
ENDLESS = ("-c", 8192, "--ignore-eos", "--propose", "none")
UP = "\x1b[A"


@pytest.fixture(scope="module")
def model_path(bundled_model_path, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("chat") / "talks.gguf"
    return with_metadata(bundled_model_path, path, tokenizer__chat_template=PLAIN_TEMPLATE)


@pytest.fixture
def terminal(model_path):
    """terminal(options): a chat that waits for its first message."""
    opened: list[Terminal] = []

    def start(*options: object, **settings) -> Terminal:
        opened.append(Terminal("-m", model_path, "--temp", 0, *options, **settings))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def messages(path: Path) -> list[str]:
    return [message["content"] for message in json.loads(path.read_text())["messages"]]


def test_lines_commands_and_completion(terminal, tmp_path):
    path = tmp_path / "talk.json"
    chat = terminal("-n", 4, "--save", path)
    chat.until(READY)
    chat.type("one\\\rtwo\x1b\rthree \x1b[200~four\nfive\x1b[201~\r")  # a backslash, Alt-Enter, paste
    chat.until(ANSWERED)
    assert messages(path)[0] == "one\ntwo\nthree four\nfive"
    chat.type("/he\t")
    chat.until("/help")
    chat.type("\r")
    assert "take back the last message" in chat.until(f"/exit.*{INPUT}")
    chat.type("/foo\r")
    assert "there is no command /foo" in chat.until(f"/help lists them.*{INPUT}")
    chat.type("\x04")
    assert chat.ended() == 0


def test_inputs_are_remembered_for_the_user_only(terminal, tmp_path):
    env = {"MASKPROBE_STATE_DIR": str(tmp_path / "states")}
    for first in (True, False):
        chat = terminal("-n", 4, env=env)
        chat.until(READY)
        if first:
            chat.type("x_17 = 1")
        else:
            chat.press_until(UP, "x_17")  # what was typed before is read while the editor is there already
        chat.type("\r")
        chat.until(ANSWERED)
        chat.type("/quit\r")
        assert chat.ended() == 0
    history = tmp_path / "states" / "chat-history"
    assert "x_17" in history.read_text() and stat.S_IMODE(history.stat().st_mode) == 0o600


def test_a_history_that_cannot_be_kept_is_no_failure(terminal, tmp_path):
    (tmp_path / "states").write_text("a file where a folder is wanted")
    chat = terminal("-n", 4, "--no-state", env={"MASKPROBE_STATE_DIR": str(tmp_path / "states")})
    chat.until(READY)
    chat.type("x = 1\r")
    chat.until(ANSWERED)
    chat.type("\x04")
    assert chat.ended() == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(terminal, tmp_path):
    """Pressed more than once too. What was said stays in the conversation, which goes on."""
    path = tmp_path / "talk.json"
    chat = terminal(*ENDLESS, "--save", path)
    chat.until(READY)
    chat.type("x = 1\r")
    chat.until(f"x = 1{LINE}.{{100}}")
    chat.type("\x03\x03")
    assert "stopped" in chat.until(ANSWERED)
    first = messages(path)
    assert len(first) == 2 and len(first[1]) > 50
    chat.type("y = 2\r")
    chat.until(f"y = 2{LINE}.{{100}}")
    chat.type("\x03")
    chat.until(ANSWERED)
    assert messages(path)[:3] == [*first, "y = 2"]
    chat.type("\x04")
    assert chat.ended() == 0


def test_ctrl_c_at_an_empty_input_gives_a_hint_and_ends_the_second_time(terminal):
    chat = terminal()
    chat.until(READY)
    chat.type("\x03")
    chat.until(f"Ctrl-C once more ends.*{INPUT}")
    chat.type("typed in between")
    chat.until("between")
    chat.type("\x03")  # gives up what was typed, and counts for nothing
    chat.until(INPUT)
    chat.type("\x03")
    chat.until(f"Ctrl-C once more ends.*{INPUT}")
    chat.type("\x03")
    assert chat.ended() == 130


def test_a_message_that_does_not_fit_comes_back(terminal, tmp_path):
    path = tmp_path / "talk.json"
    chat = terminal("-c", 256, "-n", 4, "--save", path)
    chat.until(READY)
    chat.type("//" + "x = 1 " * 200 + "\r")
    chat.until("shorten the message.*x = 1 \x08?")
    chat.type("\x01\x0bshort\r")  # to its beginning, all after it away
    chat.until(CACHED)
    assert messages(path)[0] == "short"


@pytest.mark.parametrize("is_answering", [False, True])
def test_sigterm_leaves_a_terminal_that_works(terminal, is_answering):
    chat = terminal(*ENDLESS)
    chat.until(READY)
    if is_answering:
        chat.type("x = 1\r")
        chat.until(f"x = 1{LINE}.{{50}}")
    chat.process.send_signal(signal.SIGTERM)
    assert chat.ended() == 128 + signal.SIGTERM
    assert chat.seen.rindex(b"\x1b[?2004l") > chat.seen.rindex(b"\x1b[?2004h")  # bracketed paste is off again


def test_answers_go_to_a_pipe_and_the_editor_stays_on_the_terminal(terminal):
    reader, writer = os.pipe()
    chat = terminal("-n", 8, stdout=writer)
    os.close(writer)
    chat.until(READY)
    chat.type("x = 1\r")
    chat.until(ANSWERED)
    chat.type("/help\r")
    chat.until(f"/exit.*{INPUT}")
    chat.type("\x04")
    assert chat.ended() == 0
    with os.fdopen(reader, "rb") as answers:
        found = answers.read()
    assert found.endswith(b"\n") and b"/exit" not in found and b"\x1b" not in found


@pytest.mark.parametrize("reason", ["no prompt_toolkit", "a dumb terminal"])
def test_without_the_editor_lines_are_read(reason, terminal, tmp_path):
    (tmp_path / "prompt_toolkit.py").write_text("raise ImportError('not here')")
    env = {"PYTHONPATH": str(tmp_path)} if reason == "no prompt_toolkit" else {"TERM": "dumb"}
    chat = terminal("-n", 4, env=env)
    before = chat.until(READY)
    assert ("maskprobe[chat]" in before) == (reason == "no prompt_toolkit")
    chat.type("x = 1\n")
    chat.until(ANSWERED)
    chat.type("\x03")
    chat.until(f"Ctrl-C once more ends.*{INPUT}")
    chat.type("\x04")
    assert chat.ended() == 0
