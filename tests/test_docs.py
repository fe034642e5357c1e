"""README and docs/: what they link, the commands and options that they show, and the figures that they repeat."""

import ast
import functools
import importlib.util
import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import maskprobe
from maskprobe.generation import GUESSED_BY
from maskprobe.proposers import SOURCES
from maskprobe.schema_values import FORMATS, NOT_OBEYED, WHOLE

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
PLACES = re.compile(r"(?<![\w.~])/(?:work|tmp|root|opt|home|Users|mnt)/")
SPEED_ROW = re.compile(  # model, threads, temperature, three speeds, their ratio
    r"^\|([^|]*)\| (\d) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| \**([\d.]+)\** \|", re.MULTILINE
)
MODEL_FILES = {"SmolLM2": "SmolLM2-135M-Instruct.Q4_1.gguf", "Qwen2.5": "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"}

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


OPTIONS = load(DOCS / "write_options.py")
PARSERS = dict(OPTIONS.parsers())


def text_of(page):
    return page.read_text(encoding="utf-8")


def prose(page):
    return FENCE.sub("", text_of(page))


def slugs(page):
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    titles = re.findall(r"^#+ (.*)", prose(page), re.MULTILINE)
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


def test_readme_is_short_and_begins_with_the_two_commands():
    lines = text_of(ROOT / "README.md").splitlines()
    assert len(lines) <= 150
    language, block = FENCE.search("\n".join(lines)).groups()
    assert language == "sh"
    commands = [line.split("  #")[0].strip() for line in block.splitlines()]
    assert commands == [
        'sh install.sh && .venv/bin/maskprobe-run -p "Why is the sky blue?"',
        "sh install.sh --test",
    ]
    assert sum(line.startswith("```") for line in lines[:8]) == 2


@pages
def test_relative_links_lead_somewhere(page):
    for target in LINK.findall(prose(page)):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert found.is_relative_to(ROOT), target
        if anchor and found.suffix == ".md":
            assert anchor in slugs(found), target


@pages
def test_no_page_names_a_place_of_one_machine(page):
    assert not [line for line in text_of(page).splitlines() if PLACES.search(line)]


@pages
def test_lines_of_python_can_be_read(page):
    for language, block in FENCE.findall(text_of(page)):
        if language != "python":
            continue
        compile(block, page.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "maskprobe":
                for name in node.names:
                    assert hasattr(maskprobe, name.name), name.name


def command_lines(page):
    """The simple commands of the shell blocks, and of code within the text that is one, word by word."""
    text = text_of(page)
    lines = [line for language, block in FENCE.findall(text) if language == "sh" for line in whole_lines(block)]
    lines += [code for code in INLINE.findall(prose(page)) if re.match(r"(maskprobe-\w+|python bench/\S+) -", code)]
    for line in lines:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        lexer.commenters = "#"
        command = []
        for word in itertools.chain(itertools.takewhile(lambda word: word != ">", lexer), ["&&"]):
            if word in ("&&", "||", "|", ";"):
                yield command
                command = []
            else:
                command.append(word)


def whole_lines(block):
    return re.sub(r"\\\n\s*", "", block).splitlines()


@pages
def test_commands_have_the_options_that_are_shown(page):
    for command in command_lines(page):
        words = [word.removeprefix(".venv/bin/") for word in command]
        if words[:1] == ["python"] and len(words) > 1 and words[1].endswith(".py"):
            check_script(words[1], words[2:])
        elif words and words[0].startswith("maskprobe-"):
            program = " ".join(words[:2]) if words[0] in ("maskprobe-bench", "maskprobe-analyze") else words[0]
            assert program in PARSERS, program
            check_arguments(PARSERS[program], words[len(program.split()) :])
        elif words[:2] == ["sh", "install.sh"]:
            assert all(word in text_of(ROOT / "install.sh") for word in words[2:])


def check_arguments(parser, words):
    rest = iter(words)
    takes_many = False
    for word in rest:
        name, equals, value = word.partition("=")
        action = parser._option_string_actions.get(name)
        if action is None and takes_many and not word.startswith("-"):
            continue
        if action is None:
            raise AssertionError(f"{parser.prog} has no {word}")
        if action.nargs is None and not equals:
            value = next(rest)
        takes_many = action.nargs == "+"
        if action.choices is not None and action.nargs is None:
            assert value in action.choices, word


def check_script(script, words):
    assert (ROOT / script).is_file(), script
    shown = [word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)]
    known = re.findall(r"(?<![\w-])--?[\w-]+", help_of(script)) if shown else []
    assert not set(shown).difference(known), script


@functools.cache
def help_of(script):
    return subprocess.run(
        [sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    ).stdout


def test_a_wrong_option_would_be_found():
    with pytest.raises(AssertionError, match="has no --rwos"):
        check_arguments(PARSERS["maskprobe-run"], ["-p", "--rwos", "--rwos", "4"])


@pytest.mark.parametrize("program", PARSERS)
def test_the_reference_has_the_options_of_the_parsers(program):
    section = OPTIONS.section(program, PARSERS[program])
    assert section in text_of(OPTIONS.PAGE), "run: python docs/write_options.py"


def test_the_table_of_machines_is_that_of_the_reports():
    machines = load(DOCS / "write_machines.py")
    _, mark, tables = text_of(machines.PAGE).partition(machines.MARK)
    assert mark and tables.strip() == machines.written().strip(), "run: python docs/write_machines.py"


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "benchmarks.md"], ids=lambda page: page.name)
def test_speeds_are_those_of_the_result_file(page):
    results = text_of(ROOT / "bench/results/amd-epyc-real.md")
    speed = results[results.index("\n## Speed") : results.index("\n## Planner")]
    rows = SPEED_ROW.findall(text_of(page))
    assert len(rows) >= 8
    file = None
    for name, threads, temperature, *figures in rows:
        file = next((file for key, file in MODEL_FILES.items() if key in name), file)
        part = speed[re.search(rf"\n{re.escape(file)} \([^\n]*, {threads} threads?,", speed).start() :]
        line = re.search(rf"^\| all \| {float(temperature)} \|.*", part, re.MULTILINE).group()
        cells = [cell.strip() for cell in line.split("|")][1:]
        assert figures == cells[5:9], (name, threads, temperature)


def test_schemas_are_described_keyword_by_keyword():
    page = text_of(DOCS / "structured-output.md")
    missing = [name for name in (*NOT_OBEYED, *FORMATS) if f"`{name}`" not in page]
    assert not missing
    assert all(re.fullmatch("u?int(8|16|32|64)", name) for name in WHOLE)


def test_sources_are_described_by_the_names_of_the_statistics():
    evidence, research = text_of(DOCS / "sources.md"), text_of(DOCS / "research-sources.md")
    assert not [name for name in GUESSED_BY.values() if f"| `{name}` |" not in evidence]
    assert not [name for name in SOURCES if name != "esp-soft" and f"| `{name}` |" not in research]


def test_links_out_of_the_pages_are_rewritten():
    hook = load(DOCS / "hooks.py").on_page_markdown
    text = "[table](../bench/a.md) and [other](planner.md), [`x.py`](../x.py#top)"
    assert hook(text, config={}) == "table (`bench/a.md`) and [other](planner.md), `x.py`"
    page = SimpleNamespace(file=SimpleNamespace(src_uri="devices/apple.md"))
    nested = "[table](../../bench/a.md) and [other](../planner.md)"
    assert hook(nested, config={}, page=page) == "table (`bench/a.md`) and [other](../planner.md)"
    with_repository = hook(text, config={"repo_url": "https://host/name/"})
    assert "[table](https://host/name/blob/main/bench/a.md)" in with_repository
    assert "[`x.py`](https://host/name/blob/main/x.py#top)" in with_repository
