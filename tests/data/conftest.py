"""Small samples that hold one of everything."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

# before zarr starts its threads: the machine may be small
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def mixed_mesh():
    """Two triangles, a quad and a pentagon in the plane, an isolated point, fields everywhere."""
    from meshsim import Boundary, Cells, Mesh

    points = np.array(
        [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1], [3, 0], [3.5, 0.5], [3, 1], [9, 9]], float
    )
    cells = [
        Cells("triangle", torch.tensor([[0, 1, 3], [1, 4, 3]])),
        Cells("quad", torch.tensor([[1, 2, 5, 4]])),
        Cells("polygon", torch.tensor([2, 6, 7, 8, 5]), torch.tensor([0, 5])),
    ]
    random = np.random.default_rng(0)
    return Mesh(
        points,
        cells,
        point_fields={
            "pressure": random.normal(size=10).astype(np.float32),
            "velocity": random.normal(size=(10, 2)),
            "kind": np.arange(10, dtype=np.int32),
            "grad(U)/x": random.normal(size=(10, 2, 2)).astype(np.float32),
            "P": np.zeros(10),
            "p": np.ones(10),
        },
        cell_fields={
            "volume": np.array([0.5, 0.5, 1.0, 1.25]),
            "solid": np.array([1, 0, 0, 1]) > 0,
        },
        boundaries={
            "wall": Boundary(
                torch.tensor([4, 5]), {"shear": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}, "patch"
            ),
            "nothing here": Boundary(torch.tensor([], dtype=torch.int64)),
        },
        regions={"left half": torch.tensor([0, 1])},
        global_fields={"drag": 1.25, "long": np.arange(100.0), "code": np.array([1, 2])},
        file_order=torch.tensor([3, 0, 1, 2]),
        z=0.5,
        flattened=frozenset(["velocity"]),
        notes=("one cell was odd",),
    )


@pytest.fixture
def polyhedra():
    """A cube of six faces beside a tetrahedron, as polyhedra; float32."""
    from meshsim import Cells, Mesh

    points = torch.tensor(
        [[x, y, z] for z in (0.0, 1.0) for y in (0.0, 1.0) for x in (0.0, 1.0)] + [[2.0, 0.5, 0.5]]
    )
    cube = [[0, 2, 3, 1], [4, 5, 7, 6], [0, 1, 5, 4], [2, 6, 7, 3], [0, 4, 6, 2], [1, 3, 7, 5]]
    pyramid = [[1, 5, 7, 3], [1, 8, 5], [5, 8, 7], [7, 8, 3], [3, 8, 1]]
    faces = cube + pyramid
    lengths = torch.tensor([0, *(len(face) for face in faces)])
    return Mesh(
        points,
        [
            Cells(
                "polyhedron",
                torch.tensor([node for face in faces for node in face]),
                torch.tensor([0, 6, 11]),
                lengths.cumsum(0),
            )
        ],
        cell_fields={"T": torch.tensor([1.0, 2.0])},
    )


@pytest.fixture
def flow() -> Callable[..., object]:
    """A maker of series samples: `flow(name, frames, seed, nodes, dtype)`."""
    from meshsim import Mesh, Sample, Series

    def make(name="a", frames=7, seed=0, side=4, dtype=np.float32, shift=0.0):
        random = np.random.default_rng(seed)
        grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)
        quads = [
            [i + side * j, i + 1 + side * j, i + 1 + side * (j + 1), i + side * (j + 1)]
            for j in range(side - 1)
            for i in range(side - 1)
        ]
        n = side * side
        times = np.cumsum(random.uniform(0.5, 1.5, frames))  # not evenly spaced on purpose
        series = Series(
            Mesh(grid.astype(float), {"quad": quads}),
            times,
            {
                "velocity": (shift + random.normal(size=(frames, n, 2))).astype(dtype),
                "pressure": random.normal(size=(frames, n)).astype(dtype),
            },
        )
        return Sample(series, {"inflow": 1.0 + seed}, name)

    return make


@pytest.fixture
def write_flow(flow) -> Callable[..., Path]:
    """Writes a flow as the documented .npz: `write_flow(path, …)`, arguments as of `flow`."""

    def write(path: Path, parameters: bool = True, **arguments) -> Path:
        series = flow(**arguments).branch
        arrays = {
            "points": series.mesh.points.numpy(),
            "cells/quad": series.mesh.cells[0].nodes.numpy(),
            "times": series.times.numpy(),
            "point/velocity": series.point_fields["velocity"],
            "point/pressure": series.point_fields["pressure"],
        }
        if parameters:
            arrays["parameter/inflow"] = np.float64(1.5)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **arrays)
        return path

    return write


@pytest.fixture
def same() -> Callable[[object, object], None]:
    """Asserts that two samples are the same in everything, dtypes and order included."""
    from meshsim import Mesh

    def equal(a, b, what):
        assert a.dtype == b.dtype and a.shape == b.shape, what
        assert torch.equal(a, b) or bool(((a == b) | (a != a) & (b != b)).all()), what

    def tables(a, b, what):
        assert list(a) == list(b), what
        for name in a:
            equal(a[name], b[name], f"{what} {name}")

    def meshes(a, b):
        equal(a.points, b.points, "points")
        assert [c.type for c in a.cells] == [c.type for c in b.cells]
        for c, d in zip(a.cells, b.cells, strict=True):
            for part in ("nodes", "offsets", "face_offsets"):
                x, y = getattr(c, part), getattr(d, part)
                assert (x is None) == (y is None)
                if x is not None:
                    equal(x, y, f"{c.type} {part}")
        for part in ("point_fields", "cell_fields", "global_fields", "regions"):
            tables(getattr(a, part), getattr(b, part), part)
        assert list(a.boundaries) == list(b.boundaries)
        for name, x in a.boundaries.items():
            y = b.boundaries[name]
            equal(x.faces, y.faces, f"boundary {name}")
            tables(x.fields, y.fields, f"boundary {name}")
            assert x.kind == y.kind
        assert (a.file_order is None) == (b.file_order is None)
        if a.file_order is not None:
            equal(a.file_order, b.file_order, "file_order")
        assert (a.z, a.flattened, a.notes) == (b.z, b.flattened, b.notes)

    def samples(a, b):
        assert a.name == b.name and list(a.branches) == list(b.branches)
        tables(a.parameters, b.parameters, "parameters")
        for name, x in a.branches.items():
            y = b.branches[name]
            assert type(x) is type(y)
            if isinstance(x, Mesh):
                meshes(x, y)
                continue
            assert len(x.segments) == len(y.segments)
            for s, t in zip(x.segments, y.segments, strict=True):
                equal(s.times, t.times, "times")
                meshes(s.mesh, t.mesh)
                for part in ("point_fields", "cell_fields"):
                    assert list(getattr(s, part)) == list(getattr(t, part))
                assert (s.points is None) == (t.points is None)
                for k in range(len(s)):
                    meshes(s.frame(k), t.frame(k))

    return samples
