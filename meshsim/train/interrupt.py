"""Ctrl-C at any moment: what was reached is saved, and no update is torn in two."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any


@contextmanager
def interruptible(
    save: Callable[[], None],
) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """On Ctrl-C call `save` and raise; wait for the end of an update if one is going on.

    Arguments:
        save: writes down where the work stands.

    Returns:
        A context manager whose value, called, gives the context manager of one update. Outside
        the main thread, where no signals come, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield nullcontext
        return
    state = {"updating": False, "asked": False}

    def handler(number: int, frame: Any) -> None:
        if state["updating"]:
            state["asked"] = True
        else:
            raise KeyboardInterrupt

    @contextmanager
    def updating() -> Iterator[None]:
        state["updating"] = True
        try:
            yield
        finally:
            state["updating"] = False
        if state["asked"]:
            raise KeyboardInterrupt

    previous = signal.signal(signal.SIGINT, handler)
    try:
        yield updating
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # saving must not be cut short
        save()
        raise
    finally:
        signal.signal(signal.SIGINT, previous)
