"""maskprobe-analyze: its subcommands."""

import sys

from ..bench import add_commands, print_result
from ..parser import HelpFormatter, Parser
from ..terminal import secure_streams
from . import align, entropy, layers, marginal, masks

PROG = "maskprobe-analyze"
COMMANDS = {"align": align, "marginal": marginal, "layers": layers, "entropy": entropy, "masks": masks}

DESCRIPTION = """\
What a model knows of the tokens after the next one, and where in its layers: a table of each, and with --json, --csv
and --picture a file. It looks at the texts that the model itself writes after prompts (-n 0: at the prompts).
"""


def setup_arg_parser() -> Parser:
    parser = Parser(prog=PROG, description=DESCRIPTION, formatter_class=HelpFormatter, allow_abbrev=False)
    return add_commands(parser, COMMANDS, formatter_class=HelpFormatter)


def main(argv: list[str] | None = None) -> int:
    secure_streams()
    args = setup_arg_parser().parse_args(argv)
    return print_result(PROG, args.run, args)


if __name__ == "__main__":
    sys.exit(main())
