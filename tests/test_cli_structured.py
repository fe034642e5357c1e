"""maskprobe-run -j, -jf, --regex and --json-whitespace: what comes out obeys, and what cannot be obeyed is refused."""

import json
import re
from pathlib import Path

import pytest

from cli_process import command, one_error_line, with_stats
from maskprobe import Model
from maskprobe.cli import run

PERSON = {
    "type": "object",
    "properties": {"name": {"enum": ["Ann", 'Bo "b"']}, "age": {"type": "integer", "minimum": 3, "maximum": 12}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tiny(tiny_model_path) -> Path:
    return tiny_model_path("tiny-llama", n_ctx=65536)


@pytest.mark.parametrize("temp", [0, 2])
def test_a_schema_is_obeyed(temp, tiny, tmp_path):
    """From the command line and from a file, drafting on and off, and in both runs of --compare."""
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(PERSON))
    same = ("-m", tiny, "-p", "x", "-n", 80, "--temp", temp, "--seed", 5)
    stats, text = with_stats(tmp_path, *same, "-j", json.dumps(PERSON), "--compare")
    person = json.loads(text)
    assert person["name"] in ("Ann", 'Bo "b"') and 3 <= person["age"] <= 12
    assert text.decode() == json.dumps(person)  # the default separators, no line break
    assert stats["compare"]["identical"] and stats["compare"]["complete"] and stats["finish_reason"] == "stop"
    for arguments in (
        ("-jf", file),
        ("-jf", file, "--propose", "none"),
        ("-j", json.dumps(PERSON), "--propose", "lookup"),
    ):
        assert with_stats(tmp_path, *same, *arguments)[1] == text


def test_white_space_by_a_flag(tiny, tmp_path):
    """Line breaks, which a bias makes likely, come where the flag lets them."""
    with Model(tiny, n_threads=1) as model:
        (line_break,) = model.tokenize("\n", add_special=False)
    schema = {"type": "array", "items": {"const": 1}, "minItems": 2, "maxItems": 2}
    same = ("-m", tiny, "-p", "x", "-n", 9, "--temp", 0, "-j", json.dumps(schema), "-l", f"{line_break}+99")
    assert with_stats(tmp_path, *same)[1] == b"[1, 1]"
    assert with_stats(tmp_path, *same, "--json-whitespace")[1].startswith((b"[\n", b"\n"))


@pytest.mark.parametrize("pattern", ["-[0-9]{3}-(a|bc)+d", r"\d\d:\d\d", "(yes|no)\\.", "--"])
def test_a_regular_expression_is_matched(pattern, tiny, tmp_path):
    same = ("-m", tiny, "-p", "x", "-n", 60, "--seed", 2, "--regex", pattern)
    stats, text = with_stats(tmp_path, *same, "--compare")
    assert stats["compare"]["identical"]
    if stats["finish_reason"] == "stop":
        assert re.fullmatch(pattern, text.decode())


def test_all_is_said_and_no_token_left(tiny, tmp_path):
    """Where end tokens are forbidden the text ends all the same, with a reason of its own."""
    path = tmp_path / "stats.json"
    for rules in (("--regex", "ab"), ("-j", '{"const": "ab"}'), ("--grammar", 'root ::= "ab"')):
        done = command("-m", tiny, "-p", "x", "-n", 60, "--ignore-eos", *rules, "--stats-json", path)
        assert (done.returncode, done.stdout.strip(b'"')) == (0, b"ab")
        assert json.loads(path.read_text())["finish_reason"] == "constraint"
        assert b"finished:   the grammar, schema or expression allows no further token" in done.stderr


BAD_RULES = [
    (["-j", '{"type": "strin"}'], "-j/--json-schema"),
    (["-j", '{"$ref": "#/nowhere"}'], "-j/--json-schema"),
    (["-j", '{"type": "string", "pattern": "("}'], "-j/--json-schema"),
    (["-j", "3"], "-j/--json-schema"),
    (["-j", "false"], "-j/--json-schema"),
    (["-j", "NaN"], "-j/--json-schema"),
    (["-j", '{"a": 1, "a": 2}'], "-j/--json-schema"),
    (["-j", '{"not": {}}'], "-j/--json-schema"),
    (["-j", '{"enum": []}'], "-j/--json-schema"),
    (["-jf", "bad.json"], "-jf/--json-schema-file"),
    (["--regex", "("], "--regex"),
    (["--regex", "a{3,1}"], "--regex"),
    (["--regex", "(?=a)"], "--regex"),
    (["--regex", "[^\\s\\S]"], "--regex"),
    (["--regex", "\\1"], "--regex"),
]


@pytest.mark.parametrize(("arguments", "option"), BAD_RULES, ids=[" ".join(arguments) for arguments, _ in BAD_RULES])
def test_rules_that_are_refused(arguments, option, tiny, tmp_path, monkeypatch, capfd):
    """Before a prompt is evaluated, in one line that names the option."""
    monkeypatch.chdir(tmp_path)
    Path("bad.json").write_text('{"type": "strin"}')
    with pytest.raises(SystemExit) as caught:
        run.main(["-t", "1", "-m", str(tiny), "-p", "x", "-n", "3", *arguments])
    stdout, stderr = capfd.readouterr()
    assert (caught.value.code, stdout) == (2, "")
    assert one_error_line(stderr.encode()).startswith(f"maskprobe-run: error: argument {option}: ")
