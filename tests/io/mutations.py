"""Random changes of files, for fuzzing: of bytes, and of what HDF5, .npz and JSON hold."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np

NUMBER = re.compile(rb"-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?")
VALUES = (
    b"-1",
    b"0",
    b"99999999999",
    b"2147483648",
    b"-2147483649",
    b"nan",
    b"1e400",
    b"",
    b"x",
    b"7",
)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one to three changes."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        if not data:
            return data
        at, n = rng.randrange(len(data)), rng.choice((1, 2, 4, 8, 40, 400))
        kind = rng.randrange(9)
        if kind == 0:
            data = data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + rng.randbytes(min(n, 8)) + data[at + min(n, 8) :]
        elif kind == 2:
            data = data[:at]
        elif kind == 3:
            data = data[:at] + data[at + n :]
        elif kind == 4:
            data = data[: at + n] + data[at:]
        elif kind == 5:
            data = (
                data[:at]
                + rng.choice((b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0" * 8))
                + data[at + 4 :]
            )
        elif kind == 6:
            lines = data.split(b"\n")
            i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
            lines[i], lines[j] = lines[j], lines[i]
            data = b"\n".join(lines)
        else:
            found = list(NUMBER.finditer(data))
            if found:
                one = rng.choice(found)
                data = data[: one.start()] + rng.choice(VALUES) + data[one.end() :]
    return data


def hdf5_changed(path: Path, rng: random.Random) -> None:
    """Change one data set of an HDF5 file: its values, its length, or its being there."""
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visititems(
            lambda name, node: names.append(name) if isinstance(node, h5py.Dataset) else None
        )
        name = rng.choice(names)
        values = file[name][()]
        held = dict(file[name].attrs)
        del file[name]
        kind = rng.randrange(5)
        if kind == 0:
            return
        values = np.asarray(values)
        if values.dtype.kind in "iuf" and values.size:
            flat = values.reshape(-1).copy()
            if kind == 1:
                odd = np.array([rng.choice((-1, 0, 10**9, 2**31 - 1, 3))])
                flat[rng.randrange(flat.size)] = odd.astype(flat.dtype)[0]
                values = flat.reshape(values.shape)
            elif kind == 2:
                values = flat[: rng.randrange(flat.size + 1)]
            elif kind == 3:
                values = np.concatenate([flat, flat])
            else:
                values = flat.astype(rng.choice(("f8", "i1", "S4")))
        file[name] = values
        for key, value in held.items():
            file[name].attrs[key] = value


ARRAYS = (
    *(np.zeros(0, np.int64), np.zeros((2, 0)), np.zeros((0, 4)), np.zeros((1, 1, 1, 1))),
    *(np.array("inlet"), np.array(["a", "b"]), np.array(3), np.array(3.5), np.array([0.5, 1.5])),
    *(np.array([-1]), np.array([10**12]), np.array([[1, 2], [3, 4]]), np.array([np.nan, 1.0])),
)


def npz_changed(path: Path, rng: random.Random) -> None:
    """Change one array of an .npz: its values, its length, its kind, or its being there."""
    with np.load(path) as file:
        data = dict(file)
    key = rng.choice(sorted(data))
    values, kind = data.pop(key), rng.randrange(6)
    if kind == 1:
        data[key] = rng.choice(ARRAYS)
    elif kind == 2:
        data[key] = values.reshape(-1)[: rng.randrange(values.size + 1)]
    elif kind == 3:
        data[key] = np.concatenate([np.atleast_1d(values)] * 2)
    elif kind == 4 and values.dtype.kind in "iuf":
        data[key] = values.astype(rng.choice(("f8", "i1", "U4", "u8", "b1")))
    elif kind == 5 and values.dtype.kind in "iuf" and values.size:
        flat = values.reshape(-1).copy()
        odd = np.array([rng.choice((-1, 0, 10**9, 2**31 - 1, 3))])
        flat[rng.randrange(flat.size)] = odd.astype(flat.dtype)[0]
        data[key] = flat.reshape(values.shape)
    np.savez(path, **data)


SAID: tuple[Any, ...] = (
    *(None, True, -1, 3, 2.5, 1e999, 10**30, 10**400, "", "x", "4", [], {}, [1e9], [-1]),
    *([3, None], [2**62, 2**62], ["x"], [[1]], {"shape": [3]}, {"dtype": ["float32"]}),
)


def json_changed(data: bytes, rng: random.Random) -> bytes:
    """Change one entry of a JSON document; now and then all of it, or its encoding."""
    document = json.loads(data)
    kind = rng.randrange(12)
    if kind == 0:
        return json.dumps(rng.choice(SAID)).encode()
    if kind == 1:
        return json.dumps(document).replace("a", "ä").encode(rng.choice(("latin-1", "utf-16")))
    if kind == 2:
        return b"[" * 100_000
    places: list[tuple[Any, Any]] = []

    def look(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                look(node[key])

    look(document)
    node, key = rng.choice(places)
    if kind == 3 and isinstance(node, dict):
        del node[key]
    else:
        node[key] = rng.choice(SAID)
    return json.dumps(document).encode()


COMMENT = re.compile(rb"^comment meshsim (\{.*\})$", re.M)


def changed(file: Path, whole: bytes, rng: random.Random) -> None:
    """Change a file, by its bytes or by what it holds."""
    said = COMMENT.search(whole) if whole.startswith(b"ply") else None
    inside = rng.random() < 0.5
    if inside and h5py.is_hdf5(file):
        hdf5_changed(file, rng)
    elif inside and whole.startswith(b"PK\x03\x04"):
        npz_changed(file, rng)
    elif inside and file.suffix == ".json":
        file.write_bytes(json_changed(whole, rng))
    elif inside and said:
        text = json_changed(said[1], rng)
        file.write_bytes(whole[: said.start(1)] + text + whole[said.end(1) :])
    else:
        file.write_bytes(mutated(whole, rng))
