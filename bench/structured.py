"""What drafting forced tokens brings where the output is a JSON object with many required keys.

    python bench/structured.py -m qwen2.5-coder-0.5b-instruct-q4_k_m.gguf

A chat prompt asks for an object; a JSON schema constrains the answer. Each answer is made three times, in turns:
plainly, with drafts but without forced tokens, and with both, always by an engine that has learned nothing but the
passes of a warm-up text. All three must be the same, token for token. Prints Markdown; -o appends it to a file.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskprobe import Constraint, Engine, JsonSchema, Model, SamplingParams, Stats

WARM_UP = "def add(a, b):\n"
N_WARM_UP = 48
PLAIN, DRAFTS, FORCED = MODES = ("plain", "drafts", "drafts and forced tokens")
CALLS = ("allowed", "accept", "n_valid", "forced")

TEXT = {"type": "string"}
COUNT = {"type": "integer", "minimum": 0, "maximum": 100000}
YES_NO = {"type": "boolean"}
OBJECTS: dict[str, dict[str, Any]] = {
    "server settings": {
        "hostname": TEXT,
        "port": COUNT,
        "protocol": {"enum": ["http", "https"]},
        "log_level": {"enum": ["debug", "info", "warning", "error"]},
        "max_connections": COUNT,
        "request_timeout_seconds": COUNT,
        "keep_alive_seconds": COUNT,
        "compression_enabled": YES_NO,
        "cache_enabled": YES_NO,
        "cache_size_mb": COUNT,
        "database_host": TEXT,
        "database_port": COUNT,
        "database_name": TEXT,
        "database_user": TEXT,
        "number_of_workers": COUNT,
        "retry_attempts": COUNT,
        "backup_enabled": YES_NO,
        "backup_interval_hours": COUNT,
        "timezone": TEXT,
        "administrator_email": TEXT,
    },
    "a person": {
        "first_name": TEXT,
        "last_name": TEXT,
        "age": COUNT,
        "email_address": TEXT,
        "phone_number": TEXT,
        "street": TEXT,
        "city": TEXT,
        "postal_code": TEXT,
        "country": TEXT,
        "occupation": TEXT,
        "employer": TEXT,
        "annual_salary": COUNT,
        "is_married": YES_NO,
        "number_of_children": COUNT,
        "favourite_colour": TEXT,
        "favourite_food": TEXT,
        "hobbies": {"type": "array", "items": TEXT, "minItems": 1, "maxItems": 3},
        "height_cm": COUNT,
        "weight_kg": COUNT,
        "date_of_birth": {"type": "string", "format": "date"},
    },
}


class Timed(Constraint):
    """A constraint that is asked by these methods only, and how long it takes."""

    def __init__(self, rules: Constraint, names: tuple[str, ...]) -> None:
        self.seconds = 0.0
        self.longest = 0  # forced tokens
        for name in names:
            setattr(self, name, self._timed(getattr(rules, name), name == "forced"))

    def _timed(self, call: Callable[..., Any], gives_chain: bool) -> Callable[..., Any]:
        def timed(*given: Any) -> Any:
            started = time.perf_counter()
            result = call(*given)
            self.seconds += time.perf_counter() - started
            self.longest = max(self.longest, len(result)) if gives_chain else self.longest
            return result

        return timed


@dataclass
class Answer:
    stats: Stats
    constraint_us: float  # per pass
    longest: int


def answer(
    model: Model, schema: JsonSchema, prompt: list[int], sampling: SamplingParams, mode: str, args: argparse.Namespace
) -> Answer:
    with Engine(model, n_ctx=args.ctx_size, n_threads=args.threads) as engine:
        for _ in engine.generate(model.tokenize(WARM_UP), max_tokens=N_WARM_UP, ignore_eos=True):
            pass
        rules = Timed(schema.constraint(), CALLS if mode == FORCED else CALLS[:3])
        generation = engine.generate(prompt, sampling, max_tokens=args.predict, constraint=rules, draft=mode != PLAIN)
        for _ in generation:
            pass
        stats = generation.stats
    return Answer(stats, 1e6 * rules.seconds / max(stats.passes, 1), rules.longest)


def report(model: Model, name: str, temp: float, args: argparse.Namespace) -> list[str]:
    """The lines of one object at one temperature."""
    properties = OBJECTS[name]
    schema = JsonSchema(
        model,
        {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False},
    )
    text = (
        f"Write a JSON object that describes invented {name}. Its members are: {', '.join(properties)}. "
        "Answer with the JSON object only."
    )
    prompt = model.tokenize(model.chat_format([{"role": "user", "content": text}]), parse_special=True)
    sampling = SamplingParams(temp=temp, seed=args.seed)
    rounds: dict[str, list[Answer]] = {mode: [] for mode in MODES}
    for _ in range(args.rounds):
        for mode in MODES:
            rounds[mode].append(answer(model, schema, prompt, sampling, mode, args))
    texts = {tuple(run.stats.tokens) for runs in rounds.values() for run in runs}
    if len(texts) > 1:
        raise SystemExit(f"structured.py: {name} at temperature {temp}: {len(texts)} different answers")
    per_pass = {mode: statistics.median(run.stats.tokens_per_pass for run in rounds[mode]) for mode in MODES}
    lines = []
    for mode, runs in rounds.items():
        stats = runs[0].stats
        rows, rate = (
            statistics.median(values)
            for values in ([run.stats.rows_per_pass for run in runs], [run.stats.gen_tps for run in runs])
        )
        ratio = f"{per_pass[mode] / per_pass[DRAFTS]:.2f}"
        us = statistics.median(run.constraint_us for run in runs)
        forced = f"{stats.accepted_by['constraint']} / {runs[0].longest}" if mode == FORCED else ""
        lines.append(
            f"| {name} | {temp:g} | {mode} | {stats.n_gen} | {forced} | {rows:.2f} | {per_pass[mode]:.2f} | {ratio} "
            f"| {rate:.1f} | {us:.0f} |"
        )
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", type=Path, required=True, metavar="FILE")
    parser.add_argument("-n", "--predict", type=int, default=400, metavar="N", help="tokens at most, default 400")
    parser.add_argument("-c", "--ctx-size", type=int, default=1024, metavar="N")
    parser.add_argument("-t", "--threads", type=int, default=1, metavar="N")
    parser.add_argument("--temps", type=float, nargs="+", default=[0.0, 0.8], metavar="T")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE")
    args = parser.parse_args()
    with Model(args.model, n_threads=args.threads) as model:
        started = time.perf_counter()
        JsonSchema(model, True)
        first = time.perf_counter() - started
        lines = [
            f"{args.model.name}, {args.threads} thread(s), medians of {args.rounds} rounds. The first schema of "
            f"the model took {first:.2f} s, its vocabulary of {model.info.n_vocab} tokens included.",
            "",
            "| object | temperature | decoding | tokens | forced / longest chain | rows per pass | tokens per pass "
            "| to drafts | tokens/s | constraint, us per pass |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for name in OBJECTS:
            for temp in args.temps:
                lines += report(model, name, temp, args)
    text = "\n".join(lines) + "\n"
    print(text)
    if args.output:
        with args.output.open("a", encoding="utf-8") as file:
            file.write("\n" + text)


if __name__ == "__main__":
    main()
