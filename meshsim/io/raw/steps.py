"""Frames that are read whole, one by one, as a series; the mesh may change between them."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

from meshsim.io.raw import Tree, expect

SCAN_BYTES = 256 << 20  # all frames are compared when they are opened, up to this much

# what tells the meshes of frames apart: anything that is known without reading them, a checksum
# of the cells, one of the points (None: not looked at)
Key = tuple[object, int | None, int | None]


def series(load: Callable[[int], Tree], times: list[float], keys: list[Key]) -> Tree:
    """The first frame with its mesh; frames with other cells begin a further segment (`later`).

    Arguments:
        load: the whole tree at a step.
        times: (T,) rising.
        keys: one for each time.
    """
    starts = [0]
    for i, (now, before) in enumerate(zip(keys[1:], keys, strict=False), 1):
        if now[0] != before[0] or (None not in (now[1], before[1]) and now[1] != before[1]):
            starts.append(i)
    trees = []
    for a, b in zip(starts, [*starts[1:], len(times)], strict=True):
        tree = load(a)
        tree["times"], tree["steps"] = times[a:b], list(range(a, b))
        known = [key[2] for key in keys[a:b] if key[2] is not None]
        tree["frames"] = {
            "point": list(tree["point_fields"]),
            "cell": list(tree["cell_fields"]),
            "points": len(set(known)) > 1,
            "key": connectivity(tree["blocks"]),
        }
        trees.append(tree)
    return trees[0] | {"later": trees[1:]}


def frame(tree: Tree, options: Tree, name: str) -> Tree:
    """What a step must give (`meshsim.io.raw`) of its whole tree.

    Arguments:
        options: "key" is the checksum that its cells must have; "moves": give the points too.
        name: of the frame, for messages.
    """
    key = options.get("key")
    expect(
        key is None or key == connectivity(tree["blocks"]),
        f"{name}: its cells differ from those of the frame before",
    )
    moving = ("points",) if options.get("moves", True) else ()
    return {name: tree[name] for name in ("point_fields", "cell_fields", *moving)}


def key(tree: Tree) -> Key:
    """The key of a frame that was read."""
    points = zlib.crc32(np.ascontiguousarray(tree["points"]).data)
    return None, connectivity(tree["blocks"]), points


def connectivity(blocks: list[Tree]) -> int:
    """A checksum of cells."""
    out = 0
    for block in blocks:
        out = zlib.crc32(block["type"].encode(), out)
        for name in ("nodes", "offsets", "face_offsets", "rows"):
            if name in block:
                out = zlib.crc32(np.ascontiguousarray(block[name], np.int64).data, out)
    return out


def looked_at(n: int, size: int) -> list[bool]:
    """Which of n frames of `size` bytes together to read when a series is opened: all, or few."""
    if size <= SCAN_BYTES:
        return [True] * n
    some = {0, 1, n // 2, n - 1}
    return [i in some for i in range(n)]


def rising(times: list[float]) -> tuple[list[float], list[int], list[str]]:
    """Times in rising order, each once (the later wins: a run that was started again).

    Returns:
        The times, at which place each stood, and what to say.

    >>> rising([0.0, 1.0, 2.0, 1.0])[:2]
    ([0.0, 1.0, 2.0], [0, 3, 2])
    """
    last = {time: step for step, time in enumerate(times)}
    order = sorted(last)
    dropped = len(times) - len(last)
    told = [f"{dropped} times come twice: the later of each is kept"] if dropped else []
    return order, [last[time] for time in order], told
