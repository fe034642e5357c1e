"""maskprobe-bench peers: others that need no second model beside maskprobe, on the same model, prompts and threads."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from .. import ArgumentError, Engine, Error, Model, SamplingParams
from ..proposers import source_named
from . import bench_llama_tools as tools
from . import bench_options, options, values
from .bench_measure import PLAIN, measure
from .bench_peer import Peer, PeerRun, Worker, cannot_run, packages_of
from .bench_peers_table import LLAMA_CPP, as_text, summarize
from .bench_plain import LlamaCpp
from .bench_prompts import Job, in_chat_template, read_prompts, tokenized
from .bench_run import AUTO, ROWS_ROOM, names
from .bench_table import Row, facts_of
from .parser import Parser
from .terminal import Progress, say

PROG = "maskprobe-bench peers"
HELP = "other programs that speculate without a second model, beside maskprobe in one run"
OTHERS = ("llama-cpp-python", "ik-llama-cpp-python", "xllamacpp", "transformers", "programs")
IK = "ik-llama-cpp-python"
IK_WAYS = {  # name -> settings
    IK: {"fast_draw": False, "repack": False},
    f"{IK}, fast draw": {"fast_draw": True, "repack": False},
    f"{IK}, fast draw, repacked": {"fast_draw": True, "repack": True},
}

TIMED = (
    "Timed is generation alone, greedy, until an end token or -n, from the first token to the last: not loading, not\n"
    "the prompt's evaluation. xllamacpp and llama.cpp's programs by their own clocks, llama-completion's of passes\n"
    "and sampling."
)
DESCRIPTION = f"""\
All run the same prompts in turns. Speed-ups are ratios of median times per token over llama.cpp's plain decoding (one
llama_decode and one greedy draw per token), and over the plain decoding of the same program where it has one: programs
that were compiled here, or that compute in F32, differ from llama_cpp's library in more than speculation.
{TIMED}

Others: llama-cpp-python's prompt lookup; ik-llama-cpp-python's plain decoding (its draw goes over the vocabulary in
Python, so its library has lines of its own with a fast draw); xllamacpp, which is llama-server, with each --spec-type
that needs no second file; transformers; llama.cpp's own programs, built once from the source tree of --llama-source
with cmake (CMAKE_ARGS of the environment goes to it). A peer that cannot run is a line that says why.

pip install xllamacpp ik-llama-cpp-python puts them beside maskprobe. The second overwrites headers of llama.cpp that
maskprobe is compiled with: give it an environment of its own, and name that one's interpreter with --peer-python.

Prompts are those of maskprobe-bench run.
"""


def add_options(parser: Parser) -> None:
    add = partial(options.option, parser)
    bench_options.add_model(add)
    bench_options.add_prompts(parser, add)
    add("--propose", metavar="NAME,...", type=names, default="all", help="maskprobe's sources, the first one is ours")
    add(
        "--rows", metavar="N", type=values.integer(1, values.ROWS_MAX), help="rows of these at most; default: their own"
    )
    bench_options.add_kernels(add, default="auto")
    add("--peers", metavar="NAME,...", type=names, default=",".join(OTHERS), help="the others that are asked for")
    add(
        "--peer-python",
        metavar="FILE",
        help="the Python that has ik-llama-cpp-python and xllamacpp; default: the one that runs this",
    )
    add("--llama-source", metavar="DIR", type=Path, help="a source tree of llama.cpp, for its own programs")
    add("--modes", metavar="NAME,...", type=names, default=",".join(tools.MODES), help="of these programs")
    add("--draft", metavar="N", type=values.integer(1), help="tokens that peers guess at; default: each one's own")
    add("-n", "--predict", metavar="N", type=values.integer(2), default=100, help="tokens per prompt")
    bench_options.add_threads(add)
    bench_options.add_form(add)


def run(args: argparse.Namespace) -> str:
    """The result as text."""
    if unknown := [name for name in args.peers if name not in OTHERS]:
        raise ArgumentError(f"there is no peer {unknown[0]!r}: {', '.join(OTHERS)}")
    prompts, notes = read_prompts(args.prompts)
    path = bench_options.model_path(args, PROG)
    modes = tools.modes_named(args.modes)
    with ExitStack() as opened:
        model = opened.enter_context(Model(path, kernels="stock", n_threads=max(args.threads, 0)))
        if args.single_turn:
            prompts = in_chat_template(model, prompts)
        jobs, left_out = tokenized(model, prompts, args.predict + ROWS_ROOM, model.info.n_ctx_train, args.limit)
        for line in (notes := notes + left_out):
            say(f"{PROG}: {line}")
        n_ctx = max(len(job.tokens) for job in jobs) + args.predict + ROWS_ROOM
        own, n_threads = own_peers(args, model, n_ctx, opened)
        facts = facts_of(path, model, n_threads)
        llama = opened.enter_context(LlamaCpp(path, n_ctx=n_ctx, n_threads=n_threads, type_k="f16", type_v="f16"))
        peers = [Peer(LLAMA_CPP, partial(run_llama_cpp, llama, args.predict), LLAMA_CPP), *own]
        settings: Row = {"model": str(path), "end_tokens": model.end_tokens, "n_ctx": n_ctx, "n_threads": n_threads}
        peers += worker_peers(args, settings, opened)
        if "programs" in args.peers:
            peers += tool_peers(args, modes, path, n_ctx, n_threads)
        measure_all(peers, jobs)
        rows = summarize(peers, jobs, model, {**facts, "n_gen": args.predict, "n_depth": 0})
    return as_text(rows, args.output, [headline(facts, args), TIMED, *notes])


def headline(facts: Row, args: argparse.Namespace) -> str:
    return (
        f"{facts['model_filename']} ({facts['model_type']}), threads: {facts['n_threads']}, "
        f"{args.predict} tokens per prompt, greedy, {facts['cpu_info']}"
    )


def own_peers(args: argparse.Namespace, model: Model, n_ctx: int, opened: ExitStack) -> tuple[list[Peer], int]:
    """maskprobe's sources, with each set of kernels that is asked for, and their threads. `model` has llama.cpp's
    kernels."""
    peers = []
    n_threads = max(args.threads, 0)
    for name in bench_options.asked_kernels(args):
        with_kernels = model
        if name != "stock":
            with_kernels = opened.enter_context(Model(model.path, kernels=name, n_threads=n_threads))
        kernels = bench_options.kernels_of(with_kernels)
        if name == "ours" and kernels == "stock":
            raise ArgumentError(f"--kernels ours: {with_kernels.info.kernels_reason}")
        plain_name = f"maskprobe {PLAIN}, {kernels}"
        for source in [PLAIN, *(source for source in args.propose if source != PLAIN)]:
            called = f"maskprobe {source}, {kernels}"
            if source != PLAIN and not source_named(source).runs_on(with_kernels):
                peers.append(cannot_run(called, plain_name, f"it cannot work with this model ({model.info.note})"))
                continue
            rows: Row = {"n_rows_max": 1} if source == PLAIN else {"rows": args.rows or AUTO}
            engine = opened.enter_context(
                Engine(with_kernels, n_ctx=n_ctx, n_threads=n_threads, proposer=source, **rows)
            )
            is_ours = source == args.propose[0] and name == bench_options.asked_kernels(args)[-1]
            peers.append(Peer(called, partial(run_engine, engine, args.predict), plain_name, is_ours))
    return peers, engine.context.n_threads


def run_engine(engine: Engine, n: int, job: Job) -> PeerRun:
    found = measure(engine, job.tokens, SamplingParams(temp=0.0), n)
    return PeerRun(found.tokens, None, found.n_timed, found.gen_ns, found.passes, found.rows)


def run_llama_cpp(llama: LlamaCpp, n: int, job: Job) -> PeerRun:
    found = llama.generate(job.tokens, n)
    return PeerRun(found.tokens, None, found.n_timed, found.gen_ns, found.n_timed, found.n_timed)


def worker_peers(args: argparse.Namespace, settings: Row, opened: ExitStack) -> list[Peer]:
    """Python packages, each in a process of its own."""
    here = packages_of(sys.executable)
    there = here if args.peer_python is None else packages_of(args.peer_python)
    peers = []

    def add(kind: str, name: str, own_plain: str, **more: object) -> None:
        elsewhere = kind in (IK, "xllamacpp")
        if kind not in args.peers:
            return
        if why := (there if elsewhere else here).why_not(kind):
            peers.append(cannot_run(name, own_plain, why))
            return
        python = args.peer_python if elsewhere and args.peer_python is not None else sys.executable
        worker = opened.enter_context(Worker(kind, {**settings, **more}, python))
        peers.append(Peer(name, partial(worker.run, args.predict), own_plain))

    add("llama-cpp-python", "llama-cpp-python prompt lookup", LLAMA_CPP, draft=args.draft)
    ways = IK_WAYS if not there.why_not(IK) else {IK: {}}
    for name, way in ways.items():
        add(IK, name, IK, **way)
    for spec_type in there.spec_types or [PLAIN]:
        add("xllamacpp", f"xllamacpp {spec_type}", f"xllamacpp {PLAIN}", spec_type=spec_type, draft=args.draft)
    add("transformers", "transformers", "transformers", draft=0)
    add("transformers", "transformers prompt lookup", "transformers", draft=args.draft or 10)
    return peers


def tool_peers(
    args: argparse.Namespace, modes: dict[str, tools.Mode], path: Path, n_ctx: int, n_threads: int
) -> list[Peer]:
    """llama.cpp's own programs. The plain one is what the others are compared with too."""
    called = "llama.cpp's programs"
    if args.llama_source is None:
        return [cannot_run(called, tools.PLAIN, "no source tree named (--llama-source)")]
    try:
        folder = tools.build(args.llama_source)
    except Error as error:
        return [cannot_run(called, tools.PLAIN, str(error))]

    def run_mode(mode: tools.Mode, job: Job) -> PeerRun:
        settings = {"n_ctx": n_ctx, "n_threads": n_threads, "draft": args.draft}
        found = tools.run_tool(folder, mode, path, job.text, args.predict, **settings)
        return PeerRun(None, found.text, found.n_tokens, found.gen_ns, found.passes, found.rows)

    peers = []
    for name, mode in {tools.PLAIN: tools.MODES[tools.PLAIN], **modes}.items():
        called = f"{mode.program} {name}" if mode.program == tools.SPECULATIVE else mode.program
        peers.append(Peer(called, partial(run_mode, mode), tools.PLAIN))
    return peers


def measure_all(peers: Sequence[Peer], jobs: Sequence[Job]) -> None:
    """Every prompt with every peer. One that fails is not asked again."""
    warm_up = jobs[0]
    with Progress("measuring") as progress:
        for i, job in enumerate([warm_up, *jobs]):  # the first round loads and warms up
            progress(i, len(jobs) + 1)
            for peer in [*peers[(at := i % len(peers)) :], *peers[:at]]:  # nobody is always first
                if peer.failure:
                    continue
                try:
                    found = peer.run(job)
                    if i:
                        peer.runs.append(found)
                except Error as error:
                    peer.failure = str(error)
                    if peer.name == LLAMA_CPP:
                        raise
