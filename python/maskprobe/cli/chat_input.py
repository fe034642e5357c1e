"""Where a chat's messages come from: an editor on a terminal, else lines of standard input."""

import contextlib
import os
import sys
import termios
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from .terminal import Completion, say
from .values import decode, fail

PROMPT, CONTINUED = "> ", ". "
N_REMEMBERED = 1000  # inputs of earlier chats that the editor offers
INSTALL = "pip install 'maskprobe[chat]' brings an editor with a history, completion and several lines"


class Input(Protocol):
    on_terminal: bool

    @property
    def stop(self) -> Callable[[], None] | None:
        """Ends read(), which raises EOFError; for a signal handler. None: an exception of the handler's ends it."""

    def read(self, draft: str = "") -> str:
        """The next message or command, which may be empty. `draft` is text that the user may edit.

        Raises EOFError at the end, KeyboardInterrupt where Ctrl-C was pressed at an empty input, ArgumentTypeError for
        what is no text."""


def open_input(commands: Mapping[str, str]) -> Input:
    """`commands`: their names and what they do, for completion."""
    on_terminal = sys.stdin is not None and sys.stdin.isatty()
    shows = next((stream for stream in (sys.stderr, sys.stdout) if stream.isatty()), None)
    if not on_terminal or shows is None or os.environ.get("TERM", "dumb") == "dumb":
        return Lines(on_terminal)
    try:
        import prompt_toolkit  # noqa: F401
    except ImportError:
        say(INSTALL)
        return Lines(on_terminal)
    return Editor(commands, shows)


class Lines:
    """Lines of standard input, each a message. A line that ends with a backslash goes on in the next one."""

    stop = None

    def __init__(self, on_terminal: bool) -> None:
        self.on_terminal = on_terminal

    def read(self, draft: str = "") -> str:
        text = b""
        prompt = PROMPT
        while True:
            if self.on_terminal:
                with contextlib.suppress(OSError, ValueError):
                    print(prompt, end="", file=sys.stderr, flush=True)
            line = b"" if sys.stdin is None else sys.stdin.buffer.readline()  # None: it is closed
            if not line and not text:
                raise EOFError
            line = line.removesuffix(b"\n").removesuffix(b"\r")
            if not line.endswith(b"\\"):
                return decode(text + line if line else text.removesuffix(b"\n"), "the message")
            text += line[:-1] + b"\n"
            prompt = CONTINUED


class Editor:
    """prompt_toolkit's. It draws on standard error where that is the terminal, so that answers alone go to a pipe."""

    on_terminal = True

    def __init__(self, commands: Mapping[str, str], shows: Any) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.output import create_output

        self._stopped = False
        self._mode = termios.tcgetattr(sys.stdin.fileno())  # of the terminal, for those who come after
        self._session: Any = PromptSession(
            message=PROMPT,
            multiline=True,
            prompt_continuation=CONTINUED,
            key_bindings=_keys(),
            completer=_completer(commands),
            complete_while_typing=False,
            history=_history(history_file()),
            output=create_output(stdout=shows),
        )

    def read(self, draft: str = "") -> str:
        Completion.end_line_before_stderr()
        try:
            text: str = self._session.prompt(default=draft, pre_run=self._end_if_stopped)
        except KeyboardInterrupt:  # perhaps from a signal handler, in the middle of drawing
            self._restore_terminal()
            raise
        try:
            return decode(text.encode(), "the message")
        except UnicodeEncodeError:  # half of a character came in
            raise fail("the message is not UTF-8 text") from None

    def stop(self) -> None:
        self._stopped = True  # where the editor's loop does not run yet, it looks here first
        loop = self._session.app.loop
        if loop is not None:  # whose tasks would take an exception of the handler's for a fault of their own
            with contextlib.suppress(RuntimeError):  # it has just ended
                loop.call_soon_threadsafe(self._end_if_stopped)

    def _end_if_stopped(self) -> None:
        app = self._session.app
        if self._stopped and app.future is not None and not app.future.done():
            app.exit(exception=EOFError)

    def _restore_terminal(self) -> None:
        output = self._session.output
        with contextlib.suppress(OSError, termios.error):
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._mode)
            output.disable_bracketed_paste()
            output.enable_autowrap()
            output.reset_attributes()
            output.show_cursor()
            output.flush()


def history_file() -> Path:
    """In the user's state folder."""
    own = os.environ.get("MASKPROBE_STATE_DIR")
    if own:
        return Path(own) / "chat-history"
    state = os.environ.get("XDG_STATE_HOME", "")
    folder = Path(state) if os.path.isabs(state) else Path(os.path.expanduser("~")) / ".local" / "state"
    return folder / "maskprobe" / "chat-history"


def _keys() -> Any:
    """Enter sends, unless the text ends with a backslash; Alt-Enter begins a line; Ctrl-C gives up what was typed."""
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def _(event: Any) -> None:
        buffer = event.current_buffer
        if buffer.text.endswith("\\") and buffer.document.is_cursor_at_the_end:
            buffer.delete_before_cursor()
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: Any) -> None:
        event.current_buffer.newline(copy_margin=False)

    @keys.add("c-c")
    @keys.add("<sigint>")
    def _(event: Any) -> None:
        if event.current_buffer.text:
            event.app.exit(result="", style="class:aborting")
        else:
            event.app.exit(exception=KeyboardInterrupt, style="class:aborting")

    return keys


def _completer(commands: Mapping[str, str]) -> Any:
    from prompt_toolkit.completion import Completer, Completion, PathCompleter
    from prompt_toolkit.document import Document

    class Commands(Completer):
        paths = PathCompleter(expanduser=True)

        def get_completions(self, document: Any, event: Any) -> Iterable[Any]:
            before = document.text_before_cursor
            name, space, rest = before.partition(" ")
            if "\n" in before or not before.startswith("/"):
                return
            if space and name in ("/save", "/load", "/read"):
                yield from self.paths.get_completions(Document(rest.lstrip()), event)
            elif not space:
                for command, what in commands.items():
                    if command.startswith(before):
                        yield Completion(command, start_position=-len(before), display_meta=what)

    return Commands()


def _history(path: Path) -> Any:
    """The inputs of earlier chats, readable by the user only. A file that cannot be used is no reason to fail."""
    from prompt_toolkit.history import FileHistory

    class History(FileHistory):
        def load_history_strings(self) -> Iterator[str]:
            strings: list[str] = []
            with contextlib.suppress(OSError):
                strings = list(super().load_history_strings())  # the newest comes first
            yield from strings[:N_REMEMBERED]

        def store_string(self, string: str) -> None:
            with contextlib.suppress(OSError, UnicodeError):
                path.parent.mkdir(parents=True, exist_ok=True)
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
                super().store_string(string)

    return History(str(path))
