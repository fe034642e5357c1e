"""Thousands of grammars made from sound ones, each read and followed for some tokens in a worker process: it may refuse
them with a line, it must not die, hang or take all memory.

    MASKPROBE_FUZZ_CASES=10000 MASKPROBE_FUZZ_SEED=7 pytest -s tests/test_fuzz_grammars.py

As a program, with the path of a model, this file is the worker.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
import time
from collections import Counter
from pathlib import Path

import maskprobe
from fuzz_worker import Worker, confine, peak_bytes

CASES = int(os.environ.get("MASKPROBE_FUZZ_CASES", "600"))
SEED = int(os.environ.get("MASKPROBE_FUZZ_SEED", "1"))
SECONDS = 10  # of the processor that one case may take
MOST_MEMORY = 1 << 30  # bytes that the worker may have had at once

SOUND = {
    "json": r"""
root   ::= value
value  ::= object | list | string | number | "true" | "false" | "null"
object ::= "{" ws (pair ("," ws pair)*)? "}"
pair   ::= string ":" ws value
list   ::= "[" ws (value ("," ws value)*)? "]"
string ::= "\"" ([^"\\\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4}))* "\""
number ::= "-"? ([0-9] | [1-9] [0-9]{0,12}) ("." [0-9]+)? ([eE] [-+]? [0-9]{1,3})?
ws     ::= | " " | "\n" [ \t]{0,20}
""",
    "program": r"""
# statements of a small language
root      ::= (statement "\n")+
statement ::= "let " name " = " sum ";" |
              "if (" sum ") {" (" " statement)* " }" ("else" "{" statement* "}")? |
              comment
sum       ::= product (("+" | "-") product)*
product   ::= atom (("*" | "/" | "%") atom)*
atom      ::= name | digits | "-" atom | "(" sum ")"
name      ::= [a-z_] [a-z0-9_]{0,15}
digits    ::= [0-9]+
comment   ::= "#" [^\n]* | "/*" ([^*] | "*" [^/])* "*/"
""",
    "words": r"""
root ::= (word " "?){2,12} end
word ::= [A-Z]? [a-z]{1,8} | cyrillic+ | "na\u00efve" | .
cyrillic ::= [\u0430-\u044F\u0451]
end ::= [.!?] | "..." | ""
""",
    "places": r"""
root ::= row{3}
row  ::= (cell "," ){0,4} cell "\n"
cell ::= quoted | [a-c]{2,3} | !<[5]> | <[7]>
quoted ::= "'" ( "a"? "b"? | "c"? )* "'"
""",
}
PIECES = [
    "(",
    ")",
    "{",
    "}",
    "{0,9}",
    "{3,1}",
    "{100}",
    "{1,}",
    "*",
    "+",
    "?",
    "|",
    '"',
    "[",
    "]",
    "[^",
    "-",
    "\\",
    ".",
]
PIECES += [
    "root",
    "ws",
    "a ::= ",
    "\n",
    " ",
    "#",
    "<[3]>",
    "!<[3]>",
    "<",
    "é",
    "[a-z]*",
    "\\x",
    '""',
    "9",
    "(a|b)?",
    "::=",
]
REPETITIONS = [
    "*",
    "+",
    "?",
    "{2}",
    "{0,9}",
    "{0,40}",
    "{7,}",
    "{3,1}",
    "{0,5}{0,5}",
    "?{0,99}",
    " ws?",
    " ([a-z]? | ws)",
]


def mutated(rng: random.Random, text: str, others: list[str]) -> str:
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text) + 1)
        until = min(len(text), at + rng.choice([1, 1, 2, 5, 20]))
        kind = rng.randrange(16)
        if kind == 0:
            text = text[:at] + text[until:]
        elif kind == 1:
            text = text[:at] + rng.choice(PIECES) + text[at:]
        elif kind == 2:
            text = text[:at] + rng.choice(PIECES) + text[until:]
        elif kind == 3:
            text = text[:at] + text[at:until] * rng.choice([2, 3, 50, 3000]) + text[until:]
        elif kind == 4:
            tokens = re.split(r"(\w+|\s+)", text)
            i, j = rng.randrange(len(tokens)), rng.randrange(len(tokens))
            tokens[i], tokens[j] = tokens[j], tokens[i]
            text = "".join(tokens)
        elif kind == 5:
            other = rng.choice(others)
            start = rng.randrange(len(other))
            text = text[:at] + other[start : start + 30] + text[at:]
        elif kind < 15:  # what stays a grammar more often
            signs = [found.span() for found in re.finditer(r"(?<=[\])a-z\"])([*+?]|\{[\d,]+\})? ", text)]
            start, end = rng.choice(signs or [(at, at)])
            text = text[:start] + rng.choice(REPETITIONS) + " " + text[end:]
        else:
            text = re.sub(r"\d+", lambda found: rng.choice([found[0], "0", "1", "40", "2000", "99999999999"]), text)
        text = text or "root ::= "
    return text


def work(path: str) -> None:
    confine(4 << 30)
    with maskprobe.Model(path, n_threads=1) as model, maskprobe.Engine(model, n_ctx=128, n_threads=1) as engine:
        prompt = model.tokenize("one two")
        for line in sys.stdin:
            sampling = maskprobe.SamplingParams(
                temp=2.0, top_k=0, top_p=1.0, min_p=0.0, seed=1, grammar=json.loads(line)
            )
            start = time.monotonic()
            try:
                list(engine.generate(prompt, sampling, max_tokens=30))
                answer = "ran"
            except maskprobe.Error as error:
                answer = f"{error.status} in one line" if len(str(error).splitlines()) == 1 else f"unclear: {error!r}"
            print(json.dumps([answer, time.monotonic() - start, peak_bytes()]), flush=True)


def test_no_grammar_kills_the_process(tmp_path: Path, tiny_model_path) -> None:
    worker = Worker(tmp_path / "worker.txt", SECONDS, __file__, str(tiny_model_path("tiny-llama")))
    answers: Counter[str] = Counter()
    failures, slowest, memory = [], (0.0, ""), 0
    for case in range(-len(SOUND), CASES):
        rng = random.Random(f"{SEED}-{case}")
        name = list(SOUND)[case] if case < 0 else rng.choice(sorted(SOUND))
        text = SOUND[name] if case < 0 else mutated(rng, SOUND[name], list(SOUND.values()))
        line = worker.answer(json.dumps(text))
        answer, seconds, memory = json.loads(line) if line.startswith("[") else (line, 0.0, memory)
        slowest = max(slowest, (seconds, f"case {case}"))
        answers[answer] += 1
        expected = ("ran",) if case < 0 else ("ran", "argument in one line")
        if answer not in expected or memory > MOST_MEMORY:
            failures.append(f"seed {SEED}, case {case}, {name}: {answer}, {memory >> 20} MiB")
            (tmp_path / f"{case}.gbnf").write_text(text)
    worker.stop()
    said = worker.errors.read_text()
    print(f"{CASES} cases: {dict(answers)}; the slowest took {slowest[0]:.2f} s, {slowest[1]}; {memory >> 20} MiB")
    assert not failures, "\n".join(failures[:20])
    assert said == ""  # llama.cpp's parser says why on standard error
    if CASES >= 500:  # both sides of the check
        assert answers["ran"] > CASES // 10 and answers["argument in one line"] > CASES // 10


if __name__ == "__main__":
    work(sys.argv[1])
