"""maskprobe-worker: this machine as a host for layers of models that run on another one (--rpc there)."""

import signal
import sys
from pathlib import Path

from ..errors import ArgumentError, Error
from ..model import rpc_serve, version
from . import values
from .options import THREADS_MAX, option
from .parser import Parser
from .terminal import say, secure_streams

PROG = "maskprobe-worker"
ONLY_HERE = "127."  # addresses that no other machine reaches


def setup_arg_parser() -> Parser:
    parser = Parser(
        prog=PROG,
        usage=f"{PROG} [-H ADDRESS] [-p N] [options]",
        description="Computes layers of models that run on another machine, by ggml's RPC, for one program at a time.\n"
        "There is no password and no encryption: for trusted networks only, never the internet.",
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    option(
        parser,
        "-H",
        "--host",
        metavar="ADDRESS",
        default="127.0.0.1",
        help="IPv4 address to listen at, 0.0.0.0 = all of this machine",
    )
    option(parser, "-p", "--port", metavar="N", type=values.integer(1, 65535), default=50052, help="port")
    option(
        parser,
        "-t",
        "--threads",
        metavar="N",
        type=values.integer(-1, THREADS_MAX),
        default=-1,
        help="threads, -1 = one for each physical core",
    )
    option(
        parser,
        "-c",
        "--cache",
        metavar="DIR",
        type=folder,
        help="keep tensors of more than 10 MB here: each is sent once",
    )
    return parser


def folder(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise values.fail(f"there is no directory '{values.quoted(text)}'")
    return path


def main(argv: list[str] | None = None) -> int:
    secure_streams()
    parser = setup_arg_parser()
    args = parser.parse_args(argv)
    if args.version:
        print(f"{PROG} {version()}")
        return 0
    if not args.host.startswith(ONLY_HERE):
        say(f"{PROG}: whoever reaches {args.host}:{args.port} can use and read this process: trusted networks only")
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ggml waits for connections in C, and has nothing to tidy up
    try:
        rpc_serve(f"{args.host}:{args.port}", n_threads=max(args.threads, 0), cache=args.cache)
    except ArgumentError as error:
        parser.error(f"argument -H/--host: {error}")
    except Error as error:
        say(f"{PROG}: error: {error}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
