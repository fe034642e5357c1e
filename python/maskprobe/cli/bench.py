"""maskprobe-bench: what a pass costs on this machine, and what candidates gain on it."""

import sys

from .. import Error
from . import bench_cost, bench_peers, bench_run, bench_synthetic, bench_trace
from .build import HelpFormatter, Parser
from .interrupt import EXIT_STATUS
from .terminal import Completion, OutputClosed, say, secure_streams

PROG = "maskprobe-bench"


def setup_arg_parser() -> Parser:
    parser = Parser(prog=PROG, description=__doc__, formatter_class=HelpFormatter, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in (bench_cost, bench_run, bench_synthetic, bench_peers, bench_trace):
        module.add_command(commands)
    return parser


def main(argv: list[str] | None = None) -> int:
    secure_streams()
    args = setup_arg_parser().parse_args(argv)
    try:
        out = Completion("off")
        out.write(args.run(args))
        return 0
    except KeyboardInterrupt:
        say(f"{PROG}: interrupted")
        return EXIT_STATUS
    except (Error, OutputClosed) as error:
        say(f"{PROG}: error: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
