"""Files of other people, looked at."""

import numpy as np
import pytest

import meshsim
from meshsim import render
from tests.render.drawing import panel, pixels


def test_a_car_stands_on_its_wheels(tmp_path, boards, real_data):
    found = sorted(real_data.glob("PLAID-lib__plaid/**/meshes/*.cgns"))
    if not found:
        pytest.skip("PLAID-lib__plaid is not among the files")
    car = meshsim.read(found[0])
    image = pixels(render.field(car, "pressure", tmp_path / "c.png", width=700))
    shown = panel(image, boards[0], 0)
    covered = (shown < 250).any(-1)
    assert 0.3 < covered.mean() < 0.9
    assert boards[0].view.axes[1, 1] > 0.8  # y is up in this data set
    assert boards[0].boxes[0][2] > 1.5 * boards[0].boxes[0][3]
    assert len(np.unique(shown[covered] // 32, axis=0)) > 8


@pytest.mark.parametrize(
    "pattern",
    [
        "su2code__TestCases/disc_adj_rans/cylinder/*.su2",
        "FluidityProject__fluidity/tests/data/cube-itv5.vtu",
        "FluidityProject__fluidity/tests/data/annulus_gradation.vtu",
        "FlowModelingControl__naca0012_shock_buffet/geometry/naca0012.stl",
        "FEniCS__dolfinx/**/create_unit_cube_hexahedron.xdmf",
    ],
)
def test_meshes_of_others_are_drawn(tmp_path, boards, real_data, pattern):
    found = sorted(real_data.glob(pattern))
    if not found:
        pytest.skip(f"{pattern} is not among the files")
    mesh = meshsim.read(found[0])
    image = pixels(render.cells(mesh, tmp_path / "c.png", width=500))
    assert (panel(image, boards[0], 0) < 250).any(-1).mean() > 0.05
