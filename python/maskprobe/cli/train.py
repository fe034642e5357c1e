"""maskprobe-train: heads for a model that this machine already has, from text that the model writes itself."""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from .. import Error, Model
from ..model import version
from . import bench_options, files, options, values
from .bench_prompts import read_prompts
from .build import usage
from .interrupt import EXIT_STATUS
from .parser import HelpFormatter, Parser
from .terminal import Completion, OutputClosed, Progress, say, secure_streams
from .train_gain import TEMPERATURE, WITH, WITHOUT, Gain, gain_of

if TYPE_CHECKING:
    from ..mtp.train_sampler import Result

PROG = "maskprobe-train"
KINDS = ("sampler",)
MINUTES_MAX = 10_000
GAIN_SHARE = 0.05  # of the time, at most, beside it: to see what the heads bring

DESCRIPTION = """\
Makes a small file of heads for a model, which guess its next tokens.

The model writes text, and the heads learn from it, for as long as --minutes says. Nothing leaves this machine. The same
command goes on with a run that was cut short; after one that was not, it gives the heads more text.
"""


def setup_arg_parser() -> Parser:
    parser = Parser(
        prog=PROG,
        usage=f"{PROG} [-m FILE] [options]",
        description=DESCRIPTION,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")

    def add(*names: str, **settings: object) -> None:
        options.option(parser, *names, **settings)  # type: ignore[arg-type]

    bench_options.add_model(add)
    add(
        "-o",
        "--output",
        metavar="FILE",
        type=heads_file,
        help="the file of heads (default: where the model's other programs look for it); beside it, in FILE.work, lies "
        "what a next call goes on with",
    )
    add("--kind", choices=KINDS, metavar="|".join(KINDS), default="sampler", help="kind of heads")
    add(
        "--minutes",
        metavar="N",
        type=values.number(above=0, high=MINUTES_MAX),
        default=60.0,
        help="time for all of it",
    )
    add(
        "--prompts",
        metavar="FILE",
        action="append",
        default=[],
        help="prompts of your own, a line each or JSON lines: half of the text answers them; may be repeated",
    )
    bench_options.add_threads(add)
    return parser


def heads_file(text: str) -> Path:
    """A place for heads: a new file, or one that has heads already."""
    if text.endswith("/") or text in ("", "-") or files.own_descriptor(text) is not None:
        raise values.fail(f"'{values.quoted(text)}' names no file that can be replaced")
    path = Path(text)
    if not path.parent.is_dir():
        raise values.fail(f"there is no directory '{values.quoted(str(path.parent))}'")
    if path.exists() and not path.is_file():
        raise values.fail(f"'{values.quoted(text)}' is no plain file")
    return path


class Bars:
    """A bar for each part of the work, one after another."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._label = ""
        self._bar: Progress | None = None

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def __call__(self, label: str, done: float, total: float) -> None:
        if self._bar is None or label != self._label:
            self._stack.close()
            self._bar, self._label = self._stack.enter_context(Progress(label)), label
        self._bar(done, total)


def main(argv: list[str] | None = None) -> int:
    secure_streams()
    parser = setup_arg_parser()
    args = parser.parse_args(argv)
    try:
        text = f"{PROG} {version()}\n" if args.version else run(args, parser)
        Completion("off").write(text)
        return 0
    except KeyboardInterrupt:
        say(f"{PROG}: interrupted; the same command goes on from here")
        return EXIT_STATUS
    except (Error, OutputClosed) as error:
        say(f"{PROG}: error: {error}")
        return 1


def run(args: argparse.Namespace, parser: Parser) -> str:
    """The report."""
    try:
        from ..mtp.train_sampler import Run, Settings
    except ImportError as error:
        if error.name != "torch":
            raise
        raise Error("training needs PyTorch: pip install 'maskprobe[train]' (its CPU build is enough)") from None
    with usage(parser, "--prompts"):
        prompts = [prompt.text for prompt in read_prompts(args.prompts)[0]] if args.prompts else []
    n_threads = max(args.threads, 0)
    with Model(bench_options.model_path(args, PROG), n_threads=n_threads) as model, Bars() as bars:
        out = args.output or default_place(model)
        training = Run(model, out, Settings(60.0 * args.minutes, n_threads, prompts), bars)
        if training.left_s > 0:
            say(f"{PROG}: goes on with a run that was cut short: {training.left_s / 60:.1f} minutes are left of it")
        result = training()
        try:
            gains = gain_of(model, out, prompts, n_threads, GAIN_SHARE * 60.0 * args.minutes)
        except (Error, KeyboardInterrupt) as error:  # the heads are written
            say(f"{PROG}: not compared with plain decoding: {str(error) or 'interrupted'}")
            gains = {}
    return report(model, out, result, gains)


def default_place(model: Model) -> Path:
    """Raises Error."""
    if not model.heads_path:
        raise Error("there is no home directory for the heads: name a file (-o)")
    path = Path(model.heads_path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Error(f"cannot make '{path.parent}': {error.strerror}") from None
    return path


def report(model: Model, out: Path, result: "Result", gains: dict[str, Gain]) -> str:
    """What the heads are, what they cost and what they are worth."""
    found = result.quality
    share = 100 * result.pass_bytes / model.info.size
    lines = [
        f"heads      {out} ({out.stat().st_size / 1e6:.1f} MB, {result.n_params / 1e6:.1f} million parameters)",
        f"text       {result.n_tokens} tokens, written in {result.writing_s / 60:.1f} minutes",
        f"training   {result.n_steps} steps in {result.training_s / 60:.1f} minutes",
        f"cost       {result.pass_bytes / 1e6:.1f} MB are read for a guess, {share:.1f} % of the model",
        "",
        f"{found.n} places of texts that were held out:",
        "tokens ahead                 " + "".join(f"{depth + 2:8d}" for depth in range(len(found.loss))),
        "the best guess comes         " + percentages(found.top1),
        "one of the eight best comes  " + percentages(found.top8),
        "loss, nats                   " + "".join(f"{loss:8.3f}" for loss in found.loss),
    ]
    if gains:
        found_by = {name: gains[name] for name in (WITHOUT, WITH)}
        per_pass = (f"{g.tokens_per_pass:.2f} {name} ({g.rows_per_pass:.1f} rows)" for name, g in found_by.items())
        speeds = (f"{g.speed:.2f} x {name}" for name, g in found_by.items())
        lines += [
            "",
            f"{gains[WITH].n_prompts} new answers at temperature {TEMPERATURE:g}:",
            f"tokens per pass              {', '.join(per_pass)}",
            f"speed over plain decoding    {', '.join(speeds)}",
        ]
    return "\n".join(lines) + "\n"


def percentages(shares: list[float]) -> str:
    return "".join(f"{100 * share:6.1f} %" for share in shares)


if __name__ == "__main__":
    sys.exit(main())
