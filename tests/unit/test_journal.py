"""The file under the ledger: whole records or none, whatever happens."""

import itertools
import multiprocessing as mp
import os
import resource
import subprocess
import warnings

import pytest

from autoprune.errors import LedgerUnwritable
from autoprune.ledger import journal
from autoprune.ledger.journal import BLOCK, Journal


def log(i, size=0):
    return {"op_code": 8, "i": i, "fill": "x" * size}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.log"


def test_what_is_appended_is_read_from_any_number(path):
    writer = Journal(path)
    writer.append_logs([log(0), log(1)])
    reader = Journal(path, read_only=True)
    assert reader.read_logs(0) == [log(0), log(1)]
    writer.append_logs([log(2)])
    assert reader.read_logs(2) == [log(2)]  # the usual next one
    assert reader.read_logs(1) == [log(1), log(2)]  # an earlier one again
    assert reader.read_logs(3) == []


@pytest.mark.parametrize("size", [0, 10, BLOCK - 30, BLOCK, 3 * BLOCK])
@pytest.mark.parametrize("torn", [b"{", b'{"op_code":6,"trial' * 500, b"\0" * 5000])
def test_a_torn_tail_is_not_read_and_is_cut_by_the_next_writer(path, size, torn):
    Journal(path).append_logs([log(0, size)])
    with open(path, "ab") as file:
        file.write(torn)
    assert Journal(path).read_logs(0) == [log(0, size)]
    Journal(path).append_logs([log(1)])
    assert Journal(path).read_logs(0) == [log(0, size), log(1)]


def test_a_file_that_is_all_torn_becomes_empty(path):
    path.write_bytes(b"x" * (BLOCK + 1))
    Journal(path).append_logs([log(0)])
    assert Journal(path).read_logs(0) == [log(0)]


def test_two_writers_at_once_lose_and_mix_nothing(path):
    def write(which):
        mine = Journal(path)
        for i in range(100):
            mine.append_logs([log(which * 1000 + i, 300)])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork of a threaded process, Python >= 3.12
        writers = [mp.get_context("fork").Process(target=write, args=(k,)) for k in (1, 2)]
        for process in writers:
            process.start()
    for process in writers:
        process.join()
    read = [x["i"] for x in Journal(path).read_logs(0)]
    assert [i for i in read if i < 2000] == list(range(1000, 1100))
    assert [i for i in read if i >= 2000] == list(range(2000, 2100))


def test_a_spoilt_line_is_named(path):
    Journal(path).append_logs([log(0)])
    with open(path, "ab") as file:
        file.write(b"\xff\xfe\n")
    with pytest.raises(ValueError, match=r"ledger\.log': line 2 is no journal record .*restore it from a copy"):
        Journal(path).read_logs(0)


def test_a_missing_file_is_not_made_by_a_reader_nor_by_a_later_append(path):
    with pytest.raises(ValueError, match="no such file"):
        Journal(path, read_only=True)
    writer = Journal(path)
    path.unlink()
    with pytest.raises(LedgerUnwritable, match="No such file"):
        writer.append_logs([log(0)])
    assert not path.exists()


def test_a_reader_cannot_write(path):
    Journal(path)
    with pytest.raises(LedgerUnwritable, match="reading only"):
        Journal(path, read_only=True).append_logs([log(0)])
    assert path.read_bytes() == b""


def test_a_record_that_does_not_fit_leaves_no_trace(path):
    """A limit on the file size cuts a write in the middle, as a full disk does."""
    writer = Journal(path)
    writer.append_logs([log(0)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, hard))
    try:
        with pytest.raises(LedgerUnwritable, match=r"ledger\.log': cannot be written .*safe.*`autoprune resume"):
            writer.append_logs([log(1, 500)])
        assert writer.read_logs(0) == [log(0)]
        assert path.read_bytes().endswith(b"\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    writer.append_logs([log(1, 500)])
    assert writer.read_logs(0) == [log(0), log(1, 500)]


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_tried_again_then_said(tiny_disk, monkeypatch):
    path = tiny_disk / "ledger.log"
    writer = Journal(path)
    fill = tiny_disk / "other"
    fill.write_bytes(b"x" * 60 * 1024)
    monkeypatch.setattr(journal, "PAUSES_S", (0.01, 0.01))

    def append_for_ever():
        for i in itertools.count():
            writer.append_logs([log(i, 1000)])

    with pytest.raises(LedgerUnwritable, match="No space left"):
        append_for_ever()
    kept = writer.read_logs(0)
    assert kept == [log(i, 1000) for i in range(len(kept))]
    assert path.read_bytes().endswith(b"\n")
    monkeypatch.setattr(journal.time, "sleep", lambda s: fill.unlink(missing_ok=True))  # space is freed in the pause
    writer.append_logs([log(99, 1000)])
    assert writer.read_logs(0) == [*kept, log(99, 1000)]


def test_a_read_only_disk_is_said_at_once(tiny_disk):
    path = tiny_disk / "ledger.log"
    writer = Journal(path)
    writer.append_logs([log(0)])
    subprocess.run(["mount", "-o", "remount,ro", tiny_disk], check=True)
    with pytest.raises(LedgerUnwritable, match="Read-only file system"):
        writer.append_logs([log(1)])
    assert Journal(path, read_only=True).read_logs(0) == [log(0)]
    with pytest.raises(LedgerUnwritable, match="Read-only file system"):
        Journal(tiny_disk / "new.log")
    assert os.listdir(tiny_disk) == ["ledger.log"]
