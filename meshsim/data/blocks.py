"""Random sets of nodes that are few blocks of neighbouring rows, and stand for all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from meshsim.check import InputError


def sizes_and_room(n: int, nodes: int, blocks: int) -> tuple[list[int], list[int]]:
    """Rows of each block, and how far it may shift within its part of all rows.

    >>> sizes_and_room(10, 5, 2)
    ([2, 3], [2, 3])
    """
    count = min(blocks, nodes)

    def shares(total: int) -> list[int]:
        return [(k + 1) * total // count - k * total // count for k in range(count)]

    return shares(nodes), shares(n - nodes)


def place(
    sizes: Sequence[int], room: Sequence[int], turn: int, shifts: Sequence[int]
) -> NDArray[np.int64]:
    """Rising rows of blocks laid around a circle of all rows: shifted, then all turned.

    >>> place([2, 3], [2, 3], 9, [1, 0]).tolist()
    [0, 1, 3, 4, 5]
    """
    parts = np.cumsum([0, *(s + r for s, r in zip(sizes, room, strict=True))])
    starts = [turn + p + shift for p, shift in zip(parts[:-1], shifts, strict=True)]
    rows = [np.arange(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    return np.sort(np.concatenate(rows) % parts[-1]).astype(np.int64)


def draw(n: int, nodes: int, blocks: int, random: np.random.Generator) -> NDArray[np.int64]:
    """`nodes` of n rows as `blocks` runs of them, spread out: one in each part of a circle.

    The turn of the circle is drawn evenly from all n, so that every row is drawn with the same
    probability nodes / n, and N/k-weighted sums are unbiased (Horvitz and Thompson, J. Amer.
    Statist. Assoc. 47, 1952). Rows that are neighbours are drawn together: the variance is that of
    a cluster sample, and falls with more, smaller blocks.

    Raises:
        InputError: no nodes or no blocks asked for.
    """
    if nodes < 1 or blocks < 1:
        raise InputError(
            f"expected 1 or more `nodes` and `blocks`, got {nodes if nodes < 1 else blocks}"
        )
    if nodes >= n:
        return np.arange(n)
    sizes, room = sizes_and_room(n, nodes, blocks)
    shifts = [int(random.integers(r + 1)) for r in room]
    return place(sizes, room, int(random.integers(n)), shifts)
