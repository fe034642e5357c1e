"""maskprobe-run: one prompt, one completion on standard output, exit."""

import argparse
import json
import platform
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from .. import Cancelled, Error, MaskProbe, Model, Proposer, SamplingParams, Stats, devices, set_verbose
from . import build, files, interrupt, options, values
from .compare import Comparison, compare
from .interrupt import Interrupt
from .parser import Parser
from .report import Report
from .terminal import Completion, OutputClosed, say, secure_streams, with_bar

if TYPE_CHECKING:
    from ..structured import JsonSchema, Regex

PROG = "maskprobe-run"
EXIT_DONE, EXIT_FAILURE, EXIT_DIFFERENT = 0, 1, 3

EPILOGUE = """\
exit status:
  0    done; also when one Ctrl-C stopped the generation, and when the context is full
  1    failure, with one line on standard error
  2    an option is wrong, named on standard error
  3    --compare found a difference
  130  a second Ctrl-C, or one before the prompt was evaluated
"""


def setup_arg_parser() -> Parser:
    parser = Parser(
        prog=PROG,
        usage=f"{PROG} [-m FILE | -hf REPO] -p TEXT | -f FILE [options]",
        description="Answers a prompt, or completes it where the model has no chat template.\n"
        "Standard output carries the answer only; all else goes to standard error.",
        epilog=EPILOGUE,
    )
    parser.add_argument("--version", action="store_true", help="print the versions and exit")
    parser.add_argument("--list-devices", action="store_true", help="print the compute devices and exit")
    options.add_memory_option(parser)
    parser.add_argument("-v", "--verbose", action="store_true", help="show llama.cpp's own log lines")
    add_prompt_options(parser.add_argument_group("prompt and end"))
    options.add_model_options(parser.add_argument_group("model"))
    options.add_context_options(parser.add_argument_group("context and threads"))
    options.add_sampling_options(parser.add_argument_group("sampling"))
    probing = parser.add_argument_group("probing")
    options.add_probing_options(probing)
    probing.add_argument("--compare", action="store_true", help="run again plainly, compare tokens and speed")
    add_output_options(parser.add_argument_group("output"))
    return parser


def add_prompt_options(group: Any) -> None:
    source = group.add_mutually_exclusive_group()
    source.add_argument("-p", "--prompt", metavar="TEXT", help="the prompt; - reads standard input")
    source.add_argument("-f", "--file", metavar="FILE", type=values.text_file, help="read the prompt from a UTF-8 file")
    conversation = group.add_mutually_exclusive_group()
    conversation.add_argument(
        "-st",
        "--single-turn",
        action="store_true",
        help="put the prompt as the user's message into the model's chat template (default where the model has one)",
    )
    conversation.add_argument(
        "-no-cnv", "--no-conversation", action="store_true", help="do not: complete the prompt as it is"
    )
    group.add_argument("-sys", "--system-prompt", metavar="TEXT", help="a system message before it; implies -st")
    options.add_text_options(group)


def add_output_options(group: Any) -> None:
    group.add_argument("--display-prompt", action="store_true", help="print the prompt before the completion")
    group.add_argument("--no-display-prompt", action="store_false", dest="display_prompt", help="do not (default)")
    options.option(
        group,
        "--color",
        choices=options.SWITCH,
        metavar="on|off|auto",
        default="auto",
        help="show in green the tokens that were guessed right; auto = on a terminal",
    )
    group.add_argument(
        "--stats-json",
        metavar="FILE",
        type=files.output_file,
        help="write the statistics and the token ids as one JSON object; a pipe or /dev/stderr too",
    )


def main(argv: list[str] | None = None) -> int:
    secure_streams()
    parser = setup_arg_parser()
    with Interrupt() as ctrl_c:
        try:
            return run(parser.parse_args(argv), parser, ctrl_c)
        except (KeyboardInterrupt, Cancelled):  # Cancelled: while the model was loaded
            say(f"{PROG}: interrupted")
            return interrupt.EXIT_STATUS
        except (Error, OutputClosed, OSError) as error:
            say(f"{PROG}: error: {error}")
        except Exception as error:  # a traceback on a user's terminal helps nobody
            say(f"{PROG}: error: {type(error).__name__}: {' '.join(str(error).split())}")
        return EXIT_FAILURE


def run(args: argparse.Namespace, parser: Parser, ctrl_c: Interrupt) -> int:
    out = Completion(args.color)
    if args.version or args.list_devices:
        out.write(version_text() if args.version else devices_text())
        return EXIT_DONE

    if args.memory:
        return build.print_memory(args, parser)

    check_combinations(args, parser)
    build.check_state_file(args, parser)
    if args.stats_json is not None:
        with build.usage(parser, "--stats-json"):
            files.check_apart(args.stats_json, {**build.files_read(args), "--state": args.state})
    text = build.prompt_text(args, parser)
    system = None
    if args.system_prompt is not None:
        system = build.text_value(args, parser, "-sys/--system-prompt", args.system_prompt)
    stop = [build.text_value(args, parser, "-r/--reverse-prompt", value) for value in args.reverse_prompt]
    set_verbose(args.verbose)

    started = time.perf_counter()
    with build.open_model(args, parser, ctrl_c) as model:
        load_ms = 1000 * (time.perf_counter() - started)
        tokens, text = build.prompt_tokens(args, parser, model, system, text)
        sampling = build.sampling_params(args, parser, model)
        rules = build.rules(args, parser, model)
        proposer = build.proposer(args, parser, model)
        proposing = proposer != "none"

        job = Job(model, tokens, text if args.display_prompt else "", sampling, rules, stop)
        result = generate(job, args, parser, proposer, ctrl_c, out)
        out.end_line(echoed=result.interrupted)
        comparison = None
        if args.compare and proposing and not result.interrupted:
            with suppress(KeyboardInterrupt):  # between the runs: the first one counts
                comparison = compare_with_plain(job, args, parser, result, ctrl_c)

        report = Report(
            model=str(model.path),
            kernels=model.info.kernels,
            kernels_reason=model.info.kernels_reason,
            propose=args.propose if proposing else "none",
            tree=args.tree if isinstance(proposer, MaskProbe) else None,
            seed=sampling.seed,
            n_prompt=len(tokens),
            load_ms=load_ms,
            finish_reason="interrupted" if result.interrupted else str(result.stats.finish_reason),
            stats=result.stats,
            comparison=comparison,
        )
    report.show()
    if args.stats_json is not None:
        try:
            files.write_file(args.stats_json, json.dumps(report.as_json(), allow_nan=False) + "\n")
        except OSError as error:
            raise Error(f"cannot write '{args.stats_json}' (--stats-json): {error.strerror}") from None
    return EXIT_DIFFERENT if comparison is not None and comparison.difference is not None else EXIT_DONE


def check_combinations(args: argparse.Namespace, parser: Parser) -> None:
    """What one option says about another."""
    build.check_shared_options(args, parser)
    if args.no_conversation and args.system_prompt is not None:
        parser.error("argument -sys/--system-prompt: it goes into the chat template, which -no-cnv leaves out")
    if args.compare and args.propose == "none":
        parser.error("argument --compare: with --propose none there is nothing to compare")


def version_text() -> str:
    return (
        f"maskprobe {version('maskprobe')}, llama-cpp-python {version('llama-cpp-python')}\n"
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}\n"
    )


def devices_text() -> str:
    return "".join(
        f"{device.name}: {device.description} ({device.kind},"
        f" {device.memory_free >> 20} of {device.memory_total >> 20} MiB free)\n"
        for device in devices()
    )


@dataclass(frozen=True)
class Job:
    """What is to be generated, whoever proposes."""

    model: Model
    prompt: list[int]
    shown: str  # of the prompt, before the completion
    sampling: SamplingParams
    rules: "JsonSchema | Regex | None"
    stop: list[str]


@dataclass(frozen=True)
class Result:
    stats: Stats
    margins: list[float]  # nats between the two best tokens, one per token
    interrupted: bool


def generate(
    job: Job,
    args: argparse.Namespace,
    parser: Parser,
    proposer: str | Proposer,
    ctrl_c: Interrupt,
    out: Completion | None,
) -> Result:
    """Runs the job on an engine of its own; text goes to `out` as it comes."""
    margins: list[float] = []
    with (
        build.engine(args, parser, job.model, proposer) as engine,
        engine.generate(
            job.prompt,
            job.sampling,
            max_tokens=args.predict,
            stop=job.stop,
            ignore_eos=args.ignore_eos,
            constraint=job.rules,
        ) as generation,
        ctrl_c.cancels(generation.cancel),
    ):
        if out is not None:
            out.write(job.shown)
        for token in with_bar(generation):
            if token.token >= 0:
                margins.append(token.margin)
            if out is not None:
                out.write(token.text, drafted=token.from_draft)
        stats = generation.stats
        if stats.finish_reason == "context" and out is not None:
            say(f"{PROG}: the context of {engine.context.n_ctx} tokens is full (-c/--ctx-size)")
    return Result(stats, margins, interrupted=stats.finish_reason == "cancelled")


def compare_with_plain(
    job: Job, args: argparse.Namespace, parser: Parser, probed: Result, ctrl_c: Interrupt
) -> Comparison:
    plain = generate(job, args, parser, "none", ctrl_c, None)
    return compare(
        probed.stats.tokens,
        plain.stats.tokens,
        plain.margins,
        text_of=lambda token: job.model.token_bytes(token, special=True).decode("utf-8", "replace"),
        speed_ratio=probed.stats.gen_tps / plain.stats.gen_tps if plain.stats.gen_tps else 0.0,
        complete=not plain.interrupted,
    )


if __name__ == "__main__":
    sys.exit(main())
