"""What is written comes back: all of it, or what `write` returned says what is missing."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from meshsim.check import InputError
from meshsim.io import losses, read, write
from meshsim.io.holds import HOLDS, Holds
from meshsim.mesh import Boundary, Mesh
from meshsim.sample import Sample
from meshsim.series import Series
from tests.helpers import DTYPES, MESHES

EXACT = ["npz", "vtu", "vtk", "xdmf", "cgns", "vtp", "ply"]
LOSSY = ["msh", "su2", "obj", "off", "stl"]


def rich(mesh: Mesh, dtype: torch.dtype) -> Mesh:
    """The mesh with fields of every kind of number and shape, on points, cells and boundaries."""
    mesh = mesh.to(dtype=dtype)
    n, c = mesh.n_points, mesh.n_cells
    i, j = torch.arange(n), torch.arange(c)
    flat = torch.stack([i, i * 0.5, i * 0.0], 1)
    point = {
        "id": i * 3,
        "on": i % 2 == 0,
        "row": (i + 1.5).reshape(n, 1).float(),
        "stress tensor ν": torch.randn(n, 3, 3, generator=torch.Generator().manual_seed(0)),
        "flat": flat.double(),
        "gap": torch.where(i == 1, float("nan"), i.double()),
    }
    cell = {
        "kind": (j % 7).int(),
        "byte": (j % 200).to(torch.uint8),
        "half": (j * 0.5).to(torch.bfloat16),
        "flux": torch.stack([j * 1.0, j + 0.25], 1).double(),
    }
    mesh = mesh.with_fields(point, cell)
    outside = torch.nonzero(mesh.faces.neighbour < 0).flatten()
    if not mesh.boundaries and len(outside):
        some = outside.flip(0)[:5]
        fields = {"q": torch.arange(len(some)) + 0.5, "v": torch.ones(len(some), 1).int()}
        mesh = mesh.replace(
            boundaries={"rim": Boundary(some, fields, "BCWall"), "one": Boundary(outside[:1])}
        )
    regions = {"last": torch.tensor([c - 1]), "all": torch.arange(c).flip(0), **mesh.regions}
    return mesh.replace(regions=regions, global_fields={**mesh.global_fields, "inflow": [1.5, 2.0]})


def equal(a: Tensor, b: Tensor, what: str) -> None:
    assert a.dtype == b.dtype, f"{what}: {a.dtype} came back as {b.dtype}"
    assert a.shape == b.shape, f"{what}: {tuple(a.shape)} came back as {tuple(b.shape)}"
    nan = (a != a) & (b != b) if a.is_floating_point() else torch.zeros((), dtype=torch.bool)
    assert bool(((a == b) | nan).all()), f"{what}: other values"


def same_fields(a, b, what: str) -> None:
    assert set(a) == set(b), f"{what}: {sorted(a)} came back as {sorted(b)}"
    for name in a:
        equal(a[name], b[name], f"{what} {name!r}")


def same_cells(a: Mesh, b: Mesh) -> None:
    assert [x.type for x in a.cells] == [x.type for x in b.cells]
    for x, y in zip(a.cells, b.cells, strict=True):
        equal(x.nodes, y.nodes, x.type)
        for name in ("offsets", "face_offsets"):
            if getattr(x, name) is not None:
                equal(getattr(x, name), getattr(y, name), f"{x.type}.{name}")


def same_faces(a: Mesh, b: Mesh, kinds: bool = True, fields: bool = True) -> None:
    """The same boundaries, compared by the corners of their faces (in order)."""
    assert set(a.boundaries) == set(b.boundaries)
    for name, part in a.boundaries.items():
        other = b.boundaries[name]
        equal(corners(a, part.faces), corners(b, other.faces), f"faces of {name!r}")
        if kinds:
            assert part.kind == other.kind
        if fields:
            same_fields(part.fields, other.fields, f"boundary {name!r}")


def corners(mesh: Mesh, faces: Tensor) -> Tensor:
    of, nodes = mesh.faces.offsets, mesh.faces.nodes
    rows = [sorted(nodes[of[f] : of[f + 1]].tolist()) for f in faces.tolist()]
    width = max(map(len, rows), default=0)
    return torch.tensor([row + [-1] * (width - len(row)) for row in rows])


def same(a: Mesh, b: Mesh, holds: Holds) -> None:
    """All that an exact format holds."""
    flat = a.dim == 2 and not holds.plane
    equal(torch.nn.functional.pad(a.points, (0, 1)) if flat else a.points, b.points, "points")
    same_cells(a, b)
    pad = {"u", "flux"} if flat else set()
    for x, y, what in (
        (a.point_fields, b.point_fields, "point"),
        (a.cell_fields, b.cell_fields, "cell"),
    ):
        x = {k: torch.nn.functional.pad(v, (0, 1)) if k in pad else v for k, v in x.items()}
        same_fields(x, y, what)
    if holds.boundaries:
        same_faces(a, b)
    if holds.regions:
        same_fields(a.regions, b.regions, "region")
    if holds.globals:
        same_fields(a.global_fields, b.global_fields, "global field")
    if holds.order:
        assert (a.file_order is None) == (b.file_order is None)
        if a.file_order is not None:
            equal(a.file_order, b.file_order, "file_order")
    if holds.plane:
        assert a.z == b.z
        assert a.flattened == b.flattened


CASES = [(name, torch.float64) for name in MESHES]
CASES += [(name, torch.float32) for name in ("channel", "mixed_solid", "polyhedra", "lifted")]


@pytest.mark.parametrize("name, dtype", CASES)
@pytest.mark.parametrize("suffix", EXACT)
def test_everything_comes_back(suffix, name, dtype, tmp_path):
    mesh = rich(MESHES[name], dtype)
    path = tmp_path / f"mesh.{suffix}"
    if {block.type for block in mesh.cells} - HOLDS[suffix].types:
        with pytest.raises(InputError, match="cannot hold cells of type"):
            write(mesh, path)
        assert not list(tmp_path.iterdir())
        return
    said = losses(mesh, path)
    assert write(mesh, path) == said
    if suffix in ("npz", "vtu", "vtk", "xdmf", "cgns"):
        assert said == []
    back = read(path)
    polygons = suffix in ("vtp", "ply") and any(b.type == "polygon" for b in mesh.cells)
    if polygons:
        assert any("polygons" in sentence for sentence in said)
        assert back.n_cells == mesh.n_cells
    else:
        same(mesh, back, HOLDS[suffix])
    lost = " ".join(said)
    for what in ("boundaries", "regions"):
        if getattr(mesh, what) and not getattr(HOLDS[suffix], what):
            assert f"cannot hold {what}" in lost
    assert [p.name for p in tmp_path.iterdir() if ".part" in p.name] == []


@pytest.mark.parametrize("name", MESHES)
@pytest.mark.parametrize("suffix", LOSSY)
def test_nothing_else_is_lost(suffix, name, tmp_path):
    mesh, holds = rich(MESHES[name], torch.float64), HOLDS[suffix]
    path = tmp_path / f"mesh.{suffix}"
    surface = suffix == "su2" and mesh.cell_dim != mesh.dim
    if {block.type for block in mesh.cells} - holds.types or surface:
        with pytest.raises(InputError):
            write(mesh, path)
        assert not list(tmp_path.iterdir())
        return
    said = " ".join(write(mesh, path))
    back = read(path)
    assert isinstance(back, Mesh)
    if suffix == "stl":
        assert "single precision" in said
        assert back.cells[0].type == "triangle" and len(back.cells) == 1
        return
    flat = mesh.dim == 2 and not holds.plane
    points = torch.nn.functional.pad(mesh.points, (0, 1)) if flat else mesh.points
    equal(points, back.points, "points")
    if not any(block.type == "polygon" for block in mesh.cells):
        same_cells_by_type(mesh, back)
    if holds.boundaries:
        same_faces(mesh, back, kinds=False, fields=False)
        assert "what kind" in said or not any(b.kind for b in mesh.boundaries.values())
    else:
        assert not mesh.boundaries or "boundaries" in said
    if holds.fields:
        for name_, values in mesh.point_fields.items():
            found = back.point_fields[name_].reshape(len(values), -1)
            wanted = values.reshape(len(values), -1).double()
            k = min(wanted.shape[1], found.shape[1])
            equal(wanted[:, :k], found[:, :k], name_)
            assert not wanted[:, k:].any()
            if values.shape != back.point_fields[name_].shape or values.dtype != torch.float64:
                assert name_ in said
        for name_, values in mesh.cell_fields.items():
            wanted = values.reshape(len(values), -1).double()
            rows = by_type(mesh, back)
            equal(
                wanted[rows],
                back.cell_fields[name_].reshape(len(values), -1)[:, : wanted.shape[1]],
                name_,
            )
    else:
        assert "cannot hold fields" in said
    if not holds.regions:
        assert "cannot hold regions" in said
    elif not holds.overlapping:
        assert "share cells" in said
    assert not mesh.global_fields or "global fields" in said


def by_type(a: Mesh, b: Mesh) -> Tensor:
    """For each cell of b, the same cell of a, whose blocks may stand in another order."""
    start, at = {}, 0
    for block in a.cells:
        start[block.type] = at
        at += len(block)
    return torch.cat([start[block.type] + torch.arange(len(block)) for block in b.cells])


def same_cells_by_type(a: Mesh, b: Mesh) -> None:
    mine = {block.type: block for block in a.cells}
    assert set(mine) == {block.type for block in b.cells}
    for block in b.cells:
        equal(mine[block.type].nodes, block.nodes, block.type)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("suffix", ["npz", "pvd", "xdmf"])
def test_series_come_back(suffix, dtype, tmp_path):
    mesh = rich(MESHES["channel"], dtype)
    times = [0.0, 0.1, 0.30000000000000004]
    n, c = mesh.n_points, mesh.n_cells
    velocity = torch.randn(3, n, 2, generator=torch.Generator().manual_seed(1)).to(dtype)
    age = torch.arange(3 * c).reshape(3, c)
    series = Series(mesh.replace(global_fields={}), times, {"velocity": velocity}, {"age": age})
    path = tmp_path / f"flow.{suffix}"
    assert write(series, path) == []
    back = read(path)
    assert isinstance(back, Series)
    assert back.times.tolist() == times
    equal(series.field("velocity"), back.field("velocity"), "velocity")
    equal(series.field("age"), back.field("age"), "age")
    constant = set(series.mesh.point_fields) if suffix != "pvd" else set()
    assert constant <= {*back.mesh.point_fields, *back.point_fields}
    for t in range(3):
        same(series.frame(t), back.frame(t), HOLDS["npz"])
    at = read(path, time=0.1)
    assert isinstance(at, Mesh)
    equal(velocity[1], at.point_fields["velocity"], "velocity at a time")


@pytest.mark.parametrize("suffix", ["npz", "pvd", "xdmf"])
def test_moving_points_come_back(suffix, tmp_path):
    mesh = MESHES["channel"]
    moving = torch.stack([mesh.points * (1 + 0.1 * t) for t in range(3)])
    series = Series(mesh, [0.0, 1.0, 2.0], points=moving)
    path = tmp_path / f"moving.{suffix}"
    assert write(series, path) == []
    back = read(path)
    assert isinstance(back, Series) and back.points is not None
    for t in range(3):
        equal(moving[t], back.frame(t).points, f"points at step {t}")


@pytest.mark.parametrize("suffix", ["pvd", "xdmf"])
def test_changes_of_topology_come_back(suffix, tmp_path):
    first = Series(MESHES["channel"], [0.0, 1.0])
    second = Series(MESHES["polygons"], [2.0, 3.0])
    series = Series(first.mesh, first.times, later=(second,))
    path = tmp_path / f"changing.{suffix}"
    write(series, path)
    back = read(path)
    assert isinstance(back, Series)
    assert [segment.times.tolist() for segment in back.segments] == [[0.0, 1.0], [2.0, 3.0]]
    same_cells(MESHES["channel"], back.segments[0].mesh)
    same_cells(MESHES["polygons"], back.segments[1].mesh)
    with pytest.raises(InputError, match="several"):
        write(series, tmp_path / "changing.npz")


def test_sample_comes_back(tmp_path):
    mesh = MESHES["channel"]
    series = Series(mesh, [0.0, 1.0], {"velocity": torch.randn(2, mesh.n_points, 2)})
    sample = Sample(series, {"reynolds": 100.0, "shape": [1.0, 2.0]})
    path = tmp_path / "case.npz"
    assert write(sample, path) == []
    back = read(path)
    assert isinstance(back, Sample) and isinstance(back.branch, Series)
    assert back.name == "case"
    same_fields(sample.parameters, back.parameters, "parameter")
    equal(series.field("velocity"), back.branch.field("velocity"), "velocity")
    assert any("parameters" in sentence for sentence in losses(sample, "pvd"))


def test_interleaved_cells_come_back_in_their_order(tmp_path):
    mesh = MESHES["channel"]
    order = torch.randperm(mesh.n_cells, generator=torch.Generator().manual_seed(2))
    for block, a in zip(mesh.cells, (0, len(mesh.cells[0])), strict=True):
        order[a : a + len(block)] = order[a : a + len(block)].sort().values
    mesh = rich(mesh.replace(file_order=order), torch.float64)
    for suffix in ("npz", "vtu", "vtk", "xdmf", "cgns"):
        write(mesh, tmp_path / f"mesh.{suffix}")
        same(mesh, read(tmp_path / f"mesh.{suffix}"), HOLDS[suffix])
    write(mesh, Path(tmp_path / "mesh.msh"))
    back = read(tmp_path / "mesh.msh")
    types = [t for _, t in sorted(zip(order.tolist(), labels(mesh), strict=True))]
    theirs = range(back.n_cells) if back.file_order is None else back.file_order.tolist()
    assert types == [t for _, t in sorted(zip(theirs, labels(back), strict=True))]


def labels(mesh: Mesh) -> list[str]:
    return [block.type for block in mesh.cells for _ in range(len(block))]
