"""From options to objects. A value that turns out wrong here is a usage error that names its option."""

import argparse
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

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
from ..proposers import SOURCES
from . import values
from .interrupt import Interrupt
from .options import SEED_MAX, SWITCH
from .terminal import Completion, Progress, say

CHAT_TEMPLATE = "tokenizer.chat_template"
EXIT_USAGE = 2


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Each option with its value once: "-c, --ctx-size N"."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=38)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        value = "" if action.nargs == 0 else f" {action.metavar}"
        return ", ".join(action.option_strings) + value


class Parser(argparse.ArgumentParser):
    """A usage error is one line that names the option, and a hint. The help may be cut short by its reader."""

    def print_help(self, file: Any = None) -> None:
        Completion("off").write(self.format_help())

    def error(self, message: str) -> NoReturn:
        say(f"{self.prog}: error: {' '.join(message.split())}\n{self.prog} --help lists the options")
        sys.exit(EXIT_USAGE)


@contextmanager
def usage(parser: Parser, option: str) -> Iterator[None]:
    """What is wrong with a value, found out within the block, is a usage error of this option."""
    try:
        yield
    except (argparse.ArgumentTypeError, ArgumentError) as error:
        parser.error(f"argument {option}: {error}")


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
        text = values.standard_input() if args.file is None else args.file
    if not text:
        parser.error(f"argument {option}: the prompt is empty")
    return text


def grammar_text(args: argparse.Namespace, parser: Parser) -> str | None:
    """The grammar as GBNF, made from a JSON schema if one is given."""
    option, schema = "-j/--json-schema", args.json_schema
    if schema is None:
        option, schema = "-jf/--json-schema-file", args.json_schema_file
    if schema is None:
        return args.grammar if args.grammar is not None else args.grammar_file
    from llama_cpp.llama_grammar import json_schema_to_gbnf

    try:
        return json_schema_to_gbnf(schema)
    except Exception as error:  # it walks through the schema and lets any error out
        parser.error(f"argument {option}: not a JSON schema that can be used: {error}")


def open_model(args: argparse.Namespace, parser: Parser, ctrl_c: Interrupt) -> Model:
    if args.hf_repo is not None:
        with Progress("downloading", unit="bytes") as bar:
            path = hub.download(args.hf_repo, progress=bar)
    else:
        path = resolve_model(args.model, warn=lambda line: say(f"{parser.prog}: {line}"))
    with Progress("loading") as bar, ctrl_c.cancels():

        def progress(fraction: float) -> bool:
            bar(fraction, 1.0)
            return not ctrl_c.requested

        return Model(
            path,
            n_gpu_layers=args.gpu_layers,
            use_mmap=not args.no_mmap,
            use_mlock=args.mlock,
            check_tensors=args.check_tensors,
            self_check=args.propose in ("esp", "all"),  # it looks at embedding rows
            kernels=args.kernels,
            n_threads=max(args.threads, 0),
            loras=args.lora,
            progress=progress,
        )


def prompt_tokens(
    args: argparse.Namespace, parser: Parser, model: Model, system: str | None, text: str
) -> tuple[list[int], str]:
    """The tokens of the prompt and its text, in the model's chat template: where that is asked for, and where the model
    has one and nobody said no."""
    asked = args.single_turn or system is not None
    if args.no_conversation or not (asked or model.metadata(CHAT_TEMPLATE)):
        return model.tokenize(text, add_special=True, parse_special=True), text
    messages = [{"role": "system", "content": system}] if system is not None else []
    try:
        text = model.chat_format([*messages, {"role": "user", "content": text}])
    except ModelError:
        if asked:
            raise
        say(f"{parser.prog}: llama.cpp does not know this model's chat template: completing as it is (-no-cnv)")
        return model.tokenize(text, add_special=True, parse_special=True), text
    bos = model.info.token_bos
    has_bos = bos >= 0 and text.encode().startswith(model.token_bytes(bos, special=True))
    return model.tokenize(text, add_special=not has_bos, parse_special=True), text


def sampling_params(args: argparse.Namespace, parser: Parser, model: Model, grammar: str | None) -> SamplingParams:
    """The sampler's settings, tried out: what is wrong with them is said before a prompt is evaluated."""
    bias: dict[int, float] = {}
    for token, value in args.logit_bias:
        if token >= model.info.n_vocab:
            parser.error(f"argument -l/--logit-bias: token {token}, the vocabulary has {model.info.n_vocab} tokens")
        bias[token] = bias.get(token, 0.0) + value
    params = SamplingParams(
        temp=args.temp,
        top_k=args.top_k,
        top_p=args.top_p,
        min_p=args.min_p,
        penalty_last_n=args.repeat_last_n,
        penalty_repeat=args.repeat_penalty,
        penalty_frequency=args.frequency_penalty,
        penalty_presence=args.presence_penalty,
        seed=args.seed if args.seed >= 0 else secrets.randbelow(SEED_MAX + 1),
        logit_bias=bias,
        grammar=grammar,
    )
    with usage(parser, "--repeat-penalty" if grammar is None else "--grammar"):
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
        return args.propose
    if args.propose != "esp":
        with usage(parser, "--rows"):
            return proposer_named(args.propose, model, rows=args.rows)
    with usage(parser, "--mask-init"):
        mask = mask_embedding(args.mask_init, model, update=args.mask_update)
    rows = {} if args.rows is None else {"rows": args.rows}
    with usage(parser, "--tree/--rows/--masks"):
        return MaskProbe(model, tree=args.tree, masks=args.masks, mask_children=args.mask_children, mask=mask, **rows)


@contextmanager
def engine(args: argparse.Namespace, parser: Parser, model: Model, proposer: str | Proposer) -> Iterator[Engine]:
    """An engine for one text. What there is to say about its memory and its state file is said, once."""
    keeps = proposer == "all" and args.rows is None and not args.no_state
    with usage(parser, "-c/-b/-ub/-ctk/-ctv/-fa" if args.state is None else "--state/-c/-b/-ub/-ctk/-ctv/-fa"):
        engine = Engine(
            model,
            n_ctx=args.ctx_size,
            n_threads=max(args.threads, 0),
            n_threads_batch=max(args.threads_batch, 0),
            proposer=proposer,
            rows="auto" if args.rows is None else args.rows,
            state=(args.state or "") if keeps else None,
            n_batch=args.batch_size,
            n_ubatch=args.ubatch_size,
            type_k=args.cache_type_k,
            type_v=args.cache_type_v,
            flash_attn=SWITCH[args.flash_attn],
        )
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
