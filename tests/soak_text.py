"""Random text for the soak: words of programs and stories, and characters of many alphabets."""

import random

WORDS = """
def return for in while class self import None True if else print range len ( ) : = + - [ ] { } , . # " ' __init__ x y
json list dict lambda try except raise assert with open as f read write the a of and to it was he she that once upon
time there little girl who loved play outside rain sun every day 0 1 2 3.14 100
"""
PIECES = [*WORDS.split(), "\n", "\n\n", "    ", "\t", "  "]
SPECIAL = [
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<s>",
    "</s>",
    "<unk>",
    "<|im_start|>user\n",
    "<bos>",
    "[INST]",
]
ALPHABETS = [(0x20, 0x7F), (0xA0, 0x250), (0x370, 0x400), (0x590, 0x700), (0x300, 0x370), (0x4E00, 0x9FFF)]
ALPHABETS += [(0x1F300, 0x1FAFF), (0x200B, 0x2010), (0xE000, 0xE010), (0x9, 0xB), (0xFFF0, 0x10000)]
BRIEF = ["", " ", "\n", "\t\t", ".", "\u200b", "\ufeff", "a", "\U0001f642"]


def random_text(rng: random.Random, n: int) -> str:
    if rng.random() < 0.35:  # no control characters: the vocabularies of some models have none
        first, last = rng.choice(ALPHABETS)
        return "".join(chr(rng.randrange(first, last)) for _ in range(n))
    return rng.choice(["", " "]).join(rng.choice(PIECES) for _ in range(n))
