"""Truth, prediction and error: what must be equal is equal to the pixel."""

import numpy as np
import pytest

from meshsim import Series, render
from meshsim.check import InputError
from tests.helpers import MESHES
from tests.render.drawing import grid, panel, pixels, texts


def with_u(mesh, factor=1.0, field="u"):
    x = mesh.points.numpy()
    return mesh.with_fields({field: factor * np.stack([np.sin(3 * x[:, 1]), x[:, 0]], 1)})


@pytest.mark.parametrize("name", ["planar", "mixed_solid", "cube_surface", "polygons"])
@pytest.mark.parametrize("field", ["p", "u", "k"])
def test_equal_fields_give_equal_panels_and_an_empty_error(tmp_path, boards, name, field):
    mesh = MESHES[name] if name in MESHES else MESHES["channel"]
    image = pixels(render.compare(mesh, mesh, field, tmp_path / "c.png", width=800))
    board = boards[0]
    truth, prediction, wrong = (panel(image, board, i) for i in range(3))
    assert np.array_equal(truth, prediction)
    assert len(np.unique(truth.reshape(-1, 3), axis=0)) > 3
    inside = truth.min(-1) < 200  # what the mesh covers; the map has no white
    shown = wrong[inside]
    assert len(shown) > 1000
    if mesh.dim == 2:  # outlines aside, one colour: white
        colours, counts = np.unique(shown, axis=0, return_counts=True)
        assert counts.max() > 0.9 * len(shown) and colours[counts.argmax()].min() > 240
    else:  # light changes brightness only
        assert np.ptp(shown, axis=1).max() <= 3


def test_one_scale_for_both_and_another_for_the_error(tmp_path, boards):
    render.compare(with_u(grid()), with_u(grid(), 5.0), "u", tmp_path / "c.png", unit="m/s")
    a, b, wrong = boards[0].frames
    assert a.scale is b.scale and wrong.scale is not a.scale
    largest = np.hypot(np.sin(3 * grid().points[:, 1]), grid().points[:, 0]).max()
    assert a.scale.high == pytest.approx(float(largest)) and a.scale.over  # the truth's
    assert wrong.scale.high == pytest.approx(4 * float(largest))
    written = texts(boards[0])
    for text in ("u magnitude (m/s)", "truth", "prediction", "|prediction − truth|"):
        assert written.count(text) == 1
    assert any(text.startswith("relative L2 4") for text in written)


def test_errors_of_scalars_have_signs_and_vectors_see_directions(tmp_path, boards):
    truth = with_u(grid())
    render.compare(truth, with_u(grid(), 0.5), "u", tmp_path / "c.png", component="y")
    assert boards[-1].frames[2].title == "prediction − truth"
    assert boards[-1].frames[2].scale.low == -boards[-1].frames[2].scale.high
    # turned around, magnitudes are right and everything is wrong
    image = pixels(render.compare(truth, with_u(grid(), -1.0), "u", tmp_path / "c.png"))
    a, b, wrong = (panel(image, boards[-1], i) for i in range(3))
    assert np.array_equal(a, b) and boards[-1].frames[2].scale.low == 0
    assert "relative L2 2" in boards[-1].frames[2].note
    assert (np.ptp(wrong, axis=-1) > 100).mean() > 0.2  # red


def test_the_error_is_where_it_is(tmp_path, boards):
    truth = grid().with_fields({"p": np.arange(45.0)})
    values = np.arange(45.0)
    values[22] += 3  # in the middle of the rectangle
    image = pixels(
        render.compare(truth, grid().with_fields({"p": values}), "p", tmp_path / "c.png")
    )
    wrong = panel(image, boards[0], 2)
    red = (wrong[..., 0] - wrong[..., 2]) > 60
    y, x = np.nonzero(red)
    height, width = red.shape
    assert abs(x.mean() / width - 0.5) < 0.02 and abs(y.mean() / height - 0.5) < 0.02
    assert 0.001 < red.mean() < 0.1


def test_series_are_compared_at_the_last_time_of_the_prediction(tmp_path, boards):
    mesh = grid()
    frames = np.arange(4.0)[:, None] * mesh.points[:, 0].numpy()
    truth = Series(mesh, [0.0, 1.0, 2.0, 3.0], {"p": frames})
    guess = Series(mesh, [0.0, 1.0, 2.0], {"p": frames[:3]})
    render.compare(truth, guess, "p", tmp_path / "c.png")
    assert boards[0]._stamp == "t = 2" and "relative L2 0," in boards[0].frames[2].note


def test_missing_values_do_not_spoil_the_figures(tmp_path, boards):
    values = np.ones(45)
    values[3] = np.nan
    render.compare(
        grid().with_fields({"p": np.ones(45)}), grid().with_fields({"p": values}), "p",
        tmp_path / "c.png",
    )  # fmt: skip
    assert "no value (1 points)" in texts(boards[0])
    assert boards[0].frames[2].note == "relative L2 0, largest 0"


def test_what_does_not_fit_is_said(tmp_path):
    out = tmp_path / "c.png"
    with pytest.raises(InputError, match="different meshes: 45 points and 64 cells, 12 points"):
        render.compare(with_u(grid()), with_u(grid(3, 2)), "u", out)
    with pytest.raises(InputError, match="unknown point field 'u'"):
        render.compare(grid(), with_u(grid()), "u", out)
    scalar = grid().with_fields({"u": np.ones(45)})
    with pytest.raises(InputError, match="the truth has 1 components, the prediction 2"):
        render.compare(scalar, with_u(grid()), "u", out)
    assert not out.exists()
