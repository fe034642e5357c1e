"""Prompt sets: the project's own, the usual benchmarks' files, or any JSON lines with prompts, told by their fields."""

import codecs
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from .. import ArgumentError, Model

OWN_SETS = ("code", "stories")  # bench/prompts/*.txt of a checkout

# Spec-Bench counts the eight categories of MT-Bench as one subtask.
MT_BENCH = {"writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"}
SPEC_BENCH_FIELDS = {"question_id", "category", "turns"}


@dataclass(frozen=True, slots=True)
class Prompt:
    task: str
    name: str  # within its task
    text: str
    answer: str = ""  # a recorded one, where the file has it


@dataclass(frozen=True, slots=True)
class Job:
    """A prompt as the model takes it."""

    task: str
    name: str
    text: str
    tokens: list[int]


Item = TypeVar("Item", Prompt, Job)


def read_prompts(sources: Sequence[str]) -> tuple[list[Prompt], list[str]]:
    """The prompts of all sources (names of OWN_SETS or files; none: those own sets that are found), task by task. The
    second value are lines that say what was left out.

    Raises ArgumentError for a source that cannot be read, with the line where that is."""
    if not sources:
        sources = [name for name in OWN_SETS if own_set(name) is not None]
        if not sources:
            raise ArgumentError("there is no bench/prompts here: give a file of prompts (--prompts FILE.jsonl)")
    tasks: dict[str, list[Prompt]] = {}
    notes = []
    for source in sources:
        path = own_set(source) if source in OWN_SETS else None
        prompts, later_turns = read_file(path or Path(source))
        for prompt in prompts:
            tasks.setdefault(prompt.task, []).append(prompt)
        if later_turns:
            notes.append(f"{source}: the first turn only ({later_turns} later ones are left out)")
    return [prompt for prompts in tasks.values() for prompt in prompts], notes


def spread(items: Sequence[Item], limit: int | None) -> list[Item]:
    """At most `limit` of each task, evenly spread over it."""
    if limit is None:
        return list(items)
    tasks: dict[str, list[Item]] = {}
    for item in items:
        tasks.setdefault(item.task, []).append(item)
    chosen = ([of[i * len(of) // limit] for i in range(limit)] if len(of) > limit else of for of in tasks.values())
    return [item for of in chosen for item in of]


def own_set(name: str) -> Path | None:
    """The file in the checkout that this is run in, or that this package lies in."""
    here = Path(__file__).resolve()
    for folder in (Path.cwd(), *Path.cwd().parents, *here.parents):
        if (path := folder / "bench" / "prompts" / f"{name}.txt").is_file():
            return path
    return None


def read_file(path: Path) -> tuple[list[Prompt], int]:
    """The prompts of one file, and how many later turns of conversations it has. Text files have a prompt per line."""
    lines = read_lines(path)
    stem = path.name.partition(".")[0]
    if ".jsonl" not in path.suffixes:
        prompts = [Prompt(stem, str(number), line) for number, line in lines]
    else:
        prompts, later_turns = [], 0
        for number, line in lines:
            where = f"'{path}', line {number}"
            try:
                entry = json.loads(line)
            except ValueError as error:
                raise ArgumentError(f"{where} is not JSON: {error}") from None
            prompt, n_turns = from_entry(entry, stem, number, where)
            prompts.append(prompt)
            later_turns += n_turns - 1
        return non_empty(prompts, path), later_turns
    return non_empty(prompts, path), 0


def non_empty(prompts: list[Prompt], path: Path) -> list[Prompt]:
    if not prompts:
        raise ArgumentError(f"'{path}' has no prompts")
    return prompts


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not empty, with their numbers."""
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        text = codecs.decode(data, "utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ArgumentError(f"cannot read the prompts '{path}': {getattr(error, 'strerror', None) or error}") from None
    # Not splitlines(): JSON may hold other line separators inside a text.
    yield from ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def from_entry(entry: Any, stem: str, number: int, where: str) -> tuple[Prompt, int]:
    """A prompt from a line of JSON, and the number of turns of its conversation."""
    fields = entry if isinstance(entry, dict) else {}
    text, n_turns = fields.get("prompt", fields.get("question")), 1
    task, name = fields.get("task", fields.get("category", stem)), str(number)
    if isinstance(turns := fields.get("turns"), list) and turns:
        text, n_turns = turns[0], len(turns)
    if fields.keys() >= SPEC_BENCH_FIELDS:
        is_mt_bench = (
            task in MT_BENCH and "sub_category" not in fields
        )  # SPEED-Bench has these as categories of its own
        task, name = "mt_bench" if is_mt_bench else task, str(fields["question_id"])
    elif isinstance(fields.get("task_id"), str):  # HumanEval/0
        task, _, name = fields["task_id"].partition("/")
    elif "question" in fields and "answer" in fields and "task" not in fields:
        task = "gsm8k" if "####" in str(fields["answer"]) else task
    if not isinstance(text, str) or not text:
        raise ArgumentError(f"{where} has no text in a field prompt, question or turns")
    return Prompt(str(task), name or str(number), text, answer_of(fields)), n_turns


def answer_of(fields: dict[str, Any]) -> str:
    """What was answered, "" where the line does not say. References come in lists, one for each turn."""
    for key in ("answer", "completion", "response", "canonical_solution", "reference"):
        value = fields.get(key)
        if isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, str):
            return value
    return ""


def in_chat_template(model: Model, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The same prompts, each a user's first message in the model's own template. Raises ModelError."""
    return [replace(p, text=model.chat_format([{"role": "user", "content": p.text}])) for p in prompts]


def tokenized(
    model: Model, prompts: Sequence[Prompt], n_predict: int, n_ctx: int, limit: int | None
) -> tuple[list[Job], list[str]]:
    """The prompts as tokens. Those that leave no room for `n_predict` more in a context of `n_ctx` are left out, and a
    line says how many; of the others at most `limit` of each task are taken.

    Raises ArgumentError where none is left."""
    jobs = [Job(p.task, p.name, p.text, model.tokenize(p.text, add_special=True, parse_special=True)) for p in prompts]
    fitting = [job for job in jobs if 0 < len(job.tokens) <= n_ctx - n_predict]
    if not fitting:
        shortest = min(len(job.tokens) for job in jobs)
        raise ArgumentError(
            f"no prompt fits: the shortest has {shortest} tokens, with {n_predict} more (-n) that is beyond the context"
            f" of {n_ctx} (-c)"
        )
    why = f"with {n_predict} more tokens (-n) they do not fit the context of {n_ctx} (-c)"
    left_out = [f"{len(jobs) - len(fitting)} of {len(jobs)} prompts are left out: {why}"]
    return spread(fitting, limit), left_out if len(fitting) < len(jobs) else []
