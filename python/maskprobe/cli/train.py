"""maskprobe-train: heads or masks for a model that this machine already has, from text that the model writes itself."""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import Error, Model
from ..model import version
from . import bench_options, files, options, values
from .bench_prompts import read_prompts
from .build import usage
from .interrupt import EXIT_STATUS
from .parser import HelpFormatter, Parser
from .terminal import Completion, OutputClosed, Progress, say, secure_streams
from .train_gain import TEMPERATURE, WITH, WITHOUT, gain_of

if TYPE_CHECKING:
    from ..mtp import train_masks, train_sampler
    from ..mtp.training_run import Result, Settings, TrainingRun

PROG = "maskprobe-train"
KINDS = ("sampler", "mtp", "masks")
MINUTES_MAX = 10_000
GAIN_SHARE = 0.05  # of the time, at most, beside it: to see what the heads bring

DESCRIPTION = """\
Makes a small file of heads or masks for a model, which guess its next tokens.

The model writes text, and they learn from it, for as long as --minutes says. Nothing leaves this machine. The same
command goes on with a run that was cut short; after one that was not, it gives them more text.
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
        type=trained_file,
        help="the file that is written (default: in the user's cache directory, where heads are looked for); beside "
        "it, in FILE.work, lies what a next call goes on with",
    )
    add(
        "--kind",
        choices=KINDS,
        metavar="|".join(KINDS),
        default="sampler",
        help="what is trained: a head (--heads of other programs) or masks (--trained-masks)",
    )
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


def trained_file(text: str) -> Path:
    """A place for what is trained: a new file, or one of a training before."""
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
        Completion("off").write(text)  # not before: hours of work are kept where nobody reads what it says
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
        from ..mtp import train_masks, train_mtp, train_sampler
        from ..mtp.training_run import Settings
    except ImportError as error:
        if error.name != "torch":
            raise
        raise Error("training needs PyTorch: pip install 'maskprobe[train]' (its CPU build is enough)") from None
    with usage(parser, "--prompts"):
        prompts = [prompt.text for prompt in read_prompts(args.prompts)[0]] if args.prompts else []
    n_threads = max(args.threads, 0)
    with Model(bench_options.model_path(args, PROG), n_threads=n_threads) as model:
        out = args.output or default_place(model, args.kind)
        settings = Settings(60.0 * args.minutes, n_threads, prompts)
        with Bars() as bars:
            if args.kind == "masks":
                lines = masks_report(out, trained(train_masks.Run(model, out, settings, bars)))
                used: dict[str, Any] = {"masks": f"file:{out}"}
            else:
                kind = train_mtp.Run if args.kind == "mtp" else train_sampler.Run
                lines = report(model, out, trained(kind(model, out, settings, bars)))
                used = {"heads": out}
        return "\n".join([*lines, *compared(model, used, settings)]) + "\n"


def compared(model: Model, used: dict[str, Any], settings: "Settings") -> list[str]:
    """What it brings in new answers. What was trained is in its file already, whatever happens here."""
    try:
        gains = gain_of(model, used, settings.prompts, settings.n_threads, GAIN_SHARE * settings.budget_s)
    except (Error, KeyboardInterrupt) as error:
        say(f"{PROG}: not compared with plain decoding: {str(error) or 'interrupted'}")
        return []
    if not gains:
        return []
    found = {name: gains[name] for name in (WITHOUT, WITH)}
    per_pass = (f"{gain.tokens_per_pass:.2f} {name} ({gain.rows_per_pass:.1f} rows)" for name, gain in found.items())
    speeds = (f"{gain.speed:.2f} x {name}" for name, gain in found.items())
    return [
        "",
        f"{gains[WITH].n_prompts} new answers at temperature {TEMPERATURE:g}, without and with it:",
        f"tokens per pass              {', '.join(per_pass)}",
        f"speed over plain decoding    {', '.join(speeds)}",
    ]


def trained(training: "TrainingRun[Result]") -> "Result":
    """What comes of it; a run that goes on says so."""
    if training.left_s > 0:
        say(f"{PROG}: goes on with a run that was cut short: {training.left_s / 60:.1f} minutes are left of it")
    return training()


def default_place(model: Model, kind: str) -> Path:
    """Raises Error."""
    if not model.heads_path:
        raise Error("there is no home directory for what is trained: name a file (-o)")
    path = Path(model.heads_path)
    if kind == "masks":
        path = path.with_name(path.name.replace(".heads.", ".masks."))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Error(f"cannot make '{path.parent}': {error.strerror}") from None
    return path


def report(model: Model, out: Path, result: "train_sampler.Result") -> list[str]:
    """What the heads are, what they cost and what they are worth."""
    found = result.quality
    share = 100 * result.pass_bytes / model.info.size
    return [
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


def masks_report(out: Path, result: "train_masks.Result") -> list[str]:
    """What the masks are and how good they are."""
    found = result.quality
    return [
        f"masks      {out} ({out.stat().st_size / 1e6:.1f} MB, {result.n_masks} masks, matrices of rank {result.rank})",
        f"text       {result.n_tokens} tokens, written in {result.writing_s / 60:.1f} minutes",
        f"training   {result.n_steps} steps in {result.training_s / 60:.1f} minutes",
        f"use        --trained-masks {out}",
        "",
        f"{found.n} places of texts that were held out:",
        "mask                         " + "".join(f"{number:8d}" for number in range(1, result.n_masks + 1)),
        "its best guess comes         " + percentages(found.top1),
        "loss, nats                   " + "".join(f"{loss:8.3f}" for loss in found.loss),
    ]


def percentages(shares: list[float]) -> str:
    return "".join(f"{100 * share:6.1f} %" for share in shares)


if __name__ == "__main__":
    sys.exit(main())
