"""Movies: frames, sizes, times, and what they show."""

import builtins
from itertools import pairwise

import imageio.v3 as imageio
import numpy as np
import pytest

from meshsim import Series, render
from meshsim.check import InputError, MissingExtra
from meshsim.render.movie import stamps
from tests.helpers import MESHES
from tests.render.drawing import grid, panel


def wave(frames=5, mesh=None, speed=1.0, **kwargs):
    mesh = grid() if mesh is None else mesh
    times = 0.5 + 0.25 * np.arange(frames)
    x = mesh.points[:, 0].numpy()
    return Series(mesh, times, {"p": np.sin(x - speed * times[:, None])}, **kwargs)


def test_a_gif_has_every_frame_at_the_size_of_the_board(tmp_path, boards):
    done = []
    out = render.movie(
        wave(), "p", tmp_path / "m.gif", fps=10, width=400, progress=lambda *a: done.append(a)
    )
    frames = imageio.imread(out)
    assert frames.shape == (5, boards[0].height, boards[0].width, 3)
    assert imageio.immeta(out)["duration"] == 100 and imageio.immeta(out)["loop"] == 0
    shown = [panel(f, boards[0], 0).astype(int) for f in frames]
    assert all((a != b).any() for a, b in pairwise(shown))
    assert done == [(i + 1, 5) for i in range(5)]
    assert [f.name for f in tmp_path.iterdir()] == ["m.gif"]


def test_one_scale_for_all_times_and_few_colours(tmp_path, boards):
    still = Series(grid(), [0.0, 1.0], {"p": np.stack([np.zeros(45), np.ones(45)])})
    frames = imageio.imread(render.movie(still, "p", tmp_path / "m.gif", width=400))
    assert (boards[0].frames[0].scale.low, boards[0].frames[0].scale.high) == (0, 1)
    middle = [panel(f, boards[0], 0)[40, 40].astype(int) for f in frames]
    ends = boards[0].frames[0].scale.colours[[0, -1]].astype(int)
    assert np.abs(np.array(middle) - ends).max() <= 2
    assert len(np.unique(frames.reshape(-1, 3), axis=0)) <= 256


def test_the_time_is_written_on_every_frame(tmp_path, boards):
    frames = imageio.imread(render.movie(wave(), "p", tmp_path / "m.gif", width=400))
    corner = frames[:, : boards[0].boxes[0][1] - 8, -90:]
    assert all((c < 128).any() for c in corner)
    assert len({c.tobytes() for c in corner}) == 5
    assert stamps([0.5, 0.75, 1.0]) == ["t = 0.5", "t = 0.8", "t = 1.0"]
    assert stamps([0.0, 1e-5, 2e-5])[1] == "t = 1×10⁻⁵" or stamps([0.0, 1e-5, 2e-5])[1] == "t = 0.5"
    assert stamps([3.0]) == ["t = 3"]


def test_beside_the_truth(tmp_path, boards):
    out = render.movie(wave(3, speed=2.0), "p", tmp_path / "m.gif", truth=wave(9), width=400)
    frames = imageio.imread(out)
    assert len(frames) == 3 and [f.title for f in boards[0].frames] == [
        "truth",
        "prediction",
        "prediction − truth",
    ]
    same = imageio.imread(render.movie(wave(), "p", tmp_path / "m.gif", truth=wave(), width=400))
    for frame in same:
        truth, prediction, wrong = (panel(frame, boards[1], i).astype(int) for i in range(3))
        assert np.array_equal(truth, prediction)
        inside = wrong[8:-8, 8:-8]
        assert (np.ptp(inside.reshape(-1, 3), axis=0) == 0).all() and inside.min() > 235


def test_long_series_are_thinned_evenly(tmp_path, boards):
    out = render.movie(wave(11), "p", tmp_path / "m.gif", frames=4, width=300)
    assert len(imageio.imread(out)) == 4  # times 0, 3, 6 and 9


def test_mp4(tmp_path, boards):
    pytest.importorskip("imageio_ffmpeg")
    out = render.movie(wave(6), "p", tmp_path / "m.mp4", fps=12, width=400)
    frames = imageio.imread(out, plugin="FFMPEG")
    assert frames.shape == (6, boards[0].height, boards[0].width, 3)
    first = panel(frames[0], boards[0], 0).astype(int)
    assert np.ptp(first.reshape(-1, 3), axis=0).max() > 100


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("imageio"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"imageio is not installed: pip install 'meshsim\[viz"):
        render.movie(wave(), "p", tmp_path / "m.mp4", width=300)
    assert not list(tmp_path.iterdir())
    render.movie(wave(2), "p", tmp_path / "m.gif", width=300)  # which needs no extra


def test_moving_points_move_in_the_picture(tmp_path, boards):
    mesh = grid()
    points = mesh.points.numpy() + np.array([[[0.0, 0]], [[1, 0]], [[2, 0]]])
    series = wave(3, mesh, points=points)
    frames = imageio.imread(render.movie(series, "p", tmp_path / "m.gif", width=400))
    left = [np.nonzero((panel(f, boards[0], 0) < 200).any(-1).any(0))[0].min() for f in frames]
    width = boards[0].boxes[0][2]
    assert np.allclose(np.diff(left), width / 4, atol=3)


def test_meshes_that_change_and_solids(tmp_path, boards):
    coarse = grid(3, 2)
    later = Series(coarse, [2.0, 3.0], {"p": np.zeros((2, 12))})
    series = wave(3, later=(later,))
    assert len(imageio.imread(render.movie(series, "p", tmp_path / "m.gif", width=300))) == 5
    solid = MESHES["mixed_solid"]
    cells = Series(solid, [0.0, 1.0], cell_fields={"c": np.random.rand(2, solid.n_cells)})
    out = render.movie(cells, "c", tmp_path / "m.gif", truth=cells, width=400)
    assert len(imageio.imread(out)) == 2 and not boards[-1].view.flat


def test_what_is_wrong_is_said(tmp_path):
    out = tmp_path / "m.gif"
    with pytest.raises(InputError, match="needs a series"):
        render.movie(grid(), "p", out)
    with pytest.raises(InputError, match=r"\.gif or \.mp4"):
        render.movie(wave(), "p", tmp_path / "m.avi")
    with pytest.raises(InputError, match="unknown field 'q'"):
        render.movie(wave(), "q", out)
    late = Series(grid(), [9.0, 10.0], {"p": np.zeros((2, 45))})
    with pytest.raises(InputError, match=r"the truth has no frame at time 0\.5"):
        render.movie(wave(), "p", out, truth=late)
    with pytest.raises(InputError, match="positive"):
        render.movie(wave(), "p", out, fps=0)
    with pytest.raises(InputError, match="different meshes"):
        render.movie(wave(), "p", out, truth=wave(mesh=grid(2, 2)))
    assert not list(tmp_path.iterdir())
