"""Progress on standard error: a bar with time left on a terminal; elsewhere lines, on request."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

Progress: TypeAlias = Callable[..., None]
"""`progress(done, total, note)`: called as often as the work likes; the note may be left out."""


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss.

    >>> clock(75.0), clock(3700.0)
    ('1:15', '1:01:40')
    """
    s = max(0, round(seconds))
    return f"{s // 60}:{s % 60:02d}" if s < 3600 else f"{s // 3600}:{s // 60 % 60:02d}:{s % 60:02d}"


@contextmanager
def bar(title: str, lines: bool = False) -> Iterator[Progress]:
    """A progress bar with time left.

    Arguments:
        title: what is being done.
        lines: without a terminal, print a line at most every 15 s (else nothing).
    """
    if not sys.stderr.isatty():
        yield _lines(title) if lines else (lambda done, total, note="": None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Bar(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task(title, total=None, note="")

        def update(done: float | int, total: float | int, note: str = "") -> None:
            shown.update(task, completed=done, total=total, note=note)

        yield update


def _lines(title: str) -> Progress:
    began = time.monotonic()
    last = began

    def update(done: float | int, total: float | int, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < 15 and done < total:
            return
        last = now
        left = (now - began) / done * (total - done) if done else float("nan")
        left_text = f", {clock(left)} left" if left == left and done < total else ""
        print(
            f"  {title}: {100 * done / max(total, 1):.0f} %, {clock(now - began)} so far"
            f"{left_text}{'  ' + note if note else ''}",
            file=sys.stderr,
            flush=True,
        )

    return update
