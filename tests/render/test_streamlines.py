"""Streamlines: straight where the flow is, round where it turns."""

import numpy as np
import pytest
import torch
from PIL import Image

from meshsim import render
from meshsim.check import InputError
from meshsim.mesh import Mesh
from meshsim.render.streamlines import _inside, _part
from meshsim.render.trace import Lines, rake, trace
from tests.render.drawing import grid, panel, pixels, texts


def block(n: int = 6) -> Mesh:
    """Hexahedra of [−1, 1]³."""
    at = np.linspace(-1, 1, n + 1)
    points = np.stack(np.meshgrid(at, at, at, indexing="ij"), -1).reshape(-1, 3)
    i = np.arange((n + 1) ** 3).reshape(n + 1, n + 1, n + 1)
    a, b = slice(None, -1), slice(1, None)
    ring = [(a, a), (b, a), (b, b), (a, b)]
    cells = np.stack([i[(*side, h)] for h in (a, b) for side in ring], -1).reshape(-1, 8)
    return Mesh(points, {"hexahedron": cells})


def square(n: int = 10) -> Mesh:
    """Triangles of [−1, 1]²."""
    mesh = grid(n, n, 2.0, 2.0)
    return mesh.replace(points=mesh.points - 1)


def constant(mesh: Mesh, u, at: str = "point") -> Mesh:
    rows = torch.tensor(u, dtype=mesh.points.dtype)
    count = mesh.n_points if at == "point" else mesh.n_cells
    return mesh.with_fields(**{at: {"velocity": rows.expand(count, -1).clone()}})


@pytest.mark.parametrize("at", ["point", "cell"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("mesh", "u"), [(block(), (2.0, 1.0, -0.5)), (square(), (1.0, -0.4))])
def test_lines_are_straight_in_a_uniform_flow(mesh, u, dtype, at):
    mesh = constant(mesh.to(dtype=dtype), u, at)
    seeds = 0.3 * np.array([[1.0, -1.0, 0.5], [0.1, 0.2, 0.3]])[:, : mesh.dim]
    lines = trace(mesh, "velocity", seeds)
    way = np.array(u) / np.linalg.norm(u)
    assert lines.seeds.tolist() == [0, 0, 1, 1]
    assert np.allclose(lines.speed, np.linalg.norm(u), rtol=1e-6)
    for k, seed in enumerate(lines.seeds):
        points = lines.points[lines.offsets[k] : lines.offsets[k + 1]]
        assert np.allclose(points[0], seeds[seed], atol=1e-7)
        along = (points - seeds[seed]) @ way
        off = points - seeds[seed] - along[:, None] * way
        assert np.abs(off).max() < 1e-6
        # upstream first; each as far as the mesh, to within a step
        assert (np.diff(along) < 0).all() if k % 2 == 0 else (np.diff(along) > 0).all()
        assert np.abs(points[-1]).max() > 1 - 0.1 * np.sqrt(mesh.dim) * 2 / 6


@pytest.mark.parametrize("mesh", [block(), square()])
def test_the_radius_is_kept_where_the_flow_turns_rigidly(mesh):
    """u = (−y, x): linear, so that the mesh holds it exactly; the rest is the integrator's."""
    x, y = mesh.points[:, 0], mesh.points[:, 1]
    u = torch.stack([-y, x, *([0 * x] if mesh.dim == 3 else [])], 1)
    seeds = np.array([[0.5, 0.0, 0.1], [0.0, 0.8, -0.2]])[:, : mesh.dim]
    lines = trace(mesh.with_fields({"u": u}), "u", seeds, length=20.0)
    assert len(lines.seeds) == 4
    for k, seed in enumerate(lines.seeds):
        points = lines.points[lines.offsets[k] : lines.offsets[k + 1]]
        radius = np.hypot(points[:, 0], points[:, 1])
        wanted = np.hypot(*seeds[seed][:2])
        assert np.abs(radius - wanted).max() < 1e-4 * wanted
        turned = np.unwrap(np.arctan2(points[:, 1], points[:, 0]))
        assert abs(turned[-1] - turned[0]) * wanted == pytest.approx(20.0, rel=0.01)
        if mesh.dim == 3:
            assert np.abs(points[:, 2] - seeds[seed][2]).max() < 1e-7  # VTK keeps them in float32


def test_equal_bits_and_the_order_of_the_seeds():
    mesh = constant(block(), (1.0, 0.2, 0.0))
    seeds = np.random.default_rng(0).uniform(-0.9, 0.9, (20, 3))
    seeds[7] = 5.0  # outside: no line
    first, again = (trace(mesh, "velocity", seeds) for _ in range(2))
    assert np.array_equal(first.points, again.points)
    assert first.seeds.tolist() == [k for k in range(20) if k != 7 for _ in range(2)]
    assert len(first.segments()) == len(first.points) - len(first.seeds)
    none = trace(mesh, "velocity", np.zeros((0, 3)))
    assert none.points.shape == (0, 3) and not len(none.segments())


def test_the_rake_stands_upstream_of_the_body():
    points = [[-0.2, -0.1, -0.9], [0.2, -0.1, -0.9], [0.2, 0.1, -0.5]]
    body = Mesh(points, {"triangle": [[0, 1, 2]]})
    mesh = constant(block(), (1.0, 0.1, 0.0))
    seeds = rake(mesh, "velocity", body, 24)
    assert len(seeds) == 24 and np.allclose(seeds[:, 0], -0.4)  # half a length of 0.4 ahead
    assert np.abs(seeds[:, 1]).max() < 0.15 and seeds[:, 2].min() > -1 and seeds[:, 2].max() < -0.4
    back = rake(constant(block(), (-1.0, 0.1, 0.0)), "velocity", body, 24)
    assert np.allclose(back[:, 0], 0.4)
    flat = Mesh([[-0.2, -0.1, 1.0], [0.2, -0.1, 1.0], [0.2, 0.1, 1.0]], {"triangle": [[0, 1, 2]]})
    assert rake(mesh, "velocity", flat, 24).shape == (24, 3)  # one row, no thicker than the body
    line = rake(constant(square(), (0.1, 2.0)), "velocity", None, 5)
    assert np.allclose(line[:, 1], -0.75) and np.allclose(np.diff(line[:, 0]), 0.4, atol=0.01)


def test_lines_end_on_the_window():
    lines = Lines(np.array([[0.0, 0.0], [4.0, 0.0], [9.0, 9.0], [9.0, 9.5]]), np.array([0, 2, 4]),
                  np.array([0, 1]), np.array([1.0, 3.0, 5.0, 5.0]))  # fmt: skip
    ends, speed = _inside(lines, np.array([1.0, -1.0]), np.array([3.0, 1.0]))
    assert ends.tolist() == [[[1.0, 0.0], [3.0, 0.0]]] and speed.tolist() == [2.0]


def test_a_line_is_drawn_where_it_runs(tmp_path, boards):
    mesh = constant(square(), (3.0, 0.0))
    out = render.streamlines(
        mesh, out=tmp_path / "s.png", seeds=[[0.0, 0.5]], unit="m/s", width=600
    )
    image = panel(pixels(out), boards[0], 0)
    assert Image.open(out).size == (boards[0].width, boards[0].height)
    coloured = np.ptp(image, axis=-1) > 40
    rows = np.flatnonzero(coloured.any(1))
    assert abs(rows.mean() / len(image) - 0.25) < 0.01 and len(rows) <= 4
    assert coloured.any(0)[10:-30].all()  # from one side to the other
    assert "streamlines of velocity (m/s)" in texts(boards[0])
    again = render.streamlines(
        mesh, out=tmp_path / "t.png", seeds=[[0.0, 0.5]], unit="m/s", width=600
    )
    assert out.read_bytes() == again.read_bytes()


def test_the_body_hides_what_is_behind_it(tmp_path, boards):
    mesh = constant(block(), (1.0, 0.0, 0.0))
    x, z = np.meshgrid([-0.5, 0.5], [-0.5, 0.5])
    points = np.stack([x.ravel(), np.zeros(4), z.ravel()], 1)
    wall = Mesh(points, {"quad": [[0, 1, 3, 2]]})  # half as long as the lines
    seen = []
    for y in (-0.5, 0.5):  # before and behind it, for an eye on the side of negative y
        seeds = [[0.0, y, 0.1]]
        out = tmp_path / "s.png"
        render.streamlines(mesh, out=out, seeds=seeds, body=wall, view="y", width=500)
        image = panel(pixels(out), boards[-1], 0)
        seen.append((np.ptp(image, axis=-1) > 60).any(0).sum())
    assert seen[1] == pytest.approx(seen[0] / 2, rel=0.05)


def test_boundaries_are_bodies_too_and_carry_their_fields(tmp_path, boards):
    mesh = block(4)
    outer = (mesh.faces.neighbour < 0).nonzero().squeeze(1)
    top = outer[mesh.faces.centre[outer][:, 2] > 0.99]
    mesh = constant(mesh.replace(boundaries={"lid": top}), (1.0, 0.0, 0.0))
    mesh = mesh.with_fields(cell={"p": mesh.cell_centres[:, 0]})
    lid = _part(mesh, "lid")
    assert torch.allclose(lid.cell_fields["p"], lid.cell_centres[:, 0])
    assert torch.allclose(lid.cell_centres[:, 2], torch.ones(16, dtype=torch.float64))
    render.streamlines(mesh, out=tmp_path / "b.png", body="lid", on_body="p", body_unit="Pa")
    told = texts(boards[0])
    first = next(k for k, text in enumerate(told) if text.startswith("p −0."))
    last = next(k for k, text in enumerate(told) if text.endswith(" Pa"))
    values = [float(t.strip("pPa ").replace("−", "-")) for t in told[first : last + 1]]
    assert len(values) >= 3 and values == [-v for v in reversed(values)]  # white at zero


def test_bad_input_is_named(tmp_path):
    mesh = constant(square(), (1.0, 0.0)).with_fields({"p": np.zeros(121)})
    out = tmp_path / "s.png"

    def fails(match, *args, **options):
        with pytest.raises(InputError, match=match):
            render.streamlines(*args, out=out, **options)

    fails("field 'velocty'", mesh, "velocty")
    fails("`p`: expected shape", mesh, "p")
    fails("`seeds`: expected shape", mesh, seeds=[[0.0, 0.0, 0.0]])
    fails("one or more", mesh, seeds=0)
    fails("no streamline", mesh, seeds=[[5.0, 5.0]])
    fails("`body`: expected points in 2-D", mesh, body=block(1))
    fails("boundary 'wall'", mesh, body="wall")
    fails("expected a body too", mesh, on_body="p")
    fails("`window`", mesh, window=([1.0, 1.0], [0.0, 0.0]))
    bad = mesh.with_fields({"velocity": torch.full((121, 2), torch.nan)})
    fails("not finite", bad, seeds=[[0.0, 0.0]])
    skin = Mesh([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]], {"triangle": [[0, 1, 2]]})
    fails("fill space", constant(skin, (1.0, 0.0, 0.0)))
    assert not out.exists()
