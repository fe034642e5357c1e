"""Damage for chat templates: characters and words that change, and programs that only an enemy writes."""

import random
import re

WORDS = re.compile(r"\{[{%#]-?|-?[}%#]\}|\w+|\s+|.", re.DOTALL)
NUMBERS = ["0", "-1", "1", "2", "7", "63", "64", "1000", "99999", "100001", "10**9", "10**18", "1e308", "2**63", "0.5"]
TEXTS = ["''", "'a'", "'\\n'", "'é🙂'", "'%s'", "'%99999999d'", "'{:>999999999}'", "'{0.__class__}'", "'a' * 10**6"]
NAMES = [
    "messages",
    "message",
    "messages[0]",
    "tools",
    "bos_token",
    "ns",
    "ns.x",
    "loop",
    "loop.index",
    "self",
    "x",
    "b",
]
NAMES += ["none", "true", "varargs", "caller", "range", "dict", "namespace", "cycler('a', 'b')", "joiner()", "{}", "[]"]
NAMES += [
    "range(99999)",
    "range(99999)|list",
    "[ns.x, ns.x]",
    "(ns.x,)",
    "{ns.x: ns.x}",
    "namespace(x=ns)",
    "'a' * 99999",
]
FILTERS = """abs attr('{a}') batch({n}) batch({n}, {v}) capitalize center({n}) count default({v}) dictsort e escape
filesizeformat first float forceescape format({v}) format({v}, {v}) groupby('{a}') indent({n}) indent({v}) int join({v})
join({v}, '{a}') last length list lower items map('{f}') map(attribute='{a}') max min reject rejectattr('{a}')
replace({v}, {v}) reverse round({n}) round({n}, 'ceil') safe select('{t}') selectattr('{a}', '{t}', {v}) slice({n})
slice({n}, {v}) sort sort(attribute='{a}') string sum sum(start={v}) title tojson tojson(indent={n})
tojson(separators=({v}, {v})) trim trim({v}) truncate({n}) unique upper urlencode wordcount urlize nothing"""
METHODS = """append({v}) capitalize() casefold() center({n}) copy() count({v}) encode() endswith({v}) expandtabs({n})
find({v}) format({v}) format_map({v}) get({v}) index({v}) items() join({v}) keys() ljust({n}) lower() lstrip({v})
partition({v}) pop() removeprefix({v}) replace({v}, {v}) rfind({v}) rjust({n}) rpartition({v}) rsplit({v}) split({v})
split() splitlines() startswith({v}) strip({v}) swapcase() title() to_bytes({n}) translate({v}) update({v}) upper()
values() zfill({n}) changed({v}) cycle({v}, {v}) next() content role x __class__ __globals__ _x gi_frame mro()"""
FILTERS, METHODS = (re.findall(r"\w+(?:\((?:[^()]|\([^()]*\))*\))?", names) for names in (FILTERS, METHODS))
TESTS = [
    "defined",
    "none",
    "string",
    "mapping",
    "iterable",
    "odd",
    "even",
    "divisibleby({n})",
    "in({v})",
    "eq({v})",
    "lt({v})",
]
TESTS += ["sameas({v})", "callable", "sequence", "escaped", "lower", "true", "nothing"]
ATTRIBUTES = ["role", "content", "0", "x", "__class__", "content.x", "role,content", "items", "update", ""]
OPERATORS = [
    "+",
    "-",
    "*",
    "/",
    "//",
    "%",
    "**",
    "~",
    "==",
    "!=",
    "<",
    ">=",
    "in",
    "not in",
    "and",
    "or",
    "if x else",
    "|",
    ".",
]
STATEMENTS = [
    "{{% for b in {v} %}}{s}{{% endfor %}}",
    "{{% for b in {v} if {v} %}}{s}{{% else %}}{s}{{% endfor %}}",
    "{{% for b in {v} recursive %}}{s}{{{{ loop({v}) }}}}{{% endfor %}}",
    "{{% for a, b in {v} %}}{{% continue %}}{s}{{% endfor %}}",
    "{{% if {v} %}}{s}{{% elif {v} %}}{s}{{% endif %}}",
    "{{% set ns = namespace(x={v}) %}}{s}",
    "{{% set ns.x = {v} %}}",
    "{{% set ns.x = ns.x + ns.x %}}",
    "{{% set ns.x = [ns.x, ns.x] %}}",
    "{{% set ns.x = ns.x|map('{f}') %}}",
    "{{% set x = {v} %}}{s}",
    "{{% set x | {f} %}}{s}{{% endset %}}",
    "{{% macro m(a, b={v}) %}}{s}{{{{ m({v}) }}}}{{% endmacro %}}{{{{ m({v}) }}}}",
    "{{% macro m(a) %}}{s}{{{{ caller() }}}}{{% endmacro %}}{{% call m({v}) %}}{s}{{% endcall %}}",
    "{{% filter {f} %}}{s}{{% endfilter %}}",
    "{{% with x = {v} %}}{s}{{% endwith %}}",
    "{{% block part %}}{s}{{{{ self.part() }}}}{{% endblock %}}",
    "{{% generation %}}{s}{{% endgeneration %}}",
    "{{% raw %}}{s}{{% endraw %}}",
    "{{% include {v} %}}",
    "{{% import {v} as x %}}",
    "{{% extends {v} %}}",
    "{{% autoescape true %}}{s}{{% endautoescape %}}",
    "{{% break %}}",
    "{{{{ {v} }}}}",
    "{{{{ {v} }}}}",
    "{{{{ raise_exception({v}) }}}}",
    "{{{{ strftime_now({v}) }}}}",
    "text {{# a comment #}} \n  ",
]


# Expressions by their type, {t}ext, {n}umber or {l}ist, and statements of these: such a program is one that runs.
TYPED = {
    "t": """'a' ; 'ab ' ; '<é>' ; '%s %r' ; '{0} {0}' ; '\\n\\n' ; ns.t ; ns.t ; ns.t ; message.role ; {t} + {t}
        {t} ~ {t}
        {t} ~ {l} ; ({t}) * {n} ; ({t})|upper ; ({t})|escape ; ({t})|safe ; ({t})|title ; ({t})|trim ; ({t})|indent({n})
        ({t})|replace('a', {t}) ; ({t})[1:] ; ({t})|replace('', {t}) ; ({t})|center({n}) ; ({l})|join({t}) ; ({l})|join
        ({t}).join(({l})|map('string')) ; ({l})|tojson ; ({l})|string ; ({l})|tojson(indent={n}) ; '%s|%s' % ({t}, {t})
        '%(a)s%(a)s' % {'a': {t}} ; '{0}{0}'.format({t}) ; ({t}).zfill({n}) ; '%s'|format({t}) ; ({t}).expandtabs({n})
        '{:>{}}'.format({t}, {n}) ; ({t}).ljust({n}) ; ({t})|urlencode ; ({l})|first|string ; ({t}).rpartition({t})[2]
        ({t}).casefold() ; ({t})|truncate({n} + 3, true) ; m({t}, {n} - 1) ; m({l}, {n} - 1)""",
    "n": """0 ; 1 ; 2 ; 3 ; 7 ; 40 ; 99 ; 1000 ; 99999 ; ns.n ; ns.n ; {n} + {n} ; {n} * {n} ; {n} ** {n}
        {n} // 3 ; {n} % 7
        -({n}) ; ({t})|length ; ({l})|length ; ({l})|count ; ({t})|int ; ({t}).find({t}) ; ({t}).rfind({t})
        ({t}).count({t}) ; ({n})|round(2) ; ({n})|abs ; ({t})|wordcount ; (range({n})|sum) ; (range({n})|max)
        loop.index
        ({l}).index({n}) if {n} in {l} else 5""",
    "l": """[] ; [1] ; ns.l ; ns.l ; ns.l ; [{t}] ; [{l}, {l}] ; ({l}, {l})|list ; [ns.l, ns.l] ; ({l}) + ({l})
        ({l}) * {n}
        range({n})|list ; ({t})|list ; ({t}).split() ; ({t}).split('a') ; ({t}).splitlines() ; ({l})|map('string')|list
        ({l})|map('upper')|list ; ({l})[1:] ; ({l})[::-1] ; ({l})|reverse|list ; ({l})|map('string')|sort
        ({l})|select|list
        ({l})|map('string')|unique|list ; ({l})|batch(3)|list ; ({l})|slice(3)|list ; ({l})|batch(7, {n})|list
        messages
        ({l})|map('string')|groupby('x') ; {'a': {l}}|items|list ; [{ns.t: {l}}] ; {'a': {n}, 'b': {n}}|dictsort
        ({l})|reject('in', {l})|list ; ({l})|select('eq', {l})|list ; [messages, ns.l] ; [ns, ns.l]""",
}
TYPED = {kind: [text.strip() for text in re.split(r";|\n", texts)] for kind, texts in TYPED.items()}
TYPED_STATEMENTS = [
    "{% set ns.t = {t} %}",
    "{% set ns.n = {n} %}",
    "{% set ns.l = {l} %}",
    "{% set ns.t = {t} %}{% set ns.l = {l} %}",
    "{{ {t} }}",
    "{{ {n} }}",
    "{{ {l} }}",
    "{{ m({t}, {n}) }}",
    "{{ {ns.l|string: 1}[{t}] }}",
    "{% for x in range({n}) %}{s}{% endfor %}",
    "{% for x in {l} %}{s}{% endfor %}",
    "{% for x in {l} if x in {l} %}{s}{% endfor %}",
    "{% for x in {l} recursive %}{s}{{ loop({l}) if loop.depth < {n} }}{% endfor %}",
    "{% if {l} == {l} %}{s}{% endif %}",
    "{% if {t} in {t} %}{s}{% else %}{s}{% endif %}",
    "{% set x %}{s}{% endset %}{% set ns.t = x %}",
    "{% filter upper %}{s}{% endfilter %}",
]
PROGRAM = """{% set ns = namespace(t='ab', n=2, l=[1, 2]) %}
{% macro m(t, n) %}{% if n > 0 %}{{ t }}{% for x in [1] %}{s}{% endfor %}{% endif %}{% endmacro %}
{% for message in messages %}{s}{s}{s}{% endfor %}"""


class TemplateMutator:
    """mutate() damages one of the templates, with parts of the others and of its own making."""

    def __init__(self, rng: random.Random, templates: list[str]) -> None:
        self.rng, self.templates = rng, templates

    def mutate(self, template: str) -> str:
        if self.rng.random() < 0.5:
            template = self.typed(PROGRAM, 3)
            if self.rng.random() < 0.8:
                return template
        for _ in range(self.rng.choice([1, 1, 1, 2, 3, 6])):
            template = self.rng.choice([self.words, self.inserted, self.characters, self.spliced, self.wrapped])(
                template
            )
        return template

    def typed(self, text: str, depth: int) -> str:
        """A statement or an expression with all that is open in it."""

        def part(found: re.Match[str]) -> str:
            kind = found[0][1]
            if kind == "s":
                chosen = self.rng.choices(TYPED_STATEMENTS, k=self.rng.choice([1, 1, 2, 3])) if depth > 0 else []
            else:
                chosen = [self.rng.choice(TYPED[kind] if depth > 0 else TYPED[kind][:5])]
            return "".join(self.typed(text, depth - 1) for text in chosen)

        return re.sub(r"\{[stnl]\}", part, text)

    def place(self, text: str) -> int:
        """Where a statement may stand, mostly: before a brace that opens."""
        places = [found.start() for found in re.finditer(r"\{[{%]", text)] or [0]
        return self.rng.choice(places) if self.rng.random() < 0.9 else self.rng.randint(0, len(text))

    def words(self, text: str) -> str:
        words = WORDS.findall(text)
        for _ in range(self.rng.choice([1, 1, 2, 5])):
            i, j = (self.rng.randrange(max(len(words), 1)) for _ in range(2))
            change = self.rng.randrange(5)
            if not words:
                return text
            if change == 0:
                del words[i : i + self.rng.choice([1, 1, 2, 8])]
            elif change == 1:
                words[i] = words[j]
            elif change == 2:
                words.insert(i, words[j])
            elif change == 3:
                words[i] = self.value()
            else:
                words[i], words[j] = words[j], words[i]
        return "".join(words)

    def characters(self, text: str) -> str:
        i = self.rng.randint(0, len(text))
        damage = self.rng.choice(
            ["", "{", "}", "%", "'", '"', "\\", "-", "\0", "é", "\ud800", "(" * 99, "{%" * 9, "\x1b[2J"]
        )
        return text[:i] + damage + text[i + self.rng.choice([0, 1, 3]) :]

    def spliced(self, text: str) -> str:
        other = self.rng.choice(self.templates)
        return text[: self.place(text)] + other[self.place(other) :]

    def inserted(self, text: str) -> str:
        i = self.place(text)
        return text[:i] + self.statement(2) + text[i:]

    def wrapped(self, text: str) -> str:
        statement = self.rng.choice([s for s in STATEMENTS if "{s}" in s])
        return self.fill(statement, text)

    def statement(self, depth: int) -> str:
        inside = "".join(self.statement(depth - 1) for _ in range(self.rng.randint(0, 2))) if depth else "z"
        return self.fill(self.rng.choice(STATEMENTS), inside)

    def fill(self, statement: str, inside: str) -> str:
        def part(found: re.Match[str]) -> str:
            kind = found[0]
            if kind in ("{{{{", "}}}}"):
                return kind[:2]
            if kind in ("{{", "}}"):
                return kind[0]
            return inside if kind == "{s}" else self.filter() if kind == "{f}" else self.value()

        return re.sub(r"\{\{\{\{|\}\}\}\}|\{\{|\}\}|\{[svf]\}", part, statement)

    def value(self, depth: int = 3) -> str:
        kind = self.rng.randrange(7) if depth else 0
        if kind == 0:
            return self.rng.choice(self.rng.choice([NUMBERS, TEXTS, NAMES]))
        inner = self.value(depth - 1)
        if kind in (1, 2):
            return f"({inner})|{self.filter(depth - 1)}"
        if kind == 3:
            return f"({inner}).{self.filled(self.rng.choice(METHODS), depth - 1)}"
        if kind == 4:
            return f"({inner}) is {self.filled(self.rng.choice(TESTS), depth - 1)}"
        if kind == 5:
            return f"({inner})[{self.rng.choice(['1:', ':2', '::-1', self.value(0)])}]"
        return f"({inner}) {self.rng.choice(OPERATORS)} {self.value(depth - 1)}"

    def filter(self, depth: int = 1) -> str:
        return self.filled(self.rng.choice(FILTERS), depth)

    def filled(self, text: str, depth: int) -> str:
        def part(found: re.Match[str]) -> str:
            kind = found[0][1]
            if kind == "v":
                return self.value(max(depth - 1, 0))
            if kind == "n":
                return self.rng.choice(NUMBERS)
            names = {"a": ATTRIBUTES, "f": [f.split("(")[0] for f in FILTERS], "t": [t.split("(")[0] for t in TESTS]}
            return self.rng.choice(names[kind])

        return re.sub(r"\{[vnaft]\}", part, text)
