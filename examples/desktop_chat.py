"""A chat in a window:  python desktop_chat.py [model.gguf]

Tokens that were drafted, guessed before the model was asked, are shaded. The text is that of plain decoding.

Two threads share the work. The window's draws, and takes what the user does. It never waits: it hands a job to the
worker, and every POLL_MS it shows what the worker has said. The worker has the model, computes, and touches no widget:
what it has to say goes through a queue, as events.
"""

import argparse
import contextlib
import functools
import queue
import re
import signal
import sys
import threading
from collections.abc import Callable
from typing import NamedTuple

from maskprobe import Cancelled, Engine, Generation, Model, SamplingParams, Stats, resolve_model
from maskprobe.cli.conversation import Conversation

try:
    import tkinter as tk
    from tkinter import filedialog, ttk
except ImportError:
    sys.exit("this Python has no tkinter: on Debian 'apt install python3-tk', with Homebrew 'brew install python-tk'")

POLL_MS = 30
PAPER, INK, SHADE = "#ffffff", "#1b1e24", "#cfe3fa"
COLOURS = {"message": "#1d5fa8", "note": "#555c68", "error": "#a31515"}  # of lines that are no answer
ENDED = {"stop": "ready", "cancelled": "stopped", "context": "the context is full"}  # by finish reason


class State(NamedTuple):
    line: str  # for the status line


class Piece(NamedTuple):
    text: str  # of one token of the answer, "" while a character is incomplete
    drafted: bool


class Note(NamedTuple):
    line: str
    tag: str = "note"  # or "error"


class Done(NamedTuple):
    """The job is over, however it ended."""


class Worker:
    """Does one job after another in its own thread: open(), ask() or begin_anew(). start() and stop(), which return at
    once, and end() are for the window's thread. A job may be started after the Done of the one before."""

    def __init__(self, settings: argparse.Namespace) -> None:
        self.events: queue.SimpleQueue[State | Piece | Note | Done] = queue.SimpleQueue()
        self._settings = settings
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._given_up = threading.Event()  # the job under way
        self._generation: Generation | None = None
        self._engine: Engine | None = None
        self._conversation: Conversation | None = None
        self._closing = contextlib.ExitStack()  # the model and its engine
        self._thread = threading.Thread(target=self._run, name="worker")
        self._thread.start()

    def start(self, job: Callable[..., None], *arguments: str) -> None:
        self._given_up.clear()
        self._jobs.put(functools.partial(job, *arguments))

    def stop(self) -> None:
        """Gives up the job under way: an answer ends after its pass, a model at the next part of its file."""
        self._given_up.set()
        generation = self._generation
        if generation is not None:
            generation.cancel()

    def end(self) -> None:
        """Waits until all is closed."""
        self.stop()
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception as error:  # of any kind: the window goes on
                line = " ".join(str(error).split()) or type(error).__name__
                self.events.put(Note(line, "note" if isinstance(error, Cancelled) else "error"))
                self.events.put(State("ready" if self._engine else "no model is open"))
            self.events.put(Done())
        self._closing.close()

    def open(self, path: str) -> None:
        """Where it fails, the model before it and its conversation stay. Raises Error."""
        self.events.put(State("loading"))
        with contextlib.ExitStack() as closing:
            file, n_threads = resolve_model(path), self._settings.threads
            model = closing.enter_context(Model(file, n_threads=n_threads, progress=self._loading))
            n_ctx = min(self._settings.ctx_size, model.info.n_ctx_train)
            # state, heads: what was learned of this model before is in the user's cache folder.
            engine = closing.enter_context(Engine(model, n_ctx=n_ctx, n_threads=n_threads, state="", heads=""))
            conversation = Conversation(model, engine.context.n_ctx)  # refuses a model without a chat template
            if self._given_up.is_set():
                raise Cancelled("loading was given up")
            self._closing.close()
            self._closing = closing.pop_all()
        self._engine, self._conversation = engine, conversation
        about = f"{file.name}, a context of {conversation.n_ctx} tokens"
        for line in filter(None, (about, model.info.note, engine.note)):
            self.events.put(Note(line))
        self.events.put(State("ready"))

    def _loading(self, part: float) -> bool:  # called while the file is read; False ends that
        self.events.put(State(f"loading, {part:.0%}"))
        return not self._given_up.is_set()

    def begin_anew(self) -> None:
        if self._conversation is not None:
            self._conversation.clear()

    def ask(self, message: str) -> None:
        """The conversation changes only where there is an answer, be it a part of one. Raises Error."""
        if self._engine is None or self._conversation is None:
            raise ValueError("there is no model yet: open one first")
        prompt = self._conversation.ask(message)  # in the model's template, all turns that fit
        if prompt.n_dropped:
            self.events.put(Note(f"the context is short: oldest turns that are left out now: {prompt.n_dropped}"))
        answer = ""
        with self._engine.generate(prompt.tokens, SamplingParams(temp=self._settings.temp)) as generation:
            generation.on_wait = self._reading
            self._generation = generation
            if self._given_up.is_set():  # before stop() could find the generation
                generation.cancel()
            try:
                for token in generation:
                    answer += token.text
                    self.events.put(Piece(token.text, token.from_draft))
                    self.events.put(State(f"answering: {speed(generation.stats)}"))
            finally:
                self._generation = None
                stats = generation.stats
                if answer:
                    self._conversation.answered(answer, stats.tokens)
        if not answer:
            self.events.put(Note("there was no answer"))
        self.events.put(State(f"{ENDED[stats.finish_reason or 'stop']}: {speed(stats)}"))

    def _reading(self, stats: Stats) -> None:  # called before each pass
        if stats.n_gen == 0:
            self.events.put(State(f"reading: {stats.n_prompt_done} of {stats.n_prompt} tokens"))


def speed(stats: Stats) -> str:
    """The first token comes with the prompt, the others with the passes."""
    rates = f", {stats.gen_tps:.1f} tokens/s, {stats.tokens_per_pass:.2f} tokens per pass" if stats.passes else ""
    return f"{stats.n_gen} token{'s' * (stats.n_gen != 1)}{rates}"


class Window:
    """Its widgets have names, so that programs can find them."""

    def __init__(self, root: tk.Tk, worker: Worker) -> None:
        self._root = root
        self._worker = worker
        self._busy = False
        self._asked = ""  # the message without an answer so far: it comes back where there is none
        root.title("maskprobe")
        for option in ("background", "foreground", "insertBackground"):
            root.option_add(f"*Text.{option}", PAPER if option == "background" else INK)

        top, row, bottom = (ttk.Frame(root, padding=4, name=name) for name in ("top", "row", "bottom"))
        self._choose = ttk.Button(top, text="Open…", command=self.choose_model, name="open")
        self._new = ttk.Button(top, text="New chat", command=self.begin_anew, name="new")
        legend = ttk.Label(top, text=" drafted ", background=SHADE, foreground=INK)
        self._log = tk.Text(root, wrap="word", state="disabled", padx=8, pady=6, name="log")
        scroll = ttk.Scrollbar(root, command=self._log.yview)
        self._input = tk.Text(row, height=3, wrap="word", undo=True, padx=6, pady=4, name="input")
        self._send = ttk.Button(row, text="Send", command=self.send, name="send")
        self._stop = ttk.Button(row, text="Stop", command=worker.stop, name="stop")
        self._state = ttk.Label(bottom, text="no model is open", name="state")

        top.pack(side="top", fill="x")
        bottom.pack(side="bottom", fill="x")
        row.pack(side="bottom", fill="x")
        scroll.pack(side="right", fill="y")
        self._log.pack(side="left", fill="both", expand=True)
        for left in (self._choose, self._new, self._state):
            left.pack(side="left", padx=2)
        for right in (legend, self._stop, self._send):
            right.pack(side="right", fill="y", padx=2)
        self._input.pack(side="left", fill="both", expand=True)

        self._log.configure(yscrollcommand=scroll.set)
        self._log.tag_configure("drafted", background=SHADE)
        for tag, colour in COLOURS.items():
            self._log.tag_configure(tag, foreground=colour)
        self._log.tag_configure("message", spacing1=8, spacing3=4)
        control = "Command" if root.tk.call("tk", "windowingsystem") == "aqua" else "Control"
        keys = {f"<{control}-o>": self.choose_model, f"<{control}-n>": self.begin_anew, "<Escape>": worker.stop}
        for key, action in keys.items():
            for widget in (root, self._input):  # which has uses of its own for some keys: "break" leaves them out
                widget.bind(key, lambda event, action=action: action() or "break")
        self._input.bind("<Return>", lambda event: self.send() or "break")
        self._input.bind("<Shift-Return>", lambda event: None)  # a new line, as ever
        self._input.focus_set()
        self._set_busy(False)
        self._poll()

    # --- what the user does -------------------------------------------------------------------------------------------

    def choose_model(self) -> None:
        if self._busy:
            return
        kinds = (("GGUF models", "*.gguf"), ("all files", "*"))
        path = filedialog.askopenfilename(parent=self._root, title="Open a model", filetypes=kinds)
        if path:
            self.open(path)

    def open(self, path: str) -> None:
        self._start(self._worker.open, path)

    def send(self) -> None:
        message = self._input.get("1.0", "end-1c")
        if self._busy or not message.strip():
            return
        self._input.delete("1.0", "end")
        self._write_line(message, "message")
        self._asked = message
        self._start(self._worker.ask, message)

    def begin_anew(self) -> None:
        if self._busy:
            return
        self._log.configure(state="normal")
        self._log.delete("1.0", "end")
        self._log.configure(state="disabled")
        self._start(self._worker.begin_anew)

    def _start(self, job: Callable[..., None], *arguments: str) -> None:
        self._set_busy(True)
        self._worker.start(job, *arguments)

    # --- what the worker says -----------------------------------------------------------------------------------------

    def _poll(self) -> None:
        self._root.after(POLL_MS, self._poll)
        for _ in range(self._worker.events.qsize()):
            self._show(self._worker.events.get())

    def _show(self, event: State | Piece | Note | Done) -> None:
        match event:
            case State(line):
                self._state.configure(text=line)
            case Piece(text, drafted):
                self._asked = "" if text else self._asked
                for part in re.split("(\n)", text):  # a shaded line break would be shaded up to the window's edge
                    self._write(part, "drafted" if drafted and part != "\n" else "")
            case Note(line, tag):
                self._write_line(line, tag)
            case Done():
                if not self._input.get("1.0", "end-1c"):
                    self._input.insert("1.0", self._asked)
                self._asked = ""
                self._set_busy(False)

    def _write_line(self, line: str, tag: str) -> None:
        if self._log.index("end-1c linestart") != self._log.index("end-1c"):  # the answer before has no line break
            self._write("\n", "")
        self._write(f"{line}\n", tag)

    def _write(self, text: str, tag: str) -> None:
        """At the end of the log, which moves on unless the reader has scrolled away from there."""
        follows = self._log.yview()[1] == 1.0
        self._log.configure(state="normal")
        self._log.insert("end", text, tag)
        self._log.configure(state="disabled")
        if follows:
            self._log.see("end")

    def _set_busy(self, busy: bool) -> None:
        self._busy = busy
        for button in (self._choose, self._new, self._send):
            button.state(["disabled" if busy else "!disabled"])
        self._stop.state(["!disabled" if busy else "disabled"])


def main() -> None:
    parser = argparse.ArgumentParser(description="A chat with a GGUF model in a window.")
    parser.add_argument("model", nargs="?", help="a GGUF file, or a known name as smollm2")
    parser.add_argument("-c", "--ctx-size", type=int, default=4096, metavar="N", help="context in tokens, at most")
    parser.add_argument("-t", "--threads", type=int, default=0, metavar="N", help="0 = the physical cores")
    parser.add_argument("--temp", type=float, default=0.8, metavar="X", help="temperature, 0 = greedy")
    settings = parser.parse_args()
    try:
        root = tk.Tk(className="Maskprobe")
    except tk.TclError as error:
        sys.exit(f"no window can be opened: {error}")
    worker = Worker(settings)
    try:
        window = Window(root, worker)
        if settings.model is not None:
            window.open(settings.model)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: root.after(0, root.destroy))
        root.mainloop()  # until the window is closed
    finally:
        worker.end()


if __name__ == "__main__":
    main()
