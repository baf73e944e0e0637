"""Files on disk: replaced whole or not at all, and folders that one process at a time writes.

A file gets its name only when it is complete and on the disk, so that a full disk or a killed process leaves the old one.
"""

import contextlib
import errno
import json
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # a dependency of accelerate

from igm import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_FILE, PID_FILE = ".lock", ".lock.pid"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what a file system without locks says
_held: set[int] = set()  # descriptors of this process's locks


def replace_text(path: str | Path, text: str) -> None:
    """Write a text file (UTF-8), or leave what was there; raises as `replace_file`."""
    replace_file(path, lambda temporary: temporary.write_bytes(text.encode()))


def replace_json(path: str | Path, value: object) -> None:
    """Write a value as a JSON file, or leave what was there.

    Raises:
        ValueError: it is no JSON value (nan and infinity are none); nothing is touched. OSError: as `replace_file`.
    """
    replace_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def replace_file(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a new file beside `path`, then give it that name.

    The new file has a name that nobody can guess and is created by this process, so that no link which somebody planted is
    followed; where `path` itself is a link, the link is replaced and what it points to stays. No failure leaves it behind.

    Args:
        path: the file to be there afterwards; its folder must exist.
        write: fills the file whose path it gets; the suffix is that of `path`.

    Raises:
        OSError: with a cause and `path`: the disk is full, or the folder cannot be written; the old file is still there.
    """
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(16)}.tmp{path.suffix}")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            write(temporary)
            write_through(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:  # image encoders raise some without number
        if error.filename not in (None, str(temporary)):
            raise  # about another file, which `write` reads
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error
    if os.name == "posix":
        write_through(path.parent)


def write_through(path: Path) -> None:
    """Have the system write a file's content, or a folder's names, to the disk."""
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Be the only process that writes a folder, which is made if need be; the end of the process, too, frees it.

    Raises:
        UserError: another process is writing there; said at once, with its number.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    file, handle = take_lock(folder / LOCK_FILE) if fcntl else take_file(folder / PID_FILE)
    _held.add(handle)
    try:
        yield
    finally:
        if handle in _held:  # not so in a forked child
            _held.discard(handle)
            if os.name != "posix":
                os.close(handle)  # an open file keeps its name there
            file.unlink(missing_ok=True)
            if os.name == "posix":
                os.close(handle)  # after its name is gone: who waited for it makes a new one


def take_lock(file: Path) -> tuple[Path, int]:
    """Create and lock a file by the system's means, which end with the process; return it and its descriptor."""
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if same_file(handle, file):
                os.ftruncate(handle, 0)
                sign(handle)
                return file, handle
        except BlockingIOError:
            os.close(handle)
            raise taken(file) from None
        except OSError as error:
            file.unlink(missing_ok=True)
            os.close(handle)
            if error.errno in NO_LOCKS:
                return take_file(file.with_name(PID_FILE))
            raise OSError(error.errno, error.strerror, str(file)) from error
        os.close(handle)  # its owner removed it between the two calls: once more


def take_file(file: Path) -> tuple[Path, int]:
    """Where there are no locks: a file with this process's number; that of a process which ended is taken over."""
    for _ in range(2):
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            pid, host = owner(file)
            if pid is None or host != socket.gethostname() or psutil.pid_exists(pid):
                break
            file.unlink(missing_ok=True)
        else:
            sign(handle)
            return file, handle
    raise taken(file)


def sign(handle: int) -> None:
    """Write into a lock file whose it is."""
    os.write(handle, f"{os.getpid()} {socket.gethostname()}\n".encode())


def same_file(handle: int, file: Path) -> bool:
    """Whether a descriptor is of the file that now has this name."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), os.stat(file))
    return False


def owner(file: Path) -> tuple[int | None, str]:
    """Process number and machine in a lock file; None where it says nothing (yet)."""
    with contextlib.suppress(OSError, ValueError):
        pid, host = file.read_text().split()
        return int(pid), host
    return None, ""


def taken(file: Path) -> UserError:
    """The error that says who writes a folder."""
    pid, host = owner(file)
    who = "another process" if pid is None else f"process {pid} on {host}"
    return UserError(f"{file.parent} is being written by {who}; wait for it, end it, or choose another --output_dir")


def _forget_locks() -> None:
    """A forked child (a loader's worker) holds no lock of its parent, which may end before it."""
    for handle in _held:
        os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)
