"""The guarded child: reads files that are not trusted, within limits, and sends plain arrays.

It imports neither torch nor anything that needs it. Requests are lines of JSON on standard input,
answers go to what was standard output; whatever libraries print is thrown away.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
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


def told(error: BaseException) -> str:
    """An error as one line."""
    if isinstance(error, MemoryError):
        return f"needs more memory than a reader is allowed ({_said(error) or 'see --trust'})"
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    if isinstance(error, SystemExit):
        return "its reader gave up"
    if isinstance(error, ValueError):
        said = _said(error)
        for mark in ("invalid literal", "could not convert"):
            if mark in said:
                before, word = said.partition(mark)[0], said.rsplit(":", 1)[-1].strip()
                word = word.removeprefix("np.bytes_(b").removesuffix(")")
                return f"{before or 'is damaged: '}a word is no number ({word})"
        return said
    if isinstance(error, EOFError):
        return f"ends early ({_said(error)})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    said = _said(error).strip("'\"")
    if said.startswith(("Unable to synchronously", "Link iteration", "Can't")):
        return f"is damaged or ends early (HDF5: {said.partition('(')[2].rstrip(')') or said})"
    if isinstance(error, KeyError | IndexError | TypeError | AttributeError | OverflowError):
        return f"is damaged ({type(error).__name__}: {said})"
    return f"{type(error).__name__}: {said}"


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def answer(request: dict[str, Any]) -> Any:
    """The tree of a request, or {"error": one line}."""
    try:
        return {"tree": run(request["reader"], request["path"], request["options"])}
    except (Exception, SystemExit) as error:
        return {"error": told(error)}


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
