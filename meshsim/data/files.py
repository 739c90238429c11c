"""Small files written whole or not at all, and the lock of a folder."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from meshsim.check import InputError, WorkError, one_line

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT}
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}


@contextlib.contextmanager
def writing_to(path: Path, what: str = "") -> Iterator[None]:
    """Turn operating-system errors into one line: refused → InputError, failed → WorkError."""
    try:
        yield
    except OSError as error:
        reason = one_line(error.strerror or error)
        where = f"{path}: cannot write{' ' + what if what else ''}: {reason}"
        if error.errno in _REFUSED:
            raise InputError(where) from error
        hint = " (the same command carries on)" if error.errno in _FULL else ""
        raise WorkError(where + hint) from error


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file atomically: readers see the old one or the new one, whole."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            json.dump(data, file, ensure_ascii=False, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON: {one_line(error)}") from error


class Lock:
    """A lock file that names the process writing to a folder.

    The operating system holds the lock and drops it when the process ends in any way, so that a
    file left behind by a killed process is recognised as stale. Where the file system knows no
    locks, the process id in the file decides.

    Arguments:
        path: the lock file, inside the folder.
        what: what is being written to, for the message.
    """

    def __init__(self, path: Path, what: str):
        self.path, self.what = path, what
        self._fd: int | None = None

    def __enter__(self) -> Lock:
        with writing_to(self.path.parent):
            while True:
                fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
                try:
                    free = _try_lock(fd)
                    holder = _holder(fd)
                    # whoever held it may have removed the file between our open and our lock
                    current = os.path.exists(self.path) and os.path.samestat(
                        os.fstat(fd), os.stat(self.path)
                    )
                except BaseException:
                    os.close(fd)
                    raise
                if free is None:
                    free = not _alive(holder)
                if free and current:
                    break
                os.close(fd)
                if not free:
                    raise WorkError(
                        f"{self.path.parent}: another process is writing to {self.what} "
                        f"({_describe(holder)})"
                    )
            self._fd = fd
            try:
                os.ftruncate(fd, 0)
                os.pwrite(fd, json.dumps(_me()).encode(), 0)
            except BaseException:  # the disk is full: do not hold what nobody can read
                self.__exit__()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd is not None:
            self.path.unlink(missing_ok=True)  # before the lock goes, or another's would be removed
            os.close(self._fd)
            self._fd = None


def _try_lock(fd: int) -> bool | None:
    """True: we hold it; False: another process does; None: nobody can tell."""
    try:
        import fcntl

        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except ImportError:
        return None
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise


def _me() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}


def _holder(fd: int) -> dict[str, Any]:
    try:
        return dict(json.loads(os.pread(fd, 4096, 0)))
    except (ValueError, TypeError):
        return {}  # locked this instant, not yet written


def _alive(holder: dict[str, Any]) -> bool:
    pid = holder.get("pid")
    if not isinstance(pid, int):
        return False
    if holder.get("host") != socket.gethostname():
        return True  # cannot be asked: better to refuse
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _describe(holder: dict[str, Any]) -> str:
    if "pid" not in holder:
        return "process unknown"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.get("since", 0)))
    return f"process {holder['pid']} on {holder.get('host', '?')}, since {since}"
