"""A valid byte-level BPE vocabulary of any size, for models whose weights are random anyway.

The first merges are learned from a little text, so that ordinary text becomes tokens of several bytes; the rest are
made up letter by letter, so that every token is unique and built from two existing ones.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from string import ascii_letters, digits

import gguf

BEGIN = "<|begin|>"
END = "<|endoftext|>"
BYTE_COUNT = 256
LEARNED_MERGES = 300
SAMPLE = """
def read(self, name, value=None):
    if value is None:
        return self.data[name]
    for key, item in list(self.data.items()):
        if item == value and key in self.names:
            raise ValueError("the name is not in the list: %r" % (name,))
    with open(path, encoding="utf-8") as file:
        return [line.strip() for line in file.readlines() if line]
{"name": "Anna", "age": 41, "tags": ["one", "two", "three"], "active": true, "score": 1.25, "next": null}
The quick brown fox jumps over the lazy dog, and then there is another thing that the other one said to them.
It was the best of times, it was the worst of times; when you look at it again you will find that they were here.
import os, sys; class Test(unittest.TestCase): assert x != y, "message"; try: pass; except Exception as error: pass
"""


@dataclass(frozen=True)
class Vocabulary:
    """Tokens are the bytes, then one per merge, then the two control tokens."""

    tokens: list[str]
    merges: list[str]

    @property
    def begin_id(self) -> int:
        return len(self.tokens) - 2

    @property
    def end_id(self) -> int:
        return len(self.tokens) - 1


def byte_symbols() -> list[str]:
    """The printable stand-in that byte-level BPE uses for each byte value."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    shifted = iter(range(BYTE_COUNT, 2 * BYTE_COUNT))
    return [chr(byte) if byte in printable else chr(next(shifted)) for byte in range(BYTE_COUNT)]


def learn_merges(count: int) -> list[tuple[str, str]]:
    """Plain BPE training; words carry their leading space, as the GPT-2 splitter gives them."""
    symbols = byte_symbols()
    counts = Counter(SAMPLE.replace("\n", " ").split(" "))
    words = [([symbols[byte] for byte in f" {word}".encode()], count) for word, count in counts.items() if word]
    merges = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, frequency in words:
            for pair in pairwise(word):
                pairs[pair] += frequency
        # Ties are broken by text, so that the vocabulary never depends on hashing.
        left, right = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append((left, right))
        for word, _ in words:
            position = 0
            while position + 1 < len(word):
                if word[position] == left and word[position + 1] == right:
                    word[position : position + 2] = [left + right]
                position += 1
    return merges


@lru_cache(maxsize=4)
def make_vocabulary(size: int) -> Vocabulary:
    """Exactly `size` tokens."""
    merge_count = size - BYTE_COUNT - 2
    if merge_count < 0:
        raise ValueError(f"a byte-level vocabulary has at least {BYTE_COUNT + 2} tokens, not {size}")
    tokens = byte_symbols()
    merges = []
    for left, right in learn_merges(min(merge_count, LEARNED_MERGES)):
        merges.append(f"{left} {right}")
        tokens.append(left + right)

    known = set(tokens)
    alphabet = ascii_letters + digits
    stems = list(alphabet)
    while len(merges) < merge_count:
        longer = []
        for stem in stems:
            for letter in alphabet:
                longer.append(stem + letter)
                if stem + letter not in known and len(merges) < merge_count:
                    merges.append(f"{stem} {letter}")
                    tokens.append(stem + letter)
        stems = longer
    return Vocabulary([*tokens, BEGIN, END], merges)


def write_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary, add_begin: bool) -> None:
    types = [gguf.TokenType.NORMAL] * (len(vocabulary.tokens) - 2) + [gguf.TokenType.CONTROL] * 2
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(types)
    writer.add_token_merges(vocabulary.merges)
    writer.add_bos_token_id(vocabulary.begin_id)
    writer.add_eos_token_id(vocabulary.end_id)
    writer.add_add_bos_token(add_begin)
