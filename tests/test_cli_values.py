"""What the options of the commands take as values, and which option an error names."""

import json
import math
from pathlib import Path

import pytest

from cli_process import command
from maskprobe.cli import bench, run
from maskprobe.cli.parser import Parser

BENCH = (("run",), ("cost",))


@pytest.fixture(scope="module")
def tiny(tiny_model_path) -> Path:
    return tiny_model_path("tiny-llama", n_ctx=65536)


def parsed(*arguments: str) -> object:
    return run.setup_arg_parser().parse_args(["-p", "x", *arguments])


def refusal(main, arguments: list[str], capfd) -> str:
    """The one line that refuses them, without the hint after it."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    stdout, stderr = capfd.readouterr()
    assert (caught.value.code, stdout) == (2, "")
    line, hint = stderr.splitlines()
    assert hint.endswith("--help lists the options") and ": error: " in line
    return line.partition(": error: ")[2]


# --- values that begin with a dash ------------------------------------------------------------------------------------

DASHES = ["---", "--", "-", "-5deg", "-x", "-n", "--temp", "--no-such", "-p=3", "-\n", "- a b", "-ä"]
TEXT_OPTIONS = [
    (("-r", "--reverse-prompt"), lambda args: args.reverse_prompt[0]),
    (("-sys", "--system-prompt"), lambda args: args.system_prompt),
    (("-m", "--model"), lambda args: args.model),
    (("-hf", "--hf-repo"), lambda args: args.hf_repo),
    (("--grammar",), lambda args: args.grammar),
    (("--regex",), lambda args: args.regex),
]


@pytest.mark.parametrize("value", DASHES, ids=repr)
@pytest.mark.parametrize(
    ("names", "read"), TEXT_OPTIONS, ids=lambda names: names[0] if isinstance(names, tuple) else ""
)
def test_an_option_takes_what_comes_after_it(names, read, value):
    for name in names:
        assert read(parsed(name, value, "-n", "3")) == value
        assert read(parsed(f"{name}={value}", "-n", "3")) == value
        assert parsed(name, value, "-n", "3").predict == 3


@pytest.mark.parametrize("value", DASHES, ids=repr)
def test_a_prompt_that_begins_with_a_dash(value):
    for arguments in (["-p", value], ["--prompt", value], [f"--prompt={value}"], [f"-p={value}"]):
        assert run.setup_arg_parser().parse_args(arguments).prompt == value


def test_several_values_of_one_option():
    assert parsed("-r", "--", "-r", "-r", "--reverse-prompt=-r").reverse_prompt == ["--", "-r", "-r"]


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("--frequency-penalty", "-1e-1", -0.1),
        ("--frequency-penalty", "-.5", -0.5),
        ("--presence-penalty", "-2", -2.0),
        ("--presence-penalty", "+1.5E+1", 15.0),
        ("--temp", "+5", 5.0),
        ("--temp", "5.", 5.0),
        ("--temp", "1e-60", 1e-60),
        ("--temp", "-0", 0.0),
        ("-n", "-1", -1),
        ("-n", "+5", 5),
        ("-n", "007", 7),
        ("--predict", "-1", -1),
        ("--repeat-last-n", "-1", -1),
        ("-t", "-1", -1),
        ("-s", "-1", -1),
        ("-ngl", "-1", -1),
        ("-l", "15043-1e-1", [(15043, -0.1)]),
        ("-l", "15043+.5", [(15043, 0.5)]),
        ("-l", "7-INF", [(7, -math.inf)]),
    ],
)
def test_numbers(option, text, value):
    parser = run.setup_arg_parser()
    name = parser._option_string_actions[option].dest
    for arguments in ([option, text], [f"{option}={text}"]):
        assert getattr(parser.parse_args(arguments), name) == value


def test_values_that_begin_with_a_dash_are_used(tiny, tmp_path):
    """All the way: the text ends before a stop string of dashes, and a grammar may begin with one."""
    done = command("-m", tiny, "-p", "-5deg", "-n", 9, "--grammar", 'root ::= "a---b"', "-r", "---")
    assert (done.returncode, done.stdout) == (0, b"a")
    shown = command("-m", tiny, "-p", "--", "-n", 1, "--display-prompt", "--grammar", 'root ::= "-"')
    assert shown.stdout == b"---"


@pytest.mark.parametrize("name", ["-p", "--prompt", "-r", "-n", "--temp", "--stats-json", "-l", "--lora", "--regex"])
def test_an_option_without_its_value_is_named(name, capfd):
    first = [] if name in ("-p", "--prompt") else ["-p", "x"]
    line = refusal(run.main, [*first, name], capfd)
    assert name in line and "expected one argument" in line


@pytest.mark.parametrize(
    "argument", ["-n5", "-temp", "-predict", "-stats-json", "--tem", "--", "-pHello", "\u2013p", "x"]
)
def test_what_is_no_option_is_named(argument, capfd):
    """A value is never glued to an option: -predict is no prompt "redict"."""
    assert refusal(run.main, ["-p", "x", argument, "3"], capfd).startswith(f"unrecognized arguments: {argument}")


def test_a_flag_takes_no_value(capfd):
    assert refusal(run.main, ["-p", "x", "--ignore-eos=1"], capfd).startswith("argument --ignore-eos: ")


@pytest.mark.parametrize("words", BENCH, ids=lambda words: words[0])
def test_the_benchmark_takes_values_alike(words, capfd):
    for arguments, option in (
        (["-m"], "-m/--model"),
        (["-r", "-3"], "-r/--repetitions"),
        (["-r", "1_0"], "-r/--repetitions"),
        (["-d" if words == ("cost",) else "-s", "-5"], "must be"),
        (["--rows", "1,2_0"], "--rows"),
        (["--rows", "-1"], "--rows"),
        (["-t", "10" * 40], "-t/--threads"),
        (["--no-such", "1"], "--no-such"),
        (["-rows", "1"], "-rows"),
    ):
        assert option in refusal(bench.main, [*words, *arguments], capfd)
    args = bench.setup_arg_parser().parse_args([*words, "-m", "--", "--pictures", "-x"])
    assert (args.model, args.pictures) == ("--", "-x")


@pytest.mark.parametrize("kind", ["device", "model", "folder", "standard output"])
def test_results_are_resumed_from_plain_files(kind, tiny, tmp_path, capfd):
    path = {"device": "/dev/null", "model": tiny, "folder": tmp_path, "standard output": "/dev/stdout"}[kind]
    before = tiny.read_bytes()
    assert "argument --resume: " in refusal(bench.main, ["run", "-m", str(tiny), "--resume", str(path)], capfd)
    assert tiny.read_bytes() == before


# --- numbers that are none --------------------------------------------------------------------------------------------

INTEGERS = ["-n", "-c", "-b", "-ub", "-t", "-tb", "-ngl", "-s", "--top-k", "--repeat-last-n", "--rows", "--masks"]
PENALTIES = ["--presence-penalty", "--frequency-penalty"]
FLOATS = ["--temp", "--top-p", "--min-p", "--repeat-penalty", "--mask-update", *PENALTIES]
WORDS = [
    "",
    " ",
    "nan",
    "NaN",
    "inf",
    "-inf",
    "infinity",
    "True",
    "None",
    "+",
    "-",
    ".",
    "e5",
    "1e",
    "1" + "x" * 10_000,
]
OTHER_DIGITS = ["\u0663", "\uff11", "\u00b2", "1\u200b", "1_0", "0x10", "1,5", "1f", "--1", "+-1", "1.5.2"]
SPACES = [" 1", "1 ", "1\n", "1\u00a0"]


def names_of(parser: Parser, option: str) -> str:
    return "/".join(parser._option_string_actions[option].option_strings)


@pytest.mark.parametrize("option", [*INTEGERS, *FLOATS])
def test_what_is_no_number_is_refused(option, capfd):
    name = names_of(run.setup_arg_parser(), option)
    for text in [*WORDS, *OTHER_DIGITS, *SPACES, *["1e5", "1.0"] * (option in INTEGERS)]:
        line = refusal(run.main, ["-p", "x", option, text], capfd)
        assert line.startswith(f"argument {name}: must be ") and len(line) < 300, text


@pytest.mark.parametrize("option", [*INTEGERS, *FLOATS])
def test_numbers_beyond_all_are_refused(option, capfd):
    """A double holds 1e39, a 32-bit float does not."""
    name = names_of(run.setup_arg_parser(), option)
    for text in ("9" * 5000, "-" + "9" * 5000, "1e39", "-1e39", "1e999", "1" + "0" * 39, "-1" + "0" * 39):
        line = refusal(run.main, ["-p", "x", option, text], capfd)
        assert line.startswith(f"argument {name}: ") and len(line) < 300, text


@pytest.mark.parametrize("option", INTEGERS)
def test_the_first_numbers_that_do_not_fit(option, capfd):
    for number in (2**32 - 1, 2**32, 2**63, 2**64, -(2**31) - 1, *[2**31] * (option != "-s")):
        line = refusal(run.main, ["-p", "x", option, str(number)], capfd)
        assert line.startswith(f"argument {names_of(run.setup_arg_parser(), option)}: ")


@pytest.mark.parametrize(
    "text",
    [
        "\u0663+1",
        "1_0+1",
        " 1+1",
        "1+1 ",
        "1+1e39",
        "1-1e39",
        "1+nan",
        "1=fal\u017fe",
        "1-\u0131nf",
        "1",
        "+1",
        "1+",
        "1++1",
    ],
)
def test_biases_that_are_refused(text, capfd):
    assert refusal(run.main, ["-p", "x", "-l", text], capfd).startswith("argument -l/--logit-bias: ")


@pytest.mark.parametrize("text", ["x:1_0", "x: 1", "x:nan", "x:inf", "x:\u0663", "x:1e39", "x:0x1", ":1", "x:"])
def test_scales_that_are_refused(text, capfd):
    assert refusal(run.main, ["-p", "x", "--lora", text], capfd).startswith("argument --lora: ")


@pytest.mark.parametrize(
    ("option", "text"),
    [
        *[("--tree", text) for text in ("\u0663", "1_0", " 7", "0", "9" * 40)],
        *[
            ("--mask-init", text)
            for text in ("token:\u0663", "last-k:1_0", "token:" + "9" * 40, "last-k:" + "9" * 5000)
        ],
        ("--mask-children", "1_0"),
    ],
)
def test_numbers_within_values(option, text, capfd):
    line = refusal(run.main, ["-p", "x", "--propose", "esp", option, text], capfd)
    assert line.startswith(f"argument {option}: ") and len(line) < 300


# --- each option by its own name --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["--temp", "1e39"], "--temp"),
        (["--repeat-penalty", "0"], "--repeat-penalty"),
        (["--repeat-penalty", "1e-60"], "--repeat-penalty"),
        (["--repeat-penalty", "1e39"], "--repeat-penalty"),
        (["--presence-penalty", "-1e39"], "--presence-penalty"),
        (["--frequency-penalty", "1e39"], "--frequency-penalty"),
        (["--top-p", "1.5"], "--top-p"),
        (["--min-p", "-1e-9"], "--min-p"),
        (["--top-k", "2147483648"], "--top-k"),
        (["-l", "5+3e38", "-l", "5+3e38"], "-l/--logit-bias"),
        (["-l", "9999999999+1"], "-l/--logit-bias"),
        (["--grammar", "root ::= ("], "--grammar"),
        (["--grammar", ""], "--grammar"),
        (["--grammar-file", "empty.gbnf"], "--grammar-file"),
        (["--regex", ""], "--regex"),
        (["--temp", "0.5", "--grammar-file", "bad.gbnf"], "--grammar-file"),
        (["-j", "{"], "-j/--json-schema"),
        (["-j", ""], "-j/--json-schema"),
        (["-j", "[" * 100_000], "-j/--json-schema"),
        (["-j", "\udcff"], "-j/--json-schema"),
        (["-jf", "bad.gbnf"], "-jf/--json-schema-file"),
        (["--regex", "\udcff"], "--regex"),
        (["--json-whitespace"], "--json-whitespace"),
        (["--json-whitespace", "--regex", "a"], "--json-whitespace"),
        (["--regex", "a", "-j", "{}"], "-j/--json-schema"),
        (["-ub", "4"], "-ub/--ubatch-size"),
        (["-b", "2147483647"], "-b/--batch-size"),
        (["-c", "2147483647"], "-c/--ctx-size"),
        (["-ctv", "q8_0", "-fa", "off"], "-ctv/--cache-type-v"),
        (["--state", "bad.gbnf"], "--state"),
    ],
    ids=lambda value: " ".join(value)[:40].encode("ascii", "replace").decode(),
)
def test_an_error_names_the_option_that_is_wrong(tiny, arguments, option, capfd, monkeypatch, tmp_path):
    (tmp_path / "bad.gbnf").write_text("root ::= (")
    (tmp_path / "empty.gbnf").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        run.main(["-t", "1", "-m", str(tiny), "-p", "x", "-n", "1", *arguments])
    stdout, stderr = capfd.readouterr()
    assert (caught.value.code, stdout) == (2, "")
    (line,) = [line for line in stderr.splitlines() if ": error: " in line]
    assert line.startswith(f"maskprobe-run: error: argument {option}: ") and len(line) < 400


def test_no_state_goes_with_plain_decoding(tiny, tmp_path):
    done = command("-m", tiny, "-p", "x", "-n", 2, "--propose", "none", "--no-state")
    assert done.returncode == 0 and b"error" not in done.stderr


def test_penalties_that_look_back_further_than_any_text(tiny, tmp_path):
    """Without memory for two billion tokens, and with the tokens that the context's length gives."""
    found = []
    for n in (-1, 65536, 2**31 - 1):
        path = tmp_path / "stats.json"
        common = ("-m", tiny, "-p", "a b a b", "-n", 12, "--temp", 0, "--ignore-eos", "--stats-json", path)
        assert command(*common, "--repeat-penalty", 1.5, "--repeat-last-n", n).returncode == 0
        found.append(json.loads(path.read_text())["tokens"])
    assert found[0] == found[1] == found[2]
