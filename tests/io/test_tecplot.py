"""Tecplot ASCII: headers are held against the numbers after them, before VTK looks for more."""

from __future__ import annotations

import pytest
import torch

from meshsim.check import InputError
from meshsim.io import guard, read

HEAD = 'TITLE = "by hand"\nVARIABLES = "X", "Y", "P"\n'
TRIANGLES = """ZONE T="a", N=5, E=3, F=FEPOINT, ET=TRIANGLE
0 0 1
1 0 2
1 1 3
0 1 4
2 0 5
1 2 3
1 3 4
2 5 3
"""
GRID = 'ZONE T="o", I=3, J=2, F=POINT\n0 0 0\n1 0 1\n2 0 2\n0 1 3\n1 1 4\n2 1 5\n'
CENTRED = """TITLE = "t" # a comment
VARIABLES = "X" "Y"
"Z", P
ZONE T="b", NODES=4, ELEMENTS=1, DATAPACKING=BLOCK,
  ZONETYPE=FETETRAHEDRON, VARLOCATION=([4]=CELLCENTERED)
0 1 0 0  0 0 1 0
# between
0 0 0 1  7
1 2 3 4
"""
BLOCK = """VARIABLES = X Y Z
ZONE I=2, J=2, K=2, DATAPACKING=BLOCK, DT=(SINGLE SINGLE SINGLE ), SOLUTIONTIME=0.5
0 1 0 1 0 1 0 1
0 0 1 1 0 0 1 1
0 0 0 0 1 1 1 1
"""


@pytest.fixture
def tecplot(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "SECONDS", 10.0)

    def make(text):
        (tmp_path / "a.dat").write_text(text)
        return read(tmp_path / "a.dat")

    return make


def test_every_form(tecplot):
    mesh = tecplot(HEAD + TRIANGLES)
    assert mesh.cells[0].nodes.tolist() == [[0, 1, 2], [0, 2, 3], [1, 4, 2]]
    assert mesh.point_fields["P"].tolist() == [1, 2, 3, 4, 5]
    assert tecplot(HEAD + GRID).point_fields["P"].tolist() == list(range(6))
    mesh = tecplot(CENTRED)
    assert mesh.cell_fields["P"].tolist() == [7]
    torch.testing.assert_close(mesh.cell_measures, torch.tensor([1 / 6]).to(mesh.points))
    assert tecplot(BLOCK).cell_measures.tolist() == [1]
    assert tecplot(HEAD + TRIANGLES + GRID.replace("0 0 0", "5 5 0")).n_cells == 5


@pytest.mark.parametrize("text", [HEAD + TRIANGLES, HEAD + GRID, CENTRED, BLOCK, HEAD + GRID * 2])
def test_no_file_cut_short_is_searched_without_end(tecplot, text):
    """Nor read: but for the last number, which may have lost digits, all have to be there."""
    last = text.rstrip().rsplit(maxsplit=1)[-1]
    for n in range(1, len(text.rstrip()) - len(last), 3):
        if text[:n].rstrip() == (HEAD + GRID).rstrip():
            continue
        with pytest.raises(InputError) as error:
            tecplot(text[:n])
        assert "\n" not in str(error.value) and "longer" not in str(error.value), text[:n]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("N=5", "N=50", r"ends early \(zone 'a': expected 159 numbers, got 24\)"),
        ("N=5", "N=99999999999", "ends early"),
        ("E=3", "E=99999999999", "ends early"),
        ("E=3", "E=2", "zone 'a': expected 21 numbers, got 24"),
        ("N=5", "N=-5", "N: expected a number, got '-5'"),
        ("N=5", "N=1e9", "N: expected a number"),
        ("N=5, ", "", "N: expected a number, got nothing"),
        ("N=5", "N=", "N: expected a value, got ','"),
        ("E=3, ", "", "E: expected a number, got nothing"),
        ('"P"', '"P', "a text without end"),
        ('"P"', '"P", "Q"', "ends early"),
        ("VARIABLES", "VARIABLE", "expected TITLE, VARIABLES or ZONE, got 'VARIABLE'"),
        ("ET=TRIANGLE", "ET=TRIANGEL", "ET: expected one of LINESEG, TRIANGLE"),
        (", ET=TRIANGLE", "", "ET: expected one of"),
        ("F=FEPOINT", "F=POIN", "F: expected one of POINT, BLOCK"),
        ("0 0 1\n", "3*0 1 0 2\n", "repeated values"),
        ("2 5 3", "2 6 3", "outside 1..5"),
        ("2 5 3", "2 0 3", "outside 1..5"),
        ("2 5 3", "2 4.5 3", "outside 1..5"),
        ("0 1 4", "0 1 four", "a word is no number"),
        (TRIANGLES, "", "holds no zone|no Tecplot"),
    ],
)
def test_headers_that_do_not_fit_are_said(tecplot, old, new, message):
    assert old in HEAD + TRIANGLES
    with pytest.raises(InputError, match=message) as error:
        tecplot((HEAD + TRIANGLES).replace(old, new))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "where", ["[9]=CELLCENTERED", "[x]=CELLCENTERED", "[1-99999]=CELLCENTERED"]
)
def test_variables_that_are_not_there(tecplot, where):
    with pytest.raises(InputError, match="VARLOCATION"):
        tecplot(CENTRED.replace("[4]=CELLCENTERED", where))
