"""Files are replaced whole or not at all; a folder has one writer at a time."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

import igm.files
from igm import UserError
from igm.files import locked, replace_file, replace_json, replace_text, take_file

HOLD = (
    "import sys, time; from igm.files import locked\nwith locked(sys.argv[1]): print('in', flush=True); time.sleep(60)"
)
FORKED = (
    "import os, sys, time; from igm.files import locked\nwith locked(sys.argv[1]):\n"
    "    pid = os.fork()\n    if pid: print(pid, flush=True)\n    time.sleep(60)"
)


def start(code: str, *args) -> subprocess.Popen:
    """A process of its own that has said its first line, kept in `.line`."""
    command = [sys.executable, "-c", code, *map(str, args)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.line = process.stdout.readline().strip()
    return process


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of `tmp_path / "run"`."""
    process = start(HOLD, tmp_path / "run")
    assert process.line == "in", process.stderr.read()
    yield process
    process.kill()
    process.communicate()


# Replacing


def test_replaces_and_leaves_nothing_else(tmp_path):
    replace_json(tmp_path / "a.json", {"a": [1, 2.5, None], "é": "ü"})
    replace_text(tmp_path / "b.txt", "one\ntwo\n")
    replace_file(tmp_path / "c.bin", lambda temporary: temporary.write_bytes(b"x" * 10))
    replace_text(tmp_path / "b.txt", "three")
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1, 2.5, None], "é": "ü"}
    assert (tmp_path / "b.txt").read_bytes() == b"three" and (tmp_path / "c.bin").read_bytes() == b"x" * 10
    assert {p.name for p in tmp_path.iterdir()} == {"a.json", "b.txt", "c.bin"}


def test_the_new_file_has_the_mode_that_any_file_gets(tmp_path):
    (tmp_path / "plain").write_text("x")
    replace_text(tmp_path / "new", "x")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("fault", [ValueError("no"), KeyboardInterrupt(), OSError("encoder error -2")])
def test_a_failing_writer_leaves_the_old_file(tmp_path, fault):
    file = tmp_path / "a.png"
    file.write_text("old")

    def write(temporary):
        assert temporary.parent == tmp_path and temporary.suffix == ".png"
        temporary.write_text("half")
        raise fault

    with pytest.raises(type(fault)) as caught:
        replace_file(file, write)
    if isinstance(fault, OSError):
        assert caught.value.filename == str(file) and caught.value.strerror == "encoder error -2"
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


def test_no_json_touches_nothing(tmp_path):
    for value in (float("nan"), {"a": float("inf")}, {1, 2}):
        with pytest.raises((ValueError, TypeError)):
            replace_json(tmp_path / "a.json", value)
    assert not list(tmp_path.iterdir())


def test_a_planted_link_is_replaced_not_followed(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.json").symlink_to(victim)
    replace_json(tmp_path / "out" / "a.json", 1)
    assert victim.read_text() == "precious" and not (tmp_path / "out" / "a.json").is_symlink()
    monkeypatch.setattr(igm.files.secrets, "token_hex", lambda size: "guessed")
    (tmp_path / "out" / ".guessed.tmp.json").symlink_to(victim)
    with pytest.raises(FileExistsError):
        replace_json(tmp_path / "out" / "a.json", 2)
    assert victim.read_text() == "precious"


def test_errors_name_the_file_and_the_cause(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        replace_text(tmp_path / "none" / "a.txt", "x")
    assert caught.value.filename == str(tmp_path / "none" / "a.txt") and caught.value.strerror
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError) as caught:
        replace_text(tmp_path / "folder", "x")
    assert caught.value.filename == str(tmp_path / "folder")
    with pytest.raises(FileNotFoundError) as caught:  # about what the writer reads
        replace_file(tmp_path / "a.txt", lambda temporary: temporary.write_bytes((tmp_path / "source").read_bytes()))
    assert caught.value.filename == str(tmp_path / "source")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


FULL = (
    "import resource, sys; from igm.files import replace_text\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    "try: replace_text(sys.argv[1], 'x' * 5000)\n"
    "except OSError as error: print(error.errno, error.strerror, error.filename, sep='|')"
)


def test_a_file_that_may_not_grow_keeps_the_old_one(tmp_path):
    file = tmp_path / "igm.json"
    file.write_text("old")
    process = start(FULL, file)
    process.communicate()
    number, cause, name = process.line.split("|")
    assert int(number) and cause and name == str(file)
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


def test_a_full_disk_keeps_the_old_file(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a small disk")
    try:
        (disk / "igm.json").write_text("old")
        with pytest.raises(OSError, match="No space left") as caught:
            replace_text(disk / "igm.json", "x" * 10**6)
        assert caught.value.filename == str(disk / "igm.json") and (disk / "igm.json").read_text() == "old"
        assert len(list(disk.iterdir())) == 1
    finally:
        subprocess.run(["umount", disk], check=True)


# One writer


def test_the_second_writer_is_told_at_once(tmp_path, holder):
    started = time.perf_counter()
    with pytest.raises(UserError) as caught, locked(tmp_path / "run"):
        pytest.fail("two writers")
    message = str(caught.value)
    assert str(tmp_path / "run") in message and str(holder.pid) in message and "--output_dir" in message
    assert "\n" not in message and time.perf_counter() - started < 1
    second = subprocess.run(
        [sys.executable, "-c", HOLD, tmp_path / "run"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert second.returncode and str(holder.pid) in second.stderr
    with locked(tmp_path / "other"):
        pass  # another folder is free


def test_the_end_of_a_writer_frees_the_folder(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(tmp_path / "run"):
        assert [p.name for p in (tmp_path / "run").iterdir()] == [".lock"]
    assert not list((tmp_path / "run").iterdir())


def test_an_error_frees_the_folder(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), locked(tmp_path):
            raise ZeroDivisionError
    with locked(tmp_path), pytest.raises(UserError), locked(tmp_path):
        pytest.fail("twice in one process")


def test_a_worker_that_outlives_its_parent_holds_no_lock(tmp_path):
    process = start(FORKED, tmp_path / "run")
    process.kill()
    process.wait()
    os.kill(int(process.line), 0)  # the child lives
    deadline = time.monotonic() + 10  # it lets the lock go as its first deed, which may not be done yet
    try:
        while True:
            try:
                with locked(tmp_path / "run"):
                    break
            except UserError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
    finally:
        os.kill(int(process.line), signal.SIGKILL)
        process.communicate()


@pytest.fixture
def no_locks(monkeypatch):
    """A system without locks, as Windows."""
    monkeypatch.setattr(igm.files, "fcntl", None)


def test_without_locks_the_second_writer_is_told(tmp_path, no_locks):
    with locked(tmp_path), pytest.raises(UserError, match=f"process {os.getpid()} "), locked(tmp_path):
        pytest.fail("two writers")
    assert not list(tmp_path.iterdir())


def test_without_locks_a_dead_writers_file_is_taken_over(tmp_path, no_locks):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    host = os.uname().nodename
    (tmp_path / ".lock.pid").write_text(f"{dead.stdout.strip()} {host}\n")
    with locked(tmp_path):
        assert (tmp_path / ".lock.pid").read_text().split()[0] == str(os.getpid())
    for content in (f"{dead.stdout.strip()} elsewhere\n", ""):  # of another machine, or not told yet
        (tmp_path / ".lock.pid").write_text(content)
        with pytest.raises(UserError):
            take_file(tmp_path / ".lock.pid")


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def flock(handle, kind):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(igm.files.fcntl, "flock", flock)
    with locked(tmp_path):
        assert [p.name for p in Path(tmp_path).iterdir()] == [".lock.pid"]
        with pytest.raises(UserError, match=str(os.getpid())), locked(tmp_path):
            pytest.fail("two writers")
    assert not list(tmp_path.iterdir())
