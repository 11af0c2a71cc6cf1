"""The command line: `quantlab COMMAND`. Each command is imported only when it is called, so that `--help` is instant.

One place decides how things end:

    exit 0    done
    exit 1    it could not be done (a missing file, a full disk, no network): one sentence on stderr
    exit 2    the request itself is wrong (an unknown name, a value out of range): one sentence on stderr
    exit 130  interrupted with Ctrl-C; 143 and 129 likewise for SIGTERM and SIGHUP

A command may return an int: its exit code. `QUANTLAB_DEBUG=1` shows the traceback behind any of these.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NoReturn

import click

from quantlab import __version__
from quantlab.errors import QuantlabError

# name -> the module that holds its click command object, and the line that `quantlab --help` shows
COMMANDS = {
    "doctor": ("quantlab.commands.doctor", "What can this machine do, and what is missing?"),
    "start": ("quantlab.commands.start", "Open the lessons in JupyterLab."),
    "plan": ("quantlab.commands.plan", "Will a model fit a GPU, and what if not?"),
    "recipe": ("quantlab.commands.recipe", "What do the labs take on a GPU, and what to type?"),
    "compare": ("quantlab.commands.compare", "What does each format cost in quality, bytes and seconds?"),
    "serve": ("quantlab.commands.serve", "Serve a model on this machine, OpenAI-compatible."),
    "ask": ("quantlab.commands.ask", "Stream an answer from the server."),
    "loadtest": ("quantlab.commands.loadtest", "How does a running server bear many requests?"),
    "explain": ("quantlab.commands.explain", "What does a message of vLLM, CUDA, llama.cpp or the Hub mean?"),
    "quantize": ("quantlab.commands.quantize", "Make a quantized checkpoint, with any library."),
    "verify": ("quantlab.commands.verify", "Is a checkpoint whole, and does everything in it agree?"),
    "env": ("quantlab.commands.env", "Isolated environments for GPTQModel and vLLM."),
    "claims": ("quantlab.commands.claims", "Which well-known claims hold, and how we know."),
}


INTERRUPTED = "interrupted; nothing half-written was left behind"


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order a newcomer needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command and return its `command`; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command), cmd_name
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but an unknown command is answered with the nearest one."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            from quantlab.errors import unknown

            raise unknown("command", name, COMMANDS)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of commands, without importing one."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Each command has its own --help. An error is one sentence; QUANTLAB_DEBUG=1 shows what is behind it.",
)
@click.version_option(__version__, prog_name="quantlab")
def group() -> None:
    """quantlab: every quantization format from scratch, and every number measured."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command line (default: this process's own) and exit."""
    args = list(argv) if argv is not None else None
    sys.exit(guard(lambda: group.main(args=args, prog_name="quantlab", standalone_mode=False)))


def guard(work: Callable[[], Any]) -> int:
    """Run `work` and turn however it ends into an exit code and at most one sentence on stderr.

    >>> guard(lambda: None)
    0
    """
    told = _end_cleanly_when_told()
    try:
        result = work()
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except BrokenPipeError:  # `quantlab claims | head`: the reader has seen enough; click ends with 1 as well
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except KeyboardInterrupt as error:
        _say(INTERRUPTED, error)
        return 130
    except SystemExit as error:
        if told:
            _say(INTERRUPTED, error)
        raise
    except Exception as error:
        if told and not isinstance(error, QuantlabError):  # torch and transformers, while they are imported,
            _say(INTERRUPTED, error)  # turn Ctrl-C into an error of their own
            return 128 + told[-1]
        code, sentence = explain(error)
        _say(sentence, error)
        return code
    finally:
        exec("pass")  # CPython ends with SIGINT, whatever we return, if the last exec (a dataclass is one) met Ctrl-C


def explain(error: Exception) -> tuple[int, str]:
    """Exit code and sentence for an error."""
    if isinstance(error, QuantlabError):
        return error.exit_code, str(error)
    if isinstance(error, click.Abort):
        return 130, INTERRUPTED
    if isinstance(error, click.ClickException):
        return error.exit_code, _usage(error)
    if isinstance(error, MemoryError):
        return 1, "the memory is used up; close other programs or choose a smaller model"
    if isinstance(error, OSError) and error.errno is not None:
        from quantlab.atomic import reason

        return 1, f"cannot use {error.filename}: {reason(error)}" if error.filename else reason(error)
    return 1, (
        f"unexpected {type(error).__name__}: {_first_line(error)}. This is a fault of quantlab: please report it with "
        "the output of `quantlab doctor --json` and what QUANTLAB_DEBUG=1 shows when you run the same command again"
    )


def _usage(error: click.ClickException) -> str:
    message = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{message}; see `{context.command_path if context else 'quantlab'} --help`"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0].rstrip(".")


def _say(sentence: str, error: BaseException) -> None:
    if os.environ.get("QUANTLAB_DEBUG", "") not in ("", "0"):
        traceback.print_exception(error)
    click.echo(f"quantlab: {sentence}", err=True)


def _end_cleanly_when_told() -> list[int]:
    """Signals unwind the stack, so that temporary files go and child processes are ended; lists those that came."""
    told: list[int] = []

    def leave(number: int, frame: FrameType | None) -> None:
        if _at_a_bad_moment(frame):
            again = threading.Timer(0.05, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
            return
        told.append(number)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    if threading.current_thread() is threading.main_thread():
        ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # nohup, a background job of a shell, or an owner that set its own, keeps its way
            if signal.getsignal(number) is signal.SIG_DFL or (number == signal.SIGINT and ours):
                signal.signal(number, leave)
    return told


def _at_a_bad_moment(frame: FrameType | None) -> bool:
    """Whether an exception would be lost here: importlib's callbacks swallow it, torch's C++ code aborts at it."""
    if frame is not None and frame.f_code.co_filename.startswith("<frozen importlib"):
        return True
    torch = (module for name, module in list(sys.modules.items()) if name.partition(".")[0] == "torch")
    return any(getattr(getattr(module, "__spec__", None), "_initializing", False) for module in torch)


if __name__ == "__main__":
    main()
