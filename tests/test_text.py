"""TextStream: characters and stop strings over the borders of tokens."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskprobe import ArgumentError, TextStream


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    borders = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(borders)]


def stream(pieces: list[bytes], stop=()) -> tuple[list[str], bool]:
    text = TextStream(stop)
    out = [text.push(piece) for piece in pieces]
    return [*out, text.finish()], text.stopped


def expected(text: str, stop: list[str]) -> tuple[str, bool]:
    """Character by character: ends with the first stop string that is complete."""
    for n in range(1, len(text) + 1):
        ends = [string for string in stop if text[:n].endswith(string)]
        if ends:
            return text[: n - max(map(len, ends))], True
    return text, False


@given(
    st.text(alphabet="ab€🙂", max_size=30),
    st.lists(st.integers(0, 200)),
    st.lists(st.text("ab€", min_size=1), max_size=3),
)
def test_the_text_does_not_depend_on_the_cuts(text, cuts, stop):
    out, stopped = stream(pieces_of(text.encode(), cuts), stop)
    assert ("".join(out), stopped) == expected(text, stop)


@given(st.binary(max_size=40), st.lists(st.integers(0, 200)))
def test_invalid_bytes_become_replacement_characters(data, cuts):
    out, _ = stream(pieces_of(data, cuts))
    assert "".join(out) == data.decode("utf-8", errors="replace")


def test_a_character_is_never_split():
    a, b, c, d = (bytes([byte]) for byte in "🙂".encode())
    assert stream([b"x" + a, b, c, d + b"y"]) == (["x", "", "", "🙂y", ""], False)
    assert stream([b"x" + a, b]) == (["x", "", "�"], False)


def test_a_possible_stop_string_is_held_back_and_released():
    assert stream([b"one ST", b"O", b"RM"], ["STOP"]) == (["one ", "", "STORM", ""], False)
    assert stream([b"one ST", b"O", b"P two"], ["STOP"]) == (["one ", "", "", ""], True)
    assert stream([b"one ST"], ["STOP"]) == (["one ", "ST"], False)


def test_nothing_comes_after_a_stop_string():
    text = TextStream("\n")
    assert text.push(b"a\nb") == "a" and text.stopped
    assert text.push(b"c") == "" and text.finish() == ""


def test_the_stop_string_that_is_complete_first_counts():
    assert stream([b"xabcd"], ["abcd", "bc"])[0][0] == "xa"
    assert stream([b"xabc"], ["abc", "bc"])[0][0] == "x"


@pytest.mark.parametrize("stop", [[""], ["a", ""], [3], [None]])
def test_stop_strings_that_are_refused(stop):
    with pytest.raises(ArgumentError, match="stop string"):
        TextStream(stop)
