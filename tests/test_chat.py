"""maskprobe-chat with turns from a pipe: answers, commands, files, what is refused."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from chat_models import PLAIN_TEMPLATE, with_metadata
from chat_process import COMMAND, chat, errors, log_lines
from maskprobe import Model
from maskprobe.cli import chat as command
from maskprobe.cli import conversation_file
from maskprobe.cli.terminal import DRAFTED
from maskprobe.errors import ArgumentError

SHORT = ("-n", 8, "--temp", 0)


@pytest.fixture(scope="module")
def model_path(bundled_model_path, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("chat") / "talks.gguf"
    return with_metadata(bundled_model_path, path, tokenizer__chat_template=PLAIN_TEMPLATE)


@pytest.fixture
def talk(model_path, capfd, monkeypatch):
    """talk(turns, options): answers, log lines and exit status of a chat in this process."""

    def run(turns: str | bytes, *options: object) -> tuple[str, list[str], int]:
        reader, writer = os.pipe()
        data = turns.encode() if isinstance(turns, str) else turns
        assert len(data) < 60000  # a pipe holds as much
        os.write(writer, data)
        os.close(writer)
        with os.fdopen(reader) as stdin, monkeypatch.context() as patch:
            patch.setattr("sys.stdin", stdin)
            status = command.main([*map(str, ("-t", 1, "-m", model_path, *options))])
        seen = capfd.readouterr()
        return seen.out, log_lines(seen.err.encode()), status

    return run


def refused(lines: list[str]) -> list[str]:
    return [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]


# --- turns ------------------------------------------------------------------------------------------------------------


def test_each_line_is_a_turn_and_answers_alone_go_to_standard_output(model_path, tmp_path):
    done = chat("-m", model_path, *SHORT, "--save", tmp_path / "talk.json", turns="def one():\n\n  \ndef two():")
    assert done.returncode == 0
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert [m["role"] for m in saved["messages"]] == ["user", "assistant"] * 2
    assert [m["content"] for m in saved["messages"][::2]] == ["def one():", "def two():"]
    answers = [m["content"] for m in saved["messages"][1::2]]
    assert done.stdout.decode() == "".join(a if a.endswith("\n") else a + "\n" for a in answers)
    status = log_lines(done.stderr)
    assert len(status) == 2 and all("prompt tokens from the cache" in line for line in status)


def test_the_second_turn_takes_the_first_from_the_cache(talk):
    _, lines, _ = talk("def one():\ndef two():\ndef three():\n", *SHORT)
    n_known = 0
    for line in lines:
        words = line.split()
        reused, n_prompt = (int(words[words.index("of") + i]) for i in (-1, 1))
        assert reused >= n_known - 1
        n_known = n_prompt + int(words[0])


@pytest.mark.parametrize(
    ("turns", "messages"),
    [
        ("one\\\ntwo\n", ["one\ntwo"]),
        ("one\\\n\\\nthree", ["one\n\nthree"]),
        ("one\\\n", ["one"]),
        ("one\\", ["one"]),
        ("one\r\ntwo\r\n", ["one", "two"]),
        ("//help\n", ["/help"]),
        ("//\n", ["/"]),
        (" /help\n", [" /help"]),
        ("größe\n", ["größe"]),
        ("one\n/quit\ntwo\n", ["one"]),
        ("one\n/exit\ntwo\n", ["one"]),
        ("one\n/undo\ntwo\n", ["two"]),
        ("one\n/clear\ntwo\n", ["two"]),
        ("one\ntwo\n/regen\n", ["one", "two"]),
    ],
)
def test_what_becomes_a_message(turns, messages, talk, tmp_path):
    _, lines, status = talk(turns, *SHORT, "--save", tmp_path / "talk.json")
    assert status == 0, lines
    saved = json.loads((tmp_path / "talk.json").read_text())["messages"]
    assert [m["content"] for m in saved if m["role"] == "user"] == messages
    assert len(saved) == 2 * len(messages)


def test_the_first_message_comes_from_an_option(talk, tmp_path):
    file = tmp_path / "first.txt"
    file.write_text("/from a file\n")
    for option, first in ((("-p", r"one\ttwo"), "one\ttwo"), (("-f", file), "/from a file"), (("-p", "-"), "def\nend")):
        talk("def\nend\n", *SHORT, *option, "--save", tmp_path / "talk.json", "-sys", "be short")
        saved = json.loads((tmp_path / "talk.json").read_text())["messages"]
        assert [m["content"] for m in saved[:2]] == ["be short", first]


def test_drafted_tokens_are_shown_on_request_only(talk):
    turns = "x = 1\nx = 1\nx = 1\n"
    shown = {color: talk(turns, "-n", 40, "--temp", 0, *color)[0] for color in ((), ("--color", "on"))}
    assert DRAFTED not in shown[()] and DRAFTED in shown["--color", "on"]


def test_answers_follow_a_grammar_and_end_at_stop_texts(talk):
    assert talk("x\ny\n", "--grammar", 'root ::= "one two"')[0] == "one two\none two\n"
    assert talk("x\ny\n", "--grammar", 'root ::= "one two"', "-r", " t")[0] == "one\none\n"


def test_an_answer_again_is_another_one(talk, tmp_path):
    """With a seed given, which makes the whole chat repeatable."""
    turns, options = "def\n/regen\n/regen\n", ("-n", 20, "--temp", 2, "--seed", 3)
    answers = talk(turns, *options)[0]
    assert talk(turns, *options)[0] == answers
    talk("def\n", *options, "--save", tmp_path / "one.json")
    first = json.loads((tmp_path / "one.json").read_text())["messages"][1]["content"]
    assert answers.startswith(first) and not answers.removeprefix(first).lstrip("\n").startswith(first)
    _, lines, _ = talk("def\n/regen\n", *SHORT)
    assert any("temperature is 0" in line for line in lines)


# --- the context ------------------------------------------------------------------------------------------------------


def test_the_oldest_turns_are_dropped_and_that_is_said(talk):
    turns = "".join(f"x_{i} = {i}\n" for i in range(12))
    _, lines, status = talk(turns, "-c", 256, "-n", 16, "--temp", 0, "--ignore-eos")
    assert status == 0
    said = [line for line in lines if "oldest turn" in line]
    assert said and all("256 tokens" in line and "-c" in line for line in said)


def test_a_message_that_does_not_fit_is_one_line_and_the_chat_goes_on(talk):
    answers, lines, status = talk("x = 1 " * 500 + "\ndef one():\n", "-c", 256, *SHORT)
    assert status == 1 and answers.count("\n") >= 1
    (line,) = refused(lines)
    assert "256" in line and "shorten" in line


def test_an_answer_that_fills_the_context_ends_and_the_chat_goes_on(talk):
    _, lines, status = talk("x\ny\n", "-c", 256, "--temp", 0, "--ignore-eos")
    assert status == 0
    assert sum("256 tokens is full" in line for line in lines) == 2
    assert sum("oldest turn" in line for line in lines) == 1


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        ("/foo\n", "/foo"),
        ("/\n", "//"),
        ("/HELP\n", "/HELP"),
        ("/clear all\n", "takes no argument"),
        ("/quit now\n", "takes no argument"),
        ("/save\n", "needs an argument"),
        ("/load\n", "needs an argument"),
        ("/read\n", "needs an argument"),
        ("/temp warm\n", "must be a number"),
        ("/temp -1\n", "at least 0"),
        ("/temp nan\n", "must be a number"),
        ("/temp 1e40\n", "too large"),
        ("/undo\n", "no turn"),
        ("/regen\n", "no message"),
        ("/load no-such-file\n", "No such file"),
        ("/load .\n", "is a directory"),
        ("/load /dev/zero\n", "no plain file"),
        ("/load a\x01b\n", r"a\x01b"),
        ("/load ~nobody-of-this-name/x\n", "no such user"),
        ("/read no-such-file\n", "No such file"),
        ("/read /dev/zero\n", "no plain file"),
        ("/save .\n", "is a directory"),
        ("/save -\n", "give a file"),
        ("/save no/such/folder/x\n", "no directory"),
        ("/save /dev/null\n", "no plain file"),
        ("/save " + "x" * 300 + "\n", "too long"),
        (b"\xff\xfe\n", "not UTF-8"),
        (b"a\0b\n", "NUL"),
    ],
)
def test_what_is_refused_is_one_line_and_the_chat_goes_on(turns, said, talk):
    turns = turns.encode() if isinstance(turns, str) else turns
    answers, lines, status = talk(turns + b"/temp 0.5\nx\n", *SHORT)
    (line,) = refused(lines)
    assert said in line and status == 1
    assert "temperature: 0.5" in lines and answers


def test_help_lists_every_command(talk):
    from maskprobe.cli.chat_commands import COMMANDS

    _, lines, status = talk("/help\n")
    assert status == 0 and [line.split()[0] for line in lines] == list(COMMANDS)


def test_the_system_text(talk, tmp_path):
    path = tmp_path / "talk.json"
    _, lines, _ = talk(f'/system\n/system be\\\nshort\n/system\nx\n/save {path}\n/system ""\n/system\n', *SHORT)
    assert lines[0] == "there is no system text" and lines[-1] == lines[0]
    assert "system text: be" in lines and "short" in lines
    assert json.loads(path.read_text())["messages"][0] == {"role": "system", "content": "be\nshort"}


def test_statistics_are_of_all_answers(talk):
    _, lines, _ = talk("/stats\nx = 1\nx = 1\n/stats\n", "-n", 10, "--temp", 0, "--ignore-eos")
    found = [line.split(maxsplit=1) for line in lines]
    assert ["answers", "0"] in found and ["answers", "2"] in found
    (tokens,) = [value for name, value in found if name == "tokens" and value != "0"]
    assert tokens.startswith("20, ")


def test_a_file_goes_before_the_next_message(talk, tmp_path):
    file, path = tmp_path / "code.py", tmp_path / "talk.json"
    file.write_text("x = 1\n")
    talk(f"/read {file}\n/read {file}\nwhat is x?\nand y?\n", *SHORT, "--save", path)
    users = [m["content"] for m in json.loads(path.read_text())["messages"] if m["role"] == "user"]
    assert users == ["x = 1\n\nx = 1\n\nwhat is x?", "and y?"]


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_conversation_is_saved_and_taken_up(talk, tmp_path):
    path = tmp_path / "a file.json"
    talk(f"x = 1\ny = 2\n/save {path}\n", *SHORT, "-sys", "be short", "-l", "100-inf")
    saved = json.loads(path.read_text())
    assert saved["model"] == "talks.gguf" and saved["sampling"]["temp"] == 0
    assert saved["sampling"]["logit_bias"] == {"100": False}
    again = tmp_path / "again.json"
    for turns, options in ((f"/load {path}\n/save {again}\n", ()), (f"/save {again}\n", ("--load", path))):
        _, lines, status = talk(turns, *SHORT, *options)
        assert status == 0 and "5 messages; the sampling stays as it is" in lines
        assert json.loads(again.read_text())["messages"] == saved["messages"]
        again.unlink()


def test_a_message_without_an_answer_is_answered_again(talk, tmp_path):
    path = tmp_path / "talk.json"
    path.write_text('[{"role": "user", "content": "x = 1"}]')
    answers, lines, _ = talk(f"/load {path}\n/regen\n/save {path}\n", *SHORT)
    assert answers and "/regen" in lines[0]
    assert [m["role"] for m in json.loads(path.read_text())["messages"]] == ["user", "assistant"]


def test_no_model_and_no_state_is_overwritten(talk, model_path, tmp_path):
    model = tmp_path / "model.gguf"
    model.write_bytes(model_path.read_bytes())
    state = tmp_path / "x.state"
    state.write_bytes(b'{"maskprobe_state": 1}\n')
    first = tmp_path / "first.txt"
    first.write_text("x = 1")
    before = {path: path.read_bytes() for path in (model, state, first, model_path)}
    turns = "".join(f"/save {path}\n" for path in before)
    _, lines, _ = talk(turns, *SHORT, "-f", first)
    assert len(refused(lines)) == len(before)
    assert all(path.read_bytes() == data for path, data in before.items())
    assert sorted(tmp_path.iterdir()) == sorted([model, state, first])


TEXT = {"role": "user", "content": "x"}
BAD_FILES = {
    "": "not JSON",
    "{": "not JSON",
    "NaN": "NaN",
    "1": "a number",
    '"text"': "text",
    "null": "null",
    "{}": 'no "messages"',
    '{"messages": 1}': "must be a list",
    '{"maskprobe_chat": 2, "messages": []}': "version 2",
    '{"maskprobe_chat": true, "messages": []}': "version true",
    '{"model": 1, "messages": []}': '"model"',
    '{"sampling": [], "messages": []}': '"sampling"',
    "[1]": "message 0 must be an object",
    '[{"content": "x"}]': 'message 0 has no "role"',
    '[{"role": "user"}]': 'message 0 has no "content"',
    '[{"role": 1, "content": "x"}]': '"role" must be text',
    '[{"role": "user", "content": ["x"]}]': '"content" must be text',
    '[{"role": "", "content": "x"}]': "the role ''",
    '[{"role": "a\\nb", "content": "x"}]': "the role",
    '[{"role": "user", "content": "a\\u0000b"}]': "NUL",
    '[{"role": "user", "content": "a\\ud800b"}]': "half of a character",
    '[{"role": "user", "content": "x", "more": ["\\udc00"]}]': "half of a character",
    json.dumps([TEXT, {"role": "system", "content": "x"}]): "message 1 is a system message",
    "[" * 100000: "nested too deeply",
    "9" * 5000: "a number of 5000 digits",
}


@pytest.mark.parametrize("text", BAD_FILES, ids=lambda text: text[:40])
def test_a_file_that_is_no_conversation_is_refused_in_one_line(text, tmp_path):
    path = tmp_path / "talk.json"
    path.write_text(text)
    with pytest.raises(ArgumentError) as error:
        conversation_file.read(path)
    message = str(error.value)
    assert BAD_FILES[text] in message and "talk.json" in message and "\n" not in message


def test_a_refused_file_leaves_the_conversation_as_it_was(talk, tmp_path):
    bad, path = tmp_path / "bad.json", tmp_path / "talk.json"
    bad.write_bytes(b"[\xff]")
    _, lines, status = talk(f"x = 1\n/load {bad}\n/save {path}\n", *SHORT)
    assert status == 1 and "not UTF-8" in refused(lines)[0]
    assert len(json.loads(path.read_text())["messages"]) == 2


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--load", "no-such-file"), "--load"),
        (("--save", "."), "--save"),
        (("--chat-template-kwargs", "{"), "--chat-template-kwargs"),
        (("--chat-template-kwargs", "1"), "--chat-template-kwargs"),
        (("--chat-template-kwargs", '{"no_such_variable": 1}'), "--chat-template-kwargs"),
        (("-sys", ""), "-sys"),
        (("-n", "-2"), "-n"),
        (("--rows", "4", "--state", "x"), "--state"),
        (("-f", "no-such-file"), "-f/--file"),
        (("--compare",), "--compare"),
    ],
)
def test_a_wrong_option_is_named(options, named, talk, capfd):
    with pytest.raises(SystemExit) as ended:
        talk("x\n", *options)
    assert ended.value.code == 2
    assert f"{named}" in capfd.readouterr().err.splitlines()[0]


def test_a_model_without_a_template_is_refused(bundled_model_path):
    done = chat("-m", bundled_model_path, turns="x\n")
    assert done.returncode == 1 and done.stdout == b""
    (line,) = errors(done.stderr)
    assert "chat template" in line


# --- how it ends ------------------------------------------------------------------------------------------------------


def test_closed_standard_output_is_one_line(model_path):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*COMMAND, "-m", model_path], input=b"x\ny\n", stdout=writer, stderr=subprocess.PIPE, timeout=300
    )
    os.close(writer)
    assert done.returncode == 1
    (line,) = errors(done.stderr)
    assert "standard output" in line


@pytest.mark.parametrize("is_answering", [False, True])
def test_a_signal_ends_it_cleanly(is_answering, model_path, tmp_path):
    """What was said by then is in the file."""
    path = tmp_path / "talk.json"
    options = ("-m", model_path, "--save", path, "--ignore-eos", *(() if is_answering else ("-n", "8")))
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([*COMMAND, *map(str, options)], **streams) as process:
        process.stdin.write(b"x = 1\n")
        process.stdin.flush()
        os.read(process.stdout.fileno(), 1)
        while not (is_answering or path.exists()):
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM and b"Traceback" not in log and not errors(log)
    user, answer = json.loads(path.read_text())["messages"]
    assert user["content"] == "x = 1" and answer["content"]


def test_the_messages_are_those_of_the_library(model_path, talk, tmp_path):
    """A saved conversation can be given to Model.chat_format as it is."""
    path = tmp_path / "talk.json"
    talk(f"x = 1\n/save {path}\n", *SHORT)
    with Model(model_path, n_threads=1) as model:
        assert "x = 1" in model.chat_format(json.loads(path.read_text())["messages"])
