"""maskprobe-run as a user meets it: a process with two streams, an exit status and Ctrl-C."""

import argparse
import fcntl
import json
import os
import pty
import re
import signal
import stat
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

import random_gguf
from fakes import FakeSession
from maskprobe import Cancelled, bundled_models
from maskprobe.cli import build, compare, run, terminal
from maskprobe.cli.terminal import DRAFTED, RESET, Completion
from maskprobe.proposers import Proposer
from test_hub import COMMIT, REPO, FakeHub

# One thread: where tests run side by side, two wait for each other.
COMMAND = [sys.executable, "-m", "maskprobe.cli.run", "-t", "1"]
TIMEOUT_S = 300
CHATML = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def tiny(tiny_model_path) -> Path:
    """With a context that a test does not come to the end of by chance."""
    return tiny_model_path("tiny-llama", n_ctx=65536)


@pytest.fixture(scope="module")
def tiny_chat(tmp_path_factory) -> Path:
    """The same with a chat template."""
    return write_chat_model(tmp_path_factory.mktemp("models"), CHATML)


def write_chat_model(folder: Path, template: str) -> Path:
    plain = random_gguf.write_vocabulary
    with pytest.MonkeyPatch.context() as patch:

        def with_template(writer, *rest):
            plain(writer, *rest)
            writer.add_chat_template(template)

        patch.setattr(random_gguf, "write_vocabulary", with_template)
        return random_gguf.write_random_gguf(folder / "chat.gguf", "tiny-llama")


def command(*args: object, stdin: bytes = b"", **settings) -> subprocess.CompletedProcess:
    """A command that ran to its end."""
    done = subprocess.run([*COMMAND, *map(str, args)], input=stdin, capture_output=True, timeout=TIMEOUT_S, **settings)
    assert b"Traceback" not in done.stderr
    return done


def start(*args: object, **settings) -> subprocess.Popen:
    """A running command that gets SIGINT, even where the tests run in the background."""
    return subprocess.Popen(
        [*COMMAND, *map(str, args)],
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **settings,
    )


def one_error_line(stderr: bytes) -> str:
    lines = [line for line in stderr.decode().splitlines() if "error:" in line]
    assert len(lines) == 1, stderr.decode()
    assert lines[0].startswith("maskprobe-run: error: ")
    return lines[0]


def with_stats(tmp_path: Path, *args: object, **settings) -> tuple[dict, bytes]:
    """Statistics and standard output of a run that succeeds."""
    path = tmp_path / "stats.json"
    done = command("--stats-json", path, *args, **settings)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(path.read_text()), done.stdout


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_bundled_model_by_name_and_by_path(bundled_model_path):
    path = bundled_model_path
    for model in (path.stem, path):
        done = command("-m", model, "-p", "def ", "-n", 8, "--seed", 1)
        assert done.returncode == 0
        assert done.stdout
        assert f"model:      {path.name}, loaded" in done.stderr.decode()


def test_stdout_carries_the_completion_only(tiny):
    done = command("-m", tiny, "-p", "def f(x):", "-n", 20, "--seed", 1, "--no-display-prompt")
    shown = command("-m", tiny, "-p", "def f(x):", "-n", 20, "--seed", 1, "--display-prompt")
    assert done.returncode == shown.returncode == 0
    assert done.stdout
    assert shown.stdout == b"def f(x):" + done.stdout
    names = [line.partition(":")[0] for line in done.stderr.decode().splitlines()]
    assert names == ["model", "kernels", "prompt", "generation", "passes", "accepted", "drafts", "finished"]


def test_prompt_sources_agree(tiny, tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_bytes("naïve\tline\nnext\n".encode())
    same = ("-m", tiny, "-n", 12, "--seed", 5)
    by_option = command(*same, "-p", r"naïve\tline\nnext")
    assert by_option.returncode == 0
    assert command(*same, "-f", file).stdout == by_option.stdout
    assert command(*same, "-p", "-", stdin=file.read_bytes()).stdout == by_option.stdout


def test_escapes(tiny, tmp_path):
    run_it = ("-m", tiny, "-n", 1)
    read, _ = with_stats(tmp_path, *run_it, "-p", r"\x41\n\\")
    assert read["n_prompt"] == with_stats(tmp_path, *run_it, "-p", "-", stdin=b"A\n\\")[0]["n_prompt"]
    literal, _ = with_stats(tmp_path, *run_it, "-p", r"\x41\n\\", "--no-escape")
    file = tmp_path / "prompt.txt"
    file.write_text(r"\x41\n\\")
    assert literal["n_prompt"] == with_stats(tmp_path, *run_it, "-f", file)[0]["n_prompt"]
    assert literal["n_prompt"] > read["n_prompt"]


def test_stats_json(tiny, tmp_path):
    esp = ("--propose", "esp", "--tree", "7,2")
    stats, _ = with_stats(tmp_path, "-m", tiny, "-p", "def ", "-n", 30, "--seed", 3, *esp, "--ignore-eos")
    assert stats["model"] == str(tiny)
    assert (stats["propose"], stats["tree"], stats["seed"]) == ("esp", "7,2", 3)
    assert "accepted_by" not in stats
    assert stats["n_gen"] == len(stats["tokens"]) == 30
    assert sum(stats["accept_hist"]) == stats["passes"]
    assert stats["tokens_per_pass"] == pytest.approx(30 / stats["passes"])
    assert stats["rows_per_pass"] == pytest.approx(stats["rows"] / stats["passes"])
    assert stats["finish_reason"] == "length"
    assert min(stats["load_ms"], stats["prompt_ms"], stats["gen_ms"]) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["stats.json"]


def test_help_that_is_cut_short():
    script = ["sh", "-c", '"$@" | head -n 1', "sh"]
    done = subprocess.run([*script, *COMMAND, "--help"], capture_output=True, timeout=TIMEOUT_S)
    assert done.stdout.startswith(b"usage: maskprobe-run ")
    assert b"Exception" not in done.stderr


def test_stats_json_through_a_link_and_to_a_device(tiny, tmp_path):
    target, link = tmp_path / "real.json", tmp_path / "link.json"
    link.symlink_to(target)
    for path in (link, "/dev/null"):
        assert command("-m", tiny, "-p", "x", "-n", 1, "--stats-json", path).returncode == 0
    assert link.is_symlink()
    assert json.loads(target.read_text())["n_gen"] == 1
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_random_seed_is_told_and_repeats_the_run(tiny, tmp_path):
    first, text = with_stats(tmp_path, "-m", tiny, "-p", "x", "-n", 16)
    again, same_text = with_stats(tmp_path, "-m", tiny, "-p", "x", "-n", 16, "--seed", first["seed"])
    assert again["tokens"] == first["tokens"]
    assert same_text == text


def test_nothing_to_generate(tiny, tmp_path):
    stats, text = with_stats(tmp_path, "-m", tiny, "-p", "x", "-n", 0)
    assert (text, stats["n_gen"], stats["finish_reason"]) == (b"", 0, "length")


def test_reverse_prompt_stops_and_is_not_printed(tiny, tmp_path):
    greedy = ("-m", tiny, "-p", "def ", "--temp", 0, "-n", 40, "--ignore-eos")
    _, whole = with_stats(tmp_path, *greedy)
    text = whole.decode()
    stop = text[5:8]
    stats, cut = with_stats(tmp_path, *greedy, "-r", stop, "--no-escape")
    assert cut.decode() == text[: text.index(stop)]
    assert stats["finish_reason"] == "stop"


def test_logit_bias(tiny, tmp_path):
    greedy = ("-m", tiny, "-p", "def ", "--temp", 0, "-n", 1)
    first = with_stats(tmp_path, *greedy)[0]["tokens"][0]
    other = (first + 1) % 300 + 20
    for never in (f"{first}-inf", f"{first}=false"):
        assert with_stats(tmp_path, *greedy, "-l", never)[0]["tokens"][0] != first
    assert with_stats(tmp_path, *greedy, "-l", f"{other}+60.5", "-l", f"{other}+60")[0]["tokens"] == [other]


def test_grammar_and_schema(tiny, tmp_path):
    grammar = tmp_path / "grammar.gbnf"
    grammar.write_text('root ::= "yes" | "no"\n')
    schema = tmp_path / "schema.json"
    schema.write_text('{"enum": ["red", "blue"]}')
    run_it = ("-m", tiny, "-p", "x", "-n", 30)
    assert command(*run_it, "--grammar", 'root ::= "yes" | "no"').stdout in (b"yes", b"no")
    assert command(*run_it, "--grammar-file", grammar).stdout in (b"yes", b"no")
    assert command(*run_it, "-j", '{"type": "boolean"}').stdout.strip() in (b"true", b"false")
    assert command(*run_it, "-jf", schema).stdout.strip() in (b'"red"', b'"blue"')


def test_chat_template(tiny, tiny_chat, tmp_path):
    done = command("-m", tiny_chat, "-p", "hi", "-sys", r"be\tbrief", "-n", 1, "--display-prompt")
    assert done.returncode == 0
    assert done.stdout.decode().startswith(
        "<|im_start|>system\nbe\tbrief<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    for arguments in ([], ["-st"]):  # a model that has a template is asked in it
        done = command("-m", tiny_chat, "-p", "hi", *arguments, "-n", 1, "--display-prompt")
        assert done.stdout.decode().startswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
    file = tmp_path / "prompt.txt"
    file.write_text("hi")
    by_file = command("-m", tiny_chat, "-f", file, "-n", 1, "--display-prompt")
    assert by_file.stdout.decode().startswith("<|im_start|>user\nhi<|im_end|>")
    raw = command("-m", tiny_chat, "-p", "hi", "-no-cnv", "-n", 1, "--display-prompt")
    assert raw.returncode == 0
    assert raw.stdout.startswith(b"hi") and b"<|im_start|>" not in raw.stdout
    without = command("-m", tiny, "-p", "hi", "-st", "-n", 1)
    assert without.returncode == 1
    assert "template" in one_error_line(without.stderr)


def test_chat_template_that_llama_cpp_does_not_know(tmp_path):
    unknown = write_chat_model(tmp_path, "{{ messages[0].content | upper }}")
    done = command("-m", unknown, "-p", "hi", "-n", 1, "--display-prompt")
    assert done.returncode == 0
    assert done.stdout.startswith(b"hi")
    (line,) = [line for line in done.stderr.decode().splitlines() if line.startswith("maskprobe-run: ")]
    assert "does not know" in line and "-no-cnv" in line
    asked = command("-m", unknown, "-p", "hi", "-n", 1, "-st")
    assert asked.returncode == 1
    assert "does not know" in one_error_line(asked.stderr)


@pytest.mark.parametrize("begins", [True, False])
def test_begin_of_text_is_not_doubled(begins, tiny_chat, monkeypatch):
    """Whether the template writes it or leaves it to the tokenizer."""
    with build.Model(tiny_chat, n_threads=1) as model:
        begin = model.token_bytes(model.info.token_bos, special=True).decode()
        monkeypatch.setattr(build.Model, "chat_format", lambda *_: begin * begins + "hi")
        parser = run.setup_arg_parser()
        tokens, _ = build.prompt_tokens(parser.parse_args(["-p", "hi"]), parser, model, None, "hi")
        assert model.info.add_bos
        assert tokens.count(model.info.token_bos) == 1
        assert tokens == model.tokenize("hi", add_special=True)


def test_devices_and_version():
    devices = command("--list-devices")
    assert devices.returncode == 0
    assert b"CPU: " in devices.stdout
    version = command("--version")
    assert version.returncode == 0
    assert re.match(rb"maskprobe \d+\.\d+\.\d+, llama-cpp-python 0\.3\.36\n", version.stdout)
    assert version.stderr == b""


def test_model_from_the_hub(tiny, tmp_path):
    server = FakeHub([])
    server.files = {"tiny-F32.gguf": tiny.read_bytes()}
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    env = {**os.environ, "HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path)}
    try:
        done = command("-hf", f"{REPO}:f32", "-p", "x", "-n", 1, env=env)
        assert done.returncode == 0, done.stderr
        assert COMMIT.encode() not in done.stderr
        missing = command("-hf", "someone/missing", "-p", "x", env=env)
    finally:
        server.shutdown()
        server.server_close()
    assert missing.returncode == 1
    assert "there is no repository someone/missing" in one_error_line(missing.stderr)


def test_on_a_terminal(tiny):
    """Both streams on a terminal: colours, the block drawn, a line break at the end of the completion."""
    leader, follower = pty.openpty()
    with subprocess.Popen([*COMMAND, "-m", tiny, "-p", "x", "-n", "4"], stdout=follower, stderr=follower) as process:
        os.close(follower)
        seen = b""
        while True:
            try:
                data = os.read(leader, 4096)
            except OSError:  # Linux says so at the end
                break
            if not data:
                break
            seen += data
    os.close(leader)
    assert process.returncode == 0
    assert b"passes" in seen
    assert b"Traceback" not in seen
    assert b"\r\n" in seen


def test_progress_is_for_terminals_and_long_work(monkeypatch):
    def shown(on_terminal: bool, after_s: float) -> bytes:
        monkeypatch.setattr(terminal, "PROGRESS_AFTER_S", after_s)
        leader, follower = pty.openpty() if on_terminal else os.pipe()
        with open(follower, "w") as stderr, monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stderr)
            with terminal.Progress("working") as progress:
                progress(1, 4)
                time.sleep(0.5)
                progress(3, 4)
            stderr.write("end")
            stderr.flush()
            seen = os.read(leader, 65536)
        os.close(leader)
        return seen

    assert b"working" in shown(on_terminal=True, after_s=0.0)
    assert shown(on_terminal=True, after_s=60.0) == b"end"
    assert shown(on_terminal=False, after_s=0.0) == b"end"


@pytest.mark.parametrize("n_prompt", [1, 20, 64, 65, 100, 200])
def test_rows_that_a_proposer_wants_are_left_to_the_engine(n_prompt):
    session, proposer = FakeSession(), Proposer()
    args = argparse.Namespace(ubatch_size=16, batch_size=32)
    for proposer.n_prompt_rows in (0, 48):
        session.set_prefix([])
        run.evaluate_prompt(session, list(range(n_prompt)), proposer, args)
        left = n_prompt - 1 - session.n_past
        assert session.n_past == 0 or proposer.n_prompt_rows < left <= proposer.n_prompt_rows + 16


def test_drafted_tokens_are_coloured(capfd):
    for color, expected in (("on", f"a{DRAFTED}b{RESET}"), ("off", "ab"), ("auto", "ab")):
        out = Completion(color)
        out.write("a")
        out.write("b", drafted=True)
        out.write("", drafted=True)
        assert capfd.readouterr().out == expected


# --- comparing --------------------------------------------------------------------------------------------------------


def test_compare_is_identical_on_f32(tiny, tmp_path):
    path = tmp_path / "stats.json"
    done = command("-m", tiny, "-p", "def ", "-n", 60, "--ignore-eos", "--compare", "--stats-json", path)
    assert done.returncode == 0
    assert b"identical: 60 tokens" in done.stderr
    assert b"noisy" in done.stderr
    found = json.loads(path.read_text())["compare"]
    assert (found["identical"], found["n_compared"], found["difference"]) == (True, 60, None)


@pytest.mark.parametrize(
    ("probed", "plain", "complete", "n_compared", "index"),
    [
        ([1, 2, 3], [1, 2, 3], True, 3, None),
        ([1, 2, 3], [1, 5, 3], True, 2, 1),
        ([1, 2], [1, 2, 3], True, 3, 2),
        ([1, 2, 3], [1, 2], True, 3, 2),
        ([1, 2, 3], [1, 2], False, 2, None),
        ([1, 2, 3], [1, 3], False, 2, 1),
        ([], [], True, 0, None),
    ],
)
def test_first_difference(probed, plain, complete, n_compared, index):
    margins = [0.5 + token for token in plain]
    found = compare.compare(probed, plain, margins, str, 1.0, complete)
    assert found.n_compared == n_compared
    if index is None:
        assert found.difference is None
        return
    assert found.difference.index == index
    assert found.difference.probed == "".join(map(str, probed[index : index + 1]))
    assert found.difference.plain == "".join(map(str, plain[index : index + 1]))
    assert found.difference.margin == (margins[index] if index < len(plain) else None)


def test_a_difference_is_status_3(tiny, monkeypatch, capfd):
    def differing(probed, plain, *rest, **named):
        return compare.compare([*probed[:2], -1], plain, *rest, **named)

    monkeypatch.setattr(run, "compare", differing)
    monkeypatch.setattr(run.Model, "token_bytes", lambda self, token, special=False: b"?")
    assert run.main(["-t", "1", "-m", str(tiny), "-p", "x", "-n", "4", "--ignore-eos", "--compare"]) == 3
    assert re.search(r"differs at token 2: '\?' with probing, '\?' without; .* nats apart", capfd.readouterr().err)


def test_ctrl_c_between_the_two_runs_keeps_the_first(tiny, monkeypatch, capfd):
    def interrupted(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "compare_with_plain", interrupted)
    assert run.main(["-t", "1", "-m", str(tiny), "-p", "x", "-n", "2", "--ignore-eos", "--compare"]) == 0
    stderr = capfd.readouterr().err
    assert "generation: 2 tokens" in stderr
    assert "compared:" not in stderr


def test_model_that_cannot_be_probed(tiny_model_path, tmp_path):
    path = tmp_path / "stats.json"
    mamba = tiny_model_path("tiny-mamba")
    done = command("-m", mamba, "-p", "x", "-n", 8, "--ignore-eos", "--compare", "--stats-json", path)
    assert done.returncode == 0
    notes = [line for line in done.stderr.decode().splitlines() if line.startswith("maskprobe-run: ")]
    assert len(notes) == 1
    stats = json.loads(path.read_text())
    assert (stats["propose"], stats["n_gen"], stats["passes"]) == ("none", 8, 8)


# --- Ctrl-C and closed streams ----------------------------------------------------------------------------------------


def test_ctrl_c_stops_the_generation(tiny, tmp_path):
    path = tmp_path / "stats.json"
    process = start(
        "-m", tiny, "-p", "x", "--ignore-eos", "--stats-json", path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, stderr
    assert "finished:   interrupted" in stderr.decode()
    stats = json.loads(path.read_text())
    assert stats["finish_reason"] == "interrupted"
    assert stats["n_gen"] == len(stats["tokens"]) > 0


def test_second_ctrl_c_ends_at_once(tiny):
    """Nobody reads the output, so the command hangs in a write; it cannot answer the first Ctrl-C there."""
    reader, writer = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    process = start("-m", tiny, "-p", "x", "--ignore-eos", "--propose", "none", stdin=subprocess.DEVNULL, stdout=writer)
    os.close(writer)
    try:
        wait_until_full(reader)
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
        os.close(reader)
    assert process.returncode == 130
    assert stderr == b""


def test_ctrl_c_before_anything_is_loaded(tiny):
    reader, writer = os.pipe()
    process = start("-m", tiny, "-p", "-", stdin=reader, stdout=subprocess.PIPE)
    os.write(writer, b"half a prompt")
    wait_until_empty(reader)  # now it waits for the other half
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    os.close(reader)
    os.close(writer)
    assert process.returncode == 130
    assert (stdout, stderr) == (b"", b"maskprobe-run: interrupted\n")


def test_ctrl_c_while_the_model_is_loaded(tiny, monkeypatch, capfd):
    def slow_model(_path, *, progress, **_settings):
        os.kill(os.getpid(), signal.SIGINT)
        until = time.monotonic() + TIMEOUT_S
        while progress(0.5):
            assert time.monotonic() < until
            time.sleep(0.01)
        raise Cancelled("loading was cancelled")

    monkeypatch.setattr(build, "Model", slow_model)
    assert run.main(["-m", str(tiny), "-p", "x"]) == 130
    assert capfd.readouterr() == ("", "maskprobe-run: interrupted\n")


def waiting_bytes(descriptor: int) -> int:
    return struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, b"\0\0\0\0"))[0]


def wait_until_full(reader: int) -> None:
    """Until a pipe that nobody reads takes no more: its content has not grown for two seconds."""
    before, since = 0, time.monotonic()
    while time.monotonic() - since < 2:
        now = waiting_bytes(reader)
        if now == 0 or now > before:
            before, since = now, time.monotonic()
        time.sleep(0.05)


def wait_until_empty(reader: int) -> None:
    while waiting_bytes(reader) > 0:
        time.sleep(0.05)


def test_reader_that_goes_away(tiny):
    process = start("-m", tiny, "-p", "x", "--ignore-eos", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout.read(10)
    process.stdout.close()
    stderr = process.stderr.read()
    assert process.wait(TIMEOUT_S) == 1
    assert stderr.decode().splitlines() == [one_error_line(stderr)]
    assert "standard output" in one_error_line(stderr)


def test_nobody_reads_either_stream(tiny):
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [*COMMAND, "-m", str(tiny), "-p", "x", "--ignore-eos"], stdin=subprocess.DEVNULL, stdout=writer, stderr=writer
    )
    os.close(writer)
    os.read(reader, 10)
    os.close(reader)
    assert process.wait(TIMEOUT_S) == 1


@pytest.mark.parametrize(
    ("redirection", "reason"), [(">&-", "closed"), (">/dev/full", "No space left"), (">&- 2>&-", None), ("2>&-", None)]
)
def test_streams_closed_from_the_start(tiny, redirection, reason):
    script = f'exec "$@" {redirection}'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *COMMAND, "-m", tiny, "-p", "x", "-n", "2", "--ignore-eos"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == (0 if redirection == "2>&-" else 1)
    assert b"passes" not in done.stdout
    if reason is not None:
        assert reason in one_error_line(done.stderr)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_full_context_is_a_normal_end(tiny, tmp_path):
    path = tmp_path / "stats.json"
    done = command("-m", tiny, "-p", "def ", "-c", 256, "--ignore-eos", "--stats-json", path)
    assert done.returncode == 0
    assert b"the context of 256 tokens is full" in done.stderr
    stats = json.loads(path.read_text())
    assert stats["finish_reason"] == "context"
    assert stats["n_prompt"] + stats["n_gen"] == 257  # the newest token needs no place


def test_prompt_longer_than_the_context(tiny):
    done = command("-m", tiny, "-p", "-", "-c", 256, stdin=b"x y z " * 100)
    assert done.returncode == 1
    line = one_error_line(done.stderr)
    assert "256" in line
    assert re.search(r"prompt has [3-9]\d\d tokens", line)
    assert done.stdout == b""


@pytest.mark.parametrize("kind", ["missing", "directory", "empty", "garbage", "cut"])
def test_bad_model(tiny, tmp_path, kind):
    path = tmp_path / "model.gguf"
    if kind == "directory":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes({"empty": b"", "garbage": b"garbage" * 99, "cut": tiny.read_bytes()[:5000]}[kind])
    done = command("-m", path, "-p", "x")
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [one_error_line(done.stderr)]
    if kind == "missing":
        assert next(iter(bundled_models())) in done.stderr.decode()


BAD_OPTIONS = [
    (["-p", "x", "-n", "-2"], "-n/--predict"),
    (["-p", "x", "-n", "many"], "-n/--predict"),
    (["-p", "x", "-c", "-1"], "-c/--ctx-size"),
    (["-p", "x", "-b", "0"], "-b/--batch-size"),
    (["-p", "x", "-ub", "-1"], "-ub/--ubatch-size"),
    (["-p", "x", "-t", "-2"], "-t/--threads"),
    (["-p", "x", "-tb", "1.5"], "-tb/--threads-batch"),
    (["-p", "x", "-ngl", "some"], "-ngl/--gpu-layers"),
    (["-p", "x", "-s", "-2"], "-s/--seed"),
    (["-p", "x", "-s", "4294967295"], "-s/--seed"),
    (["-p", "x", "--temp", "nan"], "--temp"),
    (["-p", "x", "--temp", "-0.1"], "--temp"),
    (["-p", "x", "--temp", "inf"], "--temp"),
    (["-p", "x", "--top-k", "-1"], "--top-k"),
    (["-p", "x", "--top-p", "1.1"], "--top-p"),
    (["-p", "x", "--min-p", "nan"], "--min-p"),
    (["-p", "x", "--repeat-penalty", "-1"], "--repeat-penalty"),
    (["-p", "x", "--repeat-last-n", "-2"], "--repeat-last-n"),
    (["-p", "x", "--presence-penalty", "nan"], "--presence-penalty"),
    (["-p", "x", "--frequency-penalty", "x"], "--frequency-penalty"),
    (["-p", "x", "-l", "15"], "-l/--logit-bias"),
    (["-p", "x", "-l", "15+inf"], "-l/--logit-bias"),
    (["-p", "x", "-l", "15+nan"], "-l/--logit-bias"),
    (["-p", "x", "-l", "x+1"], "-l/--logit-bias"),
    (["-p", "x", "-fa", "maybe"], "-fa/--flash-attn"),
    (["-p", "x", "--kernels", "foo"], "--kernels"),
    (["-p", "x", "-st", "-no-cnv"], "-no-cnv/--no-conversation"),
    (["-p", "x", "-sys", "y", "-no-cnv"], "-sys/--system-prompt"),
    (["-p", "x", "-ctk", "q2_k"], "-ctk/--cache-type-k"),
    (["-p", "x", "-ctv", "int8"], "-ctv/--cache-type-v"),
    (["-p", "x", "--color", "sometimes"], "--color"),
    (["-p", "x", "--propose", "magic"], "--propose"),
    (["-p", "x", "--tree", "0"], "--tree"),
    (["-p", "x", "--tree", "7,,2"], "--tree"),
    (["-p", "x", "--tree", "wide"], "--tree"),
    (["-p", "x", "--rows", "257"], "--rows"),
    (["-p", "x", "--rows", "0"], "--rows"),
    (["-p", "x", "--rows", "most"], "--rows"),
    (["-p", "x", "--propose", "esp", "--rows", "30"], "--rows"),
    (["-p", "x", "--tree", "7,2"], "--tree"),
    (["-p", "x", "--propose", "recycle", "--state", "f"], "--state"),
    (["-p", "x", "--propose", "esp", "--no-state"], "--no-state"),
    (["-p", "x", "--state", "f", "--no-state"], "--no-state"),
    (["-p", "x", "--state", "f", "--rows", "8"], "--state"),
    (["-p", "x", "--masks", "0"], "--masks"),
    (["-p", "x", "--mask-children", "-1"], "--mask-children"),
    (["-p", "x", "--mask-init", "median"], "--mask-init"),
    (["-p", "x", "--mask-init", "last-k:0"], "--mask-init"),
    (["-p", "x", "--mask-update", "2"], "--mask-update"),
    (["-p", "x", "--compare", "--propose", "none"], "--compare"),
    (["-p", "x", "--stats-json", "-"], "--stats-json"),
    (["-p", "x", "--stats-json", "/"], "--stats-json"),
    (["-p", "x", "--stats-json", "no/such/directory/x"], "--stats-json"),
    (["-p", "x", "-j", "{"], "-j/--json-schema"),
    (["-p", "x", "-j", '{"$ref": "#/nowhere"}'], "-j/--json-schema"),
    (["-p", "x", "-jf", "no-such-file"], "-jf/--json-schema-file"),
    (["-p", "x", "--grammar-file", "no-such-file"], "--grammar-file"),
    (["-p", "x", "--grammar", "a", "-j", "{}"], "-j/--json-schema"),
    (["-p", "x", "-m", "a", "-hf", "b/c"], "-hf/--hf-repo"),
    (["-p", "x", "-r", ""], "-r/--reverse-prompt"),
    (["-p", "x", "-sys", ""], "-sys/--system-prompt"),
    (["-p", "x", "-f", "y"], "-f/--file"),
    (["-p", ""], "-p/--prompt"),
    (["-p", "a\\x00b"], "-p/--prompt"),
    (["-p", "\\xff"], "-p/--prompt"),
    (["-p", os.fsdecode(b"\xff")], "-p/--prompt"),
    (["-f", "no-such-file"], "-f/--file"),
    (["-f", "/"], "-f/--file"),
    ([], "-p/--prompt"),
    (["-p"], "-p/--prompt"),
    (["-p", "x", "--no-such-option"], "--no-such-option"),
    (["-p", "x", "--temperature", "1"], "--temperature"),
]


@pytest.mark.parametrize(("arguments", "option"), BAD_OPTIONS, ids=lambda value: " ".join(value)[:40] or "nothing")
def test_bad_options(arguments, option, capfd, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        run.main(arguments)
    assert caught.value.code == 2
    stdout, stderr = capfd.readouterr()
    assert stdout == ""
    first, hint = stderr.splitlines()
    assert first.startswith("maskprobe-run: error: ")
    assert option in first
    assert hint == "maskprobe-run --help lists the options"


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["-l", "100000+1"], "-l/--logit-bias"),
        (["--grammar", "root ::= ("], "--grammar"),
        (["--propose", "esp", "--mask-init", "token:100000"], "--mask-init"),
        (["--propose", "esp", "--mask-init", "file:no-such-file"], "--mask-init"),
        (["--propose", "esp", "--tree", "200"], "--tree"),
        (["--propose", "esp", "--tree", "7,2", "--masks", "1"], "--masks"),
        (["--propose", "esp", "--tree", "dynamic", "--rows", "2"], "--rows"),
        (["-ub", "4"], "-ub"),
        (["-ctv", "q8_0", "-fa", "off"], "-ctv"),
    ],
    ids=lambda value: " ".join(value),
)
def test_options_that_do_not_fit_the_model(tiny, arguments, option, capfd, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        run.main(["-t", "1", "-m", str(tiny), "-p", "x", "-n", "1", *arguments])
    assert caught.value.code == 2
    stdout, stderr = capfd.readouterr()
    assert stdout == ""
    assert option in one_error_line(stderr.replace("parse: error", "").encode())  # llama.cpp's own line on a grammar


@pytest.mark.parametrize("content", [b"", b"\n", b"a\xffb", b"a\0b", b"\xc3"], ids=repr)
def test_bad_prompt_content(tmp_path, content):
    file = tmp_path / "prompt.txt"
    file.write_bytes(content)
    for arguments, option in ((["-f", file], "-f/--file"), (["-p", "-"], "-p/--prompt")):
        done = command(*arguments, stdin=content)
        assert done.returncode == 2
        assert done.stdout == b""
        assert option in one_error_line(done.stderr)


def test_signal_handlers_are_given_back(tiny):
    before = signal.getsignal(signal.SIGINT)
    assert run.main(["-t", "1", "-m", str(tiny), "-p", "x", "-n", "1"]) == 0
    assert signal.getsignal(signal.SIGINT) is before
    assert [thread.name for thread in threading.enumerate() if thread.name == "interrupt"] == []
