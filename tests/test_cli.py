"""maskprobe-run as a user meets it: what comes out, and how it compares."""

import json
import os
import re
import stat
import subprocess
import threading
from pathlib import Path

import pytest

import random_gguf
from cli_process import COMMAND, TIMEOUT_S, command, one_error_line, with_stats
from maskprobe.cli import build, compare, run
from test_hub import COMMIT, REPO, FakeHub

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
    assert stats["tokens_per_pass"] == pytest.approx(29 / stats["passes"])
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


def test_a_template_that_is_in_no_list(tmp_path):
    shouting = write_chat_model(tmp_path, "{{ messages[0].content | upper }}")
    for arguments in ([], ["-st"]):
        done = command("-m", shouting, "-p", "hi", "-n", 1, "--display-prompt", *arguments)
        assert done.returncode == 0 and done.stdout.startswith(b"HI")


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no messages today') }}",
        "{% for i in range(10 ** 9) %}{% for j in range(10 ** 9) %}{% endfor %}{% endfor %}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages[0].content",
        "{{ nothing.at.all }}",
    ],
)
def test_a_template_that_fails(template, tmp_path):
    """It is told in one line: an error where a template was asked for, else the prompt is completed as it is."""
    model = write_chat_model(tmp_path, template)
    done = command("-m", model, "-p", "hi", "-n", 1, "--display-prompt")
    assert done.returncode == 0 and done.stdout.startswith(b"hi")
    (line,) = [line for line in done.stderr.decode().splitlines() if line.startswith("maskprobe-run: ")]
    assert "template" in line and "-no-cnv" in line
    for arguments in (["-st"], ["-sys", "be brief"]):
        asked = command("-m", model, "-p", "hi", "-n", 1, *arguments)
        assert (asked.returncode, asked.stdout) == (1, b"")
        assert "template" in one_error_line(asked.stderr)
    plain = command("-m", model, "-p", "hi", "-n", 1, "-no-cnv")
    assert plain.returncode == 0 and b"template" not in plain.stderr


@pytest.mark.parametrize("begins", [True, False])
def test_begin_of_text_is_not_doubled(begins, tiny_chat, monkeypatch, capfd):
    """Whether the template writes it or leaves it to the tokenizer."""
    with build.Model(tiny_chat, n_threads=1) as model:
        begin = model.token_bytes(model.info.token_bos, special=True).decode()
        monkeypatch.setattr(build.Model, "chat_format", lambda *_: begin * begins + "hi")
        parser = run.setup_arg_parser()
        tokens, _ = build.prompt_tokens(parser.parse_args(["-p", "hi"]), parser, model, None, "hi")
        assert model.info.add_bos
        assert capfd.readouterr().err == ""
        assert tokens.count(model.info.token_bos) == 1
        assert tokens == model.tokenize("hi", add_special=True)


def test_a_prompt_that_begins_with_the_begin_of_text(tiny, tiny_chat, tiny_model_path, tmp_path):
    """It is kept, as llama.cpp keeps it, and told in one line."""
    with build.Model(tiny, n_threads=1) as model:
        begin = model.token_bytes(model.info.token_bos, special=True).decode()
    file = tmp_path / "prompt.txt"
    file.write_text(begin + "hi")

    def lines_of(model: Path, *arguments: object) -> tuple[list[str], int]:
        path = tmp_path / "stats.json"
        done = command("-m", model, *arguments, "-n", 1, "--stats-json", path)
        assert done.returncode == 0
        lines = [line for line in done.stderr.decode().splitlines() if line.startswith("maskprobe-run: ")]
        return lines, json.loads(path.read_text())["n_prompt"]

    _, n_once = lines_of(tiny, "-p", "hi")
    for model, arguments in (
        (tiny, ["-p", begin + "hi"]),
        (tiny, ["-f", file]),
        (tiny_chat, ["-p", begin + "hi", "-no-cnv"]),
    ):
        (line,), n = lines_of(model, *arguments)
        assert begin in line and "two of them" in line
        assert n == n_once + 1
    for model, arguments in (
        (tiny, ["-p", "hi " + begin]),
        (tiny_chat, ["-p", begin + "hi"]),  # within the template
        (tiny_model_path("tiny-qwen3"), ["-p", begin + "hi"]),  # adds none
    ):
        assert lines_of(model, *arguments)[0] == []


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
    assert (stats["propose"], stats["n_gen"], stats["passes"]) == ("none", 8, 7)
