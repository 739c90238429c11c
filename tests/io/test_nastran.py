"""Nastran's bulk data: formats of fields, coordinate systems, elements of degree two, names."""

import math
import re

import numpy as np
import pytest
import torch

from meshsim.check import InputError
from meshsim.io import format_of, read
from meshsim.io.raw.nastran import ORDER
from meshsim.io.raw.nastran_cards import number
from tests.helpers import MESHES
from tests.io.test_gmsh import middles

CARDS = {
    "line": "CBAR", "triangle": "CTRIA3", "triangle6": "CTRIA6", "quad": "CQUAD4",
    "quad8": "CQUAD8", "tetra": "CTETRA", "tetra10": "CTETRA", "pyramid": "CPYRAM",
    "pyramid13": "CPYRAM", "wedge": "CPENTA", "wedge15": "CPENTA", "hexahedron": "CHEXA",
    "hexahedron20": "CHEXA",
}  # fmt: skip
CUBE = [(x, y, z) for z in (0, 1) for y in (0, 1) for x in (0, 1)]


def small(name, *fields):
    rows = [fields[i : i + 8] for i in range(0, len(fields), 8)]
    heads = [name, *["+"] * (len(rows) - 1)]
    return "".join(
        f"{h:8s}" + "".join(f"{f!s:8s}" for f in r) + "\n" for h, r in zip(heads, rows, strict=True)
    )


def large(name, *fields):
    rows = [fields[i : i + 4] for i in range(0, len(fields), 4)]
    heads = [f"{name}*", *["*"] * (len(rows) - 1)]
    return "".join(
        f"{h:8s}" + "".join(f"{f!s:16s}" for f in r) + "\n"
        for h, r in zip(heads, rows, strict=True)
    )


def free(name, *fields):
    rows = [fields[i : i + 8] for i in range(0, len(fields), 8)]
    heads = [name, *[""] * (len(rows) - 1)]
    return "".join(",".join(map(str, (h, *r))) + "\n" for h, r in zip(heads, rows, strict=True))


def bulk(*cards):
    return "SOL 101\nCEND\nBEGIN BULK\n" + "".join(cards) + "ENDDATA\n"


@pytest.mark.parametrize("card", [small, large, free])
@pytest.mark.parametrize("name", ["mixed_solid", "quadratic3d", "channel", "quadratic2d", "fins"])
def test_what_was_written_comes_back(name, card, tmp_path):
    mesh = MESHES[name]
    points = np.pad(mesh.points.numpy(), ((0, 0), (0, 3 - mesh.dim)))
    text = [card("GRID", 10 + i, "", *(f"{v:.4f}" for v in p)) for i, p in enumerate(points)]
    at = 1
    for block in mesh.cells:
        for row in block.nodes.tolist():
            listed = np.empty(len(row), int)
            listed[ORDER.get(block.type, list(range(len(row))))] = np.array(row) + 10
            text.append(card(CARDS[block.type], at, 7, *listed.tolist()))
            at += 1
    (tmp_path / "a.nas").write_text(bulk(*text))
    assert format_of(tmp_path / "a.nas").name == "bdf"
    back = read(tmp_path / "a.nas")
    torch.testing.assert_close(back.points, mesh.points.to(torch.float64), rtol=0, atol=1e-4)
    assert [(b.type, b.nodes.tolist()) for b in back.cells] == [
        (b.type, b.nodes.tolist()) for b in mesh.cells
    ]
    assert len(back.regions["property 7"]) == mesh.n_cells


def test_order_of_nodes_between_corners(tmp_path):
    # numbered as the reference guide draws them: below, upright, above
    wedge = [(0, 0, 0), (2, 0, 0), (0, 2, 0), (0, 0, 2), (2, 0, 2), (0, 2, 2),
             (1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 0, 1), (2, 0, 1), (0, 2, 1),
             (1, 0, 2), (1, 1, 2), (0, 1, 2)]  # fmt: skip
    ring = [(0, 0), (2, 0), (2, 2), (0, 2)]
    between = [(1, 0), (2, 1), (1, 2), (0, 1)]
    brick = [(*p, z) for z in (0, 2) for p in ring]
    brick += [(*p, 0) for p in between] + [(*p, 1) for p in ring] + [(*p, 2) for p in between]
    for name, points, volume in (("CPENTA", wedge, 4), ("CHEXA", brick, 8)):
        text = [free("GRID", i + 1, "", *p) for i, p in enumerate(points)]
        ids = range(1, len(points) + 1)
        (tmp_path / "a.bdf").write_text(bulk(*text, small(name, 1, 1, *ids)))
        mesh = read(tmp_path / "a.bdf")
        assert middles(mesh) == 0 and float(mesh.cell_measures[0]) == pytest.approx(volume)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1.2-3", 1.2e-3), ("-1.2+3", -1200), (".5-12", 5e-13), ("1.", 1), ("1.D2", 100),
     ("1.5E-3", 1.5e-3), ("-.5d+1", -5), ("", 0), ("7", 7)],
)  # fmt: skip
def test_numbers_of_nastran(text, value):
    assert number(text) == value


def test_coordinate_systems(tmp_path):
    s = math.sqrt(0.5)
    cards = [
        small("CORD2R", 1, 0, "1.", "2.", "3.", "1.", "2.", "4.", "1.", "3.", "3."),
        small("CORD2C", 2, "", "0.", "0.", "0.", "0.", "0.", "1.", "1.", "0.", "0."),
        small("CORD2S", 3, 1, "0.", "0.", "0.", "0.", "0.", "1.", "1.", "0.", "0."),
        small("CORD1C", 4, 10, 11, 12),
        small("GRID", 1, 1, "1.", "0.", "0."),  # the x axis of 1 is y
        small("GRID", 2, 2, "1.", "45.", "5."),
        small("GRID", 3, 3, "2.", "90.", "90."),  # along the y axis of 1, which is -x
        small("GRID", 4, 4, "1.", "90.", "2."),
        small("GRID", 10, 0, "0.", "0.", "0."),
        small("GRID", 11, 0, "1.", "0.", "0."),
        small("GRID", 12, 0, "0.", "1.", "0."),
        small("CQUAD4", 1, 1, 1, 2, 3, 4),
        small("CQUAD4", 2, 1, 10, 11, 12, 4),
    ]
    (tmp_path / "a.bdf").write_text(bulk(*cards))
    want = [[1, 3, 3], [s, s, 5], [-1, 2, 3], [2, 0, 1], [0, 0, 0], [1, 0, 0], [0, 1, 0]]
    points = read(tmp_path / "a.bdf").points
    torch.testing.assert_close(points, torch.tensor(want, dtype=torch.float64), atol=1e-12, rtol=0)
    text = bulk(*cards).replace("CORD2R  1       0", "CORD2R  1       3")
    (tmp_path / "a.bdf").write_text(text)
    with pytest.raises(InputError, match="names itself"):
        read(tmp_path / "a.bdf")


GRIDS = "".join(free("GRID", i + 1, "", *p) for i, p in enumerate(CUBE))
SOLID = free("CHEXA", 1, 5, 1, 2, 4, 3, 5, 6, 8, 7)


def test_names_of_properties(tmp_path):
    names = (
        '$HMNAME COMP                   6"walls" \n$ANSA_NAME;7;PSHELL;\n$inlet\n'
        '$ Femap with NX Nastran Property 5 : block of steel\n$HMNAME PROP  8"out let" 4\n'
    )
    shells = "CQUAD4,2,6,1,3,7,5\nCQUAD4,3,7,5,6,8,7\nCQUAD4,4,8,2,4,8,6\nCQUAD4,5,9,1,2,6,5\n"
    (tmp_path / "a.bdf").write_text(
        bulk(names, GRIDS, SOLID, shells, "PSHELL,9,1,.1\nCELAS1,9,1,1,1,2,1\n")
    )
    mesh = read(tmp_path / "a.bdf")
    assert set(mesh.regions) == {"block of steel"}
    assert {k: len(b.faces) for k, b in mesh.boundaries.items()} == {
        "walls": 1, "inlet": 1, "out let": 1, "PSHELL 9": 1,
    }  # fmt: skip
    assert any("1 CELAS1" in note for note in mesh.notes)


def test_includes_stay_in_the_folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/grids.inc").write_text(GRIDS)
    (tmp_path / "secret.inc").write_text(GRIDS)
    (tmp_path / "in/a.bdf").write_text(bulk("INCLUDE 'grids.inc'\n", SOLID))
    mesh = read(tmp_path / "in/a.bdf")
    assert mesh.n_points == 8 and any("included: grids.inc" in note for note in mesh.notes)
    for name, why in (("../secret.inc", "outside the folder"), ("none.inc", "not there"),
                      (str(tmp_path / "secret.inc"), "outside the folder")):  # fmt: skip
        (tmp_path / "in/a.bdf").write_text(bulk(f"INCLUDE '{name}'\n", SOLID))
        with pytest.raises(InputError, match=why):
            read(tmp_path / "in/a.bdf")
    (tmp_path / "in/a.bdf").write_text(bulk("INCLUDE 'b.bdf'\n", SOLID))
    (tmp_path / "in/b.bdf").write_text("INCLUDE 'b.bdf'\n")
    with pytest.raises(InputError, match="circle"):
        read(tmp_path / "in/a.bdf")


def test_faults_are_named(tmp_path):
    def refused(text, match):
        (tmp_path / "a.bdf").write_text(text)
        with pytest.raises(InputError, match=match) as error:
            read(tmp_path / "a.bdf")
        assert "\n" not in str(error.value)

    refused(bulk(GRIDS, SOLID.replace("8,7", "8,9")), "names node 9 does not exist")
    refused(bulk(GRIDS), "holds no elements")
    refused(bulk(SOLID), "holds no GRID")
    refused(bulk(GRIDS, "CHEXA,1,1,1,2,3\n"), "card CHEXA 1: expected 8 nodes")
    refused(bulk(GRIDS, "CQUAD4,1,1,1,2,x,3\n"), "expected an integer, got 'x'")
    refused(bulk(GRIDS, "GRID,9,,1.,a,0.\n", SOLID), "no number")
    refused(bulk("GRID,9,17,1.,0.,0.\n", GRIDS, SOLID), "coordinate system 17 does not exist")
    refused(bulk(GRIDS, SOLID, "=,*1,=\n"), "not supported")
    refused(bulk(GRIDS, "CELAS1,1,1,1,1,2,1\n"), "1 CELAS1 cannot be read")
    (tmp_path / "a.bdf").write_text(bulk(GRIDS, SOLID).replace("ENDDATA\n", ""))
    assert any("no ENDDATA" in note for note in read(tmp_path / "a.bdf").notes)


def test_known_by_content(tmp_path):
    (tmp_path / "model.dat").write_text(bulk(GRIDS, SOLID))
    assert format_of(tmp_path / "model.dat").name == "bdf"
    assert read(tmp_path / "model.dat").n_cells == 1


def test_files_of_others(real_data):
    """Counts of cards at the start of lines, after BEGIN BULK."""
    folder = real_data / "SteveDoyle2__pyNastran"
    files = [*folder.rglob("*.bdf"), *folder.glob("models/*/*.dat")]
    opened = 0
    for path in files:
        text = path.read_text("latin-1").partition("BEGIN BULK")[2]
        count = {
            card: len(re.findall(rf"^{card}\*?[ ,]", text, re.M))
            for card in ("GRID", "CQUAD4", "CTRIA3")
        }
        if re.search(r"^INCLUDE 'geom", text, re.M):
            with pytest.raises(InputError, match=r"geom\.inc"):
                read(path)
            continue
        mesh = read(path)
        opened += 1
        assert mesh.n_points == count["GRID"]
        found = {b.type: len(b) for b in mesh.cells}
        assert found.get("quad", 0) == count["CQUAD4"]
        assert found.get("triangle", 0) == count["CTRIA3"]
        assert mesh.regions and bool((mesh.cell_measures > 0).all())
    assert opened >= 7
