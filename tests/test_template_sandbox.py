"""Hostile chat templates: what loops, grows, nests or reaches out ends with one line."""

import subprocess
import sys

import pytest

from conftest import PROJECT
from fakes import TemplateModel
from maskprobe import ModelError, template_meter
from maskprobe.chat_template import ChatTemplate

TOO_MUCH = r"runs too long or makes too much text \(more than \d+ MiB of work\)"
MESSAGES = [{"role": "user", "content": "Hi"}]


def refused(source: str, said: str) -> None:
    messages = [dict(message) for message in MESSAGES]
    with pytest.raises(ModelError, match=said) as error:
        ChatTemplate(TemplateModel(source)).render(messages)
    assert str(error.value).isprintable() and len(str(error.value)) < 450
    assert messages == MESSAGES


def growing(expression: str) -> str:
    """ns.x grows from a text by an expression, again and again."""
    loop = "{% for i in range(99) %}{% set ns.x = " + expression + " %}{% endfor %}"
    return "{% set ns = namespace(x='ab') %}" + loop + "{{ ns.x|length }}"


def nested(literal: str, use: str, depth: int = 40) -> str:
    """A tree of 2^depth leaves in a few objects, and something that looks at all of them."""
    loop = f"{{% for i in range({depth}) %}}{{% set ns.x = {literal} %}}{{% endfor %}}"
    return "{% set ns = namespace(x=(1, 2)) %}" + loop + use


def in_a_loop(body: str) -> str:
    return "{% set b = range(99999)|list %}{% set t = 'a' * 1000000 %}{% for i in b %}" + body + "{% endfor %}"


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
        "{% macro m(n) %}{% if n < 40 %}{{ m(n + 1) }}{{ m(n + 1) }}{% endif %}{% endmacro %}{{ m(1) }}",
        "{% for a in [1, 2] recursive %}{{ loop([1, 2]) if loop.depth < 40 }}{% endfor %}",
        "{% for a in range(99999) %}" + "{% if a %}{% endif %}" * 900 + "{% endfor %}",
        "{% for a in range(99999) %}" + "{% set b = a %}" * 900 + "{% endfor %}",
        "{% macro m() %}"
        + "{% if a %}{% endif %}" * 900
        + "{% endmacro %}{% for a in range(99999) %}{{ m() }}{% endfor %}",
        "{% set x %}{% for i in range(99999) %}{% for j in range(99) %}text{% endfor %}{% endfor %}{% endset %}",
        "{% filter upper %}{% for i in range(99999) %}{% for j in range(99) %}text{% endfor %}{% endfor %}"
        "{% endfilter %}",
        *map(
            in_a_loop,
            [
                "{{ b|sum }}",
                "{{ b|max }}",
                "{{ b|sort|first }}",
                "{{ b|reverse|first }}",
                "{{ b|select('odd')|first }}",
                "{{ b|map('string')|join|length }}",
                "{{ b|tojson|length }}",
                "{{ 99998 in b }}",
                "{{ b.index(99998) }}",
                "{{ b == b[:] }}",
                "{{ b[1:]|length }}",
                "{{ (b + b)|length }}",
                "{{ loop.changed(b[:]) }}",
                "{{ loop.cycle(*b) }}",
                "{{ dict([[1, 2]] * 99999)|length }}",
                "{{ t|trim('b')|length }}",
                "{{ t|upper|length }}",
                "{{ t.count('b') }}",
                "{{ 'b' in t }}",
                "{{ (t ~ i)|length }}",
                "{{ t[1:]|length }}",
                "{{ t.split('b')|length }}",
                "{{ '%s' % t == t }}",
            ],
        ),
    ],
)
def test_loops(source, monkeypatch):
    monkeypatch.setattr(template_meter, "WORK_LIMIT", 16 << 20)  # a quarter of the time
    refused(source, TOO_MUCH)


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'x' * 10**9 }}",
        "{{ 10**9 * 'x' }}",
        "{{ [1] * 10**9 }}",
        *map(
            growing,
            [
                "ns.x ~ ns.x",
                "ns.x + ns.x",
                "ns.x * 2",
                "'%s%s' % (ns.x, ns.x)",
                "'%(a)s%(a)s' % {'a': ns.x}",
                "'%s%s'|format(ns.x, ns.x)",
                "'{0}{0}'.format(ns.x)",
                "'{a}{a}'.format_map({'a': ns.x})",
                "[ns.x, ns.x]|join",
                "ns.x.join(['a', 'b', 'c'])",
                "ns.x|replace('', 'bbbb')",
                "ns.x|replace('a', 'aa')",
                "ns.x.replace('b', 'bb')",
                "ns.x|list + ns.x|list",
                "[ns.x, ns.x]|string",
                "[ns.x]|tojson|tojson|tojson",
                "(ns.x ~ '<')|escape|string|escape|string ~ ns.x",
                "ns.x|indent('xxxxxxxxxx' ~ ns.x, true)",
            ],
        ),
        "{{ 'x'|center(10**9) }}",
        "{{ 'x'|center(width=10**9) }}",
        "{{ 'x'.center(10**9) }}",
        "{{ ('x'|safe).ljust(10**9) }}",
        "{{ 'x'.rjust(10**9) }}",
        "{{ 'x'.zfill(10**9) }}",
        "{{ '\\t'.expandtabs(10**9) }}",
        "{% filter center(10**9) %}x{% endfilter %}",
        "{{ ['x']|map('center', 10**9)|list }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (10**9, 1) }}",
        "{{ '%.1000000000f' % 1 }}",
        "{{ '%.*f' % (10**9, 1) }}",
        "{{ '%(a)1000000000d' % {'a': 1} }}",
        "{{ '%1000000000d'|format(1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 10**9) }}",
        "{{ '{0:>{w}}'.format('a', w=10**9) }}",
        "{{ '{:.1000000000f}'.format(1.5) }}",
        "{{ '%.0000000000000000000001000000000d'|format(1) }}",
        "{{ '{:.0000000000000000000001000000000f}'.format(1.5) }}",
        "{{ [1]|batch(10**9, 0)|list }}",
        "{{ [1]|batch(linecount=10**9, fill_with=0)|list }}",
        "{{ [1]|slice(10**9)|list }}",
        "{{ ('a\\n' * 1000)|indent(10**7) }}",
        "{{ {'a': [[1]]}|tojson(indent=10**9) }}",
        "{{ {'a': [1]}|tojson(separators=['x' * 10**7, 'y']) }}",
        "{{ (range(99999)|list)|tojson(indent=10000) }}",
        "{{ ('a' * 10**7).split('a')|length }}",
        "{{ ('a ' * 10**7).split()|length }}",
        "{{ ('\\x0b' * 10**7).splitlines()|length }}",
        "{{ ('é' * 10**7)|list|length }}",
        "{{ ('ß' * 10**8)|upper|length }}",
        "{{ ('a' * 10**6).rfind('b' + 'a' * 500000) }}",
        "{{ ('a' * 10**6)|trim('b' * 500000 + 'a')|length }}",
        "{{ ('9' * 10**6)|int }}",
        "{{ strftime_now('%c' * 10**7) }}",
    ],
)
def test_growth(source):
    refused(source, TOO_MUCH)


@pytest.mark.parametrize(
    "use",
    [
        "{{ ns.x }}",
        "{{ ns.x ~ '' }}",
        "{{ ns.x|string }}",
        "{{ ns.x|upper }}",
        "{{ ns.x|tojson }}",
        "{{ [ns.x, ns.x]|sort }}",
        "{{ [ns.x, ns.x]|unique|list }}",
        "{{ [ns.x]|join }}",
        "{{ '%s' % (ns.x,) }}",
        "{{ '{!r}'.format(ns.x) }}",
        "{{ {ns.x: 1} }}",
        "{{ {}[ns.x] }}",
        "{{ {}.get(ns.x) }}",
        "{{ ns.x == 1 }}",
        "{{ ns.x in [ns.x] }}",
        "{{ ns.x is eq(1) }}",
        "{{ ns.x.index(1) }}",
        "{{ dict([[ns.x, 1]]) }}",
        "{{ raise_exception(ns.x) }}",
        "{{ {'a': ns.x}.items() }}",
    ],
)
def test_trees_in_a_few_objects(use):
    refused(nested("(ns.x, ns.x)", use), TOO_MUCH)
    refused(nested("(ns.x, ns.x)", use, depth=200), "in one another more than 100 deep")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "calls macros in one another more than 50 deep at line 1"),
        ("{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}", "more than 50 deep"),
        ("{% block a %}{{ self.a() }}{% endblock %}", "more than 50 deep"),
        (
            "{% macro m() %}{% set ns.x = varargs %}{% endmacro %}" + nested("m(ns.x) or ns.x", "{{ ns.x }}", 200),
            "deep",
        ),
        ("{{ 2**20000 }}", r"makes a number of 40000 bits \(at most 16384\)"),
        ("{{ 9**5000 * 9**5000 }}", "makes a number"),
        ("{{ 5|round(-10**9) }}", "makes a number"),
        ("{{ 5.5|round(10**9, 'ceil') }}", "makes a number"),
        ("{{ 'x'|round(10**9, 'ceil') }}", "a number is needed, not a str"),
        ("{{ '%1000000000d' is odd }}", "a number is needed, not a str"),
        ("{{ ([[1]] * 99999)|sum(start=[]) }}", "a number is needed, not a list"),
        ("{{ '%(a(b))1000000000d' % {'a(b)': 1} }}", "a key in a % format has parentheses"),
        ("{{ range(10**9) }}", "Range too big"),
        ("{{ " + "(" * 20000 + "1" + ")" * 20000 + " }}", "blocks and brackets in one another"),
        ("{{ " + "not " * 20000 + "1 }}", "a statement too long"),
        ("{{ 1" + "+1" * 20000 + " }}", "a statement too long"),
        ("{{ a" + "|upper" * 20000 + " }}", "a statement too long"),
        ("{% if 1 %}" * 1000 + "{% endif %}" * 1000, "blocks and brackets in one another"),
        ("{{ 1" + "+1" * 1200 + " }}", "nests too deep"),
    ],
)
def test_depth(source, said):
    refused(source, said)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''['__class__'] }}",
        "{{ ''|attr('__class__') }}",
        "{{ ''.__class__ is defined }}",
        "{{ raise_exception.__globals__ }}",
        "{{ namespace.__init__ }}",
        "{{ cycler.__init__ }}",
        "{{ self.__init__ }}",
        "{{ self._TemplateReference__context }}",
        "{{ ''.join.__self__ }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ '{0[__class__]}'.format(1) }}",
        "{{ '{a.__class__}'.format_map({'a': 1}) }}",
        "{{ [1]|map(attribute='__class__')|list }}",
        "{{ [1]|map('attr', '__class__')|list }}",
        "{{ ['a']|sort(attribute='__class__') }}",
        "{{ ['a']|groupby('__class__') }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'a': 1}) }}",
        "{{ messages[0].pop('role') }}",
        "{{ messages[0].clear() }}",
        "{{ dict.fromkeys([1]) }}",
        "{{ (1).to_bytes(10**9, 'big') }}",
        "{{ 'a'.encode('utf-8') }}",
        "{{ 'abc'.translate({97: 'x' * 10000}) }}",
        "{% include 'a' %}",
        "{% include ['/etc/passwd'] ignore missing %}",
        "{% import 'a' as b %}",
        "{% from 'a' import b %}",
        "{% extends 'a' %}",
        "{% autoescape true %}{% endautoescape %}",
        "{% if false %}{% include 'a' %}{% endif %}",
    ],
)
def test_reaching_out(source):
    refused(source, "is not for chat templates")


@pytest.mark.parametrize("source", ["{{ lipsum() }}", "{{ [1]|random }}", "{{ 'a'|pprint }}", "{{ open('a') }}"])
def test_what_is_not_there(source):
    refused(source, "is undefined|No filter named")


def test_a_host_that_lets_python_recurse():
    """The limits do not lean on Python's own, which a program may have raised."""
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from fakes import TemplateModel
from maskprobe import ModelError
from maskprobe.chat_template import ChatTemplate
sys.setrecursionlimit(10**6)
for source in ("{{ " + "(" * 90000 + "1", "{{ " + "-" * 90000 + "1 }}", "{{ 1" + "+1" * 90000 + " }}",
               "{{ a" + ".a" * 90000, "{{ 1" + "+1" * 1200 + " }}", "{{ a" + ".a" * 1200 + " }}", "{% if 1 %}" * 1900,
               "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
               "{% set ns = namespace(x=1) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}"):
    try:
        ChatTemplate(TemplateModel(source)).render([{"role": "user", "content": "Hi"}])
        print("fine")
    except ModelError as error:
        print("refused")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(PROJECT / "tests")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["refused"] * 9


@pytest.mark.parametrize("value", ["1", "nothing", "[]", "none", "''"])
def test_an_indentation_is_paid_whatever_the_value(value):
    template = ChatTemplate(TemplateModel("{{ " + value + "|tojson(indent=10**9) }}"))
    with pytest.raises(ModelError, match="more than"):
        template.render([{"role": "user", "content": "hi"}])
