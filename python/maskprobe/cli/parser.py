"""The parser of a command line: how options take their values, and how it says what is wrong."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from .terminal import Completion, say
from .values import quoted

EXIT_USAGE = 2


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Each option with its value once: "-c, --ctx-size N"."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=38)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        value = "" if action.nargs == 0 else f" {action.metavar}"
        return ", ".join(action.option_strings) + value


class Parser(argparse.ArgumentParser):
    """An option takes the argument after it as its value whatever that begins with, as llama.cpp's options do: -r ---,
    -p -5. --option=VALUE works too; options are never abbreviated, nor is a value glued to one.

    A usage error is one line that names the option, and a hint. The help may be cut short by its reader.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"formatter_class": HelpFormatter, "allow_abbrev": False, **settings})

    def parse_known_args(  # type: ignore[override]  # typeshed has it in overloads
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        return super().parse_known_args(self._joined(sys.argv[1:] if args is None else args), namespace)

    def _joined(self, args: Iterable[str]) -> list[str]:
        """Each option in one piece with its value, where argparse does not ask what the value looks like."""
        known = self._option_string_actions
        joined: list[str] = []
        rest = iter(args)
        for arg in rest:
            action = known.get(arg)
            if action is not None and action.nargs is None:
                value = next(rest, None)
                joined.append(arg if value is None else f"{arg}={value}")
            elif action is not None or arg.partition("=")[0] in known:
                joined.append(arg)
            elif arg.startswith("-") and arg != "-":
                self.error(f"unrecognized arguments: {quoted(arg)}")
            elif self._subparsers is not None:  # a command: what follows is for its own parser
                return [*joined, arg, *rest]
            else:
                joined.append(arg)
        return joined

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        if action.option_strings and action.nargs is None:  # argparse would drop the value "--"
            (text,) = arg_strings
            value = self._get_value(action, text)
            self._check_value(action, value)
            return value
        return super()._get_values(action, arg_strings)

    def print_help(self, file: Any = None) -> None:
        Completion("off").write(self.format_help())

    def error(self, message: str) -> NoReturn:
        say(f"{self.prog}: error: {' '.join(message.split())}\n{self.prog} --help lists the options")
        sys.exit(EXIT_USAGE)
