"""The parent's side of reading: asks a guarded child, and outlives whatever a file does to it."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from meshsim.check import InputError, one_line
from meshsim.io import child, wire

SECONDS = 120.0  # for any file, and one second more for each of its
BYTES_A_SECOND = 1 << 20


class Crash(Exception):
    """The child ended, or took too long; the text says which."""


class Worker:
    """A child process that reads files, one request after another."""

    def __init__(self, memory: int):
        root = str(Path(__file__).resolve().parents[2])
        # relative places would be looked up in the folder we are in, beside strangers' files
        given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        places = [root, *filter(os.path.isabs, given)]
        self.memory = memory
        self.pid = os.getpid()
        # a socket, not a pipe: some libraries (gmsh) let a broken pipe end the whole process
        self.socket, theirs = socket.socketpair()
        if hasattr(socket, "SO_NOSIGPIPE"):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_NOSIGPIPE, 1)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "meshsim.io.child", str(memory)],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"},
            )

    def ask(self, request: dict[str, Any]) -> Any:
        """The child's answer.

        Raises:
            Crash: it ended or took longer than `request["seconds"]`.
            BrokenPipeError: it had ended before.
        """
        until = time.monotonic() + request["seconds"]

        def left() -> float:
            seconds = until - time.monotonic()
            if seconds <= 0:
                raise TimeoutError
            return seconds

        def fill(view: memoryview) -> None:
            while view:
                self.socket.settimeout(left())
                n = self.socket.recv_into(view)
                if n == 0:
                    self._raise_end()
                view = view[n:]

        try:
            data = memoryview(json.dumps(request).encode() + b"\n")
            while data:
                self.socket.settimeout(left())
                data = data[self.socket.send(data, getattr(socket, "MSG_NOSIGNAL", 0)) :]
            return wire.decode(fill, self.memory)
        except TimeoutError:
            raise Crash(f"reading it took longer than {request['seconds']:.0f} s") from None
        except ConnectionResetError:
            self._raise_end()
        except ValueError as error:
            raise Crash(f"its reader answered nonsense ({error})") from error

    def _raise_end(self) -> NoReturn:
        try:
            code = self.process.wait(5)
        except subprocess.TimeoutExpired:
            code = 0
        if code == 0:  # it ended while idle, just as we asked
            raise BrokenPipeError
        if code > 0:
            raise Crash(f"its reader ended (exit code {code})")
        name = signal.Signals(-code).name
        if name in ("SIGXCPU", "SIGKILL"):
            raise Crash(f"reading it took too long or too much memory ({name})")
        raise Crash(f"its reader crashed on it ({name}): a damaged file?")

    def close(self) -> None:
        """End the child."""
        if self.pid != os.getpid():
            return  # after a fork the child is another process's
        self.process.kill()
        with contextlib.suppress(Exception):
            self.process.wait(5)
        self.socket.close()


_lock = threading.Lock()
_worker: Worker | None = None


def start() -> None:
    """Start the child already, while this process loads what it needs to go on."""
    global _worker
    with _lock:
        if _worker is None:
            _worker = Worker(memory_limit())


def close() -> None:
    """End the child that is waiting for requests, if there is one."""
    global _worker
    if _worker is not None:
        _worker.close()
        _worker = None


def children() -> list[int]:
    """Process ids of the children that read for this process."""
    return [] if _worker is None else [_worker.process.pid]


atexit.register(close)


def _after_fork() -> None:
    global _worker, _lock
    _worker, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def memory_limit() -> int:
    """Bytes of address space that a reader may use: three quarters of the machine's memory."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        total = 8 << 30
    return max(2 << 30, total * 3 // 4)


def fetch(reader: str, path: Path, options: dict[str, Any], trust: bool = False) -> Any:
    """The tree that a raw reader makes of a file.

    Arguments:
        reader: a module of `meshsim.io.raw`.
        trust: read in this process, without limits.

    Raises:
        InputError: the file cannot be read; one line that names it.
    """
    return fetch_first([(reader, options)], path, trust)[0]


def fetch_first(
    readers: Sequence[tuple[str, dict[str, Any]]], path: Path, trust: bool = False
) -> tuple[Any, int]:
    """The tree of the first of some readers that finds a mesh, and which it was.

    Arguments:
        readers: (module of `meshsim.io.raw`, its options).
        trust: read in this process, without limits.

    Raises:
        InputError: none of them can read the file; the first one's reason, in one line.
    """
    # absolute: a child that is reused may have started in another folder
    request: dict[str, Any] = {"path": str(path.absolute()), "seconds": 0.0}
    request["readers"] = [list(reader) for reader in readers]
    if trust:
        found = child.answer(request)
    else:
        size = path.stat().st_size if path.is_file() else 0
        request["seconds"] = SECONDS + size / BYTES_A_SECOND
        with _lock:
            try:
                found = _ask(request)
            except Crash as error:
                raise InputError(f"{path}: {error}") from None
    if "error" in found:
        raise InputError(f"{path}: {one_line(found['error'] or 'cannot be read')}")
    return found["tree"], int(found["used"])


def _ask(request: dict[str, Any]) -> Any:
    global _worker
    for attempt in (1, 2):
        if _worker is None:
            _worker = Worker(memory_limit())
        try:
            return _worker.ask(request)
        except BrokenPipeError:
            # it had ended while idle: once more with a fresh one
            close()
            if attempt == 2:
                raise Crash("its reader could not be started") from None
        except BaseException:
            # half an answer may be in the pipe (Ctrl-C, a time limit): this child is of no use
            close()
            raise
    raise AssertionError
