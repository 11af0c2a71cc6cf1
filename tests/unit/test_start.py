"""quantlab start: a working copy that keeps what a learner did, and a real JupyterLab that ends when it should."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import psutil
import pytest

from quantlab.assets import bundled
from quantlab.errors import QuantlabError, UsageError
from quantlab.start.jupyter import HOST, free_port
from quantlab.start.opening import choose_folder, find_lesson, prepare
from quantlab.start.working_copy import MANIFEST, Change, lay_out


@pytest.fixture
def home(tmp_path):
    """A small stand-in for what is bundled: two lessons, a lab, and what is not to be copied."""
    files = {
        "lessons/01_one.ipynb": '{"cells": []}',
        "lessons/02_two.ipynb": '{"cells": [2]}',
        "labs/01_lab.ipynb": '{"cells": [1]}',
        "lessons/text/01_one.py": "# twin",
        "lessons/.ipynb_checkpoints/01_one-checkpoint.ipynb": "{}",
    }
    for name, text in files.items():
        path = tmp_path / "home" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "home"


def sources(home):
    return {"lessons": home / "lessons", "labs": home / "labs"}


def changes(home, folder):
    return {step.path: step.change for step in lay_out(sources(home), folder)}


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


ALL = ("labs/01_lab.ipynb", "lessons/01_one.ipynb", "lessons/02_two.ipynb")


def test_a_new_folder_gets_every_notebook_and_no_twins(home, tmp_path):
    folder = tmp_path / "mine"
    assert changes(home, folder) == dict.fromkeys(ALL, Change.WRITTEN)
    assert files(folder) == {*ALL, MANIFEST}


def test_laying_out_twice_changes_nothing(home, tmp_path):
    folder = tmp_path / "mine"
    lay_out(sources(home), folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.ipynb")}
    assert changes(home, folder) == dict.fromkeys(ALL, Change.SAME)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.ipynb")} == before


def test_what_was_not_touched_is_updated_and_what_was_edited_is_kept(home, tmp_path):
    folder = tmp_path / "mine"
    lay_out(sources(home), folder)
    (folder / "lessons/01_one.ipynb").write_text("mine")
    (folder / "labs/01_lab.ipynb").write_text("mine too")
    (home / "lessons/01_one.ipynb").write_text("newer")
    (home / "lessons/02_two.ipynb").write_text("newer two")
    assert changes(home, folder) == {
        "lessons/01_one.ipynb": Change.BESIDE,  # both changed
        "lessons/02_two.ipynb": Change.UPDATED,
        "labs/01_lab.ipynb": Change.KEPT,  # only the learner did
    }
    assert (folder / "lessons/01_one.ipynb").read_text() == "mine"
    assert (folder / "lessons/01_one.new.ipynb").read_text() == "newer"
    assert (folder / "lessons/02_two.ipynb").read_text() == "newer two"
    assert files(folder) == {*ALL, "lessons/01_one.new.ipynb", MANIFEST}
    assert changes(home, folder)["lessons/01_one.ipynb"] == Change.KEPT  # told once, not at every start


def test_an_edited_new_version_is_kept_too(home, tmp_path):
    folder = tmp_path / "mine"
    lay_out(sources(home), folder)
    (folder / "lessons/01_one.ipynb").write_text("mine")
    for text in ("second", "third"):  # nobody touched NAME.new.ipynb: it is replaced
        (home / "lessons/01_one.ipynb").write_text(text)
        lay_out(sources(home), folder)
        assert (folder / "lessons/01_one.new.ipynb").read_text() == text
    (folder / "lessons/01_one.new.ipynb").write_text("mine as well")
    (home / "lessons/01_one.ipynb").write_text("fourth")
    lay_out(sources(home), folder)
    assert (folder / "lessons/01_one.new.ipynb").read_text() == "mine as well"
    assert (folder / "lessons/01_one.new2.ipynb").read_text() == "fourth"
    assert (folder / "lessons/01_one.ipynb").read_text() == "mine"


def test_a_file_that_was_there_before_us_is_kept(home, tmp_path):
    folder = tmp_path / "mine"
    (folder / "lessons").mkdir(parents=True)
    (folder / "lessons/01_one.ipynb").write_text("theirs")
    assert changes(home, folder)["lessons/01_one.ipynb"] == Change.BESIDE
    assert (folder / "lessons/01_one.ipynb").read_text() == "theirs"


def test_a_deleted_notebook_comes_back_fresh(home, tmp_path):
    folder = tmp_path / "mine"
    lay_out(sources(home), folder)
    (folder / "lessons/01_one.ipynb").unlink()
    assert changes(home, folder)["lessons/01_one.ipynb"] == Change.WRITTEN


def test_an_interrupted_layout_is_completed_by_the_next(home, tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    from quantlab.start import working_copy

    copy, done = working_copy._copy, []

    def interrupted(source, target):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(target)
        copy(source, target)

    monkeypatch.setattr(working_copy, "_copy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lay_out(sources(home), folder)
    assert not any(name.endswith(".part") for name in files(folder))
    monkeypatch.setattr(working_copy, "_copy", copy)
    assert sorted(changes(home, folder).values(), key=str) == [Change.SAME, Change.SAME, Change.WRITTEN]
    assert json.loads((folder / MANIFEST).read_text())["files"].keys() == set(ALL)


def test_a_damaged_manifest_is_one_sentence_and_nothing_is_lost(home, tmp_path):
    folder = tmp_path / "mine"
    lay_out(sources(home), folder)
    (folder / "lessons/01_one.ipynb").write_text("mine")
    for text in ("{", "[]", '{"files": [1]}', '{"files": {"a": 1}}'):
        (folder / MANIFEST).write_text(text)
        with pytest.raises(QuantlabError, match="is damaged; delete it and run this again"):
            lay_out(sources(home), folder)
    assert (folder / "lessons/01_one.ipynb").read_text() == "mine"
    (folder / MANIFEST).unlink()
    assert changes(home, folder)["lessons/01_one.ipynb"] == Change.BESIDE


def test_which_folder_is_opened(home, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert choose_folder(home, tmp_path / "mine") == tmp_path / "mine"
    assert choose_folder(home, None) == tmp_path / "me" / "quantlab"  # installed: a copy
    (home / "pyproject.toml").touch()
    assert choose_folder(home, None) == home  # a checkout: in place


def test_a_checkout_is_never_laid_out_over_itself(home):
    (home / "pyproject.toml").touch()
    before, said = files(home), []
    assert prepare(home, None, said.append) == home
    assert prepare(home, home, said.append) == home
    assert files(home) == before
    assert any("opening the lessons of this checkout" in line for line in said)


def test_the_lesson_by_its_number(home, tmp_path):
    lay_out(sources(home), tmp_path / "mine")
    (tmp_path / "mine/lessons/01_one.new.ipynb").touch()
    assert find_lesson(tmp_path / "mine", 1) == "lessons/01_one.ipynb"
    with pytest.raises(UsageError, match="there is no lesson 7; known: 1, 2"):
        find_lesson(tmp_path / "mine", 7)


def listening():
    taken = socket.socket()
    taken.bind((HOST, 0))
    taken.listen()
    return taken, taken.getsockname()[1]


def test_a_port_in_use(monkeypatch):
    taken, port = listening()
    with contextlib.closing(taken):
        with pytest.raises(QuantlabError, match=f"port {port} .*in use"):
            free_port(port)
        monkeypatch.setattr("quantlab.start.jupyter.FIRST_PORT", port)
        assert free_port() > port
    assert free_port(port) == port


def test_a_port_in_use_on_the_command_line(run_cli, tmp_path):
    taken, port = listening()
    with contextlib.closing(taken):
        run_cli("start", tmp_path / "mine", "--no-browser", "--port", port).must_say(1, str(port), "in use")


def test_an_unknown_lesson_on_the_command_line(run_cli, tmp_path):
    run_cli("start", tmp_path / "mine", "--lesson", 77).must_say(2, "there is no lesson 77")


def status(url: str, **headers: str) -> int:
    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *args: object) -> None:
            return None

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), Stay)
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@contextlib.contextmanager
def started(folder):
    process = subprocess.Popen(
        [sys.executable, "-m", "quantlab.cli", "start", str(folder), "--no-browser"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        url = process.stdout.readline().strip()
        assert url, process.stderr.read()
        yield process, url, psutil.Process(process.pid).children(recursive=True)
    finally:
        process.kill()
        process.communicate(timeout=60)


def command_of(process: psutil.Process) -> str:
    """Its argument list; empty once it has ended, as JupyterLab's short-lived helpers do."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def gone(processes, within_s=15.0):
    return not psutil.wait_procs(processes, timeout=within_s)[1]


def test_jupyterlab_opens_on_the_lesson_and_ends_with_its_kernels_on_ctrl_c(tmp_path):
    with started(tmp_path) as (process, url, family):
        lesson = find_lesson(bundled("lessons").parent, 1)
        link, _, token = url.partition("?token=")
        assert link.startswith(f"http://{HOST}:")
        assert link.endswith(f"/lab/tree/{lesson}")
        root = link.split("/lab/")[0]
        assert status(url) == 200
        assert status(link) in (302, 403)
        assert status(f"{root}/api/contents/{lesson}") == 403
        assert status(f"{root}/api/contents/{lesson}", Authorization=f"token {token}") == 200
        assert not any(token in command_of(member) for member in family)  # every user could read it there

        ask = urllib.request.Request(f"{root}/api/kernels", b"{}", {"Authorization": f"token {token}"}, method="POST")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(ask, timeout=60) as answer:
            assert answer.status == 201
        family = psutil.Process(process.pid).children(recursive=True)
        assert any("ipykernel" in command_of(member) for member in family)

        os.kill(process.pid, signal.SIGINT)
        assert process.wait(30) == 0
        assert gone(family)
        assert "ending JupyterLab" in process.stderr.read()
        with pytest.raises(urllib.error.URLError):
            status(url)


def test_jupyterlab_ends_when_its_owner_is_killed(tmp_path):
    with started(tmp_path) as (process, _, family):
        assert family
        process.kill()
        assert gone(family)


def test_jupyterlab_that_cannot_start_is_one_sentence(tmp_path, monkeypatch, run_cli):
    broken = tmp_path / "broken"
    (broken / "jupyterlab").mkdir(parents=True)
    (broken / "jupyterlab" / "__init__.py").write_text("raise ImportError('jupyterlab is damaged')")
    monkeypatch.setenv("PYTHONPATH", str(broken))
    begin = time.monotonic()
    run_cli("start", tmp_path / "mine", "--no-browser").must_say(1, "JupyterLab ended at once", "jupyterlab is damaged")
    assert time.monotonic() - begin < 30
