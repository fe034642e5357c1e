"""Takes the picture of the chat: `python take_chat.py model.gguf`, on a terminal of its own.

It asks one thing, looks at /stats and stops the answer to another with Ctrl-C: chat.png is the screen then. Needs
pyte, playwright and Chromium, and what maskprobe-chat needs for its editor.
"""

import fcntl
import html
import itertools
import os
import pty
import select
import shutil
import struct
import sys
import tempfile
import termios
import time
from pathlib import Path

import pyte
from playwright.sync_api import sync_playwright

COLUMNS, LINES = 120, 48
TURNS = ("Write a class Point in Python with x and y, and methods to add and to subtract.", "/stats")
STOPPED, STOPPED_AT = "Add a method to scale it.", "def scale"
OPTIONS = ("--temp", "0", "--color", "on", "--no-state", "-sys", "You answer with code only.")
PROMPT = "> "
TIMEOUT_S = 300
MOST_BYTES = 200_000

FAINT, FAINT_AS = 2, 90  # pyte has no faint text: it is shown in bright black
COLOURS = {"green": "#7ee787", "cyan": "#79c0ff", "red": "#ff7b72", "brightblack": "#8b949e", "default": "#e6edf3"}
PAGE = """<body style="margin: 0; background: #0d1117"><pre style="margin: 0; padding: 18px 22px; width: max-content;
color: #e6edf3; font: 14px/1.35 'DejaVu Sans Mono', monospace">{}</pre></body>"""


class Screen(pyte.Screen):
    """A terminal with a program in it."""

    def __init__(self, *command: str) -> None:
        super().__init__(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self)
        self._end = time.monotonic() + TIMEOUT_S
        pid, self._terminal = pty.fork()
        if pid == 0:
            os.environ |= {"TERM": "xterm-256color", "MASKPROBE_STATE_DIR": tempfile.mkdtemp()}
            os.execvp(command[0], command)
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))

    def write_process_input(self, data: str) -> None:
        """Keys, and what the program asks of a terminal."""
        os.write(self._terminal, data.encode())

    def select_graphic_rendition(self, *attrs: int, **settings: bool) -> None:
        super().select_graphic_rendition(*(FAINT_AS if attr == FAINT else attr for attr in attrs), **settings)

    def until_it_waits(self) -> None:
        """At an empty input, and nothing more comes at once."""
        while self._show(0.5) or self.display[self.cursor.y].rstrip() != PROMPT.rstrip():
            pass

    def until_it_shows(self, text: str) -> None:
        while text not in "\n".join(self.display):
            self._show(1)

    def _show(self, seconds: float) -> bool:
        """What comes next. False: nothing within this time."""
        if time.monotonic() > self._end:
            sys.exit("the chat does not go on:\n" + "\n".join(self.display))
        comes = bool(select.select([self._terminal], [], [], seconds)[0])
        if comes:
            self._stream.feed(os.read(self._terminal, 4096))
        return comes

    def as_html(self) -> str:
        n_used = max(i for i, line in enumerate(self.display) if line.strip()) + 1
        return "\n".join(self._line(i) for i in range(n_used))

    def _line(self, i: int) -> str:
        cells = [self.buffer[i][column] for column in range(COLUMNS)]
        if i == self.cursor.y:
            cells[self.cursor.x] = cells[self.cursor.x]._replace(reverse=True)
        runs = itertools.groupby(cells, key=lambda cell: (cell.fg, cell.bold, cell.reverse))
        return "".join(self._run("".join(cell.data for cell in group), *look) for look, group in runs)

    @staticmethod
    def _run(text: str, colour: str, bold: bool, reverse: bool) -> str:
        style = f"color: {COLOURS[colour]};" + "font-weight: bold;" * bold
        if reverse:
            style = f"color: #0d1117; background: {COLOURS[colour]};"
        return f'<span style="{style}">{html.escape(text)}</span>'


def main(model: str) -> None:
    screen = Screen(sys.executable, "-m", "maskprobe.cli.chat", "-m", model, *OPTIONS)
    screen.until_it_waits()
    for turn in TURNS:
        screen.write_process_input(turn + "\r")
        screen.until_it_waits()
    screen.write_process_input(STOPPED + "\r")
    screen.until_it_shows(STOPPED_AT)
    screen.write_process_input("\x03")
    screen.until_it_waits()
    path = Path(__file__).with_name("chat.png")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 400})
        page.set_content(PAGE.format(screen.as_html()))
        page.locator("pre").screenshot(path=path)
        browser.close()
    size = path.stat().st_size
    if size > MOST_BYTES:
        sys.exit(f"{path.name} has {size} bytes, {MOST_BYTES} at most")
    screen.write_process_input("\x04")


if __name__ == "__main__":
    main(sys.argv[1])
