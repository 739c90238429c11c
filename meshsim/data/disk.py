"""One sample as a folder of zarr arrays: what its documents say, and reading it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from meshsim.check import InputError, one_line
from meshsim.data.files import read_json, write_json
from meshsim.data.layout import put_together
from meshsim.data.shards import Picked, Shards
from meshsim.mesh import as_tensor
from meshsim.sample import Sample

if TYPE_CHECKING:
    import zarr

GROUP = "zarr.json"
MARK = "meshsim_sample"


def settle(seconds: float = 5.0) -> None:
    """Wait for what zarr's threads still write after one of them has failed, or after Ctrl-C."""
    from zarr.core.sync import sync

    async def others() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*tasks, return_exceptions=True)

    with contextlib.suppress(Exception):  # cleaning up is a courtesy
        sync(others(), timeout=seconds)


def write_group(folder: Path, attributes: dict[str, Any]) -> None:
    """Write a zarr group document, atomically."""
    document = {"attributes": attributes, "zarr_format": 3, "node_type": "group"}
    write_json(folder / GROUP, document)


def read_group(folder: Path) -> dict[str, Any]:
    """The attributes of a zarr group; an `InputError` where there is none."""
    document = read_json(folder / GROUP)
    attributes = document.get("attributes") if isinstance(document, dict) else None
    if not isinstance(attributes, dict):
        raise InputError(f"{folder / GROUP}: not a zarr group")
    return attributes


def read_sample(folder: Path, name: str, content: dict[str, Any]) -> Sample:
    """The sample of a folder, its frames unread.

    Arguments:
        folder: where it is.
        name: what to call it.
        content: what `read_group(folder)[MARK]` holds.

    Raises:
        InputError: files are missing or cut short.
    """
    check_whole(folder, content)
    try:
        return put_together(
            content["tree"],
            name,
            lambda path: read_array(folder, path),
            lambda path: StoredFrames(folder, path, **content["frames"][path]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder}: the sample is broken: {one_line(repr(error))}") from error


def check_whole(folder: Path, content: dict[str, Any]) -> None:
    """Raise `InputError` unless all files are there with all their bytes (not read)."""
    files, size = measure(folder)
    if (files, size) != (content.get("files"), content.get("bytes")):
        raise InputError(
            f"{folder}: the sample is broken (expected {content.get('files')} files with "
            f"{content.get('bytes')} bytes, got {files} with {size})"
        )


def content_hash(folder: Path, content: dict[str, Any]) -> str:
    """sha256 of the tree and of every array, read from disk; equals what was written."""
    digests = {}
    for path in content["paths"]:
        array = open_array(folder, path)
        digest = array_digest(array.shape, array.dtype)
        if array.shape:
            step = max(1, (array.shards or array.chunks)[0])
            for start in range(0, array.shape[0], step):
                digest.update(
                    read_array(folder, path, slice(start, start + step)).numpy().tobytes()
                )
        else:
            digest.update(read_array(folder, path).numpy().tobytes())
        digests[path] = digest.hexdigest()
    return sample_hash(content["tree"], digests)


def array_digest(shape: tuple[int, ...], dtype: np.dtype[Any]) -> hashlib._Hash:
    """sha256 of an array, to be updated with its bytes in C order."""
    return hashlib.sha256(f"{tuple(shape)} {np.dtype(dtype).newbyteorder('<').str}\n".encode())


def sample_hash(tree: Any, digests: Mapping[str, str]) -> str:
    """sha256 of a sample: of its tree and of the digests of its arrays."""
    text = json.dumps([tree, sorted(digests.items())], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def measure(folder: Path) -> tuple[int, int]:
    """How many files and bytes a sample's folder holds, its group document not counted."""
    files = size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            if place != str(folder) or name != GROUP:
                files += 1
                size += os.stat(os.path.join(place, name)).st_size
    return files, size


class StoredFrames:
    """Frames (N, …) of one array of a store, read chunk by chunk; the last chunk is kept."""

    def __init__(self, folder: Path, path: str, shape: Sequence[int], chunk: int):
        self.folder, self.path = folder, path
        self.shape = tuple(shape)  # (T, N, …)
        self.chunk_length = chunk
        self._array: zarr.Array | None = None
        self._kept: tuple[int, Tensor] | None = None

    def __getstate__(self) -> tuple[Path, str, tuple[int, ...], int]:
        return self.folder, self.path, self.shape, self.chunk_length

    def __setstate__(self, state: tuple[Path, str, tuple[int, ...], int]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def chunk(self, k: int) -> Shaped[Tensor, "T N ..."]:
        """Chunk k: frames k · chunk_length and following, read from disk."""
        if self._array is None:
            self._array = open_array(self.folder, self.path)
        start = k * self.chunk_length
        rows = slice(start, start + self.chunk_length)
        return read_array(self.folder, self.path, rows, self._array)

    def part(self, times: range, rows: Picked) -> Shaped[Tensor, "T n ..."]:
        """Some rows of some frames; only the chunks that hold them are read, and none is kept."""
        if self._array is None:
            self._array = open_array(self.folder, self.path)
        return read_array(self.folder, self.path, times, self._array, rows)

    def block(self, start: int, stop: int) -> Shaped[Tensor, "T N ..."]:
        """Frames `start` to `stop` - 1 in one tensor."""
        length, parts = self.chunk_length, []
        for k in range(start // length, (max(stop, start + 1) - 1) // length + 1):
            if self._kept is None or self._kept[0] != k:
                self._kept = (k, self.chunk(k))
            low = k * length
            parts.append(self._kept[1][max(start - low, 0) : max(stop - low, 0)])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, t: int) -> Shaped[Tensor, "N ..."]:
        if not -len(self) <= t < len(self):
            raise IndexError(t)
        t %= len(self)
        return self.block(t, t + 1)[0].clone()  # a view would keep the whole chunk alive


def open_array(folder: Path, path: str) -> zarr.Array:
    """An array of a sample; an `InputError` where there is none."""
    import zarr
    from zarr.storage import LocalStore

    try:
        return zarr.open_array(store=LocalStore(folder, read_only=True), path=path, mode="r")
    except Exception as error:
        raise InputError(f"{folder / path}: the store is broken: {one_line(error)}") from error


def put_file(array: zarr.Array, key: str, data: bytes) -> None:
    """Write a file of a sample as zarr would."""
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    sync(array.store.set(key, default_buffer_prototype().buffer.from_bytes(data)))


def read_array(
    folder: Path,
    path: str,
    rows: slice | Picked = slice(None),
    array: zarr.Array | None = None,
    second: Picked | None = None,
) -> Tensor:
    """Rows of an array of a sample.

    Arguments:
        folder: the sample's.
        path: of the array in it.
        rows: along the first axis; numbers rise.
        array: saves opening it again.
        second: along the second axis; None for all.

    Raises:
        InputError: it is missing or damaged.
    """
    opened = open_array(folder, path) if array is None else array
    try:
        values = _values(folder / path, opened, rows, second)
    except Exception as error:
        raise InputError(f"{folder / path}: the store is broken: {one_line(error)}") from error
    return as_tensor(values)


def _values(place: Path, array: zarr.Array, rows: slice | Picked, second: Picked | None) -> Any:
    if not array.shape:
        return np.asarray(array[()])
    shards = Shards.of(place, array)
    if shards is not None:
        first = range(*rows.indices(array.shape[0])) if isinstance(rows, slice) else rows
        return shards.read(first, second)
    if second is None and isinstance(rows, slice):
        return np.asarray(array[rows])
    parts = [rows] if second is None else [rows, second]
    return np.asarray(array.oindex[tuple(np.asarray(p) if isinstance(p, range) else p
                                         for p in parts)])  # fmt: skip
