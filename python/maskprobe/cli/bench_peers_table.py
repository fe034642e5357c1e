"""What the runs of maskprobe-bench peers come to: a row for each task and peer, and three tables of these."""

import itertools
from collections.abc import Sequence

from .. import Model
from .bench_measure import speed_up, timing_keys
from .bench_peer import Peer, PeerRun
from .bench_prompts import Job
from .bench_run import ALL_TASKS
from .bench_table import PER_PASS, SPEED, Column, Row, decimals, markdown, plain_text, render

LLAMA_CPP = "llama.cpp"


def summarize(peers: Sequence[Peer], jobs: Sequence[Job], model: Model, facts: Row) -> list[Row]:
    """One row for each task (and all of them together) and peer; one for all tasks where a peer failed."""
    tasks = list(dict.fromkeys(job.task for job in jobs))
    by_name = {peer.name: peer for peer in peers}
    ours = next((peer for peer in peers if peer.is_ours and not peer.failure), None)
    reference = by_name[LLAMA_CPP]
    rows = []
    for task, peer in itertools.product(tasks if len(tasks) == 1 else [*tasks, ALL_TASKS], peers):
        about = {**facts, "task": task, "peer": peer.name, "is_ours": peer is ours}
        if peer.failure:
            if task in (ALL_TASKS, tasks[0]) and (task == ALL_TASKS or len(tasks) == 1):
                rows.append({**about, "failure": peer.failure})
            continue
        chosen = [i for i, job in enumerate(jobs) if task in (job.task, ALL_TASKS) and peer.runs[i].n_timed > 0]
        if not chosen:
            rows.append({**about, "failure": "no text of more than a token"})
            continue
        identical = [same_text(peer.runs[i], reference.runs[i], jobs[i], model) for i in chosen]
        rows.append(
            {
                **about,
                "n_prompt": round(sum(len(jobs[i].tokens) for i in chosen) / len(chosen)),
                **pooled([peer.runs[i] for i in chosen]),
                **over("", peer, reference, chosen),
                **over("own_plain_", peer, by_name.get(peer.own_plain), chosen),
                **over("ours_", ours, peer, chosen),
                "n_runs": len(chosen),
                "n_identical": sum(identical),
            }
        )
    return rows


def pooled(runs: Sequence[PeerRun]) -> Row:
    n_tokens = sum(run.n_timed for run in runs)
    passes = sum_or_none([run.passes for run in runs])
    n_rows = sum_or_none([run.rows for run in runs])
    return {
        **timing_keys([run.gen_ns for run in runs], [run.n_timed for run in runs]),
        "draft_n": n_rows - passes if passes and n_rows is not None else None,
        "draft_n_accepted": n_tokens - passes if passes else None,
        "rows_per_step": n_rows / passes if passes and n_rows is not None else None,
        "tokens_per_step": n_tokens / passes if passes else None,
    }


def sum_or_none(numbers: Sequence[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


def over(prefix: str, peer: Peer | None, plain: Peer | None, chosen: Sequence[int]) -> Row:
    """The speed-up over another peer on the same prompts; nothing where one of them failed."""
    pairs = []
    if peer is not None and plain is not None and not peer.failure and not plain.failure:
        runs = [(plain.runs[i], peer.runs[i]) for i in chosen]
        pairs = [(a, b) for a, b in runs if a.n_timed > 0 and b.n_timed > 0]
    if not pairs:
        return {f"{prefix}speed_up": None, f"{prefix}speed_up_quartiles": None}
    spread = speed_up([a.gen_ns / a.n_timed for a, _ in pairs], [b.gen_ns / b.n_timed for _, b in pairs])
    return {f"{prefix}speed_up": spread.ratio, f"{prefix}speed_up_quartiles": [spread.low, spread.high]}


def same_text(found: PeerRun, reference: PeerRun, job: Job, model: Model) -> bool:
    """Whether a peer wrote what llama.cpp's plain decoding did; of programs, whether their text holds it."""
    assert reference.tokens is not None
    if found.tokens is not None:
        return without_end(found.tokens, model) == without_end(reference.tokens, model)
    expected = model.detokenize(reference.tokens).decode("utf-8", "replace").rstrip("\ufffd")
    return found.text is not None and job.text + expected in found.text


def without_end(tokens: list[int], model: Model) -> list[int]:
    """Some peers count the token that ends a text, others do not tell it."""
    return tokens[:-1] if tokens and tokens[-1] in model.end_tokens else tokens


def as_text(rows: Sequence[Row], form: str, notes: Sequence[str]) -> str:
    """The result in one of FORMS. Markdown has ours against the fastest other, all peers by task, and the details."""
    if form != "md":
        return render(rows, form, DETAILS)
    tables = [markdown(places(rows), PLACES), by_task(rows), markdown(rows, DETAILS)]
    return "".join(f"{note}\n" for note in notes) + "".join(f"\n{table}" for table in tables if table)


def places(rows: Sequence[Row]) -> list[Row]:
    """For each task ours beside the fastest of the others."""
    found = []
    for task in dict.fromkeys(row["task"] for row in rows):
        timed = [row for row in rows if row["task"] == task and row.get("speed_up")]
        ours = next((row for row in timed if row["is_ours"]), None)
        others = [row for row in timed if not row["peer"].startswith("maskprobe ") and row["ours_speed_up"]]
        if ours is None or not others:
            continue
        best = min(others, key=lambda row: float(row["ours_speed_up"]))
        place = "first"
        if best["ours_speed_up"] < 1.0:
            per_pass = " and ".join(f"{decimals('tokens_per_step', 2)(row)}" for row in (ours, best))
            place = f"{100 * (1 - best['ours_speed_up']):.0f} % slower; tokens/pass of ours and of it: {per_pass}"
        keys = {"best": best["peer"], "best_speed_up": best["speed_up"], "lead": best["ours_speed_up"]}
        found.append({"task": task, "ours": ours["peer"], "speed_up": ours["speed_up"], **keys, "place": place})
    return found


def by_task(rows: Sequence[Row]) -> str:
    """The speed-ups over llama.cpp's plain decoding, a line for each task; empty where there is one task."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    if len(tasks) == 1:
        return ""
    cells = {(row["task"], row["peer"]): speed_up_cell(row) for row in rows if row.get("speed_up")}
    peers = list(dict.fromkeys(peer for _, peer in cells))
    columns: list[Column] = [("over llama.cpp", plain_text("task"))]
    columns += [(peer, plain_text(peer)) for peer in peers]
    lines = [{"task": task, **{peer: cells.get((task, peer)) for peer in peers}} for task in tasks]
    return markdown(lines, columns)


def speed_up_cell(row: Row) -> str:
    n_different = row["n_runs"] - row["n_identical"]
    return f"{row['speed_up']:.2f}" + (f" ({n_different} of {row['n_runs']} differ)" if n_different else "")


PLACES: list[Column] = [
    ("task", plain_text("task")),
    ("ours", plain_text("ours")),
    ("over llama.cpp", decimals("speed_up", 2)),
    ("fastest other", plain_text("best")),
    ("over llama.cpp", decimals("best_speed_up", 2)),
    ("ours over it", decimals("lead", 2)),
    ("place of ours", plain_text("place")),
]
DETAILS: list[Column] = [
    ("task", plain_text("task")),
    ("peer", plain_text("peer")),
    *PER_PASS,
    *SPEED,
    ("over its own plain", decimals("own_plain_speed_up", 2)),
    ("ours over it", decimals("ours_speed_up", 2)),
    ("identical", lambda row: f"{row['n_identical']} of {row['n_runs']}" if "avg_ts" in row else str(row["failure"])),
]
