"""A conversation: its messages, the tokens of the next prompt, and which of the oldest turns no longer fit."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import ArgumentError, ContextFull, ModelError
from ..model import Model

Message = Mapping[str, Any]  # "role" and "content", as templates have them

ANSWER_MIN = 16  # tokens: a prompt that leaves fewer does not fit
TOKEN_CHARACTERS = 16  # more than a text has on average in its tokens
TURNS_TRIED = 64  # of a conversation from elsewhere, the newest: a template may take no more than some seconds
PROBE = "maskprobe-asks-for-the-system-message"


class Prompt(NamedTuple):
    tokens: list[int]
    n_dropped: int  # turns that the model saw before and does not see any more


class Segment(NamedTuple):
    """A part of the newest prompt or answer with the tokens that stood for it."""

    text: bytes  # UTF-8, whole characters
    tokens: list[int]


class Asked(NamedTuple):
    """A prompt that is being answered."""

    messages: list[Message]
    first: int
    segments: list[Segment]


def size(segments: Sequence[Segment]) -> int:
    """In tokens."""
    return sum(len(segment.tokens) for segment in segments)


class Conversation:
    """Messages in the model's chat template, for a context of `n_ctx` tokens.

    A turn is a user's message with all that follows it. Where the context is short the oldest turns are left out of
    the prompt; they stay in `messages`. The system message is never left out. `variables` go to the template.

    Nothing changes before answered(): a prompt whose answer fails or is given up leaves the conversation as it was.

    Raises ModelError where the model has no chat template or one that fails, ArgumentError for variables that it does
    not know.
    """

    def __init__(self, model: Model, n_ctx: int, variables: Mapping[str, Any] | None = None) -> None:
        self.n_ctx = n_ctx
        self._model = model
        self._variables = dict(variables or {})
        self._messages: list[Message] = []
        self._first = 0  # of the messages after the system's, the first one that the model still sees
        self._segments: list[Segment] = []  # of the newest prompt and its answer, in order
        self._asked: Asked | None = None
        self.system_in_user = not self._takes_system()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Copies of all messages, also of those that no longer fit."""
        return [dict(message) for message in self._messages]

    @property
    def n_turns(self) -> int:
        return sum(message["role"] == "user" for message in self._messages)

    @property
    def system(self) -> str | None:
        """The text of the system message. Where the template has none, it is put before the first user's message."""
        return self._messages[0]["content"] if self._n_system() else None

    @system.setter
    def system(self, text: str | None) -> None:
        rest = self._messages[self._n_system() :]
        self._messages = rest if text is None else [{"role": "system", "content": text}, *rest]

    def clear(self) -> None:
        """Forgets all but the system message."""
        self._messages = self._messages[: self._n_system()]
        self._first = 0

    def replace(self, messages: Sequence[Message]) -> None:
        """Takes the place of all messages.

        Raises ArgumentError or ModelError where the template refuses them, and then changes nothing. Of very many it is
        given the newest turns only."""
        head = int(bool(messages) and messages[0]["role"] == "system")
        users = [i for i, message in enumerate(messages) if message["role"] == "user"]
        first = head if len(users) <= TURNS_TRIED else users[-TURNS_TRIED]
        if messages:
            self._text_of([*messages[:head], *messages[first:]])
        self._messages = [dict(message) for message in messages]
        self._first = 0

    def undo(self) -> str | None:
        """Takes back the last turn. Returns the user's message, None where there is no turn."""
        last = self._last_user()
        if last is None:
            return None
        text: str = self._messages[last]["content"]
        self._messages = self._messages[:last]
        self._first = min(self._first, len(self._messages) - self._n_system())
        return text

    def ask(self, text: str, n_answer: int = -1) -> Prompt:
        """The prompt with a new message of the user. `n_answer`: tokens of its answer at most, -1: no limit.

        Raises ContextFull where this message does not fit with the system message alone, ArgumentError or ModelError
        where the template refuses."""
        return self._prompt([*self._messages, {"role": "user", "content": text}], n_answer)

    def ask_again(self, n_answer: int = -1) -> Prompt:
        """The prompt for another answer to the last user's message. Raises as ask(), and ArgumentError without one."""
        last = self._last_user()
        if last is None:
            raise ArgumentError("there is no message yet that could be answered again")
        return self._prompt(self._messages[: last + 1], n_answer)

    def answered(self, content: str, tokens: Sequence[int]) -> None:
        """Takes the answer to the newest prompt, which may be a part of one: its text, and the tokens generated."""
        if self._asked is None:
            raise ArgumentError("there is no prompt that waits for an answer")
        messages, self._first, segments = self._asked
        self._messages = [*messages, {"role": "assistant", "content": content}]
        self._segments = segments + self._answer_segments(content.encode(), tokens)
        self._asked = None

    # --- what fits ----------------------------------------------------------------------------------------------------

    def _prompt(self, messages: list[Message], n_answer: int) -> Prompt:
        """Each drop makes the prompt begin anew, and so be evaluated anew. Once turns have to go, they go until half of
        the context is free, so that it does not happen again at the next turn."""
        head = self._n_system()
        tail = messages[head:]
        room = self.n_ctx // 4 if n_answer < 0 else min(n_answer, self.n_ctx // 4)
        starts = [i for i, message in enumerate(tail) if message["role"] == "user" and i > self._first]
        starts.insert(0, self._first)

        def segments(n_turns: int) -> list[Segment]:
            return self._tokenized(self._text_of(messages[:head] + tail[starts[-n_turns] :]))

        n_turns = len(starts)
        found = segments(n_turns) if self._may_fit(tail[self._first :]) or n_turns == 1 else None
        if n_turns > 1 and (found is None or size(found) + room > self.n_ctx):
            n_turns = self._most(lambda n: size(segments(n)) <= self.n_ctx // 2, len(starts))
            found = segments(n_turns)
        assert found is not None
        n_prompt = size(found)
        least = min(room, ANSWER_MIN)
        if n_prompt + least > self.n_ctx:
            raise ContextFull(
                f"the message takes {n_prompt} tokens in the template{' with the system text' if head else ''}, the"
                f" context (-c/--ctx-size) has {self.n_ctx}, of which {least} are for the answer: shorten the message"
            )
        self._asked = Asked(messages, starts[-n_turns], found)
        return Prompt([token for segment in found for token in segment.tokens], len(starts) - n_turns)

    def _may_fit(self, messages: Sequence[Message]) -> bool:
        """Whether it pays to look: a conversation that is far too long is not put into the template as a whole."""
        n_characters = sum(len(message["content"] or "") for message in messages)
        return len(messages) <= self.n_ctx // 2 and n_characters <= TOKEN_CHARACTERS * self.n_ctx

    @staticmethod
    def _most(fits: Callable[[int], bool], end: int) -> int:
        """The largest number below `end` that fits, 1 where none does. Looks at small ones first: they cost least."""
        low, high = 1, 2
        while high < end and fits(high):
            low, high = high, 2 * high
        high = min(high, end)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low

    def _n_system(self) -> int:
        return int(bool(self._messages) and self._messages[0]["role"] == "system")

    def _last_user(self) -> int | None:
        indices = (i for i in reversed(range(len(self._messages))) if self._messages[i]["role"] == "user")
        return next(indices, None)

    # --- messages to text ---------------------------------------------------------------------------------------------

    def _takes_system(self) -> bool:
        """Some templates refuse system messages, others leave them out without a word."""
        user: Message = {"role": "user", "content": "x"}
        self._model.chat_format([user], **self._variables)  # what fails here has other reasons
        try:
            text = self._model.chat_format([{"role": "system", "content": PROBE}, user], **self._variables)
        except (ArgumentError, ModelError):
            return False
        return PROBE in text

    def _text_of(self, messages: Sequence[Message]) -> str:
        written = [dict(message) for message in messages]
        if self.system_in_user and written[0]["role"] == "system":
            system = written.pop(0)["content"]
            if not written or written[0]["role"] != "user":
                written.insert(0, {"role": "user", "content": ""})
            content = written[0]["content"]
            written[0]["content"] = f"{system}\n\n{content}" if content else system
        return self._model.chat_format(written, **self._variables)

    # --- text to tokens -----------------------------------------------------------------------------------------------

    def _tokenized(self, text: str) -> list[Segment]:
        """The tokenizer may cut the text of an answer into other tokens than the model did. Then nothing after that
        place could be taken from the cache, and the model would see something that it did not write. So the tokens
        of earlier prompts and answers are kept as far as the new text begins with theirs; the rest is tokenized."""
        data = text.encode()
        kept: list[Segment] = []
        end = 0
        for segment in self._segments:
            if not data.startswith(segment.text, end):
                break
            kept.append(segment)
            end += len(segment.text)
        while kept:
            rest = Segment(data[end:], self._model.tokenize(data[end:], add_special=False, parse_special=True))
            if self._joins(kept[-1], rest):
                return [*kept, rest] if rest.text else kept
            end -= len(kept.pop().text)
        add_special = not self._model.begins_with_bos(text)
        return [Segment(data, self._model.tokenize(data, add_special=add_special, parse_special=True))]

    def _joins(self, before: Segment, rest: Segment) -> bool:
        """Whether the rest may be tokenized by itself. At a special token every tokenizer cuts; elsewhere some put a
        space before a text's beginning."""
        if not rest.text or self._is_special(before.tokens[-1]) or self._is_special(rest.tokens[0]):
            return True
        return self._model.detokenize(rest.tokens, special=True) == rest.text

    def _is_special(self, token: int) -> bool:
        return not self._model.token_bytes(token) and bool(self._model.token_bytes(token, special=True))

    def _answer_segments(self, content: bytes, tokens: Sequence[int]) -> list[Segment]:
        """The tokens that make up the text, as far as they do: a stop string cuts through a token, an interruption
        through a character, and special tokens are not shown. The token that ends a text is a segment of its own,
        since a template may write another one there."""
        n, end = 0, 0  # tokens, and the bytes that they make
        length = 0
        for i, token in enumerate(tokens):
            piece = self._model.token_bytes(token, special=True)
            if not content.startswith(piece, length):
                break
            length += len(piece)
            if length == len(content) or content[length] & 0xC0 != 0x80:  # between two characters
                n, end = i + 1, length
        segments = [Segment(content[:end], list(tokens[:n]))] if end else []
        if end == len(content) and n == len(tokens) - 1 and self._model.is_end(tokens[n]):
            segments.append(Segment(self._model.token_bytes(tokens[n], special=True), [tokens[n]]))
        return segments
