"""Others that speculate without a second model beside maskprobe, on the same model, prompts and threads.

python bench/peers.py --limit 5 --llama-source llama.cpp
"""

import argparse
import contextlib
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import llama_tools as tools
from plain_llama_cpp import LlamaCpp

from maskprobe import ArgumentError, Engine, Error, Model, SamplingParams
from maskprobe.cli import bench_options, options, values
from maskprobe.cli.bench import print_result
from maskprobe.cli.bench_measure import PLAIN, first_difference, measure, speed_up, timing_keys
from maskprobe.cli.bench_prompts import Job, read_prompts, tokenized
from maskprobe.cli.bench_run import ALL_TASKS, AUTO, names
from maskprobe.cli.bench_table import PER_PASS, SPEED, Column, Row, decimals, facts_of, plain_text, render
from maskprobe.cli.parser import Parser
from maskprobe.cli.terminal import Progress, say, secure_streams
from maskprobe.proposers import source_named

PROG = "peers.py"
LLAMA_CPP = "llama.cpp"
WORKER = Path(__file__).with_name("peer_worker.py")
ROWS_ROOM = 64  # of the context, for what peers guess beyond its end

TIMED = (
    "Timed is generation alone, greedy, until an end token or -n, from the first token to the last: not loading, not\n"
    "the prompt's evaluation. llama.cpp's programs by their own clocks, llama-completion's of passes and sampling."
)
DESCRIPTION = f"""\
All run the same prompts in turns. Speed-ups are ratios of median times per token over llama.cpp's plain decoding (one
llama_decode and one greedy draw per token), and over the plain decoding of the same program where it has one: programs
that were compiled here, or that compute in F32, differ from llama_cpp's library in more than speculation.
{TIMED}

--llama-source names a source tree of llama.cpp. Its own programs are built from that once, with cmake; CMAKE_ARGS of
the environment goes to cmake. A peer that cannot run is a line that says why.
"""


@dataclass(frozen=True)
class PeerRun:
    """One prompt. tokens None: a program that gives text only. passes and rows None: it does not tell."""

    tokens: list[int] | None
    text: str | None
    n_timed: int  # tokens generated in gen_ns
    gen_ns: int
    passes: int | None
    rows: int | None


Run = Callable[[Job], PeerRun]  # raises Error


@dataclass
class Peer:
    """One way to decode. own_plain: the peer that is its plain decoding."""

    name: str
    run: Run
    own_plain: str
    runs: list[PeerRun] = field(default_factory=list)
    failure: str = ""


def setup_arg_parser() -> Parser:
    parser = Parser(prog=PROG, description=DESCRIPTION)
    add = partial(options.option, parser)
    bench_options.add_model(add)
    add("--prompts", metavar="SET|FILE", nargs="+", default=[], help="as for maskprobe-bench run")
    add("--limit", metavar="N", type=values.integer(1), help="prompts of each task at most, evenly spread")
    add("--propose", metavar="NAME,...", type=names, default="all,lookup,recycle", help="maskprobe's sources")
    add(
        "--rows", metavar="N", type=values.integer(1, values.ROWS_MAX), help="rows of these at most; default: their own"
    )
    bench_options.add_kernels(add, default="auto")
    add("--llama-source", metavar="DIR", type=Path, help="a source tree of llama.cpp, for its own programs")
    add("--modes", metavar="NAME,...", type=names, default=",".join(tools.MODES), help="of these programs")
    add("--draft", metavar="N", type=values.integer(1), help="tokens that peers guess at; default: each one's own")
    add("-n", "--predict", metavar="N", type=values.integer(2), default=100, help="tokens per prompt")
    bench_options.add_threads(add)
    bench_options.add_form(add)
    return parser


def run(args: argparse.Namespace) -> str:
    """The result as text."""
    prompts, notes = read_prompts(args.prompts)
    path = bench_options.model_path(args, PROG)
    modes = tools.modes_named(args.modes)
    with ExitStack() as opened:
        model = opened.enter_context(Model(path, kernels="stock", n_threads=max(args.threads, 0)))
        jobs, left_out = tokenized(model, prompts, args.predict + ROWS_ROOM, model.info.n_ctx_train, args.limit)
        for line in (notes := notes + left_out):
            say(f"{PROG}: {line}")
        n_ctx = max(len(job.tokens) for job in jobs) + args.predict + ROWS_ROOM
        own = own_peers(args, model, n_ctx, opened)
        facts = facts_of(path, model, own.n_threads)
        setting = {"n_ctx": n_ctx, "n_threads": own.n_threads}
        llama = opened.enter_context(LlamaCpp(path, **setting, type_k="f16", type_v="f16"))
        peers = [Peer(LLAMA_CPP, partial(run_llama_cpp, llama, args.predict), LLAMA_CPP), *own.peers]
        peers += worker_peers(args, {**setting, "model": str(path), "end_tokens": model.end_tokens}, opened)
        peers += tool_peers(args, modes, path, setting)
        measure_all(peers, jobs)
        rows = summarize(peers, jobs, model, facts, args)
    return render(rows, args.output, COLUMNS, [headline(facts, args), TIMED, *notes])


def headline(facts: Row, args: argparse.Namespace) -> str:
    return (
        f"{facts['model_filename']} ({facts['model_type']}), threads: {facts['n_threads']}, "
        f"{args.predict} tokens per prompt, greedy, {facts['cpu_info']}"
    )


@dataclass(frozen=True)
class Own:
    peers: list[Peer]
    n_threads: int


def own_peers(args: argparse.Namespace, model: Model, n_ctx: int, opened: ExitStack) -> Own:
    """maskprobe's sources, with each set of kernels that is asked for. `model` has llama.cpp's."""
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
        for name in [PLAIN, *(name for name in args.propose if name != PLAIN)]:
            called = f"maskprobe {name}, {kernels}"
            if name != PLAIN and not source_named(name).runs_on(with_kernels):
                why = f"it cannot work with this model ({model.info.note})"
                peers.append(Peer(called, refuse, plain_name, failure=why))
                continue
            rows = {"n_rows_max": 1} if name == PLAIN else {"rows": args.rows or AUTO}
            engine = opened.enter_context(Engine(with_kernels, n_ctx=n_ctx, n_threads=n_threads, proposer=name, **rows))
            peers.append(Peer(called, partial(run_engine, engine, args.predict), plain_name))
    return Own(peers, engine.context.n_threads)


def run_engine(engine: Engine, n: int, job: Job) -> PeerRun:
    found = measure(engine, job.tokens, SamplingParams(temp=0.0), n)
    return PeerRun(found.tokens, None, found.n_timed, found.gen_ns, found.passes, found.rows)


def run_llama_cpp(llama: LlamaCpp, n: int, job: Job) -> PeerRun:
    found = llama.generate(job.tokens, n)
    return PeerRun(found.tokens, None, found.n_timed, found.gen_ns, found.n_timed, found.n_timed)


def worker_peers(args: argparse.Namespace, settings: Row, opened: ExitStack) -> list[Peer]:
    """Python packages, each in a process of its own."""
    peers = []
    kinds = [
        ("llama-cpp-python prompt lookup", "llama-cpp-python", args.draft, LLAMA_CPP),
        ("transformers", "transformers", 0, "transformers"),
        ("transformers prompt lookup", "transformers", args.draft or 10, "transformers"),
    ]
    for name, kind, draft, own_plain in kinds:
        if kind == "transformers" and (missing := [p for p in ("torch", "transformers") if find_spec(p) is None]):
            peers.append(Peer(name, refuse, own_plain, failure=f"{' and '.join(missing)} not installed"))
            continue
        worker = opened.enter_context(Worker(kind, {**settings, "draft": draft}))
        peers.append(Peer(name, partial(worker.run, args.predict), own_plain))
    return peers


def tool_peers(args: argparse.Namespace, modes: dict[str, tools.Mode], path: Path, setting: Row) -> list[Peer]:
    """llama.cpp's own programs. The plain one is what the others are compared with too."""
    none = Peer("llama.cpp's programs", refuse, tools.PLAIN, failure="no source tree named (--llama-source)")
    if args.llama_source is None:
        return [none]
    try:
        folder = tools.build(args.llama_source)
    except Error as error:
        none.failure = str(error)
        return [none]
    peers = []
    for name, mode in {tools.PLAIN: tools.MODES[tools.PLAIN], **modes}.items():
        called = f"{mode.program} {name}" if mode.program == tools.SPECULATIVE else mode.program
        peers.append(Peer(called, partial(run_mode, folder, mode, path, args, setting), tools.PLAIN))
    return peers


def run_mode(folder: Path, mode: tools.Mode, path: Path, args: argparse.Namespace, setting: Row, job: Job) -> PeerRun:
    found = tools.run_tool(folder, mode, path, job.text, args.predict, **setting, draft=args.draft)
    return PeerRun(None, found.text, found.n_tokens, found.gen_ns, found.passes, found.rows)


def refuse(_job: Job) -> PeerRun:
    raise ArgumentError("cannot run")


class Worker:
    """A peer in a process of its own, started with its first prompt."""

    def __init__(self, kind: str, settings: Row) -> None:
        self._command = [sys.executable, str(WORKER), kind, json.dumps(settings)]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def run(self, n: int, job: Job) -> PeerRun:
        """Raises ArgumentError with the worker's last line where it has ended."""
        if self._process is None:
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
            self._answer()
        with contextlib.suppress(OSError):  # it has ended: the answer says why
            self._process.stdin.write(json.dumps({"tokens": job.tokens, "n": n}) + "\n")
            self._process.stdin.flush()
        answer = self._answer()
        return PeerRun(answer["tokens"], None, answer["n_timed"], answer["gen_ns"], answer["passes"], answer["rows"])

    def _answer(self) -> Row:
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        _, error = self._process.communicate()
        lines = [line for line in error.splitlines() if line.strip()]
        status = self._process.returncode
        raise ArgumentError(f"ended with status {status}: {lines[-1].strip() if lines else 'without a word'}")


def measure_all(peers: Sequence[Peer], jobs: Sequence[Job]) -> None:
    """Every prompt with every peer. One that fails is not asked again."""
    warm_up = jobs[0]
    with Progress("measuring") as progress:
        for i, job in enumerate([warm_up, *jobs]):  # the first round loads and warms up
            progress(i, len(jobs) + 1)
            for peer in peers[(at := i % len(peers)) :] + peers[:at]:  # nobody is always first
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


def summarize(
    peers: Sequence[Peer], jobs: Sequence[Job], model: Model, facts: Row, args: argparse.Namespace
) -> list[Row]:
    """One row for each task (and all of them together) and peer; one for all tasks where a peer failed."""
    tasks = list(dict.fromkeys(job.task for job in jobs))
    by_name = {peer.name: peer for peer in peers}
    reference = by_name[LLAMA_CPP].runs
    rows = []
    for task, peer in itertools.product(tasks if len(tasks) == 1 else [*tasks, ALL_TASKS], peers):
        about = {**facts, "n_gen": args.predict, "n_depth": 0, "task": task, "peer": peer.name}
        if peer.failure:
            if task in (ALL_TASKS, tasks[0]) and (task == ALL_TASKS or len(tasks) == 1):
                rows.append({**about, "failure": peer.failure})
            continue
        chosen = [i for i, job in enumerate(jobs) if task in (job.task, ALL_TASKS) and peer.runs[i].n_timed]
        if not chosen:
            rows.append({**about, "failure": "no text of more than a token"})
            continue
        identical = [same_text(peer.runs[i], reference[i], jobs[i], model) for i in chosen]
        rows.append(
            {
                **about,
                "n_prompt": round(sum(len(jobs[i].tokens) for i in chosen) / len(chosen)),
                **pooled([peer.runs[i] for i in chosen]),
                **over("", peer, by_name[LLAMA_CPP], chosen),
                **over("own_plain_", peer, by_name[peer.own_plain], chosen),
                "n_runs": len(chosen),
                "n_identical": sum(identical),
            }
        )
    return rows


def pooled(runs: Sequence[PeerRun]) -> Row:
    n_tokens = sum(run.n_timed for run in runs)
    passes = None if any(run.passes is None for run in runs) else sum(run.passes for run in runs)
    n_rows = None if any(run.rows is None for run in runs) else sum(run.rows for run in runs)
    return {
        **timing_keys([run.gen_ns for run in runs], [run.n_timed for run in runs]),
        "draft_n": n_rows - passes if passes and n_rows is not None else None,
        "draft_n_accepted": n_tokens - passes if passes else None,
        "rows_per_step": n_rows / passes if passes and n_rows is not None else None,
        "tokens_per_step": n_tokens / passes if passes else None,
    }


def over(prefix: str, peer: Peer, plain: Peer, chosen: Sequence[int]) -> Row:
    """The speed-up over another peer on the same prompts; nothing where that one failed."""
    pairs = [] if plain.failure else [(plain.runs[i], peer.runs[i]) for i in chosen if plain.runs[i].n_timed]
    if not pairs:
        return {f"{prefix}speed_up": None, f"{prefix}speed_up_quartiles": None}
    spread = speed_up([a.gen_ns / a.n_timed for a, _ in pairs], [b.gen_ns / b.n_timed for _, b in pairs])
    return {f"{prefix}speed_up": spread.ratio, f"{prefix}speed_up_quartiles": [spread.low, spread.high]}


def same_text(found: PeerRun, reference: PeerRun, job: Job, model: Model) -> bool:
    """Whether a peer wrote what llama.cpp's plain decoding did; of programs, whether their text holds it."""
    if found.tokens is not None:
        return first_difference(found.tokens, reference.tokens) is None
    expected = model.detokenize(reference.tokens).decode("utf-8", "replace").rstrip("\ufffd")
    return job.text + expected in found.text


COLUMNS: list[Column] = [
    ("task", plain_text("task")),
    ("peer", plain_text("peer")),
    *PER_PASS,
    *SPEED,
    ("over its own plain", decimals("own_plain_speed_up", 2)),
    ("identical", lambda row: f"{row['n_identical']} of {row['n_runs']}" if "avg_ts" in row else row["failure"]),
]


def main(argv: Sequence[str] | None = None) -> int:
    secure_streams()
    return print_result(PROG, run, setup_arg_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
