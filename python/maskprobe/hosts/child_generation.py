"""ChildGeneration: a generation of the engine in a child process."""

from .._capi import Handle
from ..errors import EngineLost
from ..generation import Draft, Generation, TokenResult
from .child_process import ChildProcess
from .inbox import Inbox
from .messages import WINDOW, Ended, Part, set_counts


class ChildGeneration(Generation):
    """A Generation whose work goes on in a child, from its beginning, and runs up to 64 tokens ahead of who reads.

    Raises what Generation raises, and EngineLost where the child ends. Where it was cancelled, it ends as "cancelled"
    within HANG_S even if the child does not answer."""

    def __init__(self, child: ChildProcess, id: int, inbox: Inbox) -> None:
        self._child, self._id, self._inbox = child, id, inbox
        self._is_cancelled = False
        self._n_read = 0  # since the child was told last
        self._begin(inbox, Handle.of(id, child.end, "generation"))

    def cancel(self) -> None:
        """Ends the generation after the pass that is under way, from any thread: its last result has the finish reason
        "cancelled". Nothing happens if it has ended."""
        if not self._ended:
            self._is_cancelled = True
            self._child.end(self._id)

    def newest_draft(self) -> Draft | None:
        """The tree of the newest pass whose tokens have come; None before there was one."""
        return self._draft

    def _count(self) -> None:
        """The counts come with the results."""

    def _read(self) -> TokenResult | None:
        try:
            message = self._inbox.take()
            if isinstance(message, Ended):
                raise message.error
        except EngineLost:
            self._end()
            if not self._is_cancelled:
                raise
            return self._last_result()
        except BaseException:
            self._end()
            raise
        if not isinstance(message, Part):
            return None
        set_counts(self._stats, message.counts)
        self._draft = message.draft or self._draft
        result = message.result
        if result is None:
            if self.on_wait is not None:
                self.on_wait(self._stats)
            return None
        if result.token >= 0:
            self._stats.tokens.append(result.token)
        self._stats.finish_reason = result.finish_reason
        self._n_read += 1
        if result.finish_reason is not None:
            self._end()
        elif self._n_read >= WINDOW // 2:
            self._child.allow(self._id, self._n_read)
            self._n_read = 0
        return result

    def _last_result(self) -> TokenResult:
        """Of a generation that was cancelled, when its child has not lived to say so."""
        self._stats.finish_reason = "cancelled"
        return TokenResult(
            text="",
            token=-1,
            logprob=0.0,
            from_draft=False,
            source="model",
            margin=0.0,
            top=[],
            n_gen=len(self._stats.tokens),
            prompt_tps=self._stats.prompt_tps,
            generation_tps=self._stats.gen_tps,
            finish_reason="cancelled",
        )
