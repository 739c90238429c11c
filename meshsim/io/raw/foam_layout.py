"""In which folders the processors of a decomposed OpenFOAM case lie."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from meshsim.io.raw.foam_blocks import Block

Roots = dict[str, Block | None]
TIME = re.compile(r"\d+(\.\d+)?([eE][-+]?\d+)?")
_ALONE = re.compile(r"processor(\d+)")
_SHARED = re.compile(r"processors(\d+)(?:_(\d+)-(\d+))?")


@dataclass
class Layout:
    """The processors of a case.

    Arguments:
        parts: for each the folders where its files may be, with its block in theirs; the first
            that has a file counts; none where a folder is missing.
        latest: the last time that any folder has, or -1.
        others: folders of other decompositions, which are left out.
    """

    parts: list[Roots]
    latest: float
    others: list[str]


def processors(path: str) -> Layout | None:
    """The processors of a case, or None if it was never split.

    They lie in processor0, processor1, …; or in processorsN, whose files hold a block of each, or
    in processorsN_a-b with a block of each from a to b. A run may leave its times in another kind
    than its mesh. Of decompositions into several numbers the one with the latest time is meant,
    then the one into most.
    """
    sets: dict[int, list[tuple[str, range | None]]] = {}
    names = sorted(os.listdir(path))
    alone = {int(found[1]): name for name in names if (found := _ALONE.fullmatch(name))}
    for name in names:
        if found := _SHARED.fullmatch(name):
            n = int(found[1])
            held = range(int(found[2]), int(found[3]) + 1) if found[2] else range(n)
            if held and held.stop <= n:
                sets.setdefault(n, []).append((name, held))
    if alone:
        every = sets.setdefault(max(alone) + 1, [])
        every += [(alone[k], None) for k in sorted(alone)]
    if not sets:
        return None
    latest = {n: max(_latest(os.path.join(path, name)) for name, _ in sets[n]) for n in sets}
    count = max(sets, key=lambda n: (latest[n], n))
    parts: list[Roots] = [{} for _ in range(count)]
    for name, blocks in sets[count]:
        folder = os.path.join(path, name)
        for i, k in enumerate(blocks or [int(name[9:])]):
            parts[k][folder] = Block(i, len(blocks)) if blocks else None
    others = [name for n in sorted(sets) if n != count for name, _ in sets[n]]
    return Layout(parts, latest[count], others)


def _latest(folder: str) -> float:
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return max((float(name) for name in names if TIME.fullmatch(name)), default=-1.0)
