"""I-DEAS universal files: cells of degree two in the right order, groups, results, damage."""

import re

import numpy as np
import pytest
import torch

from meshsim.check import InputError
from meshsim.geometry.cells import TYPES
from meshsim.io import format_of, read
from meshsim.io.raw.unv import SHAPES
from meshsim.series import Series
from tests.helpers import MESHES
from tests.io.test_gmsh import middles

DESCRIPTORS = {
    "line": 21, "line3": 24, "triangle": 91, "triangle6": 92, "quad": 94, "quad8": 95,
    "tetra": 111, "tetra10": 118, "wedge": 112, "wedge15": 113, "pyramid": 117, "pyramid13": 114,
    "hexahedron": 115, "hexahedron20": 116,
}  # fmt: skip
BEAMS = {21, 24}


def dataset(number, body):
    return f"    -1\n{number:6d}\n{body}    -1\n"


def ints(*values):
    rows = [values[i : i + 8] for i in range(0, len(values), 8)]
    return "".join("".join(f"{v:10d}" for v in row) + "\n" for row in rows)


def nodes(points, number=2411):
    points = np.pad(np.asarray(points, float), ((0, 0), (0, 3 - np.shape(points)[1])))
    lines = [
        ints(10 * i + 7, 1, 1, 11) + "".join(f"{x:25.16E}".replace("E", "D") for x in p) + "\n"
        for i, p in enumerate(points)
    ]
    return dataset(number, "".join(lines))


def cells(blocks, number=2412):
    """Elements numbered 100, 101 …, with nodes in the order of the format's description."""
    body, at = "", 100
    for kind, rows in blocks:
        descriptor = DESCRIPTORS[kind]
        order = SHAPES[TYPES[kind][0], TYPES[kind][1]][1] or list(range(TYPES[kind][1]))
        for row in rows:
            listed = np.empty(len(row), int)
            listed[order] = 10 * np.asarray(row) + 7
            more = (1, 1) if number == 780 else ()
            body += ints(at, descriptor, 1, *more, 1, 7, len(row))
            body += ints(0, 1, 1) if descriptor in BEAMS else ""
            body += ints(*listed.tolist())
            at += 1
    return dataset(number, body)


def group(number, name, entities, step=4):
    flat = [v for kind, tag in entities for v in (kind, tag, 0, 0)[:step]]
    return ints(number, 0, 0, 0, 0, 0, 0, len(entities)) + name + "\n" + ints(*flat)


# corners in order round each ring, the node between two of them where the description puts it
RINGS = {
    "line3": [(0, 0, 0), (0.5, 0, 0), (1, 0, 0)],
    "triangle6": [(0, 0, 0), (0.5, 0, 0), (1, 0, 0), (0.5, 0.5, 0), (0, 1, 0), (0, 0.5, 0)],
    "tetra10": [
        *((0, 0, 0), (0.5, 0, 0), (1, 0, 0), (0.5, 0.5, 0), (0, 1, 0), (0, 0.5, 0)),
        *((0, 0, 0.5), (0.5, 0, 0.5), (0, 0.5, 0.5), (0, 0, 1)),
    ],
    "hexahedron20": [
        *((0, 0, 0), (1, 0, 0), (2, 0, 0), (2, 1, 0), (2, 2, 0), (1, 2, 0), (0, 2, 0), (0, 1, 0)),
        *((0, 0, 1), (2, 0, 1), (2, 2, 1), (0, 2, 1)),
        *((0, 0, 2), (1, 0, 2), (2, 0, 2), (2, 1, 2), (2, 2, 2), (1, 2, 2), (0, 2, 2), (0, 1, 2)),
    ],
    "wedge15": [
        *((0, 0, 0), (1, 0, 0), (2, 0, 0), (1, 1, 0), (0, 2, 0), (0, 1, 0)),
        *((0, 0, 1), (2, 0, 1), (0, 2, 1)),
        *((0, 0, 2), (1, 0, 2), (2, 0, 2), (1, 1, 2), (0, 2, 2), (0, 1, 2)),
    ],
}


@pytest.mark.parametrize("kind", RINGS)
def test_nodes_between_corners(kind, tmp_path):
    ring = RINGS[kind]
    body = ints(1, DESCRIPTORS[kind], 1, 1, 7, len(ring))
    body += ints(0, 1, 1) if kind == "line3" else ""
    body += ints(*[10 * i + 7 for i in range(len(ring))])
    (tmp_path / "a.unv").write_text(nodes(ring) + dataset(2412, body))
    mesh = read(tmp_path / "a.unv")
    assert [b.type for b in mesh.cells] == [kind] and middles(mesh) == 0
    assert bool((mesh.cell_measures > 0).all())
    volume = {"tetra10": 1 / 6, "hexahedron20": 8, "wedge15": 4, "triangle6": 0.5}.get(kind)
    if volume:
        assert float(mesh.cell_measures[0]) == pytest.approx(volume)


@pytest.mark.parametrize("number", [2412, 780])
@pytest.mark.parametrize("name", ["mixed_solid", "quadratic3d", "channel", "quadratic2d", "fins"])
def test_what_was_written_comes_back(name, number, tmp_path):
    mesh = MESHES[name]
    blocks = [(b.type, b.nodes.tolist()) for b in mesh.cells]
    text = nodes(mesh.points, 781 if number == 780 else 2411) + cells(blocks, number)
    (tmp_path / "whatever").write_text(text.replace("\n", "\r\n"))
    assert format_of(tmp_path / "whatever").name == "unv"
    back = read(tmp_path / "whatever")
    assert torch.equal(back.points, mesh.points.to(torch.float64))
    assert [(b.type, b.nodes.tolist()) for b in back.cells] == blocks


CUBE = [(x, y, z) for z in (0, 1) for y in (0, 1) for x in (0, 1, 2)]
BRICKS = [[0, 1, 4, 3, 6, 7, 10, 9], [1, 2, 5, 4, 7, 8, 11, 10]]
LEFT, TOP = [0, 3, 9, 6], [6, 7, 10, 9]


@pytest.mark.parametrize(("number", "step"), [(2467, 4), (2435, 4), (2429, 2)])
def test_groups_are_regions_and_boundaries(number, step, tmp_path):
    solid = cells([("hexahedron", BRICKS), ("quad", [LEFT, TOP]), ("line", [[0, 1]])])
    text = group(1, "left half", [(8, 100)], step) + group(2, "inflow", [(8, 102)], step)
    text += group(3, "below", [(7, 10 * i + 7) for i in range(6)], step)
    text += group(4, "nothing", [], step)
    unit = dataset(164, f"{1:10d}{'mm (milli-newton)':20s}{2:10d}\n" + " 1.0D+03" * 3 + "\n 0.0\n")
    (tmp_path / "a.unv").write_text(unit + nodes(CUBE) + solid + dataset(number, text))
    mesh = read(tmp_path / "a.unv")
    assert mesh.regions["left half"].tolist() == [0] and set(mesh.regions) == {"left half"}
    assert {k: len(b.faces) for k, b in mesh.boundaries.items()} == {
        "inflow": 1, "boundary": 1, "below": 2,
    }  # fmt: skip
    area = mesh.faces.area[mesh.boundaries["inflow"].faces].tolist()
    assert area == [[-1, 0, 0]]
    assert any("mm (milli-newton)" in n and "divided by 1000" in n for n in mesh.notes)
    assert any("1 cells of dimension below 2" in note for note in mesh.notes)


def result(time, place, rows, width=1, name="Temperature", analysis=4):
    body = ints(1) + f"{name}\n" + ints(place) + "NONE\n" * 5
    body += ints(1, analysis, 1, 5, 2, width) + ints(*[1] * 8) + ints(0, 0)
    body += f"{time:13.5E}" + f"{0:13.5E}" * 5 + "\n" + f"{0:13.5E}" * 6 + "\n"
    for tag, values in rows:
        body += ints(tag) if place == 1 else ints(tag, width)
        body += "".join(f"{v:13.5E}" for v in values) + "\n"
    return dataset(2414, body)


def test_results_at_times(tmp_path):
    text = nodes(CUBE) + cells([("hexahedron", BRICKS)])
    for t in (0.5, 1.0):
        text += result(t, 1, [(10 * i + 7, [t * i]) for i in range(12)])
        text += result(t, 2, [(101, [2, t, 0]), (100, [1, t, 0])], 3, "Flow")
    old = "Pressure\n" + "NONE\n" * 4 + ints(1, 1, 1, 0, 2, 1) + ints(1, 1, 1) + " 0.0\n"
    text += dataset(55, old + ints(17) + " 3.5\n")
    (tmp_path / "a.unv").write_text(text)
    series = read(tmp_path / "a.unv")
    assert isinstance(series, Series) and series.times.tolist() == [0.5, 1.0]
    assert series.frame(0).point_fields["Temperature"].tolist() == [0.5 * i for i in range(12)]
    assert series.frame(1).cell_fields["Flow"].tolist() == [[1, 1, 0], [2, 1, 0]]
    pressure = series.mesh.point_fields["Pressure"]
    assert float(pressure[1]) == 3.5 and int(pressure.isnan().sum()) == 11
    assert any("NaN" in note for note in series.mesh.notes)


def test_faults_are_named(tmp_path):
    good = nodes(CUBE) + cells([("hexahedron", BRICKS)])

    def refused(text, match):
        (tmp_path / "a.unv").write_text(text)
        with pytest.raises(InputError, match=match) as error:
            read(tmp_path / "a.unv")
        assert "\n" not in str(error.value)

    refused(good[:-8], "without its closing -1")
    astray = [[0, 1, 4, 3, 6, 7, 10, 12]]
    refused(nodes(CUBE) + cells([("hexahedron", astray)]), "names node 127 does not exist")
    refused(nodes(CUBE), "holds no elements")
    refused(cells([("hexahedron", BRICKS)]), "holds no nodes")
    refused(nodes(CUBE) + dataset(2412, ints(1, 115, 1, 1, 7, 8) + ints(7, 17)), "ends early")
    refused(nodes(CUBE) + dataset(2412, ints(1, 161, 1, 1, 7, 1) + ints(7)), "descriptor 161")
    refused(good + dataset(2467, ints(1, 0, 0, 0, 0, 0, 0, 9) + "a\n"), "'a' ends early")
    refused(good.replace("D+00", "D+zz", 1), "no number")
    refused("    -1\n  2411\n    -1\n", "holds no nodes")


def test_files_of_others(real_data):
    folder = real_data / "OpenFOAM__OpenFOAM-dev/applications/utilities/mesh/conversion"
    folder = folder / "ideasUnvToFoam/unv"
    zones = folder / "threeZonesAll.unv"
    mesh = read(zones)
    text = zones.read_text()
    # a line of six numbers, the second the descriptor, starts an element; 7 and 8 are its nodes
    solids = re.findall(r"^ +\d+ +115 +\d+ +\d+ +\d+ +8\r?$", text, re.M)
    assert mesh.n_cells == len(solids) and [b.type for b in mesh.cells] == ["hexahedron"]
    places = re.findall(r"^(?: +-?\d\.\d{16}E[+-]\d\d){3}\r?$", text, re.M)
    assert mesh.n_points == len(places)
    sizes = {name: int(n) for n, name in re.findall(r" (\d+)\r?\n([A-Z]\w+|inter\d)\r?\n", text)}
    found = {k: len(v) for k, v in mesh.regions.items()}
    found |= {k: len(b.faces) for k, b in mesh.boundaries.items()}
    assert found == sizes
    block = read(folder / "block_with_inlet_outlet.UNV")
    assert set(block.boundaries) == {"inlet", "Outlet"}
    assert float(block.cell_measures.sum()) == pytest.approx(1.0)
