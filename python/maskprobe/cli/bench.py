"""maskprobe-bench: what a pass costs on this machine, and what candidates gain on it."""

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import Any

from .. import Error
from . import bench_cost, bench_esp, bench_peers, bench_report, bench_run
from .interrupt import EXIT_STATUS
from .parser import Parser
from .terminal import Completion, OutputClosed, say, secure_streams

PROG = "maskprobe-bench"
COMMANDS = {
    "report": bench_report,
    "cost": bench_cost,
    "run": bench_run,
    "peers": bench_peers,
    "esp": bench_esp,
}

DESCRIPTION = """\
What a pass costs on this machine, and what candidates gain on it.

More programs that measure are in the folder bench/ of a checkout: real models (real_models.py), conversations that
share passes (shared.py), a stated acceptance (synthetic.py), recorded texts (traces.py).
"""


def setup_arg_parser() -> Parser:
    return add_commands(Parser(prog=PROG, description=DESCRIPTION), COMMANDS)


def add_commands(parser: Parser, modules: Mapping[str, Any], **settings: Any) -> Parser:
    """Each module is a subcommand: its HELP, DESCRIPTION, add_options(parser) and run(args), which gives the text."""
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in modules.items():
        texts = {"help": module.HELP, "description": module.DESCRIPTION}
        command = commands.add_parser(name, prog=f"{parser.prog} {name}", **texts, **settings)
        command.set_defaults(run=module.run)
        module.add_options(command)
    return parser


def main(argv: list[str] | None = None) -> int:
    secure_streams()
    args = setup_arg_parser().parse_args(argv)
    return print_result(PROG, args.run, args)


def print_result(prog: str, run: Callable[[argparse.Namespace], str], args: argparse.Namespace) -> int:
    """The text that run(args) gives goes to standard output, why it failed to standard error. The exit status."""
    try:
        out = Completion("off")
        out.write(run(args))
        return 0
    except KeyboardInterrupt:
        say(f"{prog}: interrupted")
        return EXIT_STATUS
    except (Error, OutputClosed) as error:
        say(f"{prog}: error: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
