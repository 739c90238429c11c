"""A case of CFDBench: `u.npy`, `v.npy` (T, H, W) on a regular grid, `case.json` beside them."""

from __future__ import annotations

import json
import os
import sys

import numpy as np

from meshsim.io.raw import Tree, expect

FILES = ("case.json", "u.npy", "v.npy")
BOX = ("x_min", "x_max", "y_min", "y_max")


def read(path: str, options: Tree) -> Tree:
    """A case folder as a tree with `series`; numbers of `case.json` are parameters."""
    about = _about(os.path.join(path, "case.json"))
    u, v = (_values(os.path.join(path, f"{name}.npy")) for name in ("u", "v"))
    expect(u.shape == v.shape, f"u.npy has shape {u.shape}, v.npy {v.shape}")
    total, rows, columns = u.shape
    expect(u.size, f"u.npy is empty (shape {u.shape})")
    x, y = _sides(about, columns, rows)
    points = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    at = np.arange(len(points)).reshape(rows + 1, columns + 1)
    a, b, c, d = at[:-1, :-1], at[:-1, 1:], at[1:, 1:], at[1:, :-1]
    velocity = np.stack([u, v], -1).reshape(total, rows * columns, 2)
    edges = {"left": at[:, 0], "right": at[:, -1], "bottom": at[0], "top": at[-1]}
    return {
        "exact": True,
        "points": points,
        "blocks": [{"type": "quad", "nodes": np.stack([a, b, c, d], -1).reshape(-1, 4)}],
        "point_fields": {},
        "cell_fields": {},
        "boundaries": {
            name: {
                "sizes": np.full(len(line) - 1, 2),
                "nodes": np.stack([line[:-1], line[1:]], 1).reshape(-1),
            }
            for name, line in edges.items()
        },
        "parameters": {name: np.float64(value) for name, value in about.items()},
        "notes": ["times are numbers of frames: the files say no time step"],
        "times": [float(t) for t in range(total)],
        "series": {"point": {}, "cell": {"velocity": velocity}},
    }


def _about(path: str) -> dict[str, float]:
    with open(path, encoding="utf-8") as file:
        try:
            about = json.load(file)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"case.json: not JSON ({error})") from None
    expect(isinstance(about, dict), "case.json: expected a table of numbers")
    for name, value in about.items():
        sound = isinstance(value, int | float) and abs(value) <= sys.float_info.max
        expect(sound, f"case.json: {name!r}: expected a number, got {value!r:.60}")
    # the dam's inflow has the name of the field
    return {"vel_in" if name == "velocity" else name: value for name, value in about.items()}


def _values(path: str) -> np.ndarray:
    name = os.path.basename(path)
    try:
        # mapped first: its header may ask for more than the file has
        values = np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name}: is no array, or ends early ({error})") from None
    expect(values.ndim == 3, f"{name}: expected shape (T, H, W), got {values.shape}")
    expect(values.dtype.kind == "f", f"{name}: expected floating-point numbers, got {values.dtype}")
    return np.asarray(values)


def _sides(about: dict[str, float], columns: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the sides of the cells are along each axis; the first row is the lowest."""
    if all(key in about for key in BOX):
        low, high = (about["x_min"], about["y_min"]), (about["x_max"], about["y_max"])
    else:
        expect("width" in about and "height" in about, "case.json: has no `width` and `height`")
        low, high = (0.0, 0.0), (about["width"], about["height"])
    x, y = (np.linspace(a, b, n + 1) for a, b, n in zip(low, high, (columns, rows), strict=True))
    expect(x[-1] > x[0] and y[-1] > y[0], "case.json: width and height have to be above 0")
    return x, y
