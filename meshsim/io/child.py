"""The guarded child: reads files that are not trusted, within limits, and sends plain arrays.

It imports neither torch nor anything that needs it. Requests are lines of JSON on standard input,
answers go to what was standard output; whatever libraries print is thrown away.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import select
import signal
import sys
from typing import Any

from meshsim.io import wire

IDLE = 60.0  # seconds without a request after which the child ends; the next read starts another


def run(reader: str, path: str, options: dict[str, Any]) -> Any:
    """Call `meshsim.io.raw.<reader>.read`."""
    if not reader.replace("_", "").isalnum():
        raise ValueError(f"no reader {reader!r}")
    return importlib.import_module(f"meshsim.io.raw.{reader}").read(path, options)


UNKNOWN = "is damaged, or of a kind that its reader does not know"
INTERNAL = (
    *("cannot reshape", "could not broadcast", "operands could not", "all the input array"),
    *("not enough values to unpack", "too many values to unpack", "need at least one array"),
    *("zero-size array", "buffer ", "cannot convert float", "array must not contain"),
    *("substring not found", "invalid mode", "negative dimensions", "max() ", "min() "),
    *("'utf-8' codec", "'ascii' codec", "bytes must be", "string size must"),
    *("zip() argument", "setting an array element", "unmarshal"),
)


def told(error: BaseException) -> str:
    """An error as one line."""
    if isinstance(error, MemoryError):
        return f"needs more memory than a reader is allowed ({_said(error) or 'see --trust'})"
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    if isinstance(error, SystemExit):
        return "its reader gave up"
    if isinstance(error, ImportError):
        return f"needs {error.name}, which is not installed"
    if isinstance(error, ValueError):
        said = _said(error)
        if said.startswith(INTERNAL):
            return UNKNOWN
        for mark in ("invalid literal", "could not convert"):
            if mark in said:
                before = said.partition(mark)[0] or "is damaged: "
                return f"{before}a word is no number ({_word(said)})"
        return said
    if isinstance(error, EOFError):
        return f"ends early ({_said(error)})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    said = _said(error).strip("'\"")
    if said.startswith(("Unable to synchronously", "Link iteration", "Can't")):
        return f"is damaged or ends early (HDF5: {said.partition('(')[2].rstrip(')') or said})"
    # what Python or NumPy say of a reader's own state is of no use to who gave the file
    plain = not type(error).__module__.startswith(("builtins", "numpy", "struct", "zlib"))
    return said if plain and " " in said else UNKNOWN


def _word(said: str) -> str:
    """The word that Python or NumPy could not read as a number."""
    found = re.search(r"""b?'([^']*)'\)*$""", said)
    return repr(found[1] if found else said.rsplit(":", 1)[-1].strip())


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def answer(request: dict[str, Any]) -> Any:
    """{"tree", "used": which of the readers}, or {"error": one line}; the first reader's.

    Readers after the first are tried where those before it fail or find no cells.
    """
    first: Any = None
    for i, (reader, options) in enumerate(request["readers"]):
        try:
            tree = run(reader, request["path"], options)
            if "blocks" not in tree or any(len(block["nodes"]) for block in tree["blocks"]):
                return {"tree": tree, "used": i}
            first = {"tree": tree, "used": i} if first is None else first
        except (Exception, SystemExit) as error:
            first = {"error": told(error)} if first is None else first
    return first


def limit_memory(size: int) -> None:
    """Bound the address space of this process, where the system can."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        soft = size if hard == resource.RLIM_INFINITY else min(size, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_time(seconds: float) -> None:
    """End this process after so much computing more, where the system can.

    The parent watches the clock; this is for the case that it is gone.
    """
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        soft = int(used.ru_utime + used.ru_stime + seconds) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def serve(memory: int) -> None:
    """Answer requests until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    out = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    limit_memory(memory)
    waiting = b""
    while True:
        while b"\n" not in waiting:
            with contextlib.suppress(OSError, ValueError):
                if not select.select([0], [], [], IDLE)[0]:
                    return
            more = os.read(0, 1 << 16)
            if not more:
                return
            waiting += more
        line, _, waiting = waiting.partition(b"\n")
        request = json.loads(line)
        limit_time(request["seconds"])
        found = answer(request)
        try:
            parts = wire.encode(found)
        except (ValueError, TypeError, MemoryError) as error:
            parts = wire.encode({"error": told(error)})
        del found
        for part in parts:
            view = memoryview(part).cast("B")
            while view:
                view = view[os.write(out, view) :]
        del parts


if __name__ == "__main__":
    serve(int(sys.argv[1]))
