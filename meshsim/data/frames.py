"""Frames of a series in blocks: reading several at once, picking and stacking them lazily."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from meshsim.check import InputError
from meshsim.mesh import as_tensor
from meshsim.series import Frames, Picked

__all__ = ["Cast", "Picked", "Stacked", "block_length", "read_block", "stack"]

BLOCK_BYTES = 4 << 20


def block_length(frame_bytes: int) -> int:
    """How many frames make a block of about 4 MiB; at least one.

    >>> block_length(1000 * 2 * 4), block_length(10**9)
    (524, 1)
    """
    return max(1, BLOCK_BYTES // max(1, frame_bytes))


def read_block(frames: Frames, start: int, stop: int) -> Shaped[Tensor, "T ..."]:
    """Frames `start` to `stop` - 1 as one tensor (T, N, …).

    Raises:
        InputError: frames of different shape; the first that differs is named.
    """
    if isinstance(frames, np.ndarray | Tensor):
        return as_tensor(frames[start:stop])
    if hasattr(frames, "block"):
        return frames.block(start, stop)
    parts = [as_tensor(frames[t]) for t in range(start, stop)]
    for t, part in enumerate(parts, start):
        if part.shape != parts[0].shape:
            raise InputError(
                f"frame {t} has shape {tuple(part.shape)}, frame {start} {tuple(parts[0].shape)}"
            )
    return torch.stack(parts)


@dataclass(frozen=True)
class Stacked:
    """Several fields as the components of one: scalars (N,) become columns of (N, k)."""

    parts: Sequence[Frames]

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, t: int) -> Tensor:
        return stack([as_tensor(part[t]) for part in self.parts])


@dataclass(frozen=True)
class Cast:
    """Frames with floating-point values in another dtype."""

    frames: Frames
    dtype: torch.dtype

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, t: int) -> Tensor:
        frame = as_tensor(self.frames[t])
        return frame.to(self.dtype) if frame.is_floating_point() else frame


def stack(parts: Sequence[Shaped[Tensor, "N ..."]]) -> Shaped[Tensor, "N C"]:
    """Fields side by side as the components of one.

    Raises:
        InputError: they differ in length.
    """
    if len({len(part) for part in parts}) > 1:
        raise InputError(f"cannot stack fields of lengths {', '.join(str(len(p)) for p in parts)}")
    return torch.cat([part.reshape(len(part), -1) for part in parts], 1)
