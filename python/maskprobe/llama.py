"""Llama: llama-cpp-python's names, arguments and results over an Engine. every argument: docs/llama-cpp-python.md."""

import functools
import os
import warnings
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

from . import llama_hub
from .generation import AsyncGeneration, Generation
from .hosts.opening import open_engine, open_model
from .llama_by_hand import ByHand
from .llama_lower import LlamaLower, sampling_arguments
from .llama_settings import OURS_IN_CHATS, USUAL_UBATCH, cache_type, check_path, draft_source, refuse, ubatch
from .model import set_verbose
from .openai.chat_prompts import ChatPrompts
from .openai.requests import Plan, Planner, Seeds
from .openai.results import Answer, ChatAnswer, CompletionAnswer, Result
from .openai.steering import LogitsProcessor, StoppingCriteria
from .openai.streams import AsyncChunkStream, ChunkStream, Source, collect, collect_async
from .openai.values import Unsupported
from .proposers import Proposer
from .sampler import RANDOM_SEED
from .session import Session


class Llama(LlamaLower):
    """A model with an engine, by the names of llama-cpp-python. Any number of threads may call it: `n_parallel`
    texts at a time share its passes, more of them wait.

    The first group of arguments is llama-cpp-python's; the last is maskprobe's own: n_parallel texts at a time, each
    with n_ctx tokens; draft: guess ahead, unless a request says otherwise; proposer, rows, masks, state, heads: as
    Engine has them; kernels: as Model has them; self_check: compare inputs at load, which masks need; rpc_servers:
    "host:port,...", as Model's rpc has them.

    Results are dicts with OpenAI's keys, and have two attributes: `tokens` (a TokenResult each, with what guessed it)
    and `stats`.

    Raises ValueError (no such file), ModelError, OutOfMemory, ArgumentError; Unsupported, a TypeError, for an argument
    that would not be obeyed.
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        *,
        n_gpu_layers: int = 0,
        split_mode: int = 1,
        main_gpu: int = 0,
        tensor_split: Sequence[float] | None = None,
        vocab_only: bool = False,
        use_mmap: bool = True,
        use_mlock: bool = False,
        kv_overrides: Mapping[str, bool | int | float | str] | None = None,
        seed: int = RANDOM_SEED,
        n_ctx: int = 512,
        n_batch: int = 512,
        n_ubatch: int = USUAL_UBATCH,
        n_threads: int | None = None,
        n_threads_batch: int | None = None,
        rope_scaling_type: int | None = -1,
        pooling_type: int = -1,
        attention_type: int = -1,
        rope_freq_base: float = 0.0,
        rope_freq_scale: float = 0.0,
        yarn_ext_factor: float = -1.0,
        yarn_attn_factor: float = 1.0,
        yarn_beta_fast: float = 32.0,
        yarn_beta_slow: float = 1.0,
        yarn_orig_ctx: int = 0,
        logits_all: bool = False,
        embedding: bool = False,
        offload_kqv: bool = True,
        flash_attn: bool | None = None,
        op_offload: bool | None = None,
        swa_full: bool | None = None,
        no_perf: bool = False,
        last_n_tokens_size: int = 64,
        lora_base: str | None = None,
        lora_scale: float = 1.0,
        lora_path: str | None = None,
        numa: bool | int = False,
        chat_format: str | None = None,
        chat_handler: Callable[..., Any] | None = None,
        draft_model: Callable[..., Any] | None = None,
        tokenizer: Any = None,
        type_k: int | str | None = None,
        type_v: int | str | None = None,
        spm_infill: bool = False,
        verbose: bool = True,
        n_parallel: int = 1,
        draft: bool = True,
        proposer: str | Proposer | Callable[[], Proposer] = "all",
        rows: int | str = "auto",
        masks: str = "none",
        state: str | os.PathLike[str] | None = None,
        heads: str | os.PathLike[str] | None = None,
        kernels: str = "auto",
        self_check: bool = True,
        rpc_servers: str | None = None,
    ) -> None:
        self._arguments = {name: value for name, value in locals().items() if name != "self"}
        refuse(self._arguments)
        check_path(model_path)
        self.verbose = verbose
        set_verbose(verbose)
        self.model_path = os.fspath(model_path)
        self.last_n_tokens_size, self.spm_infill = last_n_tokens_size, spm_infill
        self.chat_handler, self.draft_model = chat_handler, draft_model
        cache: dict[str, Any] = {
            "n_batch": n_batch,
            "n_ubatch": ubatch(n_ubatch),
            "n_threads": n_threads or 0,
            "n_threads_batch": n_threads_batch or 0,
            "type_k": cache_type("type_k", type_k),
            "type_v": cache_type("type_v", type_v),
            "flash_attn": -1 if flash_attn is None else int(flash_attn),
            "offload_kqv": offload_kqv,
        }
        self.model = open_model(
            model_path,
            n_gpu_layers=n_gpu_layers,
            use_mmap=use_mmap,
            use_mlock=use_mlock,
            self_check=self_check,
            load_mtp=heads is not None,
            kernels=kernels,
            n_threads=n_threads or 0,
            loras=[] if lora_path is None else [(lora_path, lora_scale)],
            rpc=rpc_servers.split(",") if rpc_servers else (),
            tensor_split=() if tensor_split is None else tensor_split,
        )
        try:
            self._seeds = Seeds()
            self.set_seed(seed)
            chat = ChatPrompts(self.model, chat_format)
            self.chat_format = chat.format
            self.engine = open_engine(
                self.model,
                n_ctx=n_ctx,
                n_parallel=n_parallel,
                proposer=draft_source(draft_model) or proposer,
                rows=rows,
                masks=masks,
                state=state,
                heads=heads,
                **cache,
            )
        except BaseException:
            self.model.close()
            raise
        self._handle = self.engine._handle
        self.planner = Planner(
            self.model,
            n_ctx=self.engine.context.n_ctx,
            n_top_max=self.engine.context.n_top_max,
            n_rows_max=self.engine.context.n_rows_max,
            chat=chat,
            seeds=self._seeds,
            penalty_last_n=last_n_tokens_size,
            draft=draft,
            suffix_first=spm_infill,
        )
        self._by_hand = ByHand(functools.partial(Session, self.model, n_ctx=self.engine.context.n_ctx, **cache))
        self._newest = None
        # Each use of the set is one call on it: any thread may come, and a signal's handler in between.
        self._running: set[weakref.ref[Generation | AsyncGeneration]] = set()

    # --- completions -------------------------------------------------------------------------------------------------

    def create_completion(
        self,
        prompt: str | Sequence[int],
        suffix: str | None = None,
        max_tokens: int | None = 16,
        temperature: float = 0.8,
        top_p: float = 0.95,
        min_p: float = 0.05,
        typical_p: float = 1.0,
        logprobs: int | None = None,
        echo: bool = False,
        stop: str | Sequence[str] | None = (),
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        repeat_penalty: float = 1.0,
        top_k: int = 40,
        stream: bool = False,
        seed: int | None = None,
        tfs_z: float = 1.0,
        mirostat_mode: int = 0,
        mirostat_tau: float = 5.0,
        mirostat_eta: float = 0.1,
        model: str | None = None,
        stopping_criteria: StoppingCriteria | None = None,
        logits_processor: LogitsProcessor | None = None,
        grammar: Any = None,
        logit_bias: Mapping[int, float] | None = None,
        *,
        constraint: Any = None,
        draft: bool | None = None,
        rows: int | None = None,
        ignore_eos: bool = False,
        stream_options: Mapping[str, Any] | None = None,
    ) -> Result | ChunkStream:
        """The text that follows a prompt: a "text_completion", or with `stream` its chunks.

        The last group is maskprobe's own: a Constraint (or JsonSchema, Regex, LarkGrammar), drafting on or off, rows of
        a pass as Engine.generate() has them, end tokens forbidden, {"include_usage": True}.

        Raises ArgumentError, a ValueError; Unsupported, a TypeError; what Engine.generate() and Generation raise."""
        arguments = {name: value for name, value in locals().items() if name not in ("self", "stream")}
        return self._answer(self.planner.completion(**arguments), CompletionAnswer, stream)

    __call__ = create_completion

    def create_chat_completion(
        self,
        messages: Sequence[Mapping[str, Any]],
        functions: Sequence[Mapping[str, Any]] | None = None,
        function_call: str | Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] | None = None,
        temperature: float = 0.2,
        top_p: float = 0.95,
        top_k: int = 40,
        min_p: float = 0.05,
        typical_p: float = 1.0,
        stream: bool = False,
        stop: str | Sequence[str] | None = (),
        seed: int | None = None,
        response_format: Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repeat_penalty: float = 1.0,
        tfs_z: float = 1.0,
        mirostat_mode: int = 0,
        mirostat_tau: float = 5.0,
        mirostat_eta: float = 0.1,
        model: str | None = None,
        logits_processor: LogitsProcessor | None = None,
        grammar: Any = None,
        logit_bias: Mapping[int, float] | None = None,
        logprobs: bool | None = None,
        top_logprobs: int | None = None,
        *,
        stopping_criteria: StoppingCriteria | None = None,
        constraint: Any = None,
        draft: bool | None = None,
        rows: int | None = None,
        ignore_eos: bool = False,
        stream_options: Mapping[str, Any] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The assistant's next message: a "chat.completion", or with `stream` its chunks.

        The last group is maskprobe's own, as in create_completion(); chat_template_kwargs are variables of the model's
        template. A chat_handler, or a format with steps of its own, does all by itself and takes none of these.

        Raises what create_completion() raises, and ModelError for a template that is broken."""
        arguments = {name: value for name, value in locals().items() if name not in ("self", "stream")}
        handler = self.chat_handler or self.planner.chat_prompts.handler
        if handler is None:
            return self._answer(self.planner.chat(**arguments), ChatAnswer, stream)
        for name, default in OURS_IN_CHATS.items():
            if arguments.pop(name) is not default:
                raise Unsupported(f"{name} is not supported with a chat_handler or chat_format = {self.chat_format!r}")
        arguments["stop"] = list(stop) if isinstance(stop, tuple) else stop
        return handler(llama=self, stream=stream, **arguments)

    def create_chat_completion_openai_v1(
        self, messages: Sequence[Mapping[str, Any]], *, stream: bool = False, **settings: Any
    ) -> Any:
        """create_chat_completion() with results of the openai package. Raises ImportError where it is missing."""
        from openai.types.chat import ChatCompletion, ChatCompletionChunk  # not the folder beside this file

        answer = self.create_chat_completion(messages, stream=stream, **settings)
        return (ChatCompletionChunk(**chunk) for chunk in answer) if stream else ChatCompletion(**answer)

    def acreate_completion(
        self, prompt: str | Sequence[int], *, stream: bool = False, **settings: Any
    ) -> Awaitable[Result] | AsyncChunkStream:
        """create_completion() for an event loop: `await` it, or with `stream` go through it with `async for`."""
        return self._answer_async(self.planner.completion(prompt, **settings), CompletionAnswer, stream)

    def acreate_chat_completion(
        self, messages: Sequence[Mapping[str, Any]], *, stream: bool = False, **settings: Any
    ) -> Awaitable[Result] | AsyncChunkStream:
        """create_chat_completion() for an event loop: `await` it, or with `stream` go through it with `async for`.

        Raises Unsupported with a chat_handler and with formats that have steps of their own."""
        if self.chat_handler or self.planner.chat_prompts.handler:
            raise Unsupported(f"chat_format = {self.chat_format!r} and chat_handlers do not work in an event loop")
        return self._answer_async(self.planner.chat(messages, **settings), ChatAnswer, stream)

    def cancel(self) -> None:
        """Ends every answer under way after its pass, from any thread: each returns what it has, as "length"."""
        for reference in list(self._running):
            if (generation := reference()) is not None:
                generation.cancel()

    def generate(
        self,
        tokens: Sequence[int],
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        typical_p: float = 1.0,
        temp: float = 0.80,
        repeat_penalty: float = 1.0,
        reset: bool = True,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        tfs_z: float = 1.0,
        mirostat_mode: int = 0,
        mirostat_tau: float = 5.0,
        mirostat_eta: float = 0.1,
        penalize_nl: bool = True,
        logits_processor: LogitsProcessor | None = None,
        stopping_criteria: StoppingCriteria | None = None,
        grammar: Any = None,
    ) -> Iterator[int]:
        """The tokens that follow `tokens`, an end token too, which is the last. With reset=False they follow what was
        evaluated before. Nothing can be sent into the iterator."""
        plan = self.planner.completion(
            list(tokens) if reset else [*self.eval_tokens, *tokens],
            max_tokens=None,
            **sampling_arguments(locals()),
            logits_processor=logits_processor,
            stopping_criteria=stopping_criteria,
        )
        answer = CompletionAnswer(plan, self.model, self.model_path)
        self._newest = (plan.tokens, answer)
        with self._noted(plan.start(self.engine)) as generation:
            for result in generation:
                answer.add(result)
                if result.token >= 0:
                    yield result.token

    def _answer(self, plan: Plan, shape: type[Answer], stream: bool) -> Result | ChunkStream:
        answer = self._begin(plan, shape)
        if plan.scores_prompt:
            self._score_prompt(plan, answer)
        generation = self._noted(plan.start(self.engine))
        return ChunkStream(generation, answer) if stream else answer.whole(collect(generation, answer))

    def _answer_async(self, plan: Plan, shape: type[Answer], stream: bool) -> Awaitable[Result] | AsyncChunkStream:
        answer = self._begin(plan, shape)
        prepare = functools.partial(self._score_prompt, plan, answer) if plan.scores_prompt else None
        generation = self._noted(plan.start_async(self.engine))
        if stream:
            return AsyncChunkStream(generation, answer, prepare)

        async def whole() -> Result:
            return answer.whole(await collect_async(generation, answer, prepare))

        return whole()

    def _noted(self, generation: Source) -> Source:
        """The generation, for cancel()."""
        self._running.add(weakref.ref(generation, self._running.discard))
        return generation

    def _begin(self, plan: Plan, shape: type[Answer]) -> Answer:
        bos = self.model.info.token_bos
        if bos >= 0 and list(plan.tokens[:2]) == [bos, bos]:
            warnings.warn("the prompt begins with two tokens that begin a text", RuntimeWarning, stacklevel=4)
        answer = shape(plan, self.model, self.model_path)
        self._newest = (plan.tokens, answer)
        return answer

    def _score_prompt(self, plan: Plan, answer: Answer) -> None:
        answer.prompt_logprobs = self._by_hand.prompt_logprobs(plan.tokens, plan.n_top or 0)

    # --- the object --------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str,
        filename: str | None = None,
        additional_files: Sequence[str] | None = None,
        local_dir: str | os.PathLike[str] | None = None,
        local_dir_use_symlinks: bool | str = "auto",
        cache_dir: str | os.PathLike[str] | None = None,
        **settings: Any,
    ) -> "Llama":
        """A model of the Hugging Face Hub: `filename` may be a pattern; None takes a quantisation as maskprobe-run
        does. `settings` are those of the constructor. Raises ModelError (it cannot be fetched), and what that does."""
        path = llama_hub.fetch_model(repo_id, filename, additional_files or (), local_dir, cache_dir)
        return cls(path, **settings)

    def close(self) -> None:
        """Ends all answers and frees the model; closing twice is fine. Raises StateError ("busy") inside a callback."""
        self.engine.close()
        self._by_hand.close()
        self.model.close()

    def __getstate__(self) -> dict[str, Any]:
        """The arguments of the constructor: unpickling loads the model again."""
        return {**self._arguments, "seed": self._seed}

    def __setstate__(self, arguments: dict[str, Any]) -> None:
        self.__init__(**arguments)  # type: ignore[misc]
