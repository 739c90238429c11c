"""Files of collated OpenFOAM cases: what several processors wrote, one block for each."""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from meshsim.io.raw import expect, unpacked
from meshsim.io.raw.foam_file import COLLATED, File, head, load

# the length of a block, alone or after the names that versions may write
_LENGTH = re.compile(rb"(?:processor\d+\s*)?(?:List<char>\s*)?(\d*)")
_SMALL = 16_000_000  # bytes of a packed file that may be kept unpacked


class Block(NamedTuple):
    """Which block of the files in a folder a processor has, of how many."""

    place: int
    of: int


@dataclass
class Blocks:
    """Where the blocks of a file are.

    Arguments:
        header: what the first block's header says of all blocks.
        places: (first byte, length) of each, of the unpacked file.
        wrong: what is wrong after the last of them, or "".
    """

    header: dict[str, str]
    places: list[tuple[int, int]] = field(default_factory=list)
    wrong: str = ""


def load_block(path: str, block: Block) -> File:
    """Open what a processor has in a file of all; a file without blocks holds for every one.

    Raises:
        ValueError: the block is not there or damaged, or there are fewer or more than processors.
    """
    found = os.stat(path)
    key = (path, found.st_mtime_ns, found.st_size)
    blocks = _blocks(*key)
    if blocks is None:
        return load(path)
    k, n, places = block.place, block.of, blocks.places
    shared = path[path.rfind(os.sep + "processors") + 1 :]
    expect(k < len(places) or not blocks.wrong, f"block {k} of {shared} {blocks.wrong}")
    expect(
        len(places) == n or blocks.wrong,
        f"{shared} has {len(places)} blocks (expected {n}, one for each processor)",
    )
    start, size = places[k]
    expect(size, f"block {k} of {shared} is empty")
    expect("class" in blocks.header, f"block 0 of {shared} has no FoamFile header")
    data = _bytes(key, start, size)
    expect(len(data) == size, f"block {k} of {shared} is cut off")
    # the note counts the points and cells of the first processor
    file = File(data, 0, {a: b for a, b in blocks.header.items() if a != "note"})
    file.space()
    own = head(data) if data.startswith(b"FoamFile", file.at) else None
    return file if own is None else File(data, own[1], own[0])


@lru_cache(256)
def _blocks(path: str, changed: int, size: int) -> Blocks | None:
    """The blocks of a file as it is now; None if it has none."""
    with unpacked(path) as file:
        outer = head(file.read(20_000))
        expect(outer, "has no FoamFile header")
        assert outer is not None
        if outer[0].get("class") != COLLATED:
            return None
        out = Blocks({k[5:]: v for k, v in outer[0].items() if k.startswith("data.")})
        if "arch" in outer[0]:
            out.header["arch"] = outer[0]["arch"]
        file.seek(outer[1])
        end = size if isinstance(file, io.BufferedReader) else 2**62  # of a packed file unknown
        while (n := _length(file, out)) is not None:
            if n and file.read(1) != b"(":
                out.wrong = "is damaged (no bracket after its length)"
                break
            start = file.tell()
            if n and not out.places:
                own = head(file.read(min(n, 20_000)))
                out.header |= {} if own is None else own[0]
            file.seek(min(start + n, end))
            if n and file.read(1) != b")":
                out.wrong = f"is cut off or damaged (no bracket after its {n} bytes)"
                break
            out.places.append((start, n))
    return out


def _length(file: Any, out: Blocks) -> int | None:
    """The length of the next block; None at the end, or where something else stands."""
    while line := file.readline(4096):
        text = line.partition(b"//")[0].strip(b"; \t\r\n")
        found = _LENGTH.fullmatch(text)
        if found is None:
            out.wrong = "is damaged (no length before it)"
            return None
        if found[1]:
            return int(found[1])
    return None


def _bytes(key: tuple[str, int, int], start: int, size: int) -> bytes:
    small = _unpacked(*key)
    if small is not None:
        return small[start : start + size]
    with unpacked(key[0]) as file:
        file.seek(start)
        return bytes(file.read(size))


@lru_cache(16)
def _unpacked(path: str, changed: int, size: int) -> bytes | None:
    """A packed file that is small: it cannot be entered at a block."""
    if not path.endswith(".gz"):
        return None
    with unpacked(path) as file:
        data = bytes(file.read(_SMALL + 1))
    return data if len(data) <= _SMALL else None
