"""Writing a sample to a folder: arrays first, the document that makes it count last."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Shaped
from numpy.typing import NDArray
from torch import Tensor

from meshsim.check import InputError, check_finite
from meshsim.data import disk
from meshsim.data.files import writing_to
from meshsim.data.frames import block_length
from meshsim.data.layout import take_apart
from meshsim.data.manifest import contents
from meshsim.data.schema import Schema, columns
from meshsim.data.shards import chunking, encode
from meshsim.data.statistics import Moments
from meshsim.mesh import as_tensor
from meshsim.sample import Sample
from meshsim.series import Frames

if TYPE_CHECKING:
    import zarr

FieldKey = tuple[str, str, str]  # (branch, location, name)


def write_sample(
    folder: Path,
    sample: Sample,
    schema: Schema | None,
    provenance: Mapping[str, Any],
    store: Path,
    began: float | None = None,
) -> None:
    """Write a sample to a new folder; the group document, which makes it count, comes last.

    Field values are checked while they are written: those of the schema, or all without one.
    Frames are read once, in order, all fields of a time together: a file holds them so.

    Arguments:
        folder: not there yet.
        sample: what to write.
        schema: what it has to fit, if anything.
        provenance: kept with it.
        store: what to call the place in messages.
        began: when work on the sample began (`time.perf_counter`); now where not given.

    Raises:
        InputError: a field is missing, frames differ in length, a value is not finite; the
            message names sample and field.
        WorkError: the disk is full.
    """
    began = time.perf_counter() if began is None else began
    if schema is not None:
        schema.check(sample, values=False)
    layout = take_apart(sample)
    with writing_to(store):
        folder.mkdir(parents=True)

    def writer(path: str, like: Tensor, frames: int | None) -> ArrayWriter:
        field = layout.fields.get(path)
        part = f"field {field[2]!r}" if field else f"`{path.rsplit('/', 1)[-1]}`"
        checked = field is None or schema is None or field[2] in schema
        label = f"sample {sample.name!r}: {part}"
        return ArrayWriter(folder, path, like, frames, field, label, checked, store)

    done = []
    for path, values in layout.arrays.items():
        done.append(writer(path, values, None))
        done[-1].put(values)
    for segment in layout.series:
        done += _write_frames(segment, writer)
    for w in done:
        if w.field is not None:
            layout.components[w.field] = w.components
    content = {
        "tree": layout.tree,
        "paths": sorted(w.path for w in done),
        "frames": {w.path: {"shape": list(w.shape), "chunk": w.length} for w in done if w.moving},
        "moments": _moments(done),
        "fields": sorted([*field, n] for field, n in layout.components.items()),
        "provenance": dict(provenance),
        "contents": contents(sample),
        "seconds": round(time.perf_counter() - began, 3),
        "sha256": disk.sample_hash(layout.tree, {w.path: w.digest.hexdigest() for w in done}),
    }
    with writing_to(store):
        files, size = disk.measure(folder)
        disk.write_group(folder, {disk.MARK: content | {"files": files, "bytes": size}})


def _write_frames(segment: Mapping[str, tuple[Frames, int]], writer: Any) -> list[ArrayWriter]:
    writers: list[ArrayWriter] = []
    kept: list[list[Tensor]] = [[] for _ in segment]
    total = min((len(frames) for frames, _ in segment.values()), default=0)
    for t in range(total):
        for k, (path, (frames, rows)) in enumerate(segment.items()):
            frame = as_tensor(frames[t])
            if t == 0:
                writers.append(writer(path, frame, total))
            writers[k].check_frame(frame, t, rows)
            kept[k].append(frame)
            if len(kept[k]) == writers[k].length or t == total - 1:
                writers[k].put(torch.stack(kept[k]))
                kept[k].clear()
    return writers


class ArrayWriter:
    """One array of a sample, written block by block, checked, counted and hashed on the way.

    Arguments:
        folder: the sample's.
        path: of the array in it.
        like: all values, or the first frame.
        frames: T, or None where `like` is all there is.
        field: (branch, location, name), if it is a field.
        label: what to call it in messages.
        checked: refuse what is not finite.
        store: what to call the place in messages.
    """

    def __init__(
        self,
        folder: Path,
        path: str,
        like: Tensor,
        frames: int | None,
        field: FieldKey | None,
        label: str,
        checked: bool,
        store: Path,
    ):
        self.folder, self.path, self.field, self.label = folder, path, field, label
        self.checked, self.store, self.moving = checked, store, frames is not None
        self.frame, self.dtype = tuple(like.shape), like.dtype
        self.shape = self.frame if frames is None else (frames, *self.frame)
        length = min(block_length(like.numel() * like.element_size()), frames or 1)
        self.chunks, self.shards = chunking(
            self.shape,
            like.element_size(),
            length if self.moving else None,
            divided=self.moving or like.is_floating_point(),  # topology is read whole
        )
        self.length = (self.shards or self.chunks)[0] if self.moving else 1
        self.components = 0 if field is None else self._rows(like, 1).shape[-1]
        self.moments: Moments | None = None
        if field is not None and like.is_floating_point():
            self.moments = Moments(self.components)
        self.digest: Any = None
        self._array: zarr.Array | None = None
        self._start = 0

    def check_frame(self, frame: Shaped[Tensor, "..."], t: int, rows: int) -> None:
        """Raise `InputError` unless a frame has its rows, and the shape of the first."""
        got = tuple(frame.shape)
        if not got or got[0] != rows:
            raise InputError(f"{self.label}: expected {rows} rows in frame {t}, got shape {got}")
        if got != self.frame:
            raise InputError(f"{self.label}: frame {t} has shape {got}, frame 0 {self.frame}")

    def put(self, block: Shaped[Tensor, "..."]) -> None:
        """Write all values, or the next frames."""
        block = block.detach().cpu().to(self.dtype)
        if block.is_floating_point() and not bool(torch.isfinite(block).all()):
            if self.checked:
                self._refuse(block)
            self.moments = None
        if self.moments is not None:
            self.moments.update(self._rows(block, 2 if self.moving else 1))
        values = np.ascontiguousarray(block.numpy()) if block.dim() else block.numpy()
        with writing_to(self.store):
            if self._array is None:
                self.digest = disk.array_digest(self.shape, values.dtype)
                self._array = self._create(values.dtype)
            if self.shards is not None:
                self._put_shards(values)
            elif self.shape:
                self._array[self._start : self._start + len(values)] = values
            else:
                self._array[...] = values
            self._start += len(values) if self.shape else 0
        self.digest.update(values.tobytes())

    def _put_shards(self, values: NDArray[Any]) -> None:
        assert self.shards is not None and self._array is not None
        axis = 1 if self.moving else 0
        step = self.shards[axis]
        for k, start in enumerate(range(0, values.shape[axis], step)):
            part = values[:, start : start + step] if axis else values[start : start + step]
            lead = [self._start // self.length] * axis
            numbers = [*lead, k, *(0 for _ in self.shape[axis + 1 :])]
            name = ".".join(["c", *map(str, numbers)])
            disk.put_file(
                self._array, f"{self.path}/{name}", encode(part, self.chunks, self.shards)
            )

    def _rows(self, block: Tensor, lead: int) -> Tensor:
        assert self.field is not None
        # a global value of shape (3,) has three components and one row
        return block.reshape(1, -1) if self.field[1] == "global" else columns(block, lead)

    def _refuse(self, block: Tensor) -> None:
        try:
            for t, part in enumerate(block if self.moving else [block], self._start):
                check_finite(part, f"frame {t}" if self.moving else "values")
        except InputError as error:
            raise InputError(f"{self.label}: {error}") from error

    def _create(self, dtype: np.dtype[Any]) -> zarr.Array:
        import zarr
        from zarr.codecs import BloscCodec, Crc32cCodec
        from zarr.storage import LocalStore

        return zarr.create_array(
            store=LocalStore(self.folder),
            name=self.path,
            shape=self.shape,
            chunks=self.chunks,
            shards=self.shards,
            dtype=dtype,
            compressors=[
                BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"),
                Crc32cCodec(),  # a damaged chunk must not be read as numbers
            ],
            chunk_key_encoding={"name": "default", "separator": "."},
            # a chunk of zeros left out could not be told from a lost one
            config={"write_empty_chunks": True},
        )


def _moments(done: Sequence[ArrayWriter]) -> dict[str, dict[str, dict[str, Any]]]:
    """{branch: {location: {name: moments}}}, over all segments; none of fields with NaN."""
    merged: dict[FieldKey, Moments | None] = {}
    for w in done:
        if w.field is None or not w.dtype.is_floating_point:
            continue
        old = merged.get(w.field, Moments(w.components))
        merged[w.field] = None if old is None or w.moments is None else old.merge(w.moments)
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for (branch, place, name), moments in merged.items():
        if moments is not None:
            out.setdefault(branch, {}).setdefault(place, {})[name] = moments.to_dict()
    return out
