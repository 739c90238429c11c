import numpy as np
import pytest
import torch

from meshsim import Mesh, Series
from meshsim.check import InputError
from meshsim.geometry import measure
from meshsim.render import carry_conserved


def square(n, kind="quad", size=1.0):
    axis = np.linspace(0, size, n + 1)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    i, j = (x.reshape(-1) for x in np.meshgrid(range(n), range(n), indexing="ij"))
    quad = np.stack([i, i + 1, i + 1, i], 1) * (n + 1) + np.stack([j, j, j + 1, j + 1], 1)
    cells = quad if kind == "quad" else np.concatenate([quad[:, [0, 1, 2]], quad[:, [0, 2, 3]]])
    return Mesh(points, {kind: cells})


def filled(n, kind="quad"):
    mesh, random = square(n, kind), np.random.default_rng(0)
    return mesh.with_fields(
        {"p": random.random(mesh.n_points), "v": random.random((mesh.n_points, 2))},
        {"T": random.random((mesh.n_cells, 2, 2)), "zone": np.arange(mesh.n_cells)},
    )


@pytest.mark.parametrize("normalise", [False, True])
def test_integrals_of_point_and_cell_fields_are_kept(normalise):
    data, goal = filled(6), square(5, "triangle")
    out, known = carry_conserved(data, goal, normalise=normalise)

    def integral(mesh, name):
        if name in mesh.cell_fields:
            weights, values = mesh.cell_measures, mesh.cell_fields[name]
        else:
            weights = measure.point_measures(mesh.points, mesh.cells)
            values = mesh.point_fields[name]
        return (weights[:, None] * values.reshape(len(values), -1)).sum(0)

    for name in ("p", "v", "T"):
        had, has = integral(data, name), integral(out, name)
        assert ((has - had).abs() / had.abs()).max() < 1e-12, name
    assert abs(known.lost) < 1e-12
    assert out.cell_fields["zone"].dtype == data.cell_fields["zone"].dtype
    assert set(out.cell_fields["zone"].tolist()) <= set(range(36))


def test_constants_stay_and_smooth_point_fields_are_close():
    data, goal = square(20), square(17, "triangle")
    x = data.points
    data = data.with_fields({"one": torch.ones(len(x)), "x": x[:, 0]}, {"one": torch.ones(400)})
    out, _ = carry_conserved(data, goal)
    assert (out.point_fields["one"] - 1).abs().max() < 1e-6  # float32 comes back as float32
    assert (out.cell_fields["one"] - 1).abs().max() < 1e-6
    # smoothed over two cells: at the boundary that shows at most
    assert (out.point_fields["x"] - goal.points[:, 0]).abs().max() < 2 / 17


def test_a_series_and_its_times():
    mesh, random = square(4), np.random.default_rng(0)
    series = Series(mesh, [0.0, 1.0], cell_fields={"T": random.random((2, 16))})
    out, _ = carry_conserved(series, square(3))
    for t in range(2):
        had = (mesh.cell_measures * series.frame(t).cell_fields["T"]).sum()
        frame = out.frame(t)
        assert (frame.cell_measures * frame.cell_fields["T"]).sum() == pytest.approx(had.item())
    moving = Series(mesh, [0.0], points=mesh.points[None])
    with pytest.raises(InputError, match="a mesh that rests"):
        carry_conserved(moving, mesh)


def test_a_smaller_goal_keeps_its_part():
    data = square(4).with_fields(cell={"T": torch.full((16,), 2.0, dtype=torch.float64)})
    out, known = carry_conserved(data, square(3, size=0.5))
    assert known.lost == pytest.approx(0.75) and torch.allclose(
        out.cell_fields["T"], torch.tensor(2.0, dtype=torch.float64)
    )


def test_whole_numbers_are_0_outside():
    data = square(4, size=0.5).with_fields(
        {"n": torch.full((25,), 7)}, {"zone": torch.full((16,), 3)}
    )
    out, known = carry_conserved(data, square(4))
    inside = torch.from_numpy(known.uncovered < 1 - 1e-9)
    assert out.cell_fields["zone"].tolist() == torch.where(inside, 3, 0).tolist()
    assert set(out.point_fields["n"].tolist()) == {0, 7} and out.point_fields["n"][-1] == 0
