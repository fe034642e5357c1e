"""maskprobe-serve: an HTTP server for clients of OpenAI, llama-server and Ollama."""

import argparse
import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from .. import hub, resolve_model
from ..errors import Error
from ..memory import memory_needed
from ..model import version
from . import memory_table, values
from .options import (
    PROPOSE,
    add_context_options,
    add_heads,
    add_memory_option,
    add_model_options,
    add_trained_masks,
    engine_settings,
    model_settings,
    option,
)
from .parser import Parser
from .terminal import Progress, say, secure_streams

PROG = "maskprobe-serve"
EXIT_DONE, EXIT_FAILURE = 0, 1
KEY_VARIABLE = "MASKPROBE_API_KEY"
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
CLOSING_S = 2  # for connections to end after all answers have


def setup_arg_parser() -> Parser:
    parser = Parser(
        prog=PROG,
        usage=f"{PROG} [-m [NAME=]FILE ...] [options]",
        description="Serves GGUF models to clients of OpenAI, llama-server and Ollama.",
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    add_memory_option(parser)
    parser.add_argument("-v", "--verbose", action="store_true", help="log each request")
    add_model_options(parser.add_argument_group("models"), several=True)
    _add_server_options(parser.add_argument_group("server"))
    _add_drafting_options(parser.add_argument_group("drafting"))
    add_context_options(parser.add_argument_group("context, of each text"))
    return parser


def _add_server_options(group: Any) -> None:
    count, seconds = values.integer(0), values.number(above=0, high=1e6)
    option(group, "--host", metavar="ADDRESS", default="127.0.0.1", help="address to listen at")
    option(group, "--port", metavar="N", type=values.integer(0, 65535), default=8080, help="port, 0 = a free one")
    option(
        group,
        "-np",
        "--parallel",
        metavar="N",
        type=values.integer(1, 64),
        default=4,
        help="texts of a model that share its passes, each with the whole context",
    )
    option(group, "--api-key", metavar="KEY[,KEY]", help=f"keys, one of which a request must have; also {KEY_VARIABLE}")
    option(group, "--api-key-file", metavar="FILE", type=values.text_file, help="the same, one a line")
    option(
        group,
        "--cors",
        metavar="ORIGIN",
        action="append",
        default=[],
        help="an origin whose pages may ask, * = all; may be repeated (default: none)",
    )
    option(group, "--queue", metavar="N", type=count, default=512, help="texts of a model that may wait")
    option(group, "--timeout", metavar="S", type=seconds, default=600, help="seconds for a request, its wait too")
    option(group, "--max-body", metavar="BYTES", type=values.integer(1), default=4 << 20, help="of a request")
    option(
        group, "--drain", metavar="S", type=values.number(0, 1e6), default=30, help="seconds for what runs at SIGTERM"
    )
    option(
        group, "--models-max", metavar="N", type=count, default=4, help="models loaded at a time, 0 = memory decides"
    )
    group.add_argument("--no-warmup", action="store_true", help="load the first model when it is first asked for")


def _add_drafting_options(group: Any) -> None:
    option(
        group,
        "--draft",
        choices=("on", "off"),
        metavar="on|off",
        default="on",
        help="whether requests that do not say have candidates drafted",
    )
    names = [name for name in PROPOSE if name != "esp"]
    option(
        group,
        "--propose",
        choices=names,
        metavar="NAME",
        default="all",
        help=f"where candidates come from: {', '.join(names)}",
    )
    option(group, "--rows", metavar="N|auto", type=values.rows, help="rows of a pass per text at most (default: auto)")
    group.add_argument("--no-state", action="store_true", help="keep nothing of what is learned about a model")
    add_heads(group)
    add_trained_masks(group)


def main(argv: list[str] | None = None) -> int:
    secure_streams()
    parser = setup_arg_parser()
    try:
        return run(parser.parse_args(argv), parser)
    except KeyboardInterrupt:
        return 130
    except (Error, OSError) as error:
        say(f"{PROG}: error: {' '.join(str(error).split())}")
        return EXIT_FAILURE


def run(args: argparse.Namespace, parser: Parser) -> int:
    if args.version:
        print(f"{PROG} {version()}")
        return EXIT_DONE
    try:
        import uvicorn

        from ..server.app import create_app
        from ..server.settings import Settings
    except ImportError as error:
        say(f"{PROG}: error: {error}: pip install 'maskprobe[serve]'")
        return EXIT_FAILURE

    logging.basicConfig(format=f"{PROG}: %(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("maskprobe").setLevel(logging.DEBUG if args.verbose else logging.INFO)
    models = model_files(args, parser)
    for name, file in (("--heads", args.heads), ("--trained-masks", args.trained_masks)):
        if file and args.propose != "all":
            parser.error(f"argument {name}: it is for --propose all, not for {args.propose}")
        if file and len(models) > 1:
            parser.error(f"argument {name}: a file is for one model, there are {len(models)}")
    model_options = model_settings(args)
    state = None if args.no_state or args.propose != "all" else ""
    engine_options = {**engine_settings(args, args.propose), "state": state}
    if args.memory:
        return print_memory(models, model_options, engine_options, args.parallel)
    settings = Settings(
        models=models,
        model_options=model_options,
        engine_options=engine_options,
        n_parallel=args.parallel,
        draft=args.draft == "on",
        api_keys=api_keys(args, parser),
        cors=tuple(args.cors),
        only_local_hosts=args.host in LOCAL_HOSTS,
        n_queue=args.queue,
        timeout_s=args.timeout,
        max_body=args.max_body,
        drain_s=args.drain,
        models_max=args.models_max,
    )
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        log_level="warning",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=CLOSING_S,
    )
    server = _draining(uvicorn.Server)(config)
    server.warms_up = not args.no_warmup
    with bound(args.host, args.port) as place:
        server.run([place])
    return EXIT_DONE if server.was_up else EXIT_FAILURE


def print_memory(
    models: dict[str, Path], model_options: dict[str, Any], engine_options: dict[str, Any], n_parallel: int
) -> int:
    """--memory: of each model alone. Returns the exit status."""
    fits = True
    for path in models.values():
        found = memory_needed(path, model_options=model_options, n_parallel=n_parallel, **engine_options)
        print(memory_table.table(path, found, n_parallel), end="")
        fits = fits and not found.problem
    return EXIT_DONE if fits else EXIT_FAILURE


def bound(host: str, port: int) -> socket.socket:
    """A socket with its address, before any model is loaded. Raises Error where that is not possible."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        place = socket.socket(family, kind, protocol)
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind(address)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise Error(f"cannot listen at {values.quoted(host)}, port {port}: {reason} (--host, --port)") from None
    return place


def model_files(args: argparse.Namespace, parser: Parser) -> dict[str, Path]:
    """Name -> file. A usage error for a name that comes twice."""
    found: dict[str, Path] = {}

    def add(name: str, path: Path) -> None:
        if name in found:
            parser.error(f"argument -m/--model: the name '{values.quoted(name)}' comes twice: use NAME=FILE")
        found[name] = path

    for repo in args.hf_repo:
        with Progress("downloading", unit="bytes") as bar:
            add(repo, hub.download(repo, progress=bar))
    for text in args.model:
        name, equals, file = text.partition("=")
        if not equals or Path(text).exists():
            name, file = "", text
        path = resolve_model(file)
        add(name or path.stem, path)
    if not found:
        path = resolve_model(None, warn=lambda line: say(f"{PROG}: {line}"))
        add(path.stem, path)
    return found


def api_keys(args: argparse.Namespace, parser: Parser) -> tuple[str, ...]:
    """From all places that have some. A usage error where one was to give a key and gave none."""
    keys: list[str] = []
    for option_name, given in (
        ("--api-key", args.api_key and args.api_key.split(",")),
        ("--api-key-file", args.api_key_file and args.api_key_file.text.splitlines()),
        (KEY_VARIABLE, os.environ.get(KEY_VARIABLE, "").split(",") if os.environ.get(KEY_VARIABLE) else None),
    ):
        if given is None:
            continue
        stripped = [key.strip() for key in given if key.strip()]
        if not stripped:
            parser.error(f"argument {option_name}: there is no key in it")
        if not all(key.isascii() and key.isprintable() for key in stripped):
            parser.error(f"argument {option_name}: a key must be printable ASCII")
        keys += stripped
    return tuple(keys)


def _draining(base: type[Any]) -> type[Any]:
    """uvicorn's server, which at SIGTERM and Ctrl-C first refuses new requests and lets what runs come to its end."""

    class Server(base):  # type: ignore[misc]
        was_up = warms_up = False

        async def startup(self, sockets: Any = None) -> None:
            self._loop = asyncio.get_running_loop()  # a signal may come as soon as it listens
            models = self.config.app.state.server.models
            if self.warms_up:
                try:
                    async with models.use(models.find(None)):
                        pass
                except Exception as error:
                    say(f"{PROG}: error: {error}")
                    self.should_exit = True
                    return
            await super().startup(sockets)
            if self.started:
                self.was_up = True
                host, port = self.servers[0].sockets[0].getsockname()[:2]
                shown = f"[{host}]" if ":" in host else host
                say(f"{PROG}: listening at http://{shown}:{port}")

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if self.started:
                self._loop.call_soon_threadsafe(self._signalled)
            else:
                self.should_exit = True

        def _signalled(self) -> None:
            state = self.config.app.state.server
            if state.draining:  # a second time
                state.stop()
                self.should_exit = True
            else:
                state.draining = True
                self._drainer = self._loop.create_task(self._drain())

        async def _drain(self) -> None:
            state = self.config.app.state.server
            say(f"{PROG}: {state.n_requests} requests under way, {state.settings.drain_s:g} s for them to end")
            await _until(lambda: state.n_requests == 0, state.settings.drain_s)
            state.stop()
            await _until(lambda: state.n_requests == 0, CLOSING_S)
            self.should_exit = True

    return Server


async def _until(is_so: Callable[[], bool], most_s: float) -> None:
    end = asyncio.get_running_loop().time() + most_s
    while not is_so() and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main())
