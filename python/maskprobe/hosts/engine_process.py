"""EngineProcess: an Engine in a child process."""

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from .._capi import Handle, shown, token_array
from ..engine import DEFAULT_SAMPLING, Engine, ProposerLike
from ..errors import ArgumentError, EngineLost, ModelError
from ..generation import Generation
from ..sampler import SamplingParams
from ..session import Context
from .child_generation import ChildGeneration
from .messages import OpenedEngine
from .model_process import ModelProcess

RULES = "JsonSchema, Regex, LarkGrammar and a grammar of SamplingParams can"


class EngineProcess(Engine):
    """An Engine in the child process of a ModelProcess. Where the child ends, whatever ends it, each generation under
    way ends with EngineLost, and the next one starts a new child, loads the model and opens the engine again. The texts
    that were under way last, one for each of `n_parallel`, are evaluated again while nothing else is asked for.

    The settings are those of Engine. What would run Python code of this process in a pass is refused: a Proposer that
    is an object, a constraint that is none of maskprobe's own. Generations work from their beginning on; generate()
    takes as long as the model takes to load where there must be a new child.

    Raises what Engine raises, and EngineLost."""

    def __init__(self, model: ModelProcess, **options: Any) -> None:
        if (proposer := options.get("proposer")) is not None:
            _check_proposer(proposer)
        self.model = model
        self._handle = model._keeper.share()
        try:
            with self._handle as keeper:
                opened: OpenedEngine = keeper.open_engine(options)
        except BaseException:
            self._handle.close()
            raise
        self.context = ChildContext(model, self._handle, opened)
        self._note = opened.note

    def generate(
        self,
        tokens: Sequence[int],
        sampling: SamplingParams = DEFAULT_SAMPLING,
        *,
        stop: str | Sequence[str] = (),
        constraint: Any = None,
        proposer: ProposerLike | None = None,
        **settings: Any,
    ) -> Generation:
        """See Engine.generate(). Raises EngineLost too, and what ModelProcess does where the model is loaded again."""
        ids, _ = token_array(tokens)
        if proposer is not None:
            _check_proposer(proposer)
        rules = self._constraint_of_one(constraint)
        settings |= {"stop": stop if isinstance(stop, str) else list(stop), "proposer": proposer}
        with self._handle as keeper:
            child = keeper.running()
            made_of = None if rules is None else (rules.what, rules.grammar)
            generation = ChildGeneration(child, *child.generate(ids, sampling, settings, made_of))
            keeper.note_text(child, ids, generation.stats.tokens, self.context.n_sessions_max)
        return generation

    def embed(self, tokens: Sequence[int]) -> np.ndarray:
        """See Engine.embed()."""
        ids, _ = token_array(tokens)
        with self._handle as keeper:
            mean: np.ndarray = keeper.running().ask("embed", ids)
        return mean

    def pass_us(self, n_rows: int) -> float:
        """See Engine.pass_us(); 0 while there is no child."""
        us: float = self._asked("pass_us", 0.0, n_rows)
        return us

    @property
    def note(self) -> str:
        """See Engine.note."""
        self._note = self._asked("note", self._note)
        return self._note

    def close(self) -> None:
        """Ends all generations, has the child write what was learned, and lets go of it; closing twice is fine. Whoever
        waits for a token gets a StateError."""
        if self.closed:
            return
        with self._handle as keeper:
            self._note = keeper.close_engine() or self._note
        self._handle.close(waits=True)

    def _asked(self, action: str, otherwise: Any, *arguments: Any) -> Any:
        """What a child says that runs."""
        with self._handle as keeper:
            child = keeper.alive
            if child is None:
                return otherwise
            try:
                return child.ask(action, *arguments)
            except EngineLost:
                return otherwise

    def _constraint_of_one(self, constraint: Any) -> Any:
        """The rules that a child can be told; it makes the constraint of a text of them."""
        if constraint is None:
            return None
        from ..structured import Rules  # whoever made some has imported it

        if not isinstance(constraint, Rules):
            raise ArgumentError(
                f"a constraint of Python, {type(constraint).__name__}, cannot run in the engine's process: {RULES}"
            )
        if constraint.model is not self.model:
            raise ArgumentError(f"this {type(constraint).__name__} is for another Model: make it with the engine's own")
        return constraint


class ChildContext(Context):
    """What is known here of the context of an engine in a child."""

    def __init__(self, model: ModelProcess, engine: Handle, opened: OpenedEngine) -> None:
        self.model = model
        self._handle = engine
        self.n_ctx, self.n_threads, self.max_chain = opened.n_ctx, opened.n_threads, opened.max_chain
        self.n_rows_max, self.n_top_max = opened.n_rows_max, opened.n_top_max
        self.n_sessions_max = opened.n_sessions_max

    def session(self) -> NoReturn:
        self._refuse()

    def decode(self, *_arguments: Any, **_settings: Any) -> NoReturn:
        self._refuse()

    def tap(self, *_arguments: Any) -> NoReturn:
        self._refuse()

    def parts(self) -> NoReturn:
        self._refuse()

    def cancel(self) -> None:
        """Ends all generations after their pass."""
        with self._handle as keeper:
            if (child := keeper.alive) is not None:
                child.end_all()

    def _refuse(self) -> NoReturn:
        raise ModelError(
            "this engine is in a process of its own: its context can only be used through generate() and embed()",
            "unsupported",
        )


def _check_proposer(proposer: ProposerLike) -> None:
    if not isinstance(proposer, str):
        raise ArgumentError(
            f"a proposer of Python, {shown(proposer)}, cannot run in the engine's process: name one of the engine's own"
        )
