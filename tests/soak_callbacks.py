"""Constraints and proposers for the soak: sound ones, and some that fail."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from fakes import Adversary, Oracle
from maskprobe import Engine, MaskProbe, Model, Proposer, TokenTree
from maskprobe.structured import JsonSchema, Regex
from soak_text import random_text

GREATEST_ID = 2**31 - 1

SCHEMAS = [
    {"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}}, "required": ["name"]},
    {"type": "array", "items": {"type": "integer", "minimum": -5, "maximum": 300}, "maxItems": 4},
    {"enum": ['a "b"', "\\", None, 3, "\u00fc"]},
    {"type": "object", "properties": {"a": {"type": "boolean"}, "b": {"type": "null"}}, "required": ["a", "b"]},
]
PATTERNS = [r"[0-9]{3}-[0-9]{4}", r"(red|green|blue)( and (red|green|blue)){0,2}", r"\w+@\w+\.(com|org)"]


class Planned(Exception):
    """What the soak's own callbacks raise."""


# --- constraints -----------------------------------------------------------------------------------------------------


class Only:
    """Tokens of a mask, in one of the three forms; after `n_most` of them nothing."""

    def __init__(self, mask: np.ndarray, form: str, n_most: int) -> None:
        self.mask, self.form, self.n_left = mask, form, n_most

    def allowed(self) -> Any:
        if self.n_left <= 0:
            return []
        if self.form == "ids":
            return np.flatnonzero(self.mask)
        if self.form == "bools":
            return self.mask
        n_words = (len(self.mask) + 31) // 32
        bits = np.zeros(4 * n_words, np.uint8)
        packed = np.packbits(self.mask, bitorder="little")
        bits[: len(packed)] = packed
        return bits.view("<u4").astype(np.uint32)

    def accept(self, token: int) -> None:
        assert self.mask[token], f"token {token} was not allowed"
        self.n_left -= 1

    def n_valid(self, tokens: Sequence[int]) -> int:
        n = 0
        while n < min(len(tokens), self.n_left) and self.mask[tokens[n]]:
            n += 1
        return n


class Spells:
    """A text that must come, and then anything."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.left = list(tokens)

    def allowed(self) -> list[int] | None:
        return self.left[:1] or None

    def forced(self) -> list[int]:
        return list(self.left)

    def accept(self, token: int) -> None:
        if self.left:
            expected = self.left.pop(0)
            assert token == expected, f"{token} came instead of {expected}"

    def n_valid(self, tokens: Sequence[int]) -> int:
        n = 0
        while n < min(len(tokens), len(self.left)) and tokens[n] == self.left[n]:
            n += 1
        return n if n < len(self.left) else len(tokens)


class Tilts:
    """Other logits."""

    def logits(self, tokens: Sequence[int], logits: np.ndarray) -> None:
        logits[: len(logits) // 2] -= 0.5 * (len(tokens) % 5)


class Breaks(Only):
    """A constraint one of whose methods raises after a while."""

    def __init__(self, mask: np.ndarray, where: str, n_calls: int) -> None:
        super().__init__(mask, "ids", 1000)
        self.where, self.n_calls = where, n_calls

    def _count(self, where: str) -> None:
        self.n_calls -= where == self.where
        if self.n_calls < 0:
            raise Planned(where)

    def allowed(self) -> Any:
        self._count("allowed")
        return super().allowed()

    def accept(self, token: int) -> None:
        self._count("accept")
        super().accept(token)

    def n_valid(self, tokens: Sequence[int]) -> int:
        self._count("n_valid")
        return super().n_valid(tokens)

    def logits(self, tokens: Sequence[int], logits: np.ndarray) -> None:
        self._count("logits")


# Answers that make no sense, each with a part of the line that says so.
SENSELESS = [
    ({"allowed": lambda self: [GREATEST_ID]}, f"allows token {GREATEST_ID}"),
    ({"allowed": lambda self: [-1]}, "allows token -1"),
    ({"allowed": lambda self: np.zeros(7, bool)}, "mask has shape (7,)"),
    ({"allowed": lambda self: ["a"]}, "allows token ids"),
    ({"allowed": lambda self: None, "forced": lambda self: [GREATEST_ID]}, str(GREATEST_ID)),
    ({"logits": lambda self, tokens, logits: logits.fill(np.nan)}, "nan"),
]


def random_rules(rng: random.Random, model: Model) -> tuple:
    kind = rng.choice(["only", "spells", "tilts", "schema", "pattern"])
    if kind == "only":
        return (
            kind,
            rng.choice(["letters", "digits"]),
            rng.choice(["ids", "bools", "bits"]),
            rng.choice([0, 1, 9, 1000]),
        )
    if kind == "spells":
        return kind, tuple(model.tokenize(random_text(rng, rng.randint(1, 12)), False))
    return kind, rng.randrange(len(SCHEMAS if kind == "schema" else PATTERNS))


def make_rules(rules: tuple | None, model: Model, vocabulary: Any) -> Any:
    """A new constraint of this kind."""
    if rules is None:
        return None
    kind, *arguments = rules
    if kind == "only":
        return Only(getattr(vocabulary, arguments[0]), *arguments[1:])
    if kind == "spells":
        return Spells(arguments[0])
    if kind == "tilts":
        return Tilts()
    if kind == "schema":
        return JsonSchema(model, SCHEMAS[arguments[0]])
    return Regex(model, PATTERNS[arguments[0]])


# --- proposers -------------------------------------------------------------------------------------------------------


class RandomTrees(Proposer):
    """Trees of any shape, with true tokens in them where the text is known."""

    def __init__(self, rng: random.Random, text: Sequence[int], n_vocab: int) -> None:
        self.rng, self.text, self.n_vocab = rng, list(text), n_vocab
        self.n_rows_max, self.n_top, self.whole = rng.randint(1, 16), rng.randint(1, 8), rng.random() < 0.5

    def propose(self, context: Sequence[int], room: int) -> TokenTree:
        tree = TokenTree(context[-1])
        for _ in range(self.rng.randrange(min(self.n_rows_max, room))):
            parent = self.rng.randrange(tree.n_nodes)
            place = len(context) + tree.depths[parent]
            known = place < len(self.text) and self.rng.random() < 0.4
            tree.add(parent, self.text[place] if known else self.rng.randrange(self.n_vocab), -self.rng.random() * 5)
        return tree


class BreaksDown(Oracle):
    """Raises in one of its methods, after some passes."""

    def __init__(self, where: str, n_calls: int) -> None:
        super().__init__([], 2)
        self.where, self.n_calls = where, n_calls

    def _count(self, where: str) -> None:
        self.n_calls -= where == self.where
        if self.n_calls < 0:
            raise Planned(where)

    def begin(self, tokens: Sequence[int]) -> None:
        self._count("begin")

    def propose(self, context: Sequence[int], room: int) -> TokenTree:
        self._count("propose")
        return super().propose(context, room)

    def observe(self, tree: TokenTree, result: Any, path: Sequence[int], emitted: Sequence[int]) -> None:
        self._count("observe")


class Wrong(Proposer):
    """Its root is not the newest token."""

    def propose(self, context: Sequence[int], room: int) -> TokenTree:
        return TokenTree(context[-1] ^ 1)


class CallsBack(Proposer):
    """Uses the engine that calls it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def propose(self, context: Sequence[int], room: int) -> TokenTree:
        self.engine.close()
        return TokenTree(context[-1])


NAMED = ["none", "all", "all", "all", "lookup", "recycle", "ngram", "lookahead", "esp", "logits", "marginal"]


def random_proposer(rng: random.Random, model: Model, known: Sequence[int], rows: int | str) -> Any:
    """A source by name or an object, which may know the text (prompt and what follows it). Some need a few rows."""
    kind = rng.choices(["engine's", "named", "oracle", "adversary", "trees", "probe"], [6, 6, 2, 2, 3, 1])[0]
    if kind == "engine's":
        return None
    if kind == "named":
        return rng.choice(["none", "all"] if rows == 1 else NAMED)
    if kind == "trees":
        return RandomTrees(random.Random(rng.random()), known, model.info.n_vocab)
    if kind == "probe" and model.info.can_probe:
        return MaskProbe(model, tree=rng.choice(["4", "7,2"]))
    proposer = (Adversary if kind == "adversary" else Oracle)(known, rng.randint(1, 10))
    proposer.whole = rng.random() < 0.5
    return proposer
