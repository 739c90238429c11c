"""Point values that stand beside a mesh: SU2's csv and binary restart files."""

from __future__ import annotations

import csv
import io

import numpy as np

from meshsim.io.raw import Tree, content, expect, stack_components

MAGIC = 535532  # SU2's binary restart files start with it
NAME = 33  # bytes of a column's name in them
AXES = ("x", "y", "z")


def read(path: str, options: Tree) -> Tree:
    """Columns as fields: {"points": (N, D) or None, "ids": (N,) or None, "point_fields"}."""
    data = content(path)
    if len(data) >= 20 and int.from_bytes(data[:4], "little") == MAGIC:
        columns = _binary(data)
    else:
        columns = _csv(data)
    lower = {name.lower(): name for name in columns}
    ids = columns.pop(lower["pointid"]) if "pointid" in lower else None
    axes = [columns.pop(lower[axis]) for axis in AXES if axis in lower]
    expect(columns, "holds no values beside coordinates")
    return {
        "ids": None if ids is None else ids.astype(np.int64),
        "points": np.stack(axes, 1) if len(axes) >= 2 else None,
        "point_fields": stack_components(columns),
    }


def _binary(data: bytes) -> dict[str, np.ndarray]:
    head = np.frombuffer(data, "<i4", 5)
    n, rows = int(head[1]), int(head[2])
    expect(0 < n < 10_000 and rows > 0, "has a damaged header")
    start = 20 + NAME * n
    expect(len(data) >= start + 8 * n * rows, f"ends early (expected {rows} rows of {n})")
    names = [
        data[20 + NAME * i : 20 + NAME * (i + 1)].split(b"\0", 1)[0].decode("utf-8", "replace")
        for i in range(n)
    ]
    expect(len(set(names)) == n, "has two columns of one name")
    table = np.frombuffer(data, "<f8", n * rows, start).reshape(rows, n)
    return {name: table[:, i].copy() for i, name in enumerate(names)}


def _csv(data: bytes) -> dict[str, np.ndarray]:
    head, _, body = data.partition(b"\n")
    text = head.decode("utf-8-sig", "replace").strip()
    names = [name.strip() for name in next(csv.reader(io.StringIO(text)), [])]
    expect(len(names) > 1, "has no header of column names separated by commas")
    expect(len(set(names)) == len(names), "has two columns of one name")
    lines = [line for line in body.splitlines() if line.strip()]
    expect(lines, "holds no rows")
    words = b",".join(lines).split(b",")
    expect(
        len(words) == len(names) * len(lines),
        f"ends early, or a row is too short (expected {len(names)} columns in {len(lines)} rows)",
    )
    table = np.array(words).reshape(len(lines), len(names))
    try:
        values = table.astype(np.float64)
    except ValueError as error:
        raise ValueError(f"a value is not a number ({error})") from None
    return {name: values[:, i].copy() for i, name in enumerate(names)}
