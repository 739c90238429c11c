"""Writes trajectories as DeepMind published them; nothing here is shared with the reader."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np


def crc32c(data: bytes) -> int:
    """CRC-32C bit by bit: polynomial 0x1EDC6F41, reflected."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    turned = (crc >> 15) | ((crc & 0x7FFF) << 17)
    return struct.pack("<I", (turned + 0xA282EAD8) % (1 << 32))


def varint(n: int) -> bytes:
    n %= 1 << 64
    out = b""
    while n >= 128:
        out += bytes([n % 128 + 128])
        n //= 128
    return out + bytes([n])


def field(number: int, inside: bytes) -> bytes:
    """A length-delimited field of a protocol buffer message."""
    return varint(8 * number + 2) + varint(len(inside)) + inside


def message(features: dict[str, bytes]) -> bytes:
    """A tf.train.Example whose features are byte strings."""
    entries = b"".join(
        field(1, field(1, name.encode()) + field(2, field(1, field(1, value))))
        for name, value in features.items()
    )
    return field(1, entries)


def framed(data: bytes) -> bytes:
    head = struct.pack("<Q", len(data))
    return head + masked(head) + data + masked(data)


def write(path: Path, trajectories: list[dict[str, np.ndarray]]) -> None:
    path.write_bytes(
        b"".join(framed(message({k: v.tobytes() for k, v in t.items()})) for t in trajectories)
    )


def feature(kind: str, dtype: str, *shape: int) -> dict:
    return {"type": kind, "dtype": dtype, "shape": list(shape)}


def meta(folder: Path, features: dict[str, dict], times: int, dt: float, **more) -> None:
    table = {
        "simulator": "made up",
        "dt": dt,
        "features": features,
        "field_names": list(features),
        "trajectory_length": times,
        **more,
    }
    (folder / "meta.json").write_text(json.dumps(table))


def plane(nx: int, ny: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points of a jittered grid in the plane and its triangles."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(nx), np.arange(ny)), -1).reshape(-1, 2)
    points = (grid + 0.2 * random.uniform(-1, 1, grid.shape)).astype(np.float32)
    a = (np.arange(nx - 1)[None] + nx * np.arange(ny - 1)[:, None]).reshape(-1, 1)
    corners = [np.array([0, 1, nx + 1]), np.array([0, nx + 1, nx])]
    cells = np.concatenate([a + corner for corner in corners]).astype(np.int32)
    return points, cells


FLOW = {
    "cells": feature("static", "int32", 1, -1, 3),
    "mesh_pos": feature("static", "float32", 1, -1, 2),
    "node_type": feature("static", "int32", 1, -1, 1),
}


def cylinder_flow(folder: Path, split: str = "train", count: int = 3, times: int = 4) -> list[dict]:
    """`cylinder_flow` made small: velocity and pressure on triangles that rest."""
    folder.mkdir(parents=True, exist_ok=True)
    features = {
        **FLOW,
        "velocity": feature("dynamic", "float32", times, -1, 2),
        "pressure": feature("dynamic", "float32", times, -1, 1),
    }
    meta(folder, features, times, 0.01)
    random = np.random.default_rng(len(split))
    made = []
    for i in range(count):
        points, cells = plane(4 + i, 3, i)
        n = len(points)
        made.append(
            {
                "cells": cells[None],
                "mesh_pos": points[None],
                "node_type": random.choice([0, 4, 5, 6], (1, n, 1)).astype(np.int32),
                "velocity": random.normal(size=(times, n, 2)).astype(np.float32),
                "pressure": random.normal(size=(times, n, 1)).astype(np.float32),
            }
        )
    write(folder / f"{split}.tfrecord", made)
    return made


def hdf5(path: Path, trajectories: list[dict[str, np.ndarray]], name: str = "pos") -> None:
    """The usual conversion: a group a trajectory, everything repeated for every time."""
    import h5py

    with h5py.File(path, "w") as file:
        for i, arrays in enumerate(trajectories):
            times = max(len(values) for values in arrays.values())
            group = file.create_group(str(i))
            for key, values in arrays.items():
                tiled = np.broadcast_to(values, (times, *values.shape[1:]))
                group[name if key == "mesh_pos" else key] = tiled
