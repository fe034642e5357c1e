"""The commands of a chat: what begins with a slash."""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from .. import Error
from . import conversation_file, files, values
from .chat_turn import Chat


class Command(NamedTuple):
    run: Callable[[Chat, str], None]  # raises ArgumentTypeError and Error for what is wrong with the argument
    argument: str  # as the help shows it, "" where there is none
    is_needed: bool  # the argument
    what: str


def run(chat: Chat, line: str) -> None:
    """Runs a line that begins with a slash. What is wrong with it is said in one line."""
    words = line.split(maxsplit=1)
    name, argument = words[0], words[1].strip() if len(words) > 1 else ""
    command = COMMANDS.get(name)
    if command is None:
        chat.refuse(
            f"there is no command {values.quoted(name)}: /help lists them; a message with a / in front begins with //"
        )
        return
    if argument and not command.argument:
        chat.refuse(f"{name} takes no argument: '{values.quoted(argument)}'")
        return
    if command.is_needed and not argument:
        chat.refuse(f"{name} needs an argument: {name} {command.argument}")
        return
    try:
        command.run(chat, argument)
    except OSError as error:
        chat.refuse(f"{name}: {error.strerror or error}")
    except (argparse.ArgumentTypeError, Error) as error:
        chat.refuse(f"{name}: {error}")


def show_help(chat: Chat, _argument: str) -> None:
    chat.view.table([(f"{name} {command.argument}".strip(), command.what) for name, command in COMMANDS.items()])


def clear(chat: Chat, _argument: str) -> None:
    chat.conversation.clear()
    chat.attached = ""
    chat.view.note(
        "the conversation begins anew" + ("; the system text stays" * (chat.conversation.system is not None))
    )


def system(chat: Chat, argument: str) -> None:
    conversation = chat.conversation
    if not argument:
        chat.view.note(
            f"system text: {shown(conversation.system)}" if conversation.system else "there is no system text"
        )
        return
    conversation.system = None if argument == '""' else argument
    chat.view.note("there is no system text now" if argument == '""' else system_note(chat))


def system_note(chat: Chat) -> str:
    """Where the system text goes."""
    if not chat.conversation.system_in_user:
        return "system text: set"
    return "system text: set; the model's chat template has no system message, it is put before the first message"


def save(chat: Chat, argument: str) -> None:
    path = files.plain_output_file(expanded(argument))
    files.check_apart(path, chat.kept)
    chat.write(path)
    chat.view.note(f"{counted(len(chat.conversation.messages), 'message')} in '{values.quoted(argument)}'")


def load(chat: Chat, argument: str) -> None:
    saved = conversation_file.read(Path(expanded(argument)))
    chat.conversation.replace(saved.messages)
    chat.attached = ""
    loaded(chat, saved)


def loaded(chat: Chat, saved: conversation_file.Saved) -> None:
    """Says what was loaded, and what the next message will find."""
    said = counted(len(saved.messages), "message")
    if saved.model and saved.model != chat.engine.model.path.name:
        said += f", of a chat with {values.quoted(saved.model)}"
    if saved.messages and saved.messages[-1]["role"] == "user":
        said += "; the last one has no answer: /regen gives one"
    chat.view.note(f"{said}; the sampling stays as it is")


def read(chat: Chat, argument: str) -> None:
    text = conversation_file.read_text(Path(expanded(argument))).removesuffix("\n")
    if not text:
        raise values.fail(f"'{values.quoted(argument)}' is empty")
    chat.attached = f"{chat.attached}\n\n{text}" if chat.attached else text
    chat.view.note(f"{counted(len(text), 'character')} of '{values.quoted(argument)}' go before the next message")


def stats(chat: Chat, _argument: str) -> None:
    conversation = chat.conversation
    turns = counted(conversation.n_turns, "turn")
    chat.view.table([("conversation", f"{turns}, a context of {conversation.n_ctx} tokens"), *chat.totals.lines()])


def temp(chat: Chat, argument: str) -> None:
    settings = chat.settings
    if argument:
        settings.sampling = dataclasses.replace(settings.sampling, temp=values.number(0)(argument))
    chat.view.note(f"temperature: {settings.sampling.temp:g}")


def regen(chat: Chat, _argument: str) -> None:
    chat.send_again()


def undo(chat: Chat, _argument: str) -> None:
    text = chat.conversation.undo()
    if text is None:
        raise values.fail("there is no turn to take back")
    chat.keep()
    chat.view.note(f"taken back: {values.quoted(text)}")


def end(chat: Chat, _argument: str) -> None:
    chat.ended = True


def shown(text: str) -> str:
    """A text of several lines, without characters that a terminal would obey."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def expanded(argument: str) -> str:
    """No shell has looked at it."""
    try:
        return str(Path(argument).expanduser())
    except RuntimeError:
        raise values.fail(f"'{values.quoted(argument)}': there is no such user") from None


def counted(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"


COMMANDS = {
    "/help": Command(show_help, "", False, "this list"),
    "/clear": Command(clear, "", False, "begin anew; the system text stays"),
    "/system": Command(system, "TEXT", False, 'set the system text; "" = none; without TEXT: show it'),
    "/read": Command(read, "FILE", True, "put the text of a file before the next message"),
    "/regen": Command(regen, "", False, "answer the last message again"),
    "/undo": Command(undo, "", False, "take back the last message and its answer"),
    "/temp": Command(temp, "X", False, "set the temperature, 0 = always the most likely token; without X: show it"),
    "/save": Command(save, "FILE", True, "write the conversation as JSON"),
    "/load": Command(load, "FILE", True, "take up a conversation that was saved"),
    "/stats": Command(stats, "", False, "counts and speed of all answers so far"),
    "/quit": Command(end, "", False, "end, as Ctrl-D does"),
    "/exit": Command(end, "", False, "the same"),
}
