"""Chat: what a running chat holds, and one turn of it."""

import dataclasses
import math
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from .. import Engine, Error, Generation, SamplingParams
from . import conversation_file, files
from .chat_input import Input
from .chat_view import Totals, View, status
from .conversation import Conversation, Prompt
from .interrupt import Interrupt
from .options import SEED_MAX
from .terminal import OutputClosed, with_bar


class Terminated(SystemExit):
    """SIGTERM or SIGHUP came."""


class Termination:
    """Takes over SIGTERM and SIGHUP, unless they are ignored: calls `cancel`, which ends what is under way, or raises
    Terminated where there is none. For the main thread."""

    def __init__(self) -> None:
        self._number = 0
        self.cancel: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        taken = (signal.SIGTERM, signal.SIGHUP)
        self._old = {number: signal.getsignal(number) for number in taken}
        for number, old in self._old.items():
            if old is not signal.SIG_IGN:
                signal.signal(number, self._in_main_thread)
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)

    @property
    def came(self) -> bool:
        return self._number != 0

    def end_if_it_came(self) -> None:
        if self.came:
            raise Terminated(128 + self._number)

    def _in_main_thread(self, number: int, _frame: FrameType | None) -> None:
        self._number = number
        if self.cancel is None:
            raise Terminated(128 + number)
        self.cancel()


@dataclasses.dataclass
class Settings:
    """What an answer is generated with."""

    sampling: SamplingParams
    n_predict: int = -1
    stop: list[str] = dataclasses.field(default_factory=list)
    ignore_eos: bool = False
    rules: Any = None  # has .constraint(), or None


class Chat:
    """`kept`: the files that /save must not replace, by the options that name them. `save`: where the conversation is
    written after each answer, or None."""

    def __init__(
        self,
        engine: Engine,
        conversation: Conversation,
        view: View,
        settings: Settings,
        termination: Termination,
        kept: Mapping[str, str | Path | None],
        save: Path | None = None,
    ) -> None:
        self.engine = engine
        self.conversation = conversation
        self.view = view
        self.settings = settings
        self.totals = Totals()
        self.kept = kept
        self.draft = ""  # a message that came back, as it was typed
        self.attached = ""  # what /read read, for the next message
        self.ended = False
        self.failed = False  # something was refused
        self._termination = termination
        self._save = save
        self._n_asked = 0
        self._generation: Generation | None = None

    def refuse(self, line: str) -> None:
        self.failed = True
        self.view.error(line)

    def read(self, source: Input) -> str:
        """The next message or command. Raises what source.read() does, and Terminated."""
        draft, self.draft = self.draft, ""
        self._termination.cancel = source.stop
        try:
            return source.read(draft)
        finally:
            self._termination.cancel = None
            self._termination.end_if_it_came()

    def send(self, text: str) -> None:
        """Puts a message and shows its answer. One that cannot be answered comes back as the draft."""
        whole = f"{self.attached}\n\n{text}" if self.attached else text
        if self._answer(lambda: self.conversation.ask(whole, self.settings.n_predict)):
            self.attached = ""
        else:
            self.draft = f"/{text}" if text.startswith("/") else text

    def send_again(self) -> None:
        """Another answer to the last message."""
        is_same = self.settings.sampling.temp == 0
        if self._answer(lambda: self.conversation.ask_again(self.settings.n_predict)) and is_same:
            self.view.note("the temperature is 0: the answer is the same again, /temp X changes it")

    def write(self, path: Path) -> None:
        """Raises OSError."""
        sampling = dataclasses.asdict(self.settings.sampling)
        bias = self.settings.sampling.logit_bias.items()
        sampling["logit_bias"] = {str(token): False if value == -math.inf else value for token, value in bias}
        messages = self.conversation.messages
        files.write_file(path, conversation_file.to_json(messages, self.engine.model.path.name, sampling))

    def keep(self) -> None:
        """Writes the file of --save, if there is one."""
        if self._save is None:
            return
        try:
            self.write(self._save)
        except OSError as error:
            self.refuse(f"cannot write '{self._save}' (--save): {error.strerror}")

    # --- an answer ----------------------------------------------------------------------------------------------------

    def _answer(self, ask: Callable[[], Prompt]) -> bool:
        """Whether there is one, be it a part. Ctrl-C ends it, the conversation goes on."""
        with Interrupt(may_exit=False) as ctrl_c, ctrl_c.cancels(self._cancel):
            self._termination.cancel = self._cancel
            try:
                has_answered = self._answer_until_cancelled(ask, ctrl_c)
            finally:
                self._termination.cancel = None
        self._termination.end_if_it_came()
        return has_answered

    def _answer_until_cancelled(self, ask: Callable[[], Prompt], ctrl_c: Interrupt) -> bool:
        view = self.view
        try:
            prompt = ask()
            generation = self._generate(prompt.tokens)
        except Error as error:
            self.refuse(str(error))
            return False
        if prompt.n_dropped:
            view.note(dropped(prompt.n_dropped, self.conversation.n_ctx))
        pieces: list[str] = []
        failure: Exception | None = None
        with generation:
            self._generation = generation
            if ctrl_c.requested or self._termination.came:  # it came just before
                generation.cancel()
            try:
                self._show(generation, pieces)
            except Exception as error:
                failure = error
            finally:
                self._generation = None
            stats = generation.stats
        text = "".join(pieces)
        is_stopped = stats.finish_reason == "cancelled"
        is_answered = text != "" or not (is_stopped or failure)
        if is_answered:
            self.conversation.answered(text, stats.tokens)
            self.totals.add(stats)
            self.keep()
        if isinstance(failure, OutputClosed):
            raise failure
        view.end_answer(interrupted=ctrl_c.requested)
        if failure is not None:
            self.refuse(str(failure) or type(failure).__name__)
        elif not is_answered:
            view.note("stopped before the answer began")
        else:
            view.note(status(stats))
        if stats.finish_reason == "context":
            view.note(f"the context of {self.conversation.n_ctx} tokens is full (-c/--ctx-size): the answer ends here")
        return is_answered

    def _generate(self, tokens: list[int]) -> Generation:
        """Each answer has a seed of its own, one after another: what is asked again is answered anew."""
        settings = self.settings
        seed = (settings.sampling.seed + self._n_asked) % (SEED_MAX + 1)
        self._n_asked += 1
        return self.engine.generate(
            tokens,
            dataclasses.replace(settings.sampling, seed=seed),
            max_tokens=settings.n_predict,
            stop=settings.stop,
            ignore_eos=settings.ignore_eos,
            constraint=settings.rules,
        )

    def _show(self, generation: Generation, pieces: list[str]) -> None:
        """The answer as it comes; its text is put into `pieces`."""
        for token in with_bar(generation):
            pieces.append(token.text)
            self.view.answer(token.text, drafted=token.from_draft)

    def _cancel(self) -> None:
        generation = self._generation
        if generation is not None:
            generation.cancel()


def dropped(n_turns: int, n_ctx: int) -> str:
    turns = "the oldest turn has" if n_turns == 1 else f"the {n_turns} oldest turns have"
    return f"{turns} no room any more in the context of {n_ctx} tokens (-c/--ctx-size): the model does not see them now"
