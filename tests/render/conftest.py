"""Every picture is made without a display, and the boards of a test's pictures are kept."""

import pytest

from meshsim.render.board import Board


@pytest.fixture(autouse=True)
def no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def boards(monkeypatch: pytest.MonkeyPatch) -> list[Board]:
    """The boards of the pictures that a test makes, in order."""
    made: list[Board] = []
    original = Board.__init__

    def record(self: Board, *args, **kwargs) -> None:
        original(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(Board, "__init__", record)
    return made
