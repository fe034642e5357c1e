"""Texts that a model wrote, for drafting them again and again: a draft changes nothing but the number of passes, so
other weights and tables are tried on the same texts, and a row that was evaluated once need not be again.
"""

import os
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from draft_library import Drafter, tree_of

from maskprobe import Model, Sampler, SamplingParams, Session, TokenTree, accept
from maskprobe.cli.bench_prompts import read_prompts

TEMPERATURES = (0.0, 0.8)
N_TOP = 8  # tokens of a row that are learned from
N_PROMPT_ROWS = 16  # of the prompt's last tokens before the root

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


def record(session: Session, prompt: list[int], sampling: SamplingParams, n: int) -> Text:
    """Writes at most n tokens after a prompt, an end token not among them."""
    n_top = min(N_TOP, session.model.info.n_vocab)
    session.set_prefix(prompt[: -1 - N_PROMPT_ROWS])  # the rows after it are evaluated: they are learned from
    rows = session.set_prefix(prompt[:-1], N_PROMPT_ROWS, n_top)
    text = Text(len(prompt), list(prompt), (rows.top_tokens.copy(), rows.top_logprobs.copy()))
    with Sampler(session.model, sampling) as sampler:
        sampler.prime(prompt)
        while len(text.tokens) < len(prompt) + n:
            result = session.decode(TokenTree(text.tokens[-1]), n_top)
            text.rows[len(text.tokens), ()] = result.top_tokens[0].copy(), result.top_logprobs[0].copy()
            token = sampler.sample(session, 0)
            if session.model.is_end(token):
                break
            session.commit([0])
            text.tokens.append(token)
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


def replay(session: Session, text: Text, drafter: Drafter, rows: int, found: list[np.ndarray] | None = None) -> int:
    """Drafts a text with passes of at most `rows` rows, the drafter learns from them. Returns how many it took.
    `found` gets the candidates that each was learned from."""
    drafter.begin(text.tokens[: text.n_prompt], text.prompt_rows)
    at, n_passes = text.n_prompt, 0
    while at < len(text.tokens):
        n_left = len(text.tokens) - at
        tree = drafter.propose(rows if n_left > 1 else 1)
        upcoming = iter(text.tokens[at:])
        path, emitted = accept(tree, lambda _row, upcoming=upcoming: next(upcoming), lambda _token: False, n_left)
        drafter.observe(tree, *_evaluated(session, text, tree, at), path, emitted)
        if found is not None:
            found.append(drafter.examples)
        at, n_passes = at + len(emitted), n_passes + 1
    return n_passes


def tokens_per_pass(
    session: Session, texts: dict[Name, Text], temp: float, rows: int, new: Callable[[], Drafter], kind: str
) -> float:
    """Of all texts of a temperature. cold: a new drafter for every text; warm: one for all of them; again: a new one,
    after the answer to the same prompt at temperature 0 and nothing else."""
    n_written = n_passes = 0
    drafter = new()
    for (task, name, of), text in texts.items():
        if of != temp:
            continue
        if kind != "warm":
            drafter = new()
        if kind == "again":
            replay(session, texts[task, name, TEMPERATURES[0]], drafter, rows)
        n_passes += replay(session, text, drafter, rows)
        n_written += len(text.tokens) - text.n_prompt
    return n_written / n_passes


def _evaluated(session: Session, text: Text, tree: TokenTree, n_before: int) -> tuple[np.ndarray, np.ndarray]:
    """The likely tokens after a tree's nodes and their log-probabilities, (n_nodes, n_top); only the rows that no pass
    had before are evaluated."""
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
        parents = [place[tree.parents[node]] if node else -1 for node in nodes]
        part = tree_of([tree.tokens[node] for node in nodes], parents)
        session.set_prefix(text.tokens[: n_before - 1])
        result = session.decode(part, text.prompt_rows[0].shape[1])
        session.rollback()
        for node in wanted:
            at = place[node]
            text.rows[keys[node]] = result.top_tokens[at].copy(), result.top_logprobs[at].copy()
    tokens, logprobs = (np.array(rows) for rows in zip(*(text.rows[key] for key in keys), strict=True))
    return tokens, logprobs
