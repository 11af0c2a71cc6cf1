"""Files and folders are written whole or not at all, whatever happens in between."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from quantlab import atomic
from quantlab.atomic import explained, new_file, new_folder, reason, require_space, write_text
from quantlab.errors import QuantlabError


def write_half_of_a_file(target, fault):
    with new_file(target) as part:
        part.write_text("half")
        fault()


def write_half_of_a_folder(target, fault):
    with new_folder(target) as part:
        (part / "a").write_text("half")
        fault()


def raising(error):
    def fault(*args, **kwargs):
        raise error

    return fault


def test_a_file_appears_whole(tmp_path):
    target = tmp_path / "out.json"
    with new_file(target) as part:
        part.write_text("half")
        assert not target.exists()
        part.write_text("whole")
    assert target.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [target]
    assert target.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), SystemExit(143)])
def test_what_breaks_off_leaves_the_old_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "out.json"
    target.write_text("old")
    with pytest.raises(type(error)):
        write_half_of_a_file(target, raising(error))
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_appears_whole(tmp_path):
    target = tmp_path / "deep" / "model"
    with new_folder(target) as part:
        (part / "sub").mkdir()
        (part / "sub" / "a").write_text("a")
        assert not target.exists()
    assert (target / "sub" / "a").read_text() == "a"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_a_folder_that_breaks_off_is_gone(tmp_path, error):
    with pytest.raises(type(error)):
        write_half_of_a_folder(tmp_path / "model", raising(error))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_never_written_over(tmp_path):
    (tmp_path / "model").mkdir()
    with (
        pytest.raises(QuantlabError, match="model exists already; choose another name"),
        new_folder(tmp_path / "model"),
    ):
        pytest.fail("the work must not begin")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full; free some space"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "the folder is read-only; choose one that you can write to"),
        (errno.EACCES, "permission denied; choose a place that you may use"),
        (errno.EIO, "the disk reports an error"),
    ],
)
@pytest.mark.parametrize("where", ["write", "sync", "replace"])
def test_a_fault_of_the_disk_is_one_sentence_and_nothing_stays(tmp_path, monkeypatch, number, said, where):
    target, fault = tmp_path / "out.json", raising(OSError(number, os.strerror(number)))
    if where != "write":
        monkeypatch.setattr(atomic.os, {"sync": "fsync", "replace": "replace"}[where], fault)
    with pytest.raises(QuantlabError) as caught:
        write_half_of_a_file(target, fault if where == "write" else lambda: None)
    assert str(caught.value).startswith(f"cannot write {target}: {said}")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_is_expected(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(QuantlabError, match="a part of the path is a file, not a folder; choose another path"):
        write_text(tmp_path / "file" / "out", "x")
    with pytest.raises(QuantlabError, match=r"cannot write .*: a file of that name is in the way; choose another path"):
        write_half_of_a_folder(tmp_path / "file" / "out", lambda: None)


def test_a_folder_where_a_file_is_expected(tmp_path):
    (tmp_path / "out.json").mkdir()
    with pytest.raises(QuantlabError, match=r"cannot write .*out\.json: it is a folder; name a file in it instead"):
        write_text(tmp_path / "out.json", "x")
    assert list((tmp_path / "out.json").iterdir()) == []
    assert list(tmp_path.iterdir()) == [tmp_path / "out.json"]


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(QuantlabError, match=r"cannot write .*: it does not exist; check the path"):
        write_text(tmp_path / "no" / "out.json", "x")


def test_an_error_about_another_file_names_that_file(tmp_path):
    with pytest.raises(QuantlabError, match="cannot use /nowhere/source: it does not exist"):
        write_half_of_a_file(tmp_path / "out.json", lambda: Path("/nowhere/source").read_text())
    with pytest.raises(OSError, match="a library's own"), explained(tmp_path):
        raise OSError("a library's own")


def test_an_error_that_nobody_foresaw_keeps_the_system_s_words():
    assert reason(OSError(errno.EMLINK, "Too many links")) == "Too many links"


def test_too_little_space_is_found_before_the_work(tmp_path):
    require_space(tmp_path / "not" / "yet" / "there", 1, "a test")
    with pytest.raises(QuantlabError, match=r"a test needs [\d,]+ MiB in .*, where [\d,]+ MiB are free; free some"):
        require_space(tmp_path / "not" / "yet" / "there", 2**60, "a test")


@pytest.mark.parametrize("block", ["new_file", "new_folder"])
def test_kill_9_never_leaves_a_target(tmp_path, block):
    target = tmp_path / "target"
    code = (
        "import os, sys, signal\nfrom pathlib import Path\nfrom quantlab import atomic\n"
        f"with atomic.{block}(Path({str(target)!r})) as part:\n"
        "    (part / 'a' if part.is_dir() else part).write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not target.exists()
    assert all(path.name.startswith(".target.") and path.name.endswith(".part") for path in tmp_path.iterdir())
