"""Trees of plain data and arrays as bytes: a JSON header, then the arrays' buffers. No pickle."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

MAGIC = b"meshsim1"
KINDS = "biuf"


def encode(tree: Any) -> list[bytes | memoryview]:
    """The parts to send one after another: magic, length, header, buffers."""
    arrays: list[np.ndarray] = []

    def plain(x: Any) -> Any:
        if isinstance(x, np.ndarray):
            if x.dtype.kind not in KINDS:
                raise ValueError(f"an array of dtype {x.dtype} (expected numbers)")
            order = x.astype(x.dtype.newbyteorder("="), copy=False)
            arrays.append(np.ascontiguousarray(order).reshape(x.shape))
            return {"\0array": len(arrays) - 1}
        if isinstance(x, np.generic):
            return x.item()
        if isinstance(x, dict):
            return {str(k): plain(v) for k, v in x.items()}
        if isinstance(x, list | tuple):
            return [plain(v) for v in x]
        return x

    body = plain(tree)
    about = [{"dtype": a.dtype.str, "shape": a.shape} for a in arrays]
    header = json.dumps({"tree": body, "arrays": about}).encode()
    parts: list[bytes | memoryview] = [MAGIC + len(header).to_bytes(8, "little"), header]
    return parts + [a.reshape(-1).view(np.uint8).data for a in arrays if a.size]


def decode(read: Callable[[memoryview], None], limit: int) -> Any:
    """The tree that `encode` sent.

    Arguments:
        read: fills a buffer with the next bytes.
        limit: bytes that all arrays together may have.

    Raises:
        ValueError: what comes is no such tree, or larger than the limit.
    """
    head = bytearray(len(MAGIC) + 8)
    read(memoryview(head))
    size = int.from_bytes(head[len(MAGIC) :], "little")
    if head[: len(MAGIC)] != MAGIC or size > limit:
        raise ValueError("the reader's answer is damaged")
    text = bytearray(size)
    read(memoryview(text))
    header = json.loads(bytes(text))
    dtypes = [np.dtype(about["dtype"]) for about in header["arrays"]]
    shapes = [tuple(about["shape"]) for about in header["arrays"]]
    total = 0
    for dtype, shape in zip(dtypes, shapes, strict=True):
        n = 1
        for length in shape:
            n *= int(length)
        total += n * dtype.itemsize
    if total > limit or any(d.kind not in KINDS for d in dtypes):
        raise ValueError("the reader's answer is damaged or too large")
    arrays = []
    for dtype, shape in zip(dtypes, shapes, strict=True):
        array = np.empty(shape, dtype)
        if array.size:
            read(array.reshape(-1).view(np.uint8).data)
        arrays.append(array)

    def rebuild(x: Any) -> Any:
        if isinstance(x, dict):
            if "\0array" in x:
                return arrays[x["\0array"]]
            return {k: rebuild(v) for k, v in x.items()}
        return [rebuild(v) for v in x] if isinstance(x, list) else x

    return rebuild(header["tree"])
