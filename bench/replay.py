"""Texts that a model wrote, for drafting them again and again: a draft changes nothing but the number of passes, so
other weights and tables are tried on the same texts, and a row that was evaluated once need not be again.
"""

import os
import pickle
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from maskprobe import Engine, Evidence, Model, Pass, SamplingParams, Session, TokenTree, accept
from maskprobe.cli.bench_prompts import read_prompts

TEMPERATURES = (0.0, 0.8)
RECORDING_ROWS = 16  # of the passes with which a text is written

Name = tuple[str, str, float]  # task, number of the prompt, temperature
Key = tuple[int, tuple[int, ...]]  # tokens of the text up to a row, and what follows them that is not of the text


@dataclass
class Text:
    """What was written after a prompt, and what the model gave in the rows that were evaluated so far."""

    n_prompt: int
    tokens: list[int]  # the prompt's, then those that were written
    prompt_rows: tuple[np.ndarray, np.ndarray]  # what learn_prompt() takes
    rows: dict[Key, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)  # likely tokens, log-probabilities

    def keys(self, tree: TokenTree, n_before: int) -> list[Key]:
        """Of a tree's nodes; its root is the token before place n_before."""
        keys: list[Key] = [(n_before, ())]
        for token, parent in zip(tree.tokens[1:], tree.parents[1:], strict=True):
            n, path = keys[parent]
            is_next = not path and n < len(self.tokens) and self.tokens[n] == token
            keys.append((n + 1, ()) if is_next else (n, (*path, token)))
        return keys


class _Recorder(Evidence):
    """Keeps the rows of its passes."""

    def __init__(self, model: Model, *, rows: int) -> None:
        super().__init__(model, rows=rows)
        self.prompt_rows = (np.empty((0, self.n_top), np.int32), np.empty((0, self.n_top), np.float32))
        self.passes: list[tuple[int, TokenTree, np.ndarray, np.ndarray]] = []

    def learn_prompt(self, top_tokens: np.ndarray, top_logprobs: np.ndarray) -> None:
        self.prompt_rows = top_tokens, top_logprobs
        super().learn_prompt(top_tokens, top_logprobs)

    def observe(self, tree: TokenTree, result: Pass, path: Sequence[int], emitted: Sequence[int]) -> None:
        self.passes.append((self._n_known, tree, result.top_tokens.copy(), result.top_logprobs.copy()))
        super().observe(tree, result, path, emitted)


def record(session: Session, prompt: list[int], sampling: SamplingParams, n: int) -> Text:
    """Writes at most n tokens after a prompt."""
    recorder = _Recorder(session.model, rows=RECORDING_ROWS)
    session.set_prefix(prompt[: -1 - recorder.n_prompt_rows])  # the rows after it are evaluated: they are learned from
    written = [result.token for result in Engine(session, recorder).generate(prompt, sampling, max_tokens=n)]
    text = Text(len(prompt), prompt + written, recorder.prompt_rows)
    for n_before, tree, tokens, logprobs in recorder.passes:
        text.rows.update(zip(text.keys(tree, n_before), zip(tokens, logprobs, strict=True), strict=True))
    return text


def recorded(
    session: Session, files: Sequence[str], limit: int, n: int, *, by_turns: bool, keep: Path
) -> dict[Name, Text]:
    """Answers to `limit` prompts of each task in the files, in the model's chat template, at both temperatures or
    `by_turns` at one of them. Prompts that leave no room for n more tokens are left out. `keep` has those that an
    earlier run wrote, and gets the new ones."""
    texts: dict[Name, Text] = pickle.loads(keep.read_bytes()) if keep.exists() else {}
    keep.parent.mkdir(parents=True, exist_ok=True)
    for turn, prompts in enumerate(_turns(session.model, files, limit, session.n_ctx - n)):
        for task, name, prompt in prompts:
            for temp in (TEMPERATURES[turn % 2],) if by_turns else TEMPERATURES:
                if (task, name, temp) in texts:
                    continue
                text = record(session, prompt, SamplingParams(temp=temp, seed=turn), n)
                texts[task, name, temp] = text
                save(texts, keep)
                n_written = len(text.tokens) - text.n_prompt
                told = f"{keep.name}: {task} {name} at {temp}, {n_written} tokens after {text.n_prompt}"
                print(told, file=sys.stderr, flush=True)
    return texts


def save(texts: dict[Name, Text], path: Path) -> None:
    beside = path.with_name(path.name + ".tmp")
    beside.write_bytes(pickle.dumps(texts))
    os.replace(beside, path)


def _turns(model: Model, files: Sequence[str], limit: int, longest: int) -> Iterator[list[tuple[str, str, list[int]]]]:
    """One prompt of each task at a time: task, name, tokens."""
    tasks: dict[str, list[tuple[str, str, list[int]]]] = {}
    for prompt in read_prompts(files)[0]:
        conversation = model.chat_format([{"role": "user", "content": prompt.text}])
        tokens = model.tokenize(conversation, parse_special=True)
        if len(tokens) <= longest:
            tasks.setdefault(prompt.task, []).append((prompt.task, prompt.name, tokens))
    for turn in range(limit):
        yield [of[turn * len(of) // min(limit, len(of))] for of in tasks.values() if turn < len(of)]


def replay(session: Session, text: Text, source: Evidence, rows: int) -> int:
    """Drafts a text with passes of at most `rows` rows, the source learns from them. Returns how many it took."""
    source.begin(text.tokens[: text.n_prompt])
    if len(text.prompt_rows[0]):
        source.learn_prompt(*text.prompt_rows)
    at, n_passes = text.n_prompt, 0
    while at < len(text.tokens):
        n_left = len(text.tokens) - at
        tree = source.propose(text.tokens[:at], rows if n_left > 1 else 1)
        upcoming = iter(text.tokens[at:])
        path, emitted = accept(tree, lambda _row, upcoming=upcoming: next(upcoming), lambda _token: False, n_left)
        source.observe(tree, _evaluated(session, text, tree, at), path, emitted)
        at, n_passes = at + len(emitted), n_passes + 1
    return n_passes


def _evaluated(session: Session, text: Text, tree: TokenTree, n_before: int) -> Pass:
    """The outputs of a pass over a tree; only the rows that no pass had before are evaluated."""
    keys = text.keys(tree, n_before)
    wanted = [node for node, key in enumerate(keys) if key not in text.rows]
    if wanted:
        needed = {0}
        for node in wanted:
            while node not in needed:
                needed.add(node)
                node = tree.parents[node]
        nodes = sorted(needed)
        place = {node: i for i, node in enumerate(nodes)}
        part = TokenTree.grown(
            [tree.tokens[node] for node in nodes],
            [place[tree.parents[node]] if node else -1 for node in nodes],
            [0.0] * len(nodes),
        )
        session.set_prefix(text.tokens[: n_before - 1])
        result = session.decode(part, text.prompt_rows[0].shape[1])
        session.rollback()
        for node in wanted:
            at = place[node]
            text.rows[keys[node]] = result.top_tokens[at].copy(), result.top_logprobs[at].copy()
    tokens, logprobs = (np.array(rows) for rows in zip(*(text.rows[key] for key in keys), strict=True))
    return Pass(len(keys), tokens.shape[1], tokens[:, 0], tokens, logprobs, 0, 0)
