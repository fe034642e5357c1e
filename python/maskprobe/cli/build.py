"""From options to objects. A value that turns out wrong here is a usage error that names its option."""

import argparse
import math
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from .. import (
    ArgumentError,
    Engine,
    MaskProbe,
    Model,
    ModelError,
    Proposer,
    Sampler,
    SamplingParams,
    hub,
    mask_embedding,
    proposer_named,
    resolve_model,
)
from ..hosts.opening import open_engine
from ..hosts.opening import open_model as model_opened
from ..memory import memory_needed, refuse_what_does_not_fit
from ..proposers import SOURCES
from . import files, memory_table, values
from .interrupt import Interrupt
from .options import ESP_DEFAULTS, SEED_MAX, engine_settings, model_settings
from .parser import Parser
from .terminal import Completion, Progress, say

if TYPE_CHECKING:
    from ..structured import JsonSchema, Regex

CHAT_TEMPLATE = "tokenizer.chat_template"


# What a message about a context or about mask probes names, and the option that is meant.
CONTEXT_OPTIONS = {
    "a proposer": "--propose",
    "the state file": "--state",
    "n_ubatch": "-ub/--ubatch-size",
    "n_batch": "-b/--batch-size",
    "n_ctx": "-c/--ctx-size",
    "V cache": "-ctv/--cache-type-v",
}
TREE_OPTIONS = {"mask_children": "--mask-children", "masks = ": "--masks", "rows = ": "--rows"}
SAMPLING_OPTIONS = {
    "temp = ": "--temp",
    "top_p": "--top-p",
    "min_p": "--min-p",
    "penalty_repeat": "--repeat-penalty",
    "penalty_frequency": "--frequency-penalty",
    "penalty_presence": "--presence-penalty",
    "penalty_last_n": "--repeat-last-n",
    "bias": "-l/--logit-bias",
}


@contextmanager
def usage(parser: Parser, option: str, by_text: Mapping[str, str] = MappingProxyType({})) -> Iterator[None]:
    """What is wrong with a value, found out within the block, is a usage error of this option, or of the one whose text
    in `by_text` is in the message."""
    try:
        yield
    except (argparse.ArgumentTypeError, ArgumentError) as error:
        message = str(error)
        named = next((name for text, name in by_text.items() if text in message), option)
        parser.error(f"argument {named}: {message}")


def text_value(args: argparse.Namespace, parser: Parser, option: str, value: str) -> str:
    """Text from the command line, its escapes read. The shell may hand over any bytes, so they are looked at."""
    data = os.fsencode(value)
    with usage(parser, option):
        text = values.decode(values.unescape(data) if args.escape else data, "the text")
    if not text:
        parser.error(f"argument {option}: the text is empty")
    return text


def prompt_text(args: argparse.Namespace, parser: Parser) -> str:
    """The prompt from -p, -f or standard input."""
    if args.prompt is None and args.file is None:
        parser.error("there is no prompt: one of the arguments -p/--prompt and -f/--file is required")
    if args.prompt is not None and args.prompt != "-":
        return text_value(args, parser, "-p/--prompt", args.prompt)
    option = "-p/--prompt" if args.file is None else "-f/--file"
    with usage(parser, option):
        text = values.standard_input() if args.file is None else args.file.text
    if not text:
        parser.error(f"argument {option}: the prompt is empty")
    return text


def check_shared_options(args: argparse.Namespace, parser: Parser) -> None:
    """What one option says about another, of those in options.py. Those of mask probes get their defaults here."""
    for name, default in ESP_DEFAULTS.items():
        if getattr(args, name) is None:
            setattr(args, name, default)
        elif args.propose not in ("esp", "none"):
            parser.error(f"argument --{name.replace('_', '-')}: it is for --propose esp, not for {args.propose}")
    if args.propose == "esp" and args.rows is not None and args.tree != "dynamic":
        parser.error(f"argument --rows: it is for --tree dynamic, the tree {args.tree} has its rows fixed")
    for option, others in (("state", ()), ("no_state", ("none",)), ("trained_masks", ())):
        if getattr(args, option) and args.propose not in ("all", *others):
            parser.error(f"argument --{option.replace('_', '-')}: it is for --propose all, not for {args.propose}")
    if args.state is not None and args.rows is not None:
        parser.error("argument --state: it is for --rows auto, a fixed number of rows keeps nothing")
    if args.heads and args.propose != "all":
        parser.error(f"argument --heads: it is for --propose all, not for {args.propose}")
    if args.json_whitespace and args.json_schema is None and args.json_schema_file is None:
        parser.error("argument --json-whitespace: it is for -j/--json-schema and -jf/--json-schema-file")


def files_read(args: argparse.Namespace) -> dict[str, str | Path | None]:
    """The files that are read beside the model, by the options that name them."""
    return {
        "-f/--file": args.file and args.file.path,
        "--grammar-file": args.grammar_file and args.grammar_file.path,
        "-jf/--json-schema-file": args.json_schema_file and args.json_schema_file.path,
        "--trained-masks": args.trained_masks,
        "--heads": args.heads or None,
        "--mask-init": args.mask_init.removeprefix("file:") if args.mask_init.startswith("file:") else None,
    }


def check_state_file(args: argparse.Namespace, parser: Parser) -> None:
    """That it is none of the files that are read."""
    if args.state is not None:
        with usage(parser, "--state"):
            files.check_apart(args.state, files_read(args))


def grammar(args: argparse.Namespace, parser: Parser) -> tuple[str, str | None]:
    """The option that gives a grammar, and its GBNF; None without one."""
    if args.grammar_file is None:
        return "--grammar", args.grammar
    if not args.grammar_file.text:  # for libllama that is no grammar
        parser.error("argument --grammar-file: the file is empty")
    return "--grammar-file", args.grammar_file.text


def rules(args: argparse.Namespace, parser: Parser, model: Model) -> "JsonSchema | Regex | None":
    """What a JSON schema or a regular expression says of the text, compiled."""
    if args.regex is None and args.json_schema is None and args.json_schema_file is None:
        return None
    from ..structured import JsonSchema, Regex  # only where wanted: what compiles them takes a while to import

    if args.regex is not None:
        with usage(parser, "--regex"):
            return Regex(model, args.regex)
    option, schema = "-j/--json-schema", args.json_schema
    if schema is None:
        option, schema = "-jf/--json-schema-file", args.json_schema_file.text
    with usage(parser, option):
        return JsonSchema(model, schema, flexible_whitespace=args.json_whitespace)


def model_path(args: argparse.Namespace, parser: Parser) -> Path:
    if args.hf_repo is not None:
        with Progress("downloading", unit="bytes") as bar:
            return hub.download(args.hf_repo, progress=bar)
    return resolve_model(args.model, warn=lambda line: say(f"{parser.prog}: {line}"))


def model_options(args: argparse.Namespace) -> dict[str, Any]:
    looks_at_rows = args.propose in ("esp", "all")  # of embeddings, as the self-check does
    return {**model_settings(args), "self_check": looks_at_rows}


def engine_options(args: argparse.Namespace, proposer: str | Proposer) -> dict[str, Any]:
    keeps = proposer == "all" and args.rows is None and not args.no_state
    return {**engine_settings(args, proposer), "state": (args.state or "") if keeps else None}


def print_memory(args: argparse.Namespace, parser: Parser) -> int:
    """--memory: the figures on standard output. Returns the exit status."""
    check_shared_options(args, parser)
    path = model_path(args, parser)
    with usage(parser, "-c/-b/-ub/-ctk/-ctv/-fa", CONTEXT_OPTIONS):
        found = memory_needed(path, model_options=model_options(args), **engine_options(args, str(args.propose)))
    Completion("off").write(memory_table.table(path, found, 1))
    return 1 if found.problem else 0


def open_model(args: argparse.Namespace, parser: Parser, ctrl_c: Interrupt) -> Model:
    path = model_path(args, parser)
    with usage(parser, "-c/-b/-ub/-ctk/-ctv/-fa", CONTEXT_OPTIONS):
        settings = engine_options(args, str(args.propose))
        refuse_what_does_not_fit(path, model_options=model_options(args), **settings)
    with Progress("loading") as bar, ctrl_c.cancels():

        def progress(fraction: float) -> bool:
            bar(fraction, 1.0)
            return not ctrl_c.requested

        model = model_opened(path, progress=progress, reloading=lambda: reloading(parser), **model_options(args))
    if model.info.placement:
        say(f"{parser.prog}: {model.info.placement}")
    return model


@contextmanager
def reloading(parser: Parser) -> Iterator[Callable[[float], bool]]:
    """A bar while a model that has a process of its own is loaded again. Ctrl-C ends that."""
    say(f"{parser.prog}: the model is loaded again")
    with Progress("loading") as bar:

        def progress(fraction: float) -> bool:
            bar(fraction, 1.0)
            return not Interrupt.came()

        yield progress


def prompt_tokens(
    args: argparse.Namespace, parser: Parser, model: Model, system: str | None, text: str
) -> tuple[list[int], str]:
    """The tokens of the prompt and its text, in the model's chat template: where that is asked for, and where the model
    has one and nobody said no."""
    asked = args.single_turn or system is not None
    add_special = True
    if asked or (model.metadata(CHAT_TEMPLATE) and not args.no_conversation):
        messages = [{"role": "system", "content": system}] if system is not None else []
        try:
            text = model.chat_format([*messages, {"role": "user", "content": text}])
        except (ModelError, ArgumentError) as error:
            if asked:
                raise
            say(f"{parser.prog}: {error}: completing as it is (-no-cnv)")
        else:
            add_special = not model.begins_with_bos(text)
    tokens = model.tokenize(text, add_special=add_special, parse_special=True)
    bos = model.info.token_bos
    if add_special and model.info.add_bos and tokens[:2] == [bos, bos]:
        name = model.token_bytes(bos, special=True).decode("utf-8", "replace")
        say(f"{parser.prog}: the prompt begins with {name}, which the model adds too: it begins with two of them now")
    return tokens, text


def sampling_params(args: argparse.Namespace, parser: Parser, model: Model) -> SamplingParams:
    """The sampler's settings, tried out: what is wrong with them is said before a prompt is evaluated."""
    bias: dict[int, float] = {}
    for token, value in args.logit_bias:
        if token >= model.info.n_vocab:
            parser.error(f"argument -l/--logit-bias: token {token}, the vocabulary has {model.info.n_vocab} tokens")
        bias[token] = bias.get(token, 0.0) + value
        if values.as_float32(bias[token]) == math.inf:
            parser.error(f"argument -l/--logit-bias: the biases of token {token} are too large for a 32-bit float")
    whole_text = args.ctx_size or model.info.n_ctx_train  # as many tokens as there can be to look back at
    option, gbnf = grammar(args, parser)
    params = SamplingParams(
        temp=args.temp,
        top_k=args.top_k,
        top_p=args.top_p,
        min_p=args.min_p,
        penalty_last_n=whole_text if args.repeat_last_n < 0 else min(args.repeat_last_n, whole_text),
        penalty_repeat=args.repeat_penalty,
        penalty_frequency=args.frequency_penalty,
        penalty_presence=args.presence_penalty,
        seed=args.seed if args.seed >= 0 else secrets.randbelow(SEED_MAX + 1),
        logit_bias=bias,
        grammar=gbnf,
    )
    with usage(parser, option, SAMPLING_OPTIONS if gbnf is None else {}):
        Sampler(model, params).close()
    return params


def proposer(args: argparse.Namespace, parser: Parser, model: Model) -> str | Proposer:
    """What the options ask for, "none" on a model that cannot do it. What the model has to say about drafting is said
    where there is some."""
    if args.propose != "none" and model.info.note:
        say(f"{parser.prog}: {model.info.note}")
    source = SOURCES[args.propose]
    if not source.runs_on(model):
        return "none"
    if source.make is None:
        return str(args.propose)
    if args.propose != "esp":
        with usage(parser, "--rows"):
            return proposer_named(args.propose, model, rows=args.rows)
    with usage(parser, "--mask-init"):
        mask = mask_embedding(args.mask_init, model, update=args.mask_update)
    rows = {} if args.rows is None else {"rows": args.rows}
    with usage(parser, "--tree", TREE_OPTIONS):
        return MaskProbe(model, tree=args.tree, masks=args.masks, mask_children=args.mask_children, mask=mask, **rows)


@contextmanager
def engine(args: argparse.Namespace, parser: Parser, model: Model, proposer: str | Proposer) -> Iterator[Engine]:
    """An engine for one text. What there is to say about its memory, its state file and its heads is said, once."""
    with usage(parser, "-c/-b/-ub/-ctk/-ctv/-fa", CONTEXT_OPTIONS):
        engine = open_engine(model, **engine_options(args, proposer))
    said = engine.note
    if said:
        say(f"{parser.prog}: {said}")
    found, wanted = engine.context.max_chain, model.info.max_chain
    if proposer != "none" and not model.info.can_tree and found < wanted:
        states = f"{wanted + 1} states of {model.info.state_size / 2**20:.1f} MiB"
        say(f"{parser.prog}: chains of {found} candidates instead of {wanted}: memory is short for {states}")
    with engine:
        yield engine
        if engine.note != said:
            say(f"{parser.prog}: {engine.note.removeprefix(said).lstrip('; ')}")
