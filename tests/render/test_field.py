"""Pictures of one field: the right colour at the right place."""

import numpy as np
import pytest
import torch

from meshsim import Sample, Series, render
from meshsim.check import InputError, WorkError
from meshsim.mesh import Mesh
from meshsim.render.colour import MISSING, scale, span
from tests.helpers import MESHES
from tests.render.drawing import grid, panel, pixels, texts


def places(board, i=0):
    """The coordinates of every pixel of a planar panel: (height, width, 2)."""
    _, _, width, height = board.boxes[i]
    low, high = board.view.low, board.view.high
    size = 1 / min((width, height) / (high - low))
    y, x = np.mgrid[0:height, 0:width] + 0.5
    middle = (low + high) / 2
    return np.stack([middle[0] + (x - width / 2) * size, middle[1] - (y - height / 2) * size], -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_linear_field_is_exact_at_every_pixel(tmp_path, boards, dtype):
    mesh = grid().to(dtype=dtype)
    x = mesh.points
    mesh = mesh.with_fields({"p": 3 * x[:, 0] - x[:, 1] + 1})
    shown = panel(pixels(render.field(mesh, "p", tmp_path / "p.png")), boards[0], 0)
    at = places(boards[0])
    inside = ((at > 0.02) & (at < np.array([2, 1]) - 0.02)).all(-1)
    s = scale(span([mesh.point_fields["p"].double().numpy()]))
    wanted = s.colour(3 * at[..., 0] - at[..., 1] + 1).astype(int)
    assert inside.sum() > 10_000
    assert np.abs(shown - wanted)[inside].max() <= 6  # one step of the map
    outside = ((at < -0.004) | (at > np.array([2, 1]) + 0.004)).any(-1)
    assert outside.any() and (shown[outside] == 255).all()


def test_cells_have_one_colour_each(tmp_path, boards):
    mesh = grid(4, 2).with_fields(cell={"k": np.arange(16.0)})
    shown = panel(pixels(render.field(mesh, "k", tmp_path / "k.png")), boards[0], 0)
    s = scale(span([np.arange(16.0)]))
    at = places(boards[0])
    for cell, centre in enumerate(mesh.cell_centres.numpy()):
        near = np.linalg.norm(at - centre, axis=-1) < 0.05
        assert near.sum() > 20
        assert np.abs(shown[near] - s.colour(np.array([float(cell)]))[0]).max() == 0


def test_magnitude_by_default_and_components_by_name_or_number(tmp_path, boards):
    x = grid().points.numpy()
    u = np.stack([x[:, 0], -2 * x[:, 0]], 1)
    mesh = grid().with_fields({"u": u, "m": np.hypot(*u.T), "y": u[:, 1]})

    def shown(name, component=None):
        out = tmp_path / "u.png"
        return pixels(render.field(mesh, name, out, component=component, title="same", width=400))

    assert np.array_equal(shown("u"), shown("m"))
    assert np.array_equal(shown("u", "y"), shown("y"))
    assert np.array_equal(shown("u", 1), shown("y"))
    assert not np.array_equal(shown("u", "x"), shown("y"))
    render.field(mesh, "u", tmp_path / "u.png", unit="m/s", width=400)
    assert "u magnitude (m/s)" in texts(boards[-1])
    render.field(mesh, "u", tmp_path / "u.png", component="y", width=400)
    assert "u y" in texts(boards[-1])
    for wrong in ("z", 2, -1):
        with pytest.raises(InputError, match="component"):
            shown("u", wrong)


def test_missing_values_are_grey_and_counted(tmp_path, boards):
    values = np.arange(45.0)
    values[22] = np.nan
    mesh = grid().with_fields({"p": values})
    shown = panel(pixels(render.field(mesh, "p", tmp_path / "p.png")), boards[0], 0)
    at = places(boards[0])
    near = np.linalg.norm(at - mesh.points[22].numpy(), axis=-1) < 0.05
    assert (shown[near] == MISSING).all()
    far = np.linalg.norm(at - mesh.points[22].numpy(), axis=-1) > 0.4
    assert not (shown[far] == MISSING).all(-1).any()
    assert "no value (1 points)" in texts(boards[0])
    whole = grid().with_fields({"p": np.full(45, np.nan)})
    shown = panel(pixels(render.field(whole, "p", tmp_path / "p.png")), boards[1], 0)
    inside = ((places(boards[1]) > 0.1) & (places(boards[1]) < [1.9, 0.9])).all(-1)
    assert (shown[inside] == MISSING).all()


def test_constant_fields_have_one_colour(tmp_path, boards):
    mesh = grid().with_fields({"p": np.full(45, 7)})
    shown = panel(pixels(render.field(mesh, "p", tmp_path / "p.png")), boards[0], 0)
    inside = ((places(boards[0]) > 0.1) & (places(boards[0]) < [1.9, 0.9])).all(-1)
    assert np.ptp(shown[inside], axis=0).max() <= 6


@pytest.mark.parametrize("name", MESHES)
def test_every_kind_of_mesh_can_be_drawn(tmp_path, boards, name):
    mesh = MESHES[name]
    for field in ("p", "u", "k"):
        render.field(mesh, field, tmp_path / "p.png", width=320)
    render.cells(mesh, tmp_path / "cells.png", width=320)
    for i, board in enumerate(boards):
        assert board.view.flat == (mesh.dim == 2), i
    assert (panel(pixels(tmp_path / "cells.png"), boards[-1], 0) < 250).any()


def test_solids_show_what_is_nearest(tmp_path, boards):
    """A cube seen along z: the far side's values never show."""
    cube = Mesh(
        [[x, y, z] for z in (0.0, 1.0) for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))],
        {"hexahedron": [range(8)]},
        {"p": [0.0] * 4 + [1.0] * 4},
    )
    for view, up, end in (("z", "y", 1.0),):
        out = render.field(cube, "p", tmp_path / "c.png", view=view, up=up, width=500)
        shown = panel(pixels(out), boards[-1], 0)
        height, width, _ = shown.shape
        middle = shown[height // 4 : -height // 4, width // 4 : -width // 4].reshape(-1, 3)
        colour = scale(span([np.array([0.0, 1.0])])).colour(np.array([end]))[0]
        assert np.ptp(middle, axis=0).max() <= 2
        share = middle[0] / colour  # light changes brightness, not hue
        assert np.ptp(share) < 0.05 and 0.6 < share.mean() <= 1


def test_series_samples_and_times(tmp_path, boards):
    mesh = grid()
    frames = np.arange(3.0)[:, None] + mesh.points[:, 0].numpy()
    series = Series(mesh, [0.0, 0.5, 1.0], {"p": frames})
    last = pixels(render.field(series, "p", tmp_path / "p.png", width=500))
    assert "p" in texts(boards[0]) and boards[0]._stamp == "t = 1"
    again = pixels(render.field(Sample(series), "p", tmp_path / "p.png", time=1.0, width=500))
    assert np.array_equal(last, again)
    first = render.field(series, "p", tmp_path / "p.png", time=0.0, clim=(0.0, 9.0), width=500)
    alone = render.field(series.frame(0), "p", tmp_path / "q.png", clim=(0.0, 9.0), width=500)
    a, b = (panel(pixels(f), boards[i], 0) for f, i in ((first, -2), (alone, -1)))
    assert np.array_equal(a, b)
    with pytest.raises(InputError, match="outside the series"):
        render.field(series, "p", tmp_path / "p.png", time=7.0, width=500)
    with pytest.raises(InputError, match="no times"):
        render.field(
            mesh.with_fields({"p": frames[0]}), "p", tmp_path / "p.png", time=1.0, width=500
        )


def test_the_first_field_or_the_cells(tmp_path, boards):
    mesh = grid()
    render.field(mesh, out=tmp_path / "a.png", width=500)
    assert any("45 points" in text for text in texts(boards[-1]))
    render.field(mesh.with_fields({"b": np.arange(45.0), "a": np.ones(45)}), out=tmp_path / "a.png")
    assert "b" in texts(boards[-1])


def test_edges_of_cells_are_drawn(tmp_path):
    mesh = grid(3, 2).with_fields({"p": np.zeros(12)})
    plain, lined = (
        pixels(render.field(mesh, "p", tmp_path / "p.png", edges=edges, width=500))
        for edges in (False, True)
    )
    changed = (plain != lined).any(-1)
    assert 0.001 < changed.mean() < 0.05
    assert (lined[changed] <= plain[changed]).all()  # lines are dark


def test_boundaries_and_regions_are_named(tmp_path, boards):
    mesh = MESHES["channel"]
    out = pixels(render.cells(mesh, tmp_path / "c.png", width=500))
    for name in mesh.boundaries:
        assert name in texts(boards[0])
    from meshsim.render.cells import NAMED

    for i in range(len(mesh.boundaries)):
        assert (out == NAMED[i]).all(-1).sum() > 200, "a line and the legend"
    solid = MESHES["mixed_solid"]
    out = pixels(render.cells(solid, tmp_path / "c.png", up="z", width=500))
    assert "floor" in texts(boards[1])


def test_what_is_wrong_is_said(tmp_path):
    mesh = grid().with_fields({"pressure": np.arange(45.0)})
    with pytest.raises(InputError, match="did you mean 'pressure'"):
        render.field(mesh, "presure", tmp_path / "p.png", width=500)
    with pytest.raises(InputError, match=r"expected a name ending in \.png"):
        render.field(mesh, "pressure", tmp_path / "p.jpeg", width=500)
    with pytest.raises(InputError, match="did you mean 'viridis'"):
        render.field(mesh, "pressure", tmp_path / "p.png", cmap="virdis", width=500)
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkError, match="cannot be written"):
        render.field(mesh, "pressure", tmp_path / "file" / "p.png", width=500)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["file"]


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    from PIL import Image

    out = tmp_path / "p.png"
    out.write_bytes(b"before")

    def full(self, path, *args, **kwargs):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(WorkError, match="No space left"):
        render.field(grid().with_fields({"p": np.ones(45)}), "p", out)
    assert out.read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1


def test_pictures_are_available_here():
    works, why = render.available()
    assert works and "no display" in why


def test_importing_stays_cheap():
    import subprocess
    import sys

    code = (
        "import sys, meshsim.render\n"
        "heavy = {'pyvista', 'vtkmodules', 'matplotlib', 'PIL', 'scipy', 'imageio'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
