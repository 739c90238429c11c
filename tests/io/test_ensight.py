"""EnSight cases: written line by line, and by VTK's own writer."""

import re
import shutil
import struct

import numpy as np
import pytest
import torch

from meshsim.check import InputError
from meshsim.io import format_of, guard, read
from meshsim.mesh import Mesh
from meshsim.series import Series

CUBE = np.array([[x, y, z] for z in (0.0, 1.0) for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))])


def gold(parts, binary: bool) -> bytes:
    """A gold geometry: parts of (name, points (n, 3), {type: cells from 0})."""
    out = []

    def text(words):
        out.append(words.ljust(80).encode() if binary else words.encode() + b"\n")

    def number(n, width=10):
        out.append(struct.pack("<i", n) if binary else f"{n:{width}d}\n".encode())

    if binary:
        text("C Binary")
    for line in ("made by hand", "line two", "node id assign", "element id assign"):
        text(line)
    for i, (name, points, cells) in enumerate(parts, 1):
        text("part")
        number(i)
        text(name)
        text("coordinates")
        number(len(points))
        for axis in points.T:
            out.append(values(axis, binary))
        for kind, nodes in cells.items():
            text(kind)
            number(len(nodes))
            for row in nodes + 1:
                out.append(row.astype("<i4").tobytes() if binary
                           else "".join(f"{n:10d}" for n in row).encode() + b"\n")  # fmt: skip
    return b"".join(out)


def values(numbers, binary: bool) -> bytes:
    if binary:
        return np.asarray(numbers, "<f4").tobytes()
    return "".join(f"{x:12.5e}\n" for x in numbers).encode()


def variable(parts, binary: bool) -> bytes:
    """A variable: for each part, {heading: (n,) or (n, k)} by its number."""
    out = []

    def text(words):
        out.append(words.ljust(80).encode() if binary else words.encode() + b"\n")

    text("a variable")
    for i, columns in parts.items():
        text("part")
        out.append(struct.pack("<i", i) if binary else f"{i:10d}\n".encode())
        for heading, table in columns.items():
            text(heading)
            for column in np.asarray(table, float).reshape(len(table), -1).T:
                out.append(values(column, binary))
    return b"".join(out)


BELOW = CUBE - [0, 0, 1]
PARTS = [
    ("fluid", CUBE, {"hexa8": np.arange(8)[None]}),
    ("solid", BELOW, {"hexa8": np.arange(8)[None]}),
    ("wall", CUBE[4:], {"quad4": np.arange(4)[None]}),
]
CASE = """# made by hand
FORMAT
type: ensight gold

GEOMETRY
model: a.geo

VARIABLE
scalar per node: 1 pressure p_*
vector per element: 1 velocity u_*

TIME
time set: 1
number of steps: 3
filename start number: 0
filename increment: 1
time values: 0.0 0.5 2.0
"""


def case(folder, binary):
    (folder / "a.case").write_text(CASE)
    (folder / "a.geo").write_bytes(gold(PARTS, binary))
    for t in range(3):
        pressure = {i + 1: {"coordinates": part[1][:, 2] + t} for i, part in enumerate(PARTS)}
        (folder / f"p_{t}").write_bytes(variable(pressure, binary))
        speed = {i: {"hexa8": [[i, 2.0 * i, t]]} for i in (1, 2)}
        (folder / f"u_{t}").write_bytes(variable(speed, binary))
    return folder / "a.case"


@pytest.mark.parametrize("binary", [False, True])
def test_parts_and_all_times(tmp_path, binary):
    path = case(tmp_path, binary)
    assert format_of(path).name == "ensight"
    series = read(path)
    assert isinstance(series, Series) and series.times.tolist() == [0, 0.5, 2]
    mesh = series.mesh
    assert (mesh.n_points, mesh.n_cells) == (12, 2)  # 8 + 8, four of them shared
    assert {k: v.tolist() for k, v in mesh.regions.items()} == {"fluid": [0], "solid": [1]}
    assert {k: len(b.faces) for k, b in mesh.boundaries.items()} == {"wall": 1}
    centre = mesh.faces.centre[mesh.boundaries["wall"].faces][0]
    assert centre.tolist() == [0.5, 0.5, 1]
    assert mesh.cell_measures.tolist() == [1, 1]
    for t in range(3):
        frame = series.frame(t)
        torch.testing.assert_close(frame.point_fields["pressure"], mesh.points[:, 2] + t)
        assert frame.cell_fields["velocity"].tolist() == [[1, 2, t], [2, 4, t]]


@pytest.mark.parametrize("binary", [False, True])
def test_points_and_cells_that_change(tmp_path, binary):
    """Moving points are a series of their own; other cells begin a segment."""
    path = case(tmp_path, binary)
    path.write_text(CASE.replace("a.geo", "1 g_*"))
    for t in range(3):
        parts = [(n, p + np.array([0, 0, 0.25 * t]), c) for n, p, c in PARTS[: 1 if t == 2 else 3]]
        (tmp_path / f"g_{t}").write_bytes(gold(parts, binary))
    for name in ("p_2", "u_2"):
        column = {"coordinates": CUBE[:, 2]} if name[0] == "p" else {"hexa8": [[1.0, 2, 2]]}
        (tmp_path / name).write_bytes(variable({1: column}, binary))
    series = read(path)
    assert [s.times.tolist() for s in series.segments] == [[0, 0.5], [2]]
    assert [s.mesh.n_cells for s in series.segments] == [2, 1]
    torch.testing.assert_close(series.frame(1).points[:, 2], series.frame(0).points[:, 2] + 0.25)


def test_ensight_6(tmp_path):
    """All points stand once in the file, parts refer to them; numbers of 8 characters."""
    geo = "six\nby hand\nnode id given\nelement id given\ncoordinates\n" + f"{8:8d}\n"
    geo += "".join(f"{i + 1:8d}" + "".join(f"{c:12.5e}" for c in p) + "\n"
                   for i, p in enumerate(CUBE))  # fmt: skip
    geo += "part 1\nfluid\nhexa8\n       1\n       7" + "".join(f"{i:8d}" for i in range(1, 9))
    geo += "\npart 2\nwall\nquad4\n       1\n       9" + "".join(f"{i:8d}" for i in (5, 6, 7, 8))
    (tmp_path / "a.geo").write_text(geo + "\n")
    (tmp_path / "p").write_text("p\n" + "".join(f"{x:12.5e}" for x in range(6)) + "\n"
                                + "".join(f"{x:12.5e}" for x in (6, 7)) + "\n")  # fmt: skip
    (tmp_path / "a.case").write_text(
        "FORMAT\ntype: ensight\nGEOMETRY\nmodel: a.geo\nVARIABLE\nscalar per node: p p\n"
    )
    mesh = read(tmp_path / "a.case")
    assert isinstance(mesh, Mesh)
    assert (mesh.n_points, mesh.n_cells) == (8, 1)
    assert mesh.point_fields["p"].tolist() == list(range(8))
    assert {k: len(b.faces) for k, b in mesh.boundaries.items()} == {"wall": 1}
    assert list(mesh.regions) == ["fluid"]


@pytest.mark.parametrize("file", ["a.geo", "p_2"])
def test_files_cut_short_are_refused(tmp_path, file, monkeypatch):
    monkeypatch.setattr(guard, "SECONDS", 10.0)
    path = case(tmp_path, binary=True)
    data = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(data[: len(data) * 9 // 10])
    with pytest.raises(InputError) as error:
        series = read(path)
        series.frame(2)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def frames(path):
    series = read(path)
    return [(f.point_fields, f.cell_fields) for f in map(series.frame, range(len(series)))]


def equal(a, b):
    return all(
        x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)
        for one, other in zip(a, b, strict=True)
        for x, y in zip(one, other, strict=True)
    )


def ends_of_parts(data, binary):
    """Sizes at which a file is cut between two parts: a variable need not be in every part."""
    mark = b"part".ljust(80) if binary else b"part\n"
    return [i for i in range(len(data)) if data.startswith(mark, i)][1:]


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("name", ["p_0", "p_2", "u_0", "u_2", "a.geo"])
def test_no_file_cut_short_is_read_as_something_else(tmp_path, name, binary, monkeypatch):
    monkeypatch.setattr(guard, "SECONDS", 10.0)
    path = case(tmp_path, binary)
    whole, data = frames(path), (tmp_path / name).read_bytes()
    between, early = ends_of_parts(data, binary), 0
    for n in range(1, len(data), 13 if name != "a.geo" else 47):
        (tmp_path / name).write_bytes(data[:n])
        if n in between or n + 1 in between:
            continue
        try:
            assert equal(frames(path), whole), f"{name} cut at {n} of {len(data)} is read"
            assert not binary and n > len(data) - 13  # a last line without its end
        except InputError as error:
            assert "\n" not in str(error)
            early += "early" in str(error)
    assert early > 10 if binary else early
    (tmp_path / name).write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(InputError, match=rf"{name} ends early") as error:
        frames(path)
    said = r"expected \d+ bytes, got \d+" if binary else r"expected|ends early$"
    assert re.search(said, str(error.value))


@pytest.mark.parametrize("form", ["ascii", "bin"])
def test_a_step_that_lost_values_in_a_file_of_several(real_data, form, tmp_path):
    """The end of the file is there, so that only walking it tells."""
    folder = tmp_path / "cases"
    shutil.copytree(real_data / "pyvista__vtk-data/Data/EnSight", folder)
    for name in ("cd_thickness", "pd_displacement"):
        file = folder / f"blow1_{form}_{name}"
        data = file.read_bytes()
        middle = len(data) // 4 // 13 * 13
        lost = 4 if form == "bin" else data.index(b"\n", middle) + 1 - data.rindex(b"\n", 0, middle)
        file.chmod(0o644)
        file.write_bytes(data[:middle] + data[middle + lost :])
        with pytest.raises(InputError, match=f"{file.name} is damaged .expected"):
            frames(folder / f"blow1_{form}.case")
        file.write_bytes(data)


@pytest.mark.parametrize("binary", [False, True])
def test_structured_parts_and_ragged_cells_that_end_early(tmp_path, binary):
    def text(words):
        return words.ljust(80).encode() if binary else words.encode() + b"\n"

    def number(*n):
        return (
            struct.pack(f"<{len(n)}i", *n) if binary else b"".join(b"%10d" % i for i in n) + b"\n"
        )

    def column(n):
        return b"".join(map(number, n))

    grid = np.array([[x, y, z] for z in (0, 1) for y in (0, 1) for x in (0, 1, 2)], float)
    flat = np.array([[5, 0, 0], [6, 0, 0], [6, 1, 0], [5, 1, 0], [4, 0.5, 0]], float)
    head = b"".join(map(text, ("made by hand", "two", "node id off", "element id off")))
    parts = text("part") + number(1) + text("block part") + text("block") + number(3, 2, 2)
    parts += b"".join(values(axis, binary) for axis in grid.T)
    parts += text("part") + number(2) + text("a pentagon") + text("coordinates") + number(5)
    parts += b"".join(values(axis, binary) for axis in flat.T)
    parts += text("nsided") + number(1) + number(5) + number(1, 2, 3, 4, 5)
    four = np.array([[0, 0, 9], [1, 0, 9], [0, 1, 9], [0, 0, 8]], float)
    parts += text("part") + number(3) + text("a polyhedron") + text("coordinates") + number(4)
    parts += b"".join(values(axis, binary) for axis in four.T)
    parts += text("nfaced") + number(1) + number(4) + column((3, 3, 3, 3))
    parts += b"".join(number(*face) for face in ((1, 3, 2), (1, 2, 4), (2, 3, 4), (3, 1, 4)))
    (tmp_path / "a.geo").write_bytes((text("C Binary") if binary else b"") + head + parts)
    (tmp_path / "a.case").write_text(
        "FORMAT\ntype: ensight gold\nGEOMETRY\nmodel: a.geo\nVARIABLE\n"
        "scalar per node: p p\nscalar per element: q q\n"
    )
    points = {1: {"block": range(12)}, 2: {"coordinates": range(5)}, 3: {"coordinates": range(4)}}
    cells = {1: {"block": [1.0, 2]}, 2: {"nsided": [3.0]}, 3: {"nfaced": [4.0]}}
    for name, table in (("p", points), ("q", cells)):
        (tmp_path / name).write_bytes(variable(table, binary))
    mesh = read(tmp_path / "a.case")
    assert mesh.cell_fields["q"].tolist() == [1, 2, 4]  # of the solids; the pentagon is a surface
    assert mesh.point_fields["p"].sum() == 66 + 10 + 6
    for name in ("p", "q", "a.geo"):
        data = (tmp_path / name).read_bytes()
        lost = 5 if binary else len(data.splitlines(keepends=True)[-1]) + 1
        (tmp_path / name).write_bytes(data[:-lost])
        with pytest.raises(InputError, match=f"{name} ends early"):
            read(tmp_path / "a.case")
        (tmp_path / name).write_bytes(data)


def test_what_is_refused(tmp_path):
    path = case(tmp_path, binary=False)
    for name in ("../a.geo", str(tmp_path.parent / "a.geo"), "/etc/passwd", "sub/../../a.geo"):
        path.write_text(CASE.replace("a.geo", name))
        with pytest.raises(InputError, match="outside its folder") as error:
            read(path)
        assert name in str(error.value)
        path.write_text(CASE.replace("p_*", name))
        with pytest.raises(InputError, match="outside its folder"):
            read(path)
    path.write_text(CASE.replace("a.geo", "b.geo"))
    with pytest.raises(InputError, match=r"names 'b.geo', which is not there"):
        read(path)
    path.write_text("FORMAT\ntype: master_server gold\n")
    with pytest.raises(InputError, match="lists servers"):
        read(path)
    path.write_text("some words\n")
    with pytest.raises(InputError, match="has no FORMAT"):
        read(path)


NAMES = {
    # points, cells of the top dimension, as the geometry files say
    "elements.case": (108 + 4, 8, 1), "elements6.case": (108, 8, 1),
    "blow1_ascii.case": (687, 1057, 2), "blow1_bin.case": (687, 1057, 2),
    "naca.bin.case": (4745 + 15665 + 4745 - 130, 4608 + 15360 + 4608, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_other_peoples_cases(real_data, name, tmp_path):
    folder = real_data / "pyvista__vtk-data/Data/EnSight"
    found = read(folder / name)
    points, cells, times = NAMES[name]
    mesh = found.mesh if isinstance(found, Series) else found
    assert (mesh.n_points, mesh.n_cells) == (points, cells)
    assert (len(found) if isinstance(found, Series) else 1) == times
    if times > 1:
        first, last = found.frame(0), found.frame(1)
        assert any(not torch.equal(v, last.point_fields[k]) for k, v in first.point_fields.items())
    link = tmp_path / "elsewhere"
    shutil.copytree(folder, link)
    (tmp_path / "link.case").symlink_to(link / name)  # named by the user, but files lie beside it
    with pytest.raises(InputError, match="which is not there"):
        read(tmp_path / "link.case")
