"""Formats beyond those read by our own readers: whatever meshio opens."""

from __future__ import annotations

import numpy as np

from meshsim.io.raw import NODES, Tree, expect, tecplot_sizes
from meshsim.io.raw.markup import check_file


def read(path: str, options: Tree) -> Tree:
    """A file read by meshio (`options["kind"]` is its name for the format) as a tree."""
    import meshio

    kind = options["kind"]
    if kind in ("dolfin-xml", "vtu", "xdmf"):
        check_file(path)
    if kind == "tecplot":
        tecplot_sizes.check(path)  # meshio too reads on behind the end
    try:
        mesh = meshio.read(path, file_format=kind)
    except (MemoryError, RecursionError):
        raise
    except ImportError as error:
        raise ValueError(f"reading {kind} needs {error.name or 'a package'}: not here") from error
    except OSError as error:
        if error.strerror and error.errno:
            raise
        raise ValueError(f"is no {kind} file, or damaged or cut off") from error
    except (Exception, SystemExit) as error:
        # what meshio says of its own variables helps nobody; its own messages do
        told = " ".join(str(error).split()) if isinstance(error, meshio.ReadError) else ""
        raise ValueError(
            f"is no {kind} file, or damaged or cut off{told and f' ({told[:120]})'}"
        ) from error
    places = np.asarray(mesh.points)
    expect(places.ndim == 2 and len(places), f"holds no points: is no {kind} file, or damaged")
    blocks: list[Tree] = []
    at = 0
    skipped: dict[str, int] = {}
    kept = []
    for i, block in enumerate(mesh.cells):
        n = len(block.data)
        if NODES.get(block.type):
            nodes = np.asarray(block.data, np.int64)
            expect(nodes.ndim == 2 and nodes.shape[1] == NODES[block.type], f"damaged {block.type}")
            blocks.append({"type": block.type, "nodes": nodes, "rows": np.arange(at, at + n)})
            kept.append((i, at, n))
            at += n
        elif n:
            skipped[block.type] = skipped.get(block.type, 0) + n
    points = np.asarray(mesh.points, np.float64)
    points = points[:, :3] if points.ndim == 2 else points
    out: Tree = {
        "points": points,
        "blocks": blocks,
        "point_fields": {k: np.asarray(v) for k, v in mesh.point_data.items() if _plain(v)},
        "cell_fields": {},
        "groups": {},
        "notes": [f"{n} cells of type {kind} were left out" for kind, n in skipped.items()],
    }
    for name, parts in mesh.cell_data.items():
        mine = [np.asarray(parts[i]) for i, _, _ in kept]
        if mine and all(_plain(p) for p in mine) and len({p.shape[1:] for p in mine}) == 1:
            out["cell_fields"][name] = np.concatenate(mine)
    for name, sets in (mesh.cell_sets or {}).items():
        rows = [
            np.asarray(sets[i], np.int64) + first
            for i, first, _ in kept
            if i < len(sets) and sets[i] is not None
        ]
        if rows:
            found = np.concatenate(rows)
            if len(found) and found.min() >= 0 and found.max() < at:
                out["groups"][name] = {"cells": found}
    return out


def _plain(values: object) -> bool:
    return np.asarray(values).dtype.kind in "biuf"
