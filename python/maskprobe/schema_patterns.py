"""Regular expressions of JSON Schema (ECMA 262) in the dialect of llguidance's regex engine."""

import re

QUANTIFIER = re.compile(r"\{[0-9]+(,[0-9]*)?\}")
HEX = {"x": 2, "u": 4}
CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v"}
META = set("\\.+*?()|[]{}^$#&-~/")  # punctuation that may stand after a backslash in both dialects
WORD, DIGIT = r"\p{L}\p{N}_", r"\p{Nd}"  # \w and \d of validators that know Unicode
# Three characters that are never written, see unwritten(). They mend two faults of llguidance in JSON strings: one such
# character alone is skipped, and a class with all control characters lets \" and \\ in, whatever it says of them.
ABSENT, COMPANY = r"\x00", r"\x01\x02"


def unwritten(char: str) -> bool:
    """Whether the constraint never writes the character: what JSON can only write as \\u00XX, and DEL."""
    return (char < " " and char not in "\b\f\n\r\t") or char == "\x7f"


class UnsupportedPattern(ValueError):
    """Says in a few words what the engine cannot do."""


def engine_pattern(pattern: str, *, exact: bool = False) -> str:
    r"""The pattern for llguidance: it matches nothing that a validator would not match.

    Dialects differ in what \w and \d are. A string must satisfy all of them, so only ASCII letters and digits count as
    such, and no letter or digit of Unicode counts as their opposite. With `exact`, where a missing match is as wrong as
    one too many, it is Python's meaning, "$" before a last line end included.

    Raises UnsupportedPattern.
    """
    return _Translation(pattern, exact).run()


class _Translation:
    def __init__(self, pattern: str, exact: bool) -> None:
        self.pattern = pattern
        self.exact = exact
        self.end = "\\n?$" if exact else "$"
        self.at = 0
        self.needs_company = False
        self.out: list[str] = []

    def run(self) -> str:
        while self.at < len(self.pattern):
            char = self.pattern[self.at]
            if char == "\\":
                self.out.append(self.escape(negated=None))
            elif char == "[":
                self.out.append(self.char_class())
            elif char == "(":
                self.out.append(self.group())
            elif char in "*+?{":
                self.out.append(self.quantifier())
            else:
                self.at += 1
                special = {"}": "\\}", "$": self.end}.get(char)
                self.out.append(special or self.literal(char, char, negated=None))
        return "".join(self.out)

    def escape(self, negated: bool | None) -> str:
        """One escape. `negated` tells of which class it is a member, None outside of classes."""
        if self.at + 1 == len(self.pattern):
            raise UnsupportedPattern("it ends in a backslash")
        char = self.pattern[self.at + 1]
        start, self.at = self.at, self.at + 2
        if char in "dDwW":
            return self.shorthand(char, negated)
        if char in "sS":
            return "\\" + char
        if char in CONTROLS:
            return self.literal(CONTROLS[char], "\\" + char, negated)
        if char in HEX:
            digits = self.pattern[self.at : self.at + HEX[char]]
            if len(digits) < HEX[char] or not re.fullmatch("[0-9A-Fa-f]+", digits):
                raise UnsupportedPattern(f"\\{char} needs {HEX[char]} hexadecimal digits")
            if 0xD800 <= int(digits, 16) <= 0xDFFF:
                raise UnsupportedPattern("half of a surrogate pair stands for no character")
            self.at += HEX[char]
            return self.literal(chr(int(digits, 16)), self.pattern[start : self.at], negated)
        if char in "pP":
            name = re.compile(r"\{[A-Za-z_]+(=[A-Za-z_]+)?\}").match(self.pattern, self.at)
            if name is None:
                raise UnsupportedPattern(f"\\{char} needs a property's name in braces")
            self.at = name.end()
            return self.pattern[start : self.at]
        if char == "b" and negated is not None:
            return "\\x08"
        if char.isascii() and char.isalnum():
            kind = "back references are" if char.isdigit() else f"\\{char} is"
            raise UnsupportedPattern(f"{kind} not supported")
        return "\\" + char if char in META else char

    def literal(self, char: str, spelt: str, negated: bool | None) -> str:
        """A character that stands for itself."""
        if not unwritten(char):
            return spelt
        self.needs_company = True
        return spelt if negated is not None else f"[{spelt}{COMPANY}]"

    def shorthand(self, char: str, negated: bool | None) -> str:
        wide = WORD if char in "wW" else DIGIT
        narrow = "A-Za-z0-9_" if char in "wW" else "0-9"
        members = wide if self.exact or (char.isupper() != bool(negated)) else narrow
        if char.isupper():
            return f"[^{members}]"
        return members if negated is not None else f"[{members}]"

    def char_class(self) -> str:
        start = self.at
        self.at += 1
        negated = self.pattern.startswith("^", self.at)
        self.at += negated
        out: list[str] = []
        self.needs_company = False
        first = True
        while self.at < len(self.pattern):
            char = self.pattern[self.at]
            if char == "]":
                if first:
                    raise UnsupportedPattern("a class that is empty or begins with ] means different things")
                self.at += 1
                members = "".join(out)
                if negated:
                    return f"[^{members}{ABSENT}]"
                return f"[[{members}{COMPANY}]&&[^{ABSENT}]]" if self.needs_company else f"[{members}]"
            if self.pattern.startswith("--", self.at):
                raise UnsupportedPattern("-- within a class")
            if char == "\\":
                out.append(self.escape(negated))
            else:
                out.append("\\" + char if char in "[&~^" else self.literal(char, char, negated))
                self.at += 1
            first = False
        raise UnsupportedPattern(f"the class at {start} does not end")

    def group(self) -> str:
        if not self.pattern.startswith("(?", self.at):
            self.at += 1
            return "("
        named = re.compile(r"\(\?(P?<[A-Za-z_][A-Za-z0-9_]*>|:)").match(self.pattern, self.at)
        if named is None:
            kind = self.pattern[self.at : self.at + 3]
            around = {"(?=": "look-ahead", "(?!": "look-ahead", "(?<": "look-behind"}.get(kind)
            raise UnsupportedPattern(f"{around or 'a group that begins with ' + kind} is not supported")
        self.at = named.end()
        return "(?:"

    def quantifier(self) -> str:
        char = self.pattern[self.at]
        if char == "{":
            counted = QUANTIFIER.match(self.pattern, self.at)
            if counted is None:
                if self.pattern.startswith("{,", self.at):
                    raise UnsupportedPattern("a repetition without a lower bound means different things")
                self.at += 1
                return "\\{"
            text, self.at = counted.group(), counted.end()
        else:
            text = char
            self.at += 1
        if self.pattern.startswith("+", self.at):
            raise UnsupportedPattern("possessive repetitions are not supported")
        if self.pattern.startswith("?", self.at):  # lazy: the same strings match
            self.at += 1
        return text
