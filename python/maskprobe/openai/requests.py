"""Checked arguments of a completion or a chat completion: a Plan, which starts generations."""

import random
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .._capi import shown
from ..engine import Engine
from ..errors import ArgumentError
from ..generation import AsyncGeneration, Generation
from ..model import Model
from ..sampler import RANDOM_SEED, SamplingParams
from ..schema_references import printable
from .chat_prompts import ChatPrompts, checked_messages
from .fill_in_middle import fill_prompt, fill_tokens
from .schemas import SchemaCache, schema_of_format
from .steering import LogitsProcessor, StoppingCriteria, grammar_parts, steering
from .tools import ToolUse, tool_use
from .values import (
    ContextExceeded,
    Unsupported,
    flag,
    integer,
    items,
    logit_biases,
    mapping,
    number,
    only,
    stop_strings,
    token_id,
    within,
)

NO_MIROSTAT = "mirostat is not one of maskprobe's samplers"
NO_TYPICAL = "locally typical sampling is not one of maskprobe's samplers"
NO_TAIL_FREE = "llama.cpp has dropped tail free sampling"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a request comes to. One Plan can start any number of generations."""

    tokens: Sequence[int]  # of the prompt
    prompt: str  # the same as text
    sampling: SamplingParams
    max_tokens: int
    stop: tuple[str, ...]
    constraint: Any  # a Constraint, something with .constraint(), or None
    processor: LogitsProcessor | None
    criterion: StoppingCriteria | None
    n_top: int | None  # alternatives wanted with each token's log-probability; None: no log-probabilities
    draft: bool
    rows: int | None  # of a pass; None: as the engine has them
    ignore_eos: bool
    echo: bool
    model_name: str | None
    include_usage: bool  # of a stream: a last chunk with the counts
    tools: ToolUse | None = None

    def start(self, engine: Engine) -> Generation:
        """Raises what Engine.generate() raises."""
        return engine.generate(self.tokens, self.sampling, **self._settings(engine))

    def start_async(self, engine: Engine) -> AsyncGeneration:
        return engine.generate_async(self.tokens, self.sampling, **self._settings(engine))

    def of_choice(self, index: int) -> "Plan":
        """For the index-th of several answers: its own seed, where one is told."""
        if index == 0 or self.sampling.seed < 0:
            return self
        seed = (self.sampling.seed + index) % RANDOM_SEED
        return replace(self, sampling=replace(self.sampling, seed=seed))

    @property
    def scores_prompt(self) -> bool:
        """Whether log-probabilities of the prompt's own tokens are wanted."""
        return self.echo and self.n_top is not None

    def _settings(self, engine: Engine) -> dict[str, Any]:
        constraint = engine._constraint_of_one(self.constraint)
        return {
            "max_tokens": self.max_tokens,
            "stop": self.stop,
            "ignore_eos": self.ignore_eos,
            "draft": self.draft,
            "rows": self.rows,
            "constraint": steering(constraint, self.processor, self.criterion),
            "top_logprobs": self.n_top or 0,
        }


class Seeds:
    """Seeds of requests that name none: drawn from a seed, or at random where that is None. Any thread may ask."""

    def __init__(self, seed: int | None = None) -> None:
        self._lock = threading.Lock()
        self.restart(seed)

    def restart(self, seed: int | None) -> None:
        with self._lock:
            self._random = None if seed is None else random.Random(seed)

    def __call__(self) -> int:
        with self._lock:
            return secrets.randbelow(RANDOM_SEED) if self._random is None else self._random.randrange(RANDOM_SEED)


def seed_or_none(seed: Any) -> int | None:
    """A seed as it is told: None for -1 and 0xFFFFFFFF, which stand for a random one.

    Raises ArgumentError where it does not fit 32 bits."""
    value = integer("seed", seed, -1)
    if value in (-1, RANDOM_SEED):
        return None
    return within("seed", value, 0, RANDOM_SEED - 1)


class Planner:
    """Checks requests for one model and makes Plans of them. Any thread may ask.

    n_rows_max: of a pass. penalty_last_n: tokens that penalties look back at. draft: what requests have that do not
    say. suffix_first: the order of a prompt to be filled in. seeds: of requests that name none.
    """

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int,
        n_top_max: int,
        n_rows_max: int,
        chat: ChatPrompts,
        seeds: Callable[[], int],
        penalty_last_n: int = 64,
        draft: bool = True,
        suffix_first: bool = False,
    ) -> None:
        self.model, self.n_ctx, self.chat_prompts = model, n_ctx, chat
        self.schemas = SchemaCache(model)
        self._n_top_max, self._seeds, self._penalty_last_n = n_top_max, seeds, penalty_last_n
        self._n_rows_max, self._draft, self._suffix_first = n_rows_max, draft, suffix_first

    def completion(
        self,
        prompt: str | Sequence[int],
        *,
        suffix: str | None = None,
        max_tokens: int | None = 16,
        logprobs: int | None = None,
        echo: bool = False,
        **common: Any,
    ) -> Plan:
        """The arguments of Llama.create_completion(), but for `stream`.

        Raises ArgumentError, ContextExceeded, Unsupported; TypeError for an argument that is not known."""
        tokens, text = self._prompt(prompt, suffix)
        n_top = None if logprobs is None else within("logprobs", integer("logprobs", logprobs, 0), 0, self._n_top_max)
        echoes = flag("echo", echo, False)
        return self._plan(
            tokens, text, max_tokens=max_tokens, n_top=n_top, echo=echoes, temperature_default=0.8, **common
        )

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        functions: Any = None,
        function_call: Any = None,
        tools: Any = None,
        tool_choice: Any = None,
        response_format: Any = None,
        max_tokens: int | None = None,
        logprobs: bool | None = None,
        top_logprobs: int | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **common: Any,
    ) -> Plan:
        """The arguments of Llama.create_chat_completion(), but for `stream`.

        Raises ArgumentError, ContextExceeded, Unsupported, ModelError (the chat template is broken); TypeError for an
        argument that is not known."""
        use = tool_use(tools, tool_choice, functions, function_call, self.chat_prompts.style_template)
        schema = schema_of_format(response_format)
        if use is not None:
            if schema is not None:
                raise ArgumentError('response_format and tools exclude each other, unless tool_choice is "none"')
            schema = use.schema()
        if schema is not None:
            if common.get("grammar") is not None or common.get("constraint") is not None:
                raise ArgumentError("response_format or a forced tool, and a grammar or constraint: give one of them")
            common["constraint"] = self.schemas.compiled(schema)
        wants = flag("logprobs", logprobs, False)
        if top_logprobs is not None and not wants:
            raise ArgumentError("top_logprobs needs logprobs = true")
        n_top = within("top_logprobs", integer("top_logprobs", top_logprobs, 0), 0, self._n_top_max) if wants else None
        variables = {} if chat_template_kwargs is None else mapping("chat_template_kwargs", chat_template_kwargs)
        written = self.chat_prompts.prompt(checked_messages(messages), use, variables)
        common["stop"] = (*stop_strings(common.get("stop")), *written.stop)
        plan = self._plan(
            written.tokens,
            written.text,
            max_tokens=max_tokens,
            n_top=n_top,
            echo=False,
            temperature_default=0.2,
            **common,
        )
        return replace(plan, tools=use)

    def _prompt(self, prompt: str | Sequence[int], suffix: str | None) -> tuple[list[int], str]:
        if suffix is not None:
            if not isinstance(suffix, str) or not isinstance(prompt, str):
                raise ArgumentError("a suffix needs prompt and suffix as text")
            marks = fill_tokens(self.model)
            if marks is None:
                raise Unsupported("suffix is not supported by this model: it has no tokens for filling in the middle")
            return fill_prompt(self.model, marks, prompt, suffix, self._suffix_first), prompt
        if isinstance(prompt, str):
            tokens = self.model.tokenize(prompt, add_special=True, parse_special=True)
            if not tokens:
                raise ArgumentError("the prompt is empty, and this model has no token that begins a text")
            return tokens, prompt
        tokens = list(items("prompt", prompt))
        n_vocab = self.model.info.n_vocab
        for i, token in enumerate(tokens):
            if not 0 <= token_id(token) < n_vocab:
                raise ArgumentError(f"prompt[{i}] = {shown(token)} is no token: a number from 0 to {n_vocab - 1}")
        if not tokens:
            raise ArgumentError("the prompt is empty")
        return tokens, self.model.detokenize(tokens).decode("utf-8", errors="ignore")

    def sampling(
        self,
        *,
        temperature_default: float,
        temperature: Any = None,
        top_p: Any = None,
        min_p: Any = None,
        typical_p: Any = None,
        frequency_penalty: Any = None,
        presence_penalty: Any = None,
        repeat_penalty: Any = None,
        top_k: Any = None,
        seed: Any = None,
        tfs_z: Any = None,
        mirostat_mode: Any = None,
        mirostat_tau: Any = None,
        mirostat_eta: Any = None,
        grammar: str | None = None,
        logit_bias: Any = None,
    ) -> SamplingParams:
        """What these arguments of a request come to; `grammar` is GBNF, see grammar_parts().

        Raises ArgumentError, Unsupported; TypeError for an argument that is not known."""
        only("typical_p", typical_p, None, 1.0, why=NO_TYPICAL)
        only("tfs_z", tfs_z, None, 1.0, why=NO_TAIL_FREE)
        only("mirostat_mode", mirostat_mode, None, 0, why=NO_MIROSTAT)
        number("mirostat_tau", mirostat_tau, 5.0)  # they say something to mirostat alone
        number("mirostat_eta", mirostat_eta, 0.1)
        temp = number("temperature", temperature, temperature_default)
        is_whole = temp < 0  # llama-cpp-python: the whole distribution, neither tempered nor cut
        wanted_seed = self._seeds() if seed is None else seed_or_none(seed)
        return SamplingParams(
            temp=1.0 if is_whole else temp,
            top_k=0 if is_whole else integer("top_k", top_k, 40),
            top_p=1.0 if is_whole else number("top_p", top_p, 0.95),
            min_p=0.0 if is_whole else number("min_p", min_p, 0.05),
            penalty_last_n=self._penalty_last_n,
            penalty_repeat=number("repeat_penalty", repeat_penalty, 1.0),
            penalty_frequency=number("frequency_penalty", frequency_penalty, 0.0),
            penalty_presence=number("presence_penalty", presence_penalty, 0.0),
            seed=-1 if wanted_seed is None else wanted_seed,
            logit_bias=logit_biases(logit_bias),
            grammar=grammar,
        )

    def _plan(
        self,
        tokens: list[int],
        prompt: str,
        *,
        max_tokens: Any,
        n_top: int | None,
        echo: bool,
        stop: Any = None,
        model: str | None = None,
        stopping_criteria: StoppingCriteria | None = None,
        logits_processor: LogitsProcessor | None = None,
        grammar: Any = None,
        constraint: Any = None,
        draft: Any = None,
        rows: Any = None,
        ignore_eos: Any = None,
        stream_options: Any = None,
        **sampling: Any,
    ) -> Plan:
        """`sampling`: the arguments of sampling()."""
        n_left = self.n_ctx - len(tokens)
        if n_left < 1:
            raise ContextExceeded(
                f"the prompt has {len(tokens)} tokens, the context {self.n_ctx}, and the answer needs one at least: "
                "a larger n_ctx or a shorter prompt"
            )
        n_max = integer("max_tokens", max_tokens, 0)
        for name, call in (("stopping_criteria", stopping_criteria), ("logits_processor", logits_processor)):
            if call is not None and not callable(call):
                raise ArgumentError(f"{name} must be callable, not {type(call).__name__}")
        if constraint is not None and grammar is not None:
            raise ArgumentError("grammar and constraint exclude each other")
        gbnf, schema = grammar_parts(grammar)
        options = {} if stream_options is None else mapping("stream_options", stream_options)
        for name in options:
            if name != "include_usage":
                raise Unsupported(f"stream_options.{printable(str(name))} is not supported: only include_usage is")
        return Plan(
            tokens=tokens,
            prompt=prompt,
            sampling=self.sampling(grammar=gbnf, **sampling),
            max_tokens=min(n_max, n_left) if n_max > 0 else n_left,
            stop=stop_strings(stop),
            constraint=constraint if schema is None else self.schemas.compiled(schema),
            processor=logits_processor,
            criterion=stopping_criteria,
            n_top=n_top,
            draft=flag("draft", draft, self._draft),
            rows=None if rows is None else within("rows", integer("rows", rows, 1), 1, self._n_rows_max),
            ignore_eos=flag("ignore_eos", ignore_eos, False),
            echo=echo,
            model_name=model,
            include_usage=flag("stream_options.include_usage", options.get("include_usage"), False),
        )
