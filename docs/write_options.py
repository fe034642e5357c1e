"""Writes the options of all commands into docs/command-line.md, as their parsers have them.

python docs/write_options.py
"""

import argparse
import importlib
from collections.abc import Iterator
from pathlib import Path

PAGE = Path(__file__).with_name("command-line.md")
MARK = "<!-- What follows is written by docs/write_options.py. -->\n"
PROGRAMS = {  # module -> program
    "maskprobe.cli.run": "maskprobe-run",
    "maskprobe.cli.chat": "maskprobe-chat",
    "maskprobe.cli.serve": "maskprobe-serve",
    "maskprobe.cli.worker": "maskprobe-worker",
    "maskprobe.cli.train": "maskprobe-train",
    "maskprobe.cli.bench": "maskprobe-bench",
    "maskprobe.cli.analyze.command": "maskprobe-analyze",
}


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Each program, and each command of one, with its parser."""
    for name, program in PROGRAMS.items():
        parser = importlib.import_module(name).setup_arg_parser()
        commands = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        if not commands:
            yield program, parser
        for action in commands:
            yield from ((f"{program} {command}", each) for command, each in action.choices.items())


def section(program: str, parser: argparse.ArgumentParser) -> str:
    """A heading, and a table for each group of options."""
    parts = [f"## {program}\n"]
    for group in parser._action_groups:
        rows = [row(parser, action) for action in group._group_actions if action.help != argparse.SUPPRESS]
        if rows:
            title = "general" if group.title == "options" else group.title
            parts.append(f"| {title} | |\n|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def row(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else f" {action.metavar}"
    names = ", ".join(action.option_strings) or str(action.metavar)
    text = parser._get_formatter()._expand_help(action) if action.help else ""
    return f"| {code(names + value)} | {escaped(text)} |"


def code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")


def escaped(text: str) -> str:
    """As it is in Markdown: no markup, no end of a cell."""
    for char in "\\`*_{}[]<>|":
        text = text.replace(char, "\\" + char)
    return text


def written() -> str:
    """What stands after the mark."""
    return "\n".join(section(program, parser) for program, parser in parsers())


if __name__ == "__main__":
    head, mark, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
    PAGE.write_text(f"{head.rstrip()}\n\n{MARK}\n{written()}", encoding="utf-8")
