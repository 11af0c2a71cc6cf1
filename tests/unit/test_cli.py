"""The command line as a whole: what it lists, what it imports, how it ends."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import click
import pytest

import quantlab
from quantlab import cli
from quantlab.errors import QuantlabError, UsageError


def test_help_lists_every_command_with_its_line(run_cli):
    ended = run_cli("--help")
    assert ended.code == 0
    for name, (_, line) in cli.COMMANDS.items():
        assert f"  {name} " in ended.out
        assert line in ended.out


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_command_exists_and_has_help(run_cli, name):
    command = importlib.import_module(cli.COMMANDS[name][0]).command
    assert isinstance(command, click.Command)
    ended = run_cli(name, "--help")
    assert ended.code == 0
    assert f"Usage: quantlab {name}" in ended.out


def test_version(run_cli):
    ended = run_cli("--version")
    assert (ended.code, ended.out.strip()) == (0, f"quantlab, version {quantlab.__version__}")


def test_no_command_shows_the_help(run_cli):
    ended = run_cli()
    assert ended.code == 2
    assert "Commands:" in ended.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["strat"], "did you mean 'start'?"),
        (["--nope"], "No such option"),
        (["doctor", "--jsno"], "--json"),
        (["start", "--port", "seventy"], "--port"),
        (["start", "--port", "70000"], "--port"),
    ],
)
def test_a_wrong_request_is_one_sentence_and_exit_2(run_cli, words, expected):
    run_cli(*words).must_say(2, expected)


def ending(error: BaseException) -> object:
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (QuantlabError("the disk is full; free some"), 1, "the disk is full; free some"),
        (UsageError("unknown format"), 2, "unknown format"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (click.Abort(), 130, "interrupted"),
        (FileNotFoundError(2, "No such file or directory", "x.json"), 1, "cannot use x.json: it does not exist"),
        (OSError(28, "No space left on device"), 1, "the disk is full"),
        (MemoryError(), 1, "the memory is used up"),
        (RuntimeError("odd\nlines"), 1, "unexpected RuntimeError: odd. This is a fault of quantlab: please report"),
        (OSError("a library's own"), 1, "unexpected OSError: a library's own."),
    ],
)
def test_every_ending_has_its_exit_code_and_sentence(capfd, error, code, said):
    assert cli.guard(ending(error)) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert said in err


def test_the_traceback_is_shown_only_when_asked_for(capfd, monkeypatch):
    monkeypatch.setenv("QUANTLAB_DEBUG", "1")
    assert cli.guard(ending(RuntimeError("odd"))) == 1
    err = capfd.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("quantlab: unexpected RuntimeError: odd")


def test_an_interrupt_that_a_library_turned_into_its_own_error_is_still_an_interrupt():
    done = run_python(
        "import os, signal\n"
        "from quantlab import cli\n"
        "def work():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    except KeyboardInterrupt:\n"
        "        raise ModuleNotFoundError('Could not import module')\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "cli.sys.exit(cli.guard(work))\n"
    )
    assert (done.returncode, done.stderr) == (130, f"quantlab: {cli.INTERRUPTED}\n")


def test_a_command_may_return_its_exit_code():
    assert cli.guard(lambda: 3) == 3
    assert cli.guard(lambda: None) == 0
    assert cli.guard(lambda: {"not": "a code"}) == 0


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def test_sigterm_unwinds_so_that_nothing_half_written_stays(tmp_path):
    target = tmp_path / "out.json"
    done = run_python(
        "import os, signal\n"
        "from pathlib import Path\n"
        "from quantlab import atomic, cli\n"
        "def work():\n"
        f"    with atomic.new_file(Path({str(target)!r})) as part:\n"
        "        part.write_text('half')\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "cli.sys.exit(cli.guard(work))\n"
    )
    assert done.returncode == 143, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["--help"], ["claims", "M9", "--json"]])
def test_a_reader_that_has_seen_enough_ends_it_quietly(words):
    reader, writer = os.pipe()
    os.close(reader)  # gone before we write, as `quantlab claims | head` leaves it
    command = [sys.executable, "-m", "quantlab.cli", *words]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")
