"""What is written appears whole or not at all, whoever dies in the middle; writers are really killed."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from autoprune import files
from autoprune.files import DiskError, disk, sweep, whole_directory, whole_file, write_text

# Each writer is a process of its own that reads files.py alone (quick), and dies where it is told to.
WRITER = f"""
import importlib.util, os, pathlib, signal, sys
spec = importlib.util.spec_from_file_location("files", {files.__file__!r})
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
where, how = pathlib.Path(sys.argv[1]), sys.argv[2]
die = lambda *_: signal.raise_signal(signal.SIGKILL)
if how == "swapping":  # on a system that cannot do it at once
    files._swap = lambda *_: False
    rename = pathlib.Path.rename
    pathlib.Path.rename = lambda self, to: die() if self.suffix == ".partial" else rename(self, to)
if how == "sweeping":
    files._put_back = die
if how != "contained":
    os.getpid = lambda: 4711
with files.whole_directory(where) as scratch:
    (scratch / "new").write_text("new")
    if how == "writing":
        die()
    if how == "waiting":
        print(scratch, flush=True)
        sys.stdin.readline()
"""


def write(path, how="well"):
    """A process of its own, of the same number each time."""
    return subprocess.run([sys.executable, "-c", WRITER, path, how], capture_output=True, text=True)


@pytest.mark.parametrize("how", ["writing", "swapping", "sweeping"])
@pytest.mark.parametrize("there", [False, True])
def test_a_writer_killed_at_any_moment_is_followed_by_one_of_the_same_number(tmp_path, how, there):
    place = tmp_path / "best"
    if there:
        place.mkdir()
        (place / "old").write_text("old")
    assert write(place, how).returncode == -9
    assert len(list(tmp_path.glob(".best.*"))) >= (how != "sweeping" or there)  # something was left
    sweep(place)  # as every check of a target does
    assert list(tmp_path.iterdir()) == ([place] if there or how == "sweeping" else [])
    if there:
        assert [p.name for p in place.iterdir()] == ["new" if how == "sweeping" else "old"]
    assert write(place, how).returncode == -9
    done = write(place)
    assert (done.returncode, done.stderr) == (0, "")
    assert [p.name for p in place.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [place]


CONTAINER = ["unshare", "--pid", "--fork", "--kill-child"]


@pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run([*CONTAINER, "true"], capture_output=True).returncode != 0,
    reason="containers are not allowed here",
)
def test_the_first_process_of_a_container_is_followed_by_that_of_the_next(tmp_path):
    place = tmp_path / "best"
    script = WRITER.replace("    die()", "    print(os.getpid(), flush=True); sys.stdin.readline()")
    script = script.replace('how == "writing"', 'how == "contained"')
    command = [*CONTAINER, sys.executable, "-c", script, place, "contained"]
    first = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "1\n"
    assert len(list(tmp_path.glob(".best.*.partial"))) == 1
    first.kill()  # and with it the container
    first.communicate()
    done = subprocess.run([*CONTAINER, sys.executable, "-c", WRITER, place, "well"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == [place]


def test_what_a_live_process_writes_is_not_swept(tmp_path):
    place = tmp_path / "best"
    command = [sys.executable, "-c", WRITER, place, "waiting"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        scratch = Path(other.stdout.readline().strip())
        sweep(place)
        write_text(place.with_name("best.txt"), "of another name")
        assert (scratch / "new").read_text() == "new"
        other.communicate("\n")
    assert other.returncode == 0
    assert (place / "new").read_text() == "new"


def test_a_sweeper_that_comes_before_the_lock_costs_a_name(tmp_path, monkeypatch):
    def swept(partial):
        partial.mkdir()
        if len(made) < 2:
            shutil.rmtree(partial)
            partial.touch()  # `os.open` finds something, which is gone when the lock is there
            monkeypatch.setattr(Path, "exists", lambda self, **_: self != partial and os.path.lexists(self))
        made.append(partial)

    made = []
    with files._scratch(tmp_path / "best", swept) as partial:
        assert partial == made[2]
        assert len(set(made)) == 3


def test_files_of_dead_writers_are_swept_by_the_next(tmp_path):
    (tmp_path / ".report.html.12345678.partial").write_text("half")
    (tmp_path / ".report.html.12345678.partialnot").write_text("a user's")
    (tmp_path / ".other.html.12345678.partial").write_text("not of this name")
    write_text(tmp_path / "report.html", "whole\n")
    found = sorted(p.name for p in tmp_path.iterdir())
    assert found == [".other.html.12345678.partial", ".report.html.12345678.partialnot", "report.html"]
    assert (tmp_path / "report.html").read_text() == "whole\n"


def fail_in_the_middle(path, error):
    with whole_file(path) as file:
        file.write(b"half")
        raise error


def test_a_block_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "a [b].txt"
    write_text(path, "before")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(KeyError):
        fail_in_the_middle(path, KeyError())
    with pytest.raises(DiskError, match=r"b\].txt': cannot be written \(No space left on device\); free some space"):
        fail_in_the_middle(path, full)
    with pytest.raises(DiskError, match="Not a directory"), whole_directory(path, replace=False):
        pass
    assert (path.read_text(), list(tmp_path.iterdir())) == ("before", [path])


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.ENOSPC, "free some space or choose another place"),
        (errno.EROFS, "make it writable or choose another place"),
        (errno.ENOENT, "was its directory removed"),
        (errno.ESTALE, "is the file server there"),
        (errno.EFBIG, "allow larger files"),
    ],
)
def test_the_way_out_is_that_of_the_cause(number, cure):
    with pytest.raises(DiskError, match=rf"'x': cannot be written \({os.strerror(number)}\); {cure}"), disk(Path("x")):
        raise OSError(number, os.strerror(number))
