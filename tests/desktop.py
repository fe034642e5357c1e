"""The window of examples/desktop_chat.py, on a display without a screen: its widgets, by scripts of its own Tcl."""

import contextlib
import importlib.util
import json
import os
import select
import shutil
import subprocess
import sys
import time

import pytest

from cxx import PROJECT

EXAMPLE = PROJECT / "examples" / "desktop_chat.py"
SLOW_S = 120  # two cores may be busy with something else
SCREEN = "1000x800x24"

# Runs the example as it is. Each line of standard input is a Tcl script for its window, in JSON, and standard output
# has what comes of it. ROWS of a pass may be fixed: else what is drafted depends on how long passes take.
DRIVER = """
import functools, json, runpy, sys, tkinter, maskprobe
EXAMPLE, ROWS, *OPTIONS = sys.argv[1:]
class Driven(tkinter.Tk):
    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.tk.createfilehandler(sys.stdin, tkinter.READABLE, self.obey)
    def obey(self, *_):
        line = sys.stdin.readline()
        if not line:
            return self.tk.deletefilehandler(sys.stdin)
        try:
            found = ["", self.tk.eval(json.loads(line))]
        except tkinter.TclError as error:
            found = [str(error), ""]
        print(json.dumps(found), flush=True)
tkinter.Tk = Driven
if ROWS != "auto":
    maskprobe.Engine = functools.partial(maskprobe.Engine, rows=int(ROWS))
sys.argv[:] = [EXAMPLE, *OPTIONS]
runpy.run_path(EXAMPLE, run_name="__main__")
"""


@contextlib.contextmanager
def display():
    """The name of a display. Skips where there can be none."""
    if importlib.util.find_spec("tkinter") is None or importlib.util.find_spec("_tkinter") is None:
        pytest.skip("this Python has no tkinter")
    server = shutil.which("Xvfb")
    if server is None:
        pytest.skip("there is no Xvfb")
    reader, writer = os.pipe()
    command = [server, "-displayfd", str(writer), "-screen", "0", SCREEN, "-nolisten", "tcp"]
    process = subprocess.Popen(command, pass_fds=(writer,), stderr=subprocess.DEVNULL)
    os.close(writer)
    try:
        number = os.read(reader, 16).decode().strip() if select.select([reader], [], [], SLOW_S)[0] else ""
        assert number, "Xvfb does not start"
        yield f":{number}"
    finally:
        process.terminate()
        process.wait()
        os.close(reader)


class Window:
    """The example with these options, as a process of its own."""

    def __init__(self, display: str, *options: object, rows: int | str = "auto") -> None:
        command = [sys.executable, "-c", DRIVER, str(EXAMPLE), str(rows), "-t", "1", "--temp", "0"]
        self.process = subprocess.Popen(
            [*command, *map(str, options)],
            env={**os.environ, "DISPLAY": display},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def tcl(self, script: str) -> str:
        """What the script gives, once the window has run it between two events."""
        self.process.stdin.write(json.dumps(script) + "\n")
        self.process.stdin.flush()
        assert select.select([self.process.stdout], [], [], SLOW_S)[0], f"the window is blocked: {script}"
        line = self.process.stdout.readline()
        assert line, f"the window has ended: {self.process.stderr.read()}"
        failure, found = json.loads(line)
        assert not failure, failure
        return found

    def until(self, expression: str) -> None:
        """This Tcl expression is true."""
        end = time.monotonic() + SLOW_S
        while self.tcl(f"expr {{{expression}}}") != "1":
            assert time.monotonic() < end, (expression, self.state(), self.log())
            time.sleep(0.01)

    def until_idle(self) -> None:
        self.until("[.top.open instate !disabled]")

    def press(self, key: str) -> None:
        """In the field for messages."""
        self.tcl(f"focus -force .row.input; event generate .row.input {key}")

    def type(self, text: str) -> None:
        self.tcl(f".row.input insert end {quoted(text)}")

    def ask(self, text: str) -> None:
        """Sends it and waits for the end of the answer."""
        self.type(text)
        self.press("<Return>")
        self.until_idle()

    def open(self, path: object) -> None:
        """Chooses this file where the dialog would come."""
        self.tcl(f"proc tk_getOpenFile args {{ return {quoted(str(path))} }}; .top.open invoke")

    def state(self) -> str:
        return self.tcl(".bottom.state cget -text")

    def log(self) -> str:
        return self.tcl(".log get 1.0 end-1c")

    def input(self) -> str:
        return self.tcl(".row.input get 1.0 end-1c")

    def lines(self, tag: str) -> list[str]:
        """Those of this kind: note, error or message."""
        script = f"set all {{}}; foreach {{a b}} [.log tag ranges {tag}] {{ append all [.log get $a $b] }}; set all"
        return self.tcl(script).splitlines()

    def answer(self) -> list[tuple[str, bool]]:
        """The characters after the last message and note, and which are shaded."""
        start = (
            "set start [lindex [.log tag ranges message] end]; set note [lindex [.log tag ranges note] end]; "
            'if {$note ne "" && [.log compare $note > $start]} { set start $note }; '
        )
        text = self.tcl(start + ".log get $start end-1c")
        shaded = start + (
            "set all {}; foreach at [.log tag ranges drafted] "
            "{ if {[.log compare $at >= $start]} { lappend all [.log count -chars $start $at] } }; set all"
        )
        ends = [int(end or 0) for end in self.tcl(shaded).split()]
        ranges = [range(*pair) for pair in zip(ends[::2], ends[1::2], strict=True)]
        return [(c, any(i in found for found in ranges)) for i, c in enumerate(text)]

    def ended(self) -> tuple[int, str]:
        """The exit status and standard error, once the process has ended."""
        _, errors = self.process.communicate(timeout=SLOW_S)
        return self.process.returncode, errors


def quoted(text: str) -> str:
    """As one word of Tcl."""
    return '"' + "".join(f"\\u{ord(c):04x}" for c in text) + '"'
