"""Jinja2 for templates of which nothing is known: they see what they are given, call what is listed, and pay for each
step out of a meter. All of it is done by the template's own code, so it needs no thread, signal or trace of its own."""

import copy
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from types import BuiltinMethodType, CodeType, FunctionType, GeneratorType, MethodType
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer
from markupsafe import Markup

from . import template_costs as costs
from .template_meter import CALL, CALL_DEPTH_LIMIT, FILTER, LOOK_UP, NODE, RANGE_ITEM, STEP, Exceeded, Meter

DATE_BYTES = 256  # that strftime() makes at most of one character of its format
CODE_NAME = "<chat template>"  # the file name of the code that Jinja makes of a template

# Of a template, in characters and in tags: those of the wild have a tenth.
SOURCE_LIMIT = 1 << 18
STATEMENT_LIMIT = 2000
TOKENS_LIMIT = 3000  # of one statement
NESTING_LIMIT = 60  # brackets and blocks in one another

# Filters of our own, put around parts of the tree. A template cannot write these names.
TURN, COMPARED, MADE, JOINED, SLICED = "a turn", "compared", "made", "joined", "sliced"

BLOCKS = frozenset(("block", "call", "filter", "for", "generation", "if", "macro", "with"))  # with an end of their own
FUNCTIONS = (FunctionType, MethodType, BuiltinMethodType, GeneratorType, type)
ADDED = {"_loop_vars", "_block_vars"}  # arguments of a call that are Jinja's own


class Refused(jinja2.TemplateError):
    """raise_exception() of a template."""


class BadValue(Exception):
    """A variable of the caller that is no use to a template."""


class Template:
    """A template that has been compiled. Rendering is thread-safe: each has an environment of its own.

    Raises jinja2.TemplateError, SyntaxError and others where the text is no template."""

    def __init__(self, source: str) -> None:
        _check_source(source)
        tree = ENVIRONMENT.parse(source)
        self.names = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "load"}
        self._code: CodeType = ENVIRONMENT.compile(_Metered().visit(tree), filename=CODE_NAME)

    def render(self, variables: dict[str, Any]) -> str:
        """The text. Raises BadValue, Refused, Exceeded, jinja2.TemplateError and whatever an expression can raise."""
        environment = copy.copy(ENVIRONMENT)
        environment.meter = Meter()
        for name, value in variables.items():
            try:
                environment.meter.allow(value)
            except Exceeded as error:
                raise BadValue(f"{name} {error}") from None
        template = jinja2.Template.from_code(environment, self._code, environment.make_globals(None))
        return "".join(list(template.root_render_func(template.new_context(variables))))


def line_of(error: BaseException) -> int | None:
    """The line of the template where an error came up, None where that is not known."""
    line = error.lineno if isinstance(error, jinja2.TemplateSyntaxError) else None
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if frame.f_code.co_filename == CODE_NAME and "__jinja_template__" in frame.f_globals:
            line = frame.f_globals["__jinja_template__"].get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next
    return line


def _check_source(source: str) -> None:
    """What would take Jinja's own parser and compiler too long, or too deep."""
    if len(source) > SOURCE_LIMIT:
        raise Exceeded(f"has {len(source)} characters (at most {SOURCE_LIMIT})")
    n_statements = n_tokens = depth = 0
    tag = False  # the next name is that of a statement
    for _, kind, text in ENVIRONMENT.lex(source):
        n_tokens += kind != "whitespace"
        if kind in ("block_begin", "variable_begin"):
            n_statements += 1
            n_tokens, tag = 0, kind == "block_begin"
        elif kind == "operator":
            depth += (text in "([{") - (text in ")]}")
        elif kind == "name" and tag:
            depth += (text in BLOCKS) - text.startswith("end")
            tag = False
        if depth > NESTING_LIMIT or n_tokens > TOKENS_LIMIT:
            raise Exceeded(f"has more than {NESTING_LIMIT} blocks and brackets in one another, or a statement too long")
    if n_statements > STATEMENT_LIMIT:
        raise Exceeded(f"has {n_statements} statements (at most {STATEMENT_LIMIT})")


class _Generation(Extension):
    """{% generation %} marks what an assistant wrote, for training. Here it is only its content."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> list[nodes.Node]:
        parser.stream.skip()
        body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return body


class _Metered(NodeTransformer):
    """Puts filters that charge the meter around what an environment of Jinja cannot intercept."""

    def _turn(self, node: nodes.Node) -> nodes.Filter:
        """What a run of the node's body costs; it is always true."""
        n_parts, left = 0, list(node.iter_child_nodes())
        while left:
            n_parts += 1
            left.extend(left.pop().iter_child_nodes())
        return _filter(nodes.Const(STEP + NODE * n_parts, lineno=node.lineno), TURN)

    def _body(self, node: Any) -> Any:  # of a kind that has a body
        turn = nodes.ExprStmt(self._turn(node), lineno=node.lineno)
        self.generic_visit(node)
        node.body.insert(0, turn)
        return node

    visit_Macro = visit_CallBlock = visit_Block = _body

    def visit_For(self, node: nodes.For) -> nodes.For:
        turn = self._turn(node)
        self._body(node)
        if node.test is not None:
            node.test = nodes.And(turn, node.test, lineno=node.lineno)
        return node

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Const:
        return nodes.Const(node.data, lineno=node.lineno)  # so that it goes through `finalize`, as expressions do

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), JOINED)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        self.generic_visit(node)
        owners: tuple[nodes.Compare | nodes.Operand, ...] = (node, *node.ops)
        for owner in owners:
            if not isinstance(owner.expr, nodes.Const):
                owner.expr = _filter(owner.expr, COMPARED)
        return node

    def _literal(self, node: nodes.Literal) -> nodes.Node:
        self.generic_visit(node)
        return node if getattr(node, "ctx", "load") != "load" else _filter(node, MADE)

    visit_List = visit_Tuple = visit_Dict = _literal

    def visit_Pair(self, node: nodes.Pair) -> nodes.Pair:
        self.generic_visit(node)
        if not isinstance(node.key, nodes.Const):
            node.key = _filter(node.key, COMPARED)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        bounds = [bound or nodes.Const(None) for bound in (node.arg.start, node.arg.stop, node.arg.step)]
        return _filter(node.node, SLICED, bounds)

    def _reaches_out(self, node: nodes.Node) -> nodes.Node:
        tag = {"FromImport": "from", "ScopedEvalContextModifier": "autoescape"}.get(type(node).__name__)
        tag = tag or type(node).__name__.lower()
        raise jinja2.TemplateSyntaxError(f"the tag {tag!r} is not for chat templates", node.lineno)

    visit_Include = visit_Import = visit_FromImport = visit_Extends = visit_ScopedEvalContextModifier = _reaches_out


def _filter(node: nodes.Expr, name: str, arguments: list[nodes.Expr] | None = None) -> nodes.Filter:
    return nodes.Filter(node, name, arguments or [], [], None, None, lineno=node.lineno)


class _Formatter(SandboxedFormatter):
    """str.format() with its fields paid for."""

    _env: "_Environment"

    def format_field(self, value: Any, format_spec: str) -> str:
        costs.format_spec(self._env.meter, value, format_spec)
        return str(super().format_field(value, format_spec))

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        costs.format_spec(self._env.meter, value, "")
        return super().convert_field(value, conversion)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)
    meter: Meter

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, costs.KINDS):
            return attr in costs.methods(obj)
        return not isinstance(obj, FUNCTIONS) and super().is_safe_attribute(obj, attr, value)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        kind = type(obj).__name__
        raise SecurityError(f"{attribute!r} of a {kind} is not for chat templates")

    def getattr(self, obj: Any, attribute: str) -> Any:
        self.meter.charge(LOOK_UP)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        self.meter.charge(LOOK_UP)
        if isinstance(argument, tuple):
            costs.looked_at(self.meter, argument)  # its hash
        return super().getitem(obj, argument)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if not isinstance(value, BuiltinMethodType | MethodType) or value.__name__ not in ("format", "format_map"):
            return None
        text = value.__self__
        if not isinstance(text, str):
            return None

        def str_format(*args: Any, **kwargs: Any) -> str:
            self.meter.charge(STEP + self.meter.size(text))
            if value.__name__ == "format_map":
                (kwargs,), args = args, ()
            result = _Formatter(self).vformat(str(text), args, kwargs)
            paid: str = self._paid(Markup(result) if isinstance(text, Markup) else result, text)
            return paid

        return str_format

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        self.meter.charge(STEP)
        if cost := costs.OPERATORS.get(operator):
            cost(self.meter, left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        meter = self.meter
        meter.charge(CALL + RANGE_ITEM * (len(args) + len(kwargs)))
        given = {name: value for name, value in kwargs.items() if name not in ADDED}
        owner = obj.__self__ if isinstance(obj, BuiltinMethodType | MethodType) else None
        if isinstance(owner, costs.KINDS):
            args = tuple(list(value) if isinstance(value, Iterator) else value for value in args)
            costs.methods(owner).get(obj.__name__, costs.looks)(meter, owner, *args, **given)
        elif owner is not None or isinstance(obj, type):
            for value in (*args, *given.values()):
                costs.looked_at(meter, value)
        meter.call_depth += 1
        if meter.call_depth > CALL_DEPTH_LIMIT:
            raise Exceeded(f"calls macros in one another more than {CALL_DEPTH_LIMIT} deep")
        try:
            result = super().call(context, obj, *args, **kwargs)
        finally:
            meter.call_depth -= 1
        return self._paid(result, owner) if isinstance(owner, str) else result

    def _paid(self, result: Any, value: Any) -> Any:
        """The result of an operation on a value, whose size is charged where it is a new one. What would come item by
        item is made at once, so that it is paid for where it was asked for."""
        if isinstance(result, GeneratorType):
            items = list(result)
            self.meter.charge(8 * len(items))
            return iter(items)
        if isinstance(result, str | list | tuple) and result is not value:
            self.meter.charge(result.__sizeof__())
        return result


# --- filters and tests ------------------------------------------------------------------------------------------------


def _charging(function: Any, cost: costs.Cost, consumes: bool = False) -> Callable[..., Any]:
    """A filter or a test that charges its cost first. Jinja passes the context or the environment before the value."""
    wants_more = hasattr(function, "jinja_pass_arg")

    def charging(first: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        environment = first if isinstance(first, _Environment) else first.environment
        if consumes and isinstance(value, Iterator):
            value = list(value)
        environment.meter.charge(FILTER)
        cost(environment.meter, value, *args, **kwargs)
        result = function(first, value, *args, **kwargs) if wants_more else function(value, *args, **kwargs)
        return environment._paid(result, value)

    if wants_more:
        vars(charging)["jinja_pass_arg"] = vars(function)["jinja_pass_arg"]
        return charging
    return jinja2.pass_environment(charging)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """As transformers has it: no HTML escapes, and letters as they are."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@jinja2.pass_environment
def _turn(environment: _Environment, work: int) -> bool:
    environment.meter.charge(work)
    return True


@jinja2.pass_environment
def _compared(environment: _Environment, value: Any) -> Any:
    costs.looked_at(environment.meter, value)
    return value


@jinja2.pass_environment
def _made(environment: _Environment, value: Any) -> Any:
    environment.meter.charge(STEP + value.__sizeof__())
    environment.meter.size(value)
    return value


@jinja2.pass_environment
def _joined(environment: _Environment, values: list[Any]) -> str:
    texts = [environment.meter.text(value) for value in values]
    environment.meter.charge(STEP + sum(map(environment.meter.size, texts)))
    return "".join(texts)


@jinja2.pass_environment
def _sliced(environment: _Environment, value: Any, *bounds: Any) -> Any:
    environment.meter.charge(STEP)
    return environment._paid(value[slice(*bounds)], value)


@jinja2.pass_context
def _output(context: Any, value: Any) -> str:
    meter = context.environment.meter
    text: str = meter.text(value)
    meter.charge(STEP + 2 * meter.size(text))  # the piece, and its place in the whole
    return text


# --- names that templates have ----------------------------------------------------------------------------------------


class _OpaqueNamespace(Namespace):
    """What it prints would be all that it holds."""

    def __repr__(self) -> str:
        return "<Namespace>"


@jinja2.pass_environment
def _raise_exception(environment: _Environment, message: Any) -> None:
    raise Refused(environment.meter.text(message))


@jinja2.pass_environment
def _strftime_now(environment: _Environment, format: str) -> str:
    environment.meter.charge(DATE_BYTES * len(format))
    return datetime.now().strftime(format)


def _make_environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, LoopControlExtension],
        finalize=_output,
        optimized=False,  # nothing is computed when a template is compiled
        cache_size=0,
    )
    filters, tests = environment.filters, environment.tests
    environment.filters = {
        **{
            name: _charging(_to_json if name == "tojson" else filters[name], cost, name in costs.CONSUMERS)
            for name, cost in costs.FILTERS.items()
        },
        TURN: _turn,
        COMPARED: _compared,
        MADE: _made,
        JOINED: _joined,
        SLICED: _sliced,
    }
    environment.tests = {name: _charging(test, costs.TESTS.get(name, costs.free)) for name, test in tests.items()}
    del environment.globals["lipsum"]  # it draws from Python's random numbers
    environment.globals.update(namespace=_OpaqueNamespace, raise_exception=_raise_exception, strftime_now=_strftime_now)
    return environment


ENVIRONMENT = _make_environment()
