"""maskprobe-chat: a conversation with a model on the terminal, or in lines from standard input."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from .. import Cancelled, Error, set_verbose
from . import build, chat_commands, conversation_file, files, interrupt, options, values
from .chat_input import Input, open_input
from .chat_turn import Chat, Settings, Terminated, Termination
from .chat_view import View
from .conversation import Conversation
from .interrupt import Interrupt
from .parser import Parser
from .run import version_text
from .terminal import Completion, OutputClosed, say, secure_streams

PROG = "maskprobe-chat"
EXIT_DONE, EXIT_FAILURE = 0, 1

EPILOGUE = """\
A line that ends with a backslash goes on in the next one; so does Alt-Enter. /help lists the commands; a message that
begins with / is written with //. Ctrl-C stops an answer; twice at an empty input it ends the chat, as Ctrl-D does.

exit status:
  0    done
  1    failure; where standard input is no terminal, also when a message or command was refused
  2    an option is wrong, named on standard error
  130  Ctrl-C twice at an empty input, or before the model was loaded
  143  SIGTERM
"""


def setup_arg_parser() -> Parser:
    parser = Parser(
        prog=PROG,
        usage=f"{PROG} [-m FILE | -hf REPO] [options]",
        description="A conversation with a model, in its own chat template.\n"
        "Standard output carries the answers only; all else goes to standard error.",
        epilog=EPILOGUE,
    )
    parser.add_argument("--version", action="store_true", help="print the versions and exit")
    options.add_memory_option(parser)
    parser.add_argument("-v", "--verbose", action="store_true", help="show llama.cpp's own log lines")
    add_conversation_options(parser.add_argument_group("conversation"))
    options.add_model_options(parser.add_argument_group("model"))
    options.add_context_options(parser.add_argument_group("context and threads"))
    options.add_sampling_options(parser.add_argument_group("sampling"))
    options.add_probing_options(parser.add_argument_group("probing"))
    return parser


def add_conversation_options(group: Any) -> None:
    source = group.add_mutually_exclusive_group()
    source.add_argument("-p", "--prompt", metavar="TEXT", help="the first message; - reads standard input")
    source.add_argument(
        "-f", "--file", metavar="FILE", type=values.text_file, help="read the first message from a UTF-8 file"
    )
    group.add_argument("-sys", "--system-prompt", metavar="TEXT", help="the system text, before all messages")
    options.add_text_options(group)
    group.add_argument(
        "--chat-template-kwargs",
        metavar="JSON",
        type=template_variables,
        default={},
        help='an object with further variables of the chat template, as {"enable_thinking": false}',
    )
    group.add_argument("--load", metavar="FILE", help="begin with a conversation that was saved")
    group.add_argument(
        "--save",
        metavar="FILE",
        type=files.plain_output_file,
        help="write the conversation there as JSON, after each answer",
    )
    options.option(
        group,
        "--color",
        choices=options.SWITCH,
        metavar="on|off|auto",
        default="off",
        help="show in green the tokens that were guessed right; auto = on a terminal",
    )


def template_variables(text: str) -> dict[str, Any]:
    try:
        found = json.loads(values.unicode_text(text))
    except RecursionError:
        raise values.fail("the JSON is nested too deeply") from None
    except ValueError as error:
        raise values.fail(f"not JSON: {error}") from None
    if not isinstance(found, dict):
        raise values.fail(f"must be an object like {{\"enable_thinking\": false}}, not '{values.quoted(text)}'")
    return found


def main(argv: list[str] | None = None) -> int:
    secure_streams()
    parser = setup_arg_parser()
    try:
        return run(parser.parse_args(argv), parser)
    except Terminated as ended:
        Completion.end_line_before_stderr()
        return int(str(ended.code))
    except (KeyboardInterrupt, Cancelled):  # Cancelled: while the model was loaded
        say(f"{PROG}: interrupted")
        return interrupt.EXIT_STATUS
    except (Error, OutputClosed, OSError) as error:
        say(f"{PROG}: error: {error}")
    except Exception as error:  # a traceback on a user's terminal helps nobody
        say(f"{PROG}: error: {type(error).__name__}: {' '.join(str(error).split())}")
    return EXIT_FAILURE


def run(args: argparse.Namespace, parser: Parser) -> int:
    view = View(PROG, args.color)
    if args.version:
        view.answer(version_text())
        return EXIT_DONE
    if args.memory:
        return build.print_memory(args, parser)
    build.check_shared_options(args, parser)
    build.check_state_file(args, parser)
    first = None
    if args.prompt is not None or args.file is not None:
        first = build.prompt_text(args, parser)
    system = None
    if args.system_prompt is not None:
        system = build.text_value(args, parser, "-sys/--system-prompt", args.system_prompt)
    stop = [build.text_value(args, parser, "-r/--reverse-prompt", value) for value in args.reverse_prompt]
    saved = None
    if args.load is not None:
        with build.usage(parser, "--load"):
            saved = conversation_file.read(Path(args.load))
    set_verbose(args.verbose)

    with Interrupt() as ctrl_c:
        model = build.open_model(args, parser, ctrl_c)
    with model, Termination() as termination:
        kept = {"-m/--model": model.path, **build.files_read(args), "--state": args.state}
        if args.save is not None:
            with build.usage(parser, "--save"):
                files.check_apart(args.save, kept)
        settings = Settings(
            build.sampling_params(args, parser, model),
            args.predict,
            stop,
            args.ignore_eos,
            build.rules(args, parser, model),
        )
        proposer = build.proposer(args, parser, model)
        with build.engine(args, parser, model, proposer) as engine:
            with build.usage(parser, "--chat-template-kwargs"):
                conversation = Conversation(model, engine.context.n_ctx, args.chat_template_kwargs)
            chat = Chat(engine, conversation, view, settings, termination, kept, args.save)
            if saved is not None:
                with build.usage(parser, "--load"):
                    conversation.replace(saved.messages)
                chat_commands.loaded(chat, saved)
            if system is not None:
                conversation.system = system
                if conversation.system_in_user:
                    view.note(chat_commands.system_note(chat))
            source = open_input({name: command.what for name, command in chat_commands.COMMANDS.items()})
            if source.on_terminal:
                view.note(f"{model.path.name}, a context of {conversation.n_ctx} tokens; /help lists the commands")
            status = talk(chat, source, first)
    return EXIT_FAILURE if chat.failed and not source.on_terminal and status == EXIT_DONE else status


def talk(chat: Chat, source: Input, first: str | None) -> int:
    """The whole conversation. Returns the exit status."""
    if first is not None:
        chat.send(first)
    n_interrupts = 0  # one after another at an empty input
    while not chat.ended:
        try:
            text = chat.read(source)
            n_interrupts = 0
            handle(chat, text)
        except EOFError:
            break
        except KeyboardInterrupt:
            n_interrupts += 1
            if n_interrupts > 1 or not source.on_terminal:
                raise
            chat.view.note("Ctrl-C once more ends the chat, as Ctrl-D and /quit do")
        except argparse.ArgumentTypeError as error:
            chat.refuse(str(error))
    return EXIT_DONE


def handle(chat: Chat, text: str) -> None:
    if text.startswith("//"):
        chat.send(text[1:])
    elif text.startswith("/"):
        chat_commands.run(chat, text)
    elif text.strip():
        chat.send(text)


if __name__ == "__main__":
    sys.exit(main())
