"""Chunks by time and node within one file of a zarr array: written whole, read in part.

The files are what zarr's `sharding_indexed` codec says, and zarr reads them. It spends a tenth of a
millisecond on each chunk, though, which is more than a chunk of this size takes to decode; whole
frames would take five times as long.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import zarr

CHUNK_BYTES = 128 << 10  # of values; the fixed cost of a chunk is a tenth of decoding it
CHUNK_TIMES = 8
SHARD_ROWS = 1_000_000
_MISSING = 2**64 - 1
_LEVEL = 3
Picked = range | NDArray[np.int64]  # rising numbers along an axis


def chunking(
    shape: Sequence[int], itemsize: int, length: int | None, divided: bool = True
) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Shapes of the chunks of an array, and of the files that hold them (None: a file each).

    Arguments:
        shape: (T, N, …) with times, else (N, …) or ().
        itemsize: bytes a number.
        length: times a file, T at most; None for an array without times.
        divided: False for what is read whole.

    >>> chunking((80, 1_000_000, 3), 4, 1)
    ((1, 8192, 3), (1, 999424, 3))
    >>> chunking((600, 2_000, 2), 4, 262)
    ((8, 2000, 2), (256, 2000, 2))
    """
    moving = length is not None
    lead = () if length is None else (length,)
    rows, rest = shape[moving : moving + 1], tuple(max(1, n) for n in shape[moving + 1 :])
    n = max(1, *rows) if rows else 1
    whole = (*lead, *(min(n, SHARD_ROWS) for _ in rows), *rest)
    if not (rows and divided) or prod(whole) * itemsize <= CHUNK_BYTES:
        return whole, None
    times = 1 if length is None else min(length, CHUNK_TIMES)
    if length is not None:  # a file holds whole chunks
        lead = (-(-length // times) * times if length >= shape[0] else length - length % times,)
    most = max(1, CHUNK_BYTES // (times * prod(rest) * itemsize))
    step = min(n, 1 << (most.bit_length() - 1))
    file = min(-(-n // step), max(1, SHARD_ROWS // step)) * step
    chunk, shard = (*((times,) * moving), step, *rest), (*lead, file, *rest)
    return chunk, None if chunk == shard else shard


def encode(block: NDArray[Any], chunk: Sequence[int], shard: Sequence[int]) -> bytes:
    """The file of a shard: its chunks in C order, then where each of them is.

    Arguments:
        block: its values; fewer than `shard` says at the end of the array.
        chunk, shard: shapes of as many axes; only the first two are divided.
    """
    from numcodecs import blosc

    little = block.dtype.newbyteorder("<")
    first, second = _two(chunk)
    counts = [s // c for s, c in zip(_two(shard), (first, second), strict=True)]
    values = _deep(block)
    parts, index, at = [], np.full((*counts, 2), _MISSING, "<u8"), 0
    for a in range(counts[0]):
        for b in range(counts[1]):
            piece = values[a * first : (a + 1) * first, b * second : (b + 1) * second]
            if not piece.size:
                continue
            if piece.shape[:2] != (first, second):
                full = np.zeros((first, second, *piece.shape[2:]), little)
                full[: piece.shape[0], : piece.shape[1]] = piece
                piece = full
            plain = np.ascontiguousarray(piece, little).reshape(-1)
            packed = _checked(blosc.compress(plain, b"zstd", _LEVEL, blosc.SHUFFLE, 0))
            parts.append(packed)
            index[a, b] = at, len(packed)
            at += len(packed)
    return b"".join([*parts, _checked(index.tobytes())])


class Shards:
    """An array of such files.

    Arguments:
        folder: of the array.
        array: as zarr opens it.
    """

    def __init__(self, folder: Path, array: zarr.Array):
        self.folder, self.dtype = folder, array.dtype
        self.shape = array.shape
        self.chunk, self.shard = _two(array.chunks), _two(array.shards)
        self.rest = tuple(array.shape[2:])
        self.counts = [s // c for s, c in zip(self.shard, self.chunk, strict=True)]

    @classmethod
    def of(cls, folder: Path, array: zarr.Array) -> Shards | None:
        """None where zarr has to read: one file a chunk, or codecs that are not ours."""
        if not array.shape or array.shards is None:
            return None
        codec = array.metadata.to_dict()["codecs"][0]
        options = codec.get("configuration", {})
        inner = [c["name"] for c in options.get("codecs", ())]
        index = [c["name"] for c in options.get("index_codecs", ())]
        ours = inner == ["bytes", "blosc", "crc32c"] and index == ["bytes", "crc32c"]
        return cls(folder, array) if ours and options["index_location"] == "end" else None

    def read(self, first: Picked, second: Picked | None = None) -> NDArray[Any]:
        """Values at some numbers of the first axis, and of the second (None: all).

        Raises:
            OSError, ValueError: a file is missing or damaged.
        """
        wide = self.shape[1] if len(self.shape) > 1 else 1
        other: Picked = range(wide) if second is None else second
        out = np.empty((len(first), len(other), *self.rest), self.dtype)
        rows, columns = list(_by(first, self.chunk[0])), list(_by(other, self.chunk[1]))
        for top, found in groupby(rows, lambda part: part[0] // self.counts[0]):
            above = list(found)
            for left, beside in groupby(columns, lambda part: part[0] // self.counts[1]):
                wanted = [(a, b) for b in beside for a in above]
                self._fill(out, (top, left), sorted(wanted, key=lambda w: (w[0][0], w[1][0])))
        return out.reshape(len(first), *self.shape[1:]) if second is None else out

    def _fill(self, out: NDArray[Any], shard: tuple[int, int], wanted: list[Any]) -> None:
        from numcodecs import blosc

        numbers = [*shard, *(0 for _ in self.rest)][: len(self.shape)]
        name = ".".join(["c", *map(str, numbers)])
        buffer = np.empty((*self.chunk, *self.rest), self.dtype)
        with open(self.folder / name, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = 16 * prod(self.counts) + 4
            if size < length:
                raise ValueError(f"{name} is cut short")
            table = _unchecked(os.pread(file.fileno(), length, size - length), name)
            index = np.frombuffer(table, "<u8").reshape(-1, 2)
            places = [
                index[a[0] % self.counts[0] * self.counts[1] + b[0] % self.counts[1]].tolist()
                for a, b in wanted
            ]
            if any(at == _MISSING or at + n > size for at, n in places):
                raise ValueError(f"{name} lacks a chunk")
            for run in _runs(places):
                start, stop = places[run[0]][0], sum(places[run[-1]])
                data = np.frombuffer(os.pread(file.fileno(), stop - start, start), np.uint8)
                for k in run:
                    at, n = places[k][0] - start, places[k][1]
                    packed = _unchecked(data[at : at + n], name)
                    (_, here, inside), (_, there, beside) = wanted[k]
                    goal = out[here, there]
                    if goal.shape == buffer.shape and goal.flags.c_contiguous:
                        blosc.decompress(packed, goal)
                        continue
                    blosc.decompress(packed, buffer)
                    goal[...] = buffer[inside][:, beside]


def _by(picked: Picked, step: int) -> Iterator[tuple[int, slice, Any]]:
    """(chunk, where in the answer, where in the chunk) of rising numbers along an axis."""
    if isinstance(picked, range) and picked.step == 1:
        for k in range(picked.start // step, -(-picked.stop // step) if len(picked) else 0):
            low, high = max(picked.start, k * step), min(picked.stop, (k + 1) * step)
            into = slice(low - picked.start, high - picked.start)
            yield k, into, slice(low - k * step, high - k * step)
        return
    ids = np.asarray(picked, np.int64)
    chunks, starts = np.unique(ids // step, return_index=True)
    for k, low, high in zip(chunks.tolist(), starts, [*starts, len(ids)][1:], strict=True):
        yield k, slice(int(low), int(high)), ids[low:high] - k * step


def _runs(places: list[list[int]]) -> Iterator[list[int]]:
    """Numbers of chunks that follow one another in the file: one read each."""
    run: list[int] = []
    for k, (at, _) in enumerate(places):
        if run and at != sum(places[run[-1]]):
            yield run
            run = []
        run.append(k)
    if run:
        yield run


def _two(shape: Sequence[int]) -> tuple[int, int]:
    return shape[0], shape[1] if len(shape) > 1 else 1


def _deep(block: NDArray[Any]) -> NDArray[Any]:
    return block[:, None] if block.ndim == 1 else block


def _crc(data: Any) -> bytes:
    try:  # zarr brings the one or the other
        import google_crc32c

        value = google_crc32c.value(data)
    except ImportError:
        import crc32c

        value = crc32c.crc32c(data)
    return int(value).to_bytes(4, "little")


def _checked(data: bytes) -> bytes:
    return data + _crc(data)


def _unchecked(data: Any, name: str) -> Any:
    body, tail = data[:-4], bytes(data[-4:])
    if _crc(body) != tail:
        raise ValueError(f"{name}: a checksum does not match")
    return body
