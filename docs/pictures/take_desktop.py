"""Takes the picture of the desktop example: `python take_desktop.py model.gguf`.

It asks one thing and stops the answer to another: desktop.png is the window then. Needs Xvfb, whose screen is read from
its own file, and tkinter.
"""

import os
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parents[1] / "examples"))

import desktop_chat  # noqa: E402

WIDTH, HEIGHT = 900, 700
QUESTION = "Write a class Point in Python with x and y, and methods to add and to subtract."
STOPPED, STOPPED_AT = "Add a method to scale it.", "def scale"
TIMEOUT_S = 300
MOST_BYTES = 200_000


def shown(file: Path) -> bytes:
    """The screen in this XWD file as PNG."""
    data = file.read_bytes()
    fields = struct.unpack(">20I", data[:80])
    assert fields[7] == 0 and fields[11] == 32, "not a screen of blue, green, red and an unused byte"
    width, height, n_row, start = fields[4], fields[5], fields[12], fields[0] + 12 * fields[19]
    rows = []
    for y in range(height):
        row = data[start + y * n_row :][: 4 * width]
        rgb = bytearray(3 * width)
        rgb[0::3], rgb[1::3], rgb[2::3] = row[2::4], row[1::4], row[0::4]
        rows.append(b"\0" + rgb)

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"".join(rows), 9))
        + chunk(b"IEND", b"")
    )


def take(root, screen: Path) -> None:
    """Does it all with the window that is there, and closes it."""
    log, field = root.nametowidget("log"), root.nametowidget("row.input")
    choose, stop = root.nametowidget("top.open"), root.nametowidget("row.stop")
    end = time.monotonic() + TIMEOUT_S

    def until(is_so) -> None:
        while not is_so():
            if time.monotonic() > end:
                sys.exit("the chat does not go on:\n" + log.get("1.0", "end"))
            root.update()
            time.sleep(0.01)

    def ask(text: str) -> None:
        until(lambda: choose.instate(["!disabled"]))
        field.insert("end", text)
        field.event_generate("<Return>")

    root.geometry(f"{WIDTH}x{HEIGHT}+0+0")
    root.update()
    field.focus_force()
    ask(QUESTION)
    ask(STOPPED)
    until(lambda: log.search(STOPPED_AT, log.tag_ranges("message")[-1], "end"))
    stop.invoke()
    until(lambda: choose.instate(["!disabled"]))
    root.update()
    root.update_idletasks()
    time.sleep(0.5)
    (FOLDER / "desktop.png").write_bytes(shown(screen))
    root.destroy()


def main(model: str) -> None:
    os.environ["MASKPROBE_STATE_DIR"] = tempfile.mkdtemp()
    with tempfile.TemporaryDirectory() as folder:
        reader, writer = os.pipe()
        size = f"{WIDTH}x{HEIGHT}x24"
        command = ["Xvfb", "-displayfd", str(writer), "-screen", "0", size, "-fbdir", folder, "-nolisten", "tcp"]
        server = subprocess.Popen(command, pass_fds=(writer,), stderr=subprocess.DEVNULL)
        try:
            os.environ["DISPLAY"] = f":{os.read(reader, 16).decode().strip()}"

            class Taken(desktop_chat.tk.Tk):
                def mainloop(self, n: int = 0) -> None:
                    take(self, Path(folder) / "Xvfb_screen0")

            desktop_chat.tk.Tk = Taken
            sys.argv[1:] = [model, "--temp", "0"]
            desktop_chat.main()
        finally:
            server.terminate()
            server.wait()
    n_bytes = (FOLDER / "desktop.png").stat().st_size
    if n_bytes > MOST_BYTES:
        sys.exit(f"desktop.png has {n_bytes} bytes, {MOST_BYTES} at most")


if __name__ == "__main__":
    main(sys.argv[1])
