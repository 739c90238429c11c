"""Small meshes to draw, and eyes to look at pictures with."""

from pathlib import Path

import numpy as np
from PIL import Image

from meshsim.mesh import Mesh
from meshsim.render.board import Board


def grid(nx: int = 8, ny: int = 4, width: float = 2.0, height: float = 1.0) -> Mesh:
    """A rectangle of triangles."""
    x, y = np.meshgrid(np.linspace(0, width, nx + 1), np.linspace(0, height, ny + 1))
    i = (np.arange(ny)[:, None] * (nx + 1) + np.arange(nx)).reshape(-1)
    a, b, c, d = i, i + 1, i + nx + 2, i + nx + 1
    cells = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    return Mesh(np.stack([x.ravel(), y.ravel()], 1), {"triangle": cells})


def pixels(path: Path) -> np.ndarray:
    """(height, width, 3) int of a picture."""
    return np.array(Image.open(path).convert("RGB")).astype(int)


def panel(image: np.ndarray, board: Board, i: int) -> np.ndarray:
    """The pixels of one panel."""
    left, top, width, height = board.boxes[i]
    return image[top : top + height, left : left + width]


def texts(board: Board) -> list[str]:
    """Everything that is written."""
    return [text.get_text() for text in board.figure.texts]
