"""Text streams: characters and stop strings over the borders of tokens, against Python's own decoder and endswith()."""

import functools
import itertools
import subprocess
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cxx import build, sanitizer_flags
from maskprobe import ArgumentError, Model

SOURCES = [
    "tests/text_stream_checks.cpp",
    "csrc/engine/text_stream.cpp",
    "csrc/model/utf8.cpp",
    "csrc/status.cpp",
]
MP_ERR_ARGUMENT = 1
Pieces = list[tuple[bytes, bool]]  # bytes, and whether they are shown


class Answer(NamedTuple):
    texts: list[str]  # after each piece, and after the end
    stopped: bool


class Program:
    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, pieces: Pieces, stop: list[str | bytes]) -> str:
        strings = [string.encode() if isinstance(string, str) else string for string in stop]
        words = [f"stop={string.hex()}" for string in strings]
        words += [("+" if visible else "-") + piece.hex() for piece, visible in pieces]
        self.process.stdin.write(" ".join([*words, "end"]) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()

    def stream(self, pieces: Pieces, stop: list[str | bytes] = ()) -> Answer:
        *texts, end = self.ask(pieces, stop).split()
        return Answer([bytes.fromhex(text.removeprefix("=")).decode() for text in texts], end == "stopped")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text_stream")
    running = Program(build(folder / "checks", SOURCES, sanitizer_flags("address,undefined", folder)))
    yield running
    running.process.stdin.close()
    assert running.process.wait(60) == 0
    running.process.stdout.close()


def decoded(data: bytes, final: bool) -> str:
    """The text of bytes; unless they end there, that which it begins with whatever follows."""
    followers = [b""] if final else [b"A", b"\x80\x80\x80", b"\x90\x80\x80", b"\xa0\x80\x80"]
    texts = [(data + follower).decode("utf-8", errors="replace") for follower in followers]
    same = itertools.takewhile(lambda characters: len(set(characters)) == 1, zip(*texts, strict=False))
    return "".join(characters[0] for characters in same)


def certain(pieces: Pieces, stop: list[str], final: bool) -> tuple[str, bool]:
    """What must have come out after these pieces, character by character, and whether the text has stopped."""
    runs = [
        (b"".join(piece for piece, _ in run), visible)
        for visible, run in itertools.groupby((p for p in pieces if p[0]), key=lambda piece: piece[1])
    ]
    characters: list[tuple[str, bool]] = []
    for i, (data, visible) in enumerate(runs):
        ends = final or i + 1 < len(runs)
        characters += [(c, visible) for c in decoded(data, ends)]
    text = "".join(c for c, _ in characters)

    def shown(n: int) -> str:
        return "".join(c for c, visible in characters[:n] if visible)

    for n in range(1, len(text) + 1):
        if ends_here := [string for string in stop if text[:n].endswith(string)]:
            return shown(n - max(map(len, ends_here))), True
    if final:
        return shown(len(text)), False
    held = (n for string in stop for n in range(1, len(string)) if text.endswith(string[:n]))
    return shown(len(text) - max(held, default=0)), False


def check(program: Program, pieces: Pieces, stop: list[str]) -> None:
    texts, stopped = program.stream(pieces, stop)
    assert len(texts) == len(pieces) + 1
    for n in range(1, len(pieces) + 1):
        assert "".join(texts[:n]) == certain(pieces[:n], stop, final=False)[0], n
    assert ("".join(texts), stopped) == certain(pieces, stop, final=True)


def pieces_of(data: bytes, cuts: list[int]) -> Pieces:
    borders = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [(data[a:b], True) for a, b in itertools.pairwise(borders)]


CUTS = st.lists(st.integers(0, 200), max_size=20)
# Bytes at the borders of what UTF-8 allows, so that many characters are nearly right.
NEARLY_UTF8 = st.lists(
    st.sampled_from(
        b"\x00a\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0\xc1\xc2\xdf\xe0\xe1\xec\xed\xee\xef\xf0\xf1\xf3\xf4\xf5\xff"
    ),
    max_size=20,
).map(bytes)
STOPS = st.lists(st.text("ab€\ufffd", min_size=1, max_size=6), max_size=3)


@given(st.text(alphabet="ab€🙂", max_size=30), CUTS, STOPS)
def test_the_text_does_not_depend_on_the_cuts(program, text, cuts, stop):
    check(program, pieces_of(text.encode(), cuts), stop)


@given(
    st.text(alphabet="ab", max_size=60), CUTS, st.lists(st.text("ab", min_size=1, max_size=12), min_size=1, max_size=4)
)
@example("aabaaabaaab", [3, 7], ["aabaaab", "baaabaaa"])
@example("ababac", [1, 2, 3, 4, 5], ["ababab", "abac"])
def test_stop_strings_that_repeat_themselves(program, text, cuts, stop):
    check(program, pieces_of(text.encode(), cuts), stop)


@given(st.binary(max_size=40) | NEARLY_UTF8, CUTS)
def test_invalid_bytes_become_replacement_characters(program, data, cuts):
    pieces = pieces_of(data, cuts)
    check(program, pieces, [])
    assert "".join(program.stream(pieces).texts) == data.decode("utf-8", errors="replace")


def test_all_beginnings_of_characters_decode_as_in_python(program):
    firsts = range(0x7F, 0x100)
    seconds = [0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF]
    for data in map(bytes, itertools.product(firsts, seconds)):
        for tail in (b"", b"\x80", b"\x80\x80", b"\x80\x80\x80", b"\xbfx"):
            whole = data + tail
            assert "".join(program.stream([(whole, True)]).texts) == whole.decode("utf-8", errors="replace"), whole


@given(
    st.lists(
        st.tuples(st.sampled_from([b"a", b"b", b"ab", "€".encode(), b"\xe2", b"\x82\xac", b""]), st.booleans()),
        max_size=12,
    ),
    STOPS,
)
@example([(b"\xe2", True), (b"", False), (b"\x82\xac", True)], [])
@example([(b"\xe2", True), (b"\x82\xac", False)], ["\ufffda"])
@example([(b"a", True), (b"b", False), (b"a", True), (b"b", True)], ["bab"])
def test_hidden_bytes_are_matched_and_not_shown(program, pieces, stop):
    check(program, pieces, stop)


def test_a_special_token_stops(program):
    pieces = [(b"one ", True), (b"<|im_start|>", False), (b"user", True)]
    assert program.stream(pieces, ["<|im_start|>"]) == (["one ", "", "", ""], True)
    assert program.stream(pieces, ["<|im_start|>user"]) == (["one ", "", "", ""], True)
    assert program.stream(pieces, ["ne <|im"]) == (["o", "", "", ""], True)
    assert program.stream(pieces) == (["one ", "", "user", ""], False)


def test_a_character_is_never_split(program):
    a, b, c, d = (bytes([byte]) for byte in "🙂".encode())
    pieces = [(b"x" + a, True), (b, True), (c, True), (d + b"y", True)]
    assert program.stream(pieces) == (["x", "", "", "🙂y", ""], False)
    assert program.stream(pieces[:2]) == (["x", "", "�"], False)


def test_a_possible_stop_string_is_held_back_and_released(program):
    assert program.stream([(b"one ST", True), (b"O", True), (b"RM", True)], ["STOP"]) == (
        ["one ", "", "STORM", ""],
        False,
    )
    assert program.stream([(b"one ST", True), (b"O", True), (b"P two", True)], ["STOP"]) == (["one ", "", "", ""], True)
    assert program.stream([(b"one ST", True)], ["STOP"]) == (["one ", "ST"], False)


def test_nothing_comes_after_a_stop_string(program):
    assert program.stream([(b"a\nb", True), (b"c", True), (b"\xe2", True)], ["\n"]) == (["a", "", "", ""], True)


def test_the_stop_string_that_is_complete_first_counts(program):
    assert program.stream([(b"xabcd", True)], ["abcd", "bc"]).texts[0] == "xa"
    assert program.stream([(b"xabc", True)], ["abc", "bc"]).texts[0] == "x"
    assert program.stream([(b"xabc", True)], ["bc", "abc"]).texts[0] == "x"


def test_a_long_stop_string_of_one_letter_is_looked_for_in_passing(program):
    """A million bytes against 50,000: comparing at each place anew would take hours."""
    stop = "a" * 50_000 + "b"
    pieces = [(b"a" * 1000, True)] * 1000
    texts, stopped = program.stream(pieces, [stop])
    assert "".join(texts) == "a" * 1_000_000 and not stopped
    assert len("".join(texts[:-1])) == 1_000_000 - 50_000
    texts, stopped = program.stream([*pieces, (b"b", True)], [stop])
    assert "".join(texts) == "a" * 950_000 and stopped


@pytest.mark.parametrize(
    ("stop", "message"),
    [
        ([""], "stop string 0 is empty"),
        (["a", ""], "stop string 1 is empty"),
        ([b"a\xff"], "stop string 0 of 2 bytes is not valid UTF-8"),
        (["a", b"\xe2\x82"], "stop string 1 of 2 bytes is not valid UTF-8"),
    ],
)
def test_stop_strings_that_are_refused(program, stop, message):
    answer = program.ask([(b"a", True)], stop)
    assert answer.startswith(f"refused {MP_ERR_ARGUMENT} ") and message in answer


UTF8_PIECES = [
    b"a",
    b"\xc3\xa9",
    b"\xe2\x82\xac",
    b"\xef\xbf\xbd",
    b"\xef\xbf",
    b"\xe2\x82",
    b"\xbd",
    b"\xed\xa0\x80",
    b"\xf4\x90",
]


@given(st.lists(st.sampled_from(UTF8_PIECES), max_size=6))
def test_the_tokenizer_names_the_byte_at_which_utf8_ends(bundled_model_path, pieces):
    model, data = opened(bundled_model_path), b"".join(pieces)
    try:
        data.decode()
    except UnicodeDecodeError as error:
        with pytest.raises(ArgumentError, match=rf"not valid UTF-8 at byte {error.start} "):
            model.tokenize(data)
    else:
        assert model.detokenize(model.tokenize(data, add_special=False)) == data


@functools.cache
def opened(path) -> Model:
    return Model(path, n_threads=1)
