"""Fluent meshes written section by section: ASCII and binary, 2-D and 3-D, and in HDF5."""

import h5py
import numpy as np
import pytest
import torch

from meshsim.check import InputError
from meshsim.io import format_of, read


def node(i, j, k):
    return 4 * i + 2 * j + k + 1


def quad(axis, i, j, k):
    """Corners of the unit face at (i, j, k), normal along +axis."""
    return {
        0: (node(i, j, k), node(i, j + 1, k), node(i, j + 1, k + 1), node(i, j, k + 1)),
        1: (node(i, j, k), node(i, j, k + 1), node(i + 1, j, k + 1), node(i + 1, j, k)),
        2: (node(i, j, k), node(i + 1, j, k), node(i + 1, j + 1, k), node(i, j + 1, k)),
    }[axis]


POINTS = np.array([[i, j, k] for i in (0.0, 1, 2) for j in (0.0, 1) for k in (0.0, 1)])
AROUND = ((1, (0, 0), -1), (1, (1, 0), 1), (2, (0, 0), -1), (2, (0, 1), 1))
SIDES = [(quad(axis, i, *at)[::turn], i + 1, 0) for i in (0, 1) for axis, at, turn in AROUND]
# zone: kind, name, bc, faces (corners, the cell that the normal leaves, the other one)
ZONES = {
    3: ("interior", "inner", 2, [(quad(0, 1, 0, 0), 1, 2)]),
    4: ("velocity-inlet", "inlet", 10, [(quad(0, 0, 0, 0)[::-1], 1, 0)]),
    5: ("pressure-outlet", "outlet", 5, [(quad(0, 2, 0, 0), 2, 0)]),
    6: ("wall", "side-walls", 3, SIDES),
}


def fluent(binary=False, mixed=False, swap=False, double=True) -> bytes:
    out = [b'(0 "made by hand (with a parenthesis")\n(2 3)\n(10 (0 1 c 0 3))\n(12 (0 1 2 0))\n']
    if binary:
        kind = 3010 if double else 2010
        table = POINTS.astype("<f8" if double else "<f4").tobytes()
        out.append(
            f"({kind} (1 1 c 1 3)(".encode()
            + table
            + f")End of Binary Section   {kind})\n".encode()
        )
    else:
        rows = "".join(f"{x} {y} {z}\n" for x, y, z in POINTS)
        out.append(f"(10 (1 1 c 1 3)(\n{rows}))\n".encode())
    out.append(b"(12 (2 1 2 1 4))\n")
    at = 1
    for zone, (kind, name, bc, faces) in ZONES.items():
        rows = []
        for corners, c0, c1 in faces:
            pair = (c1, c0) if swap and c1 else (c0, c1)
            corners = corners[::-1] if swap and not c1 else corners
            rows.append([*((len(corners),) if mixed else ()), *corners, *pair])
        head = f"{zone:x} {at:x} {at + len(faces) - 1:x} {bc:x} {0 if mixed else 4}"
        at += len(faces)
        if binary:
            body = np.array(rows, "<i4").tobytes()
            out.append(f"(2013 ({head})(".encode() + body + b")End of Binary Section   2013)\n")
        else:
            body = "".join(" ".join(f"{n:x}" for n in row) + "\n" for row in rows)
            out.append(f"(13 ({head})(\n{body}))\n".encode())
        out.append(f"(45 ({zone} {kind} {name})())\n".encode())
    return b"".join([*out, b"(39 (2 fluid air 1)())\n"])


def is_the_channel(mesh):
    assert (mesh.n_points, mesh.n_cells, mesh.dim) == (12, 2, 3)
    assert [block.type for block in mesh.cells] == ["hexahedron"]
    assert {k: v.tolist() for k, v in mesh.regions.items()} == {"air": [0, 1]}
    sizes = {k: (len(b.faces), b.kind) for k, b in mesh.boundaries.items()}
    assert sizes == {"inlet": (1, "velocity-inlet"), "outlet": (1, "pressure-outlet"),
                     "side-walls": (8, "wall")}  # fmt: skip
    corners = mesh.points[mesh.cells[0].nodes]
    edges = [corners[:, i] - corners[:, 0] for i in (1, 3, 4)]
    signed = (torch.linalg.cross(edges[0], edges[1]) * edges[2]).sum(1)
    assert signed.tolist() == [1, 1]  # right-handed, and of volume one
    area = mesh.faces.area[mesh.boundaries["outlet"].faces]
    assert area.tolist() == [[1, 0, 0]]
    assert mesh.source.reader == "meshsim"


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("binary", [False, True])
def test_a_channel_of_two_cells(tmp_path, binary, mixed, swap):
    for name in ("a.msh", "a.cas"):
        (tmp_path / name).write_bytes(fluent(binary, mixed, swap))
        assert format_of(tmp_path / name).name == "fluent"
        is_the_channel(read(tmp_path / name))
    (tmp_path / "b.msh").write_bytes(fluent(binary, double=False))
    is_the_channel(read(tmp_path / "b.msh"))


def test_the_same_in_hdf5(tmp_path):
    with h5py.File(tmp_path / "a.cas.h5", "w") as file:
        mesh = file.create_group("meshes/1")
        mesh.attrs["dimension"] = np.array([3])
        mesh["nodes/coords/1"] = POINTS
        faces = [face for zone in ZONES.values() for face in zone[3]]
        mesh["faces/nodes/1/nnodes"] = np.array([4] * len(faces), np.int16)
        mesh["faces/nodes/1/nodes"] = np.concatenate([face[0] for face in faces])
        mesh["faces/c0/1"] = np.array([face[1] for face in faces])
        mesh["faces/c1/1"] = np.array([face[2] for face in faces if face[2]])
        ends = np.cumsum([len(zone[3]) for zone in ZONES.values()])
        about = {"faces": (list(ZONES), [1, *(ends[:-1] + 1)], ends, [z[2] for z in ZONES.values()],
                           ";".join(z[1] for z in ZONES.values())),
                 "cells": ([2], [1], [2], [1], "air")}  # fmt: skip
        for what, columns in about.items():
            keys = ("id", "minId", "maxId", "zoneType")
            for key, values in zip(keys, columns[:4], strict=True):
                mesh[f"{what}/zoneTopology/{key}"] = np.array(values)
            mesh[f"{what}/zoneTopology/name"] = np.array([columns[4].encode()])
    assert format_of(tmp_path / "a.cas.h5").name == "fluent"
    is_the_channel(read(tmp_path / "a.cas.h5"))


def test_a_plane_mesh(tmp_path):
    """A quad and a triangle that share an edge."""
    text = """(2 2)
(10 (0 1 5 0 2))
(10 (1 1 5 1 2)(
0 0
1 0
1 1
0 1
2 0.5
))
(12 (2 1 2 1 0)(3 1))
(13 (3 1 1 2 2)(
2 3 1 2
))
(13 (4 2 6 3 2)(
1 2 1 0
3 4 1 0
4 1 1 0
2 5 2 0
5 3 2 0
))
(45 (4 wall wall)())
"""
    (tmp_path / "a.msh").write_text(text)
    mesh = read(tmp_path / "a.msh")
    assert mesh.dim == 2 and {b.type: len(b) for b in mesh.cells} == {"quad": 1, "triangle": 1}
    assert sorted(mesh.cell_measures.tolist()) == [0.5, 1.0]
    assert len(mesh.boundaries["wall"].faces) == 5 and len(mesh.faces) == 6


def test_gmsh_keeps_its_suffix(tmp_path):
    (tmp_path / "a.msh").write_text("$MeshFormat\n2.2 0 8\n$EndMeshFormat\n")
    assert format_of(tmp_path / "a.msh").name == "msh"


@pytest.mark.parametrize("binary", [False, True])
def test_files_cut_short_are_refused(tmp_path, binary):
    data = fluent(binary)
    for part in (2, 10, 30, 50, 70):
        (tmp_path / "a.msh").write_bytes(data[: len(data) * part // 100])
        with pytest.raises(InputError) as error:
            read(tmp_path / "a.msh")
        assert "\n" not in str(error.value)
    (tmp_path / "a.msh").write_bytes(fluent().replace(b"\n5 7 8 6", b"\n5 7 8 ff"))
    with pytest.raises(InputError, match="names a node outside"):
        read(tmp_path / "a.msh")


def test_more_cells_than_faces_can_have_are_refused(tmp_path):
    """A find of tests/verify/fuzz.py: a terabyte was asked for."""
    for zone, said in (
        (b"(12 (2 1 2147483648c 1 4))", "more than 11 faces can have"),
        (b"(12 (2 -2147483648c 2 1 4))", "a zone of cells that begins below 1"),
    ):
        data = fluent().replace(b"(12 (2 1 2 1 4))", zone)
        assert data != fluent()
        (tmp_path / "a.msh").write_bytes(data)
        with pytest.raises(InputError, match=said):
            read(tmp_path / "a.msh")
