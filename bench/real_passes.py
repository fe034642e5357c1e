"""Section passes: T(n) with our kernels and with llama.cpp's in turns, against what the machine allows."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from real_plan import QWEN, SMOLLM2, Plan, random_model, random_types
from real_report import Asked

from maskprobe import Session
from maskprobe.cli import bench_cost, bench_options
from maskprobe.cli.bench_cost import Point
from maskprobe.cli.bench_machine import best_speed
from maskprobe.cli.bench_table import Column, Row, decimals, facts_of, markdown
from maskprobe.cli.terminal import Progress, say

OURS, STOCK = "ours", "stock"
ATTENTION = "attention"
JUDGED = (1, 8, 16)  # rows at which the products are held against the machine

T1_OF_STOCK, T16_OF_STOCK = 0.85, 0.45
T8_OF_STOCK = {QWEN: 0.38, SMOLLM2: 0.27}
T8_OF_T1, T16_OF_T1 = 1.4, 2.1  # on a Xeon with AVX512-VNNI
SHARE_OF_CEILING = 0.6
REST_PERCENT = 20.0  # on SmolLM2
TWO_THREADS_OVER_STOCK, TWO_THREADS_OVER_ONE, SHARE_OF_GAIN = 1.2, 1.7, 0.9


def seconds(plan: Plan) -> float:
    """About how long the section takes on two cores that read 25 GB/s: passes of the stock kernels, mostly."""
    bytes_of = [path.stat().st_size for path in plan.models] + [1e7 if plan.is_quick else 8e8] * 4
    rounds = (plan.rounds + 1) * (sum(plan.rows) + sum(plan.rows_of_more_threads)) / 2
    return sum(5.0 + 2.0 * size / 25e9 * rounds for size in bytes_of)


def measure(plan: Plan) -> Iterator[tuple[str, Row]]:
    """One model after another."""
    for path in plan.models:
        yield path.name, {"rows": rows_of_model(path, plan, plan.threads)}
    for weight_type in random_types():
        with random_model(weight_type, plan) as path:
            yield path.name, {"rows": rows_of_model(path, plan, plan.threads[:1])}


def rows_of_model(path: Path, plan: Plan, threads: Sequence[int]) -> list[Row]:
    """One row for each number of threads, kernels and number of rows, as maskprobe-bench cost has them."""
    rows_of = {n: plan.rows if n == threads[0] else plan.rows_of_more_threads for n in threads}
    with ExitStack() as opened, Progress(path.name) as progress:
        sessions: dict[tuple[int, str], Session] = {}
        for n in threads:
            args = argparse.Namespace(threads=n, rows=rows_of[n], depth=plan.depth, prompt=None, isa=None)
            for kernels in (STOCK, OURS):
                session = opened.enter_context(bench_cost.open_session(args, path, kernels))
                if bench_options.kernels_of(session.model) == kernels:
                    sessions[n, kernels] = session
                else:
                    say(f"{path.name}: llama.cpp's kernels only: {session.model.info.kernels_reason}")
        speeds = {n: best_speed(n) for n in threads}
        points = {
            (n, kernels, n_rows): Point(kernels, n_rows)
            for n_rows in plan.rows
            for n, kernels in sessions
            if n_rows in rows_of[n]
        }
        pairs = [(sessions[n, kernels], point) for (n, kernels, _), point in points.items()]
        bench_cost.sample_in_turns(pairs, plan.depth, plan.rounds, progress)
        speeds = {n: best_speed(n, before) for n, before in speeds.items()}
        rows = []
        for n in threads:
            info = sessions[n, OURS if (n, OURS) in sessions else STOCK].model.info
            facts = facts_of(path, sessions[n, STOCK].model, n)
            facts |= {"n_gen": 0, "n_depth": plan.depth, "isa": info.kernels if info.packed_size else None}
            facts |= {"packed_size": info.packed_size, "kernels_reason": info.kernels_reason}
            chosen = [point for (threads_of, _, _), point in points.items() if threads_of == n]
            rows += [with_ceilings(row) for row in bench_cost.rows_of(chosen, facts, speeds[n])]
    return rows


def with_ceilings(row: Row) -> Row:
    """What the machine would need at least for the products of a pass, by the type of their weights and together."""
    products = {name: part for name, part in row["parts"].items() if name != ATTENTION and part["macs"]}
    floors = {name: floor_ns(part, row) for name, part in products.items()}
    products_ns = sum(part["ns"] for part in products.values())
    known = products_ns + row["parts"].get(ATTENTION, {"ns": 0})["ns"]
    return {
        **row,
        "products_ns": products_ns or None,
        "products_floor_ns": sum(floors.values()) or None,
        "of_ceiling": sum(floors.values()) / products_ns if products_ns else None,
        "of_ceiling_by_type": {name: floors[name] / part["ns"] for name, part in products.items() if part["ns"]},
        "rest_percent": 100.0 * (row["median_ns"] - known) / row["median_ns"] if products_ns else None,
    }


def floor_ns(part: Row, row: Row) -> float:
    reading = part["bytes"] / row["machine_read_bytes_per_second"]
    macs_per_second = row["machine_int8_macs_per_second"]
    return 1e9 * max(reading, part["macs"] / macs_per_second if macs_per_second else 0.0)


class Times:
    """The rows of one model, found by what they are of."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = {(row["n_threads"], row["kernels"], row["n_rows"]): row for row in rows}
        self.one = min(row["n_threads"] for row in rows)
        self.two = max(row["n_threads"] for row in rows)

    def get(self, key: str, n_rows: int, kernels: str = OURS, threads: int | None = None) -> float | None:
        row = self._rows.get((self.one if threads is None else threads, kernels, n_rows))
        return None if row is None else row[key]

    def with_ideal_products(self, n_rows: int, threads: int | None = None) -> float | None:
        """The time of our pass if its products took what the machine allows, and all else what it takes."""
        keys = ("median_ns", "products_ns", "products_floor_ns")
        whole, products, floor = (self.get(key, n_rows, OURS, threads) for key in keys)
        return whole - products + floor if whole and products and floor else None


def over(a: float | None, b: float | None) -> float | None:
    return a / b if a and b else None


def asked(cases: dict[str, Row]) -> Iterator[Asked]:
    for model, case in cases.items():
        times, line = Times(case["rows"]), partial(Asked, model)
        known = next((limit for name, limit in T8_OF_STOCK.items() if name in model.lower()), None)
        limits = {1: T1_OF_STOCK, 8: known, 16: T16_OF_STOCK}
        for n, limit in limits.items():
            if limit is not None:
                stock = times.get("median_ns", n, STOCK)
                ratio, ceiling = over(times.get("median_ns", n), stock), over(times.with_ideal_products(n), stock)
                yield line(f"T({n}) of stock's", ratio, limit, ceiling=ceiling)
        on_xeon = "xeon" in case["rows"][0]["cpu_info"].lower()
        for n, limit in {8: T8_OF_T1, 16: T16_OF_T1}.items():
            ratio = over(times.get("median_ns", n), times.get("median_ns", 1))
            yield line(f"T({n}) / T(1)", ratio, limit, note="asked of a Xeon with AVX512-VNNI", applies=on_xeon)
        for n in JUDGED:
            share = times.get("of_ceiling", n)
            yield line(f"products, n = {n}: share of the ceiling", share, SHARE_OF_CEILING, at_least=True, unit="")
        if SMOLLM2 in model.lower():
            yield line("rest of a pass, n = 1", times.get("rest_percent", 1), REST_PERCENT, unit="%")
        if times.two != times.one:
            yield from asked_of_two_threads(model, times)


def asked_of_two_threads(model: str, times: Times) -> Iterator[Asked]:
    two = times.two
    stock = times.get("median_ns", 1, STOCK, two)
    yield Asked(
        model,
        f"{two} threads, n = 1: times stock",
        over(stock, times.get("median_ns", 1, threads=two)),
        TWO_THREADS_OVER_STOCK,
        at_least=True,
        ceiling=over(stock, times.with_ideal_products(1, two)),
    )
    # What the second thread adds at most: the ratio of what the machine needs for the products with one and with two.
    floors = [times.get("products_floor_ns", 8, threads=n) for n in (times.one, two)]
    ceiling = over(*floors)
    yield Asked(
        model,
        f"{two} threads, n = 8: times one thread",
        over(times.get("median_ns", 8), times.get("median_ns", 8, threads=two)),
        min(TWO_THREADS_OVER_ONE, SHARE_OF_GAIN * ceiling) if ceiling else TWO_THREADS_OVER_ONE,
        at_least=True,
        ceiling=ceiling,
        note=f"{TWO_THREADS_OVER_ONE} or {100 * SHARE_OF_GAIN:.0f} % of the ceiling",
    )


def tables(cases: dict[str, Row]) -> str:
    return "\n".join(
        table([row for row in case["rows"] if row["n_threads"] == n])
        for case in cases.values()
        for n in dict.fromkeys(row["n_threads"] for row in case["rows"])
    )


def table(rows: Sequence[Row]) -> str:
    """T(n) with one number of threads as maskprobe-bench cost shows it, and the products by the type of weights."""
    facts = rows[0]
    names = list(dict.fromkeys(name for row in rows for name in row["of_ceiling_by_type"]))
    columns: list[Column] = [
        *bench_cost.columns_of(list(rows)),
        ("products of ceiling", decimals("of_ceiling", 2)),
        *((f"{name} of ceiling", partial(share_of_type, name)) for name in names),
        ("rest %", decimals("rest_percent", 0)),
    ]
    notes = [*bench_cost.notes_of(facts), f"ours compute {facts['kernels_reason']}"]
    return "\n".join(notes) + "\n\n" + markdown(rows, columns)


def share_of_type(name: str, row: Row) -> str:
    share = row["of_ceiling_by_type"].get(name)
    return "-" if share is None else f"{share:.2f}"
