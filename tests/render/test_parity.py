"""Parity plots: the numbers behind the dots."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from meshsim import render
from meshsim.check import InputError
from meshsim.render.parity import pairs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_perfect_predictions_lie_on_the_diagonal(dtype):
    x = torch.tensor([0.3, 0.1, 0.2], dtype=dtype)
    shown = pairs(x, x.clone())
    assert shown.truth.dtype == np.float64
    assert np.array_equal(shown.truth, shown.series["prediction"])
    assert shown.figures["prediction"] == (1.0, 1.0)


def test_figures_are_those_of_the_definitions():
    t, p = [1.0, 2.0, 3.0, 4.0], [1.5, 2.5, 3.5, 4.5]
    shown = pairs(t, {"shifted": p, "turned": t[::-1], "flat": [2.5] * 4})
    # R² = 1 − n/4 / Σ (t − t̄)² = 1 − 1 / 5
    assert shown.figures["shifted"] == (pytest.approx(0.8), 1.0)
    assert shown.figures["turned"][1] == -1.0
    assert shown.figures["flat"][0] == 0.0 and math.isnan(shown.figures["flat"][1])


def test_every_dot_lies_within_the_limits():
    shown = pairs([0.0, 10.0], {"a": [-5.0, 3.0], "b": [1.0, 14.0]})
    low, high = shown.limits
    for values in (shown.truth, *shown.series.values()):
        assert low < values.min() and values.max() < high
    one = pairs([2.0], [2.0]).limits  # a single design still has a picture
    assert one[0] < 2.0 < one[1]


def test_the_picture_has_the_size_and_the_dots(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn, original = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda f, *a, **k: (drawn.append(f), original(f, *a, **k))[1]
    )
    series = {"model": [1.0, 2.5, 3.0], "$linear": [1.5, 1.5, 3.5]}
    out = render.parity([1.0, 2.0, 3.0], series, tmp_path / "p.png", name="drag", unit="N")
    assert Image.open(out).size == (700, 700)
    axes = drawn[0].axes[0]
    dots = [c.get_offsets().tolist() for c in axes.collections]
    assert dots == [
        [[x, y] for x, y in zip([1.0, 2.0, 3.0], v, strict=True)] for v in series.values()
    ]
    ends = np.array(axes.lines[0].get_xydata())
    assert np.array_equal(ends[:, 0], ends[:, 1])
    assert axes.get_xlim() == axes.get_ylim() == pairs([1.0, 2.0, 3.0], series).limits
    assert axes.get_xlabel() == "drag, computed (N)" and axes.get_ylabel().endswith("predicted (N)")
    told = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert told[0] == "model: R² 0.875, Spearman 1.000" and told[1].startswith("$linear: R² 0.625")
    assert Image.open(
        render.parity([1.0], [2.0], tmp_path / "q.png", name="lift", width=400)
    ).size == (400, 400)


def test_bad_input_is_named(tmp_path):
    def fails(match, truth, prediction, out="p.png"):
        with pytest.raises(InputError, match=match):
            render.parity(truth, prediction, tmp_path / out, name="drag")

    fails("one design", [], [])
    fails("got 2 and 0", [1.0, 2.0], {})
    fails("prediction of b", [1.0, 2.0], {"a": [1.0, 2.0], "b": [1.0]})
    fails("`truth`: expected shape", [[1.0]], [1.0])
    fails("`prediction of prediction`: 1 values are not finite", [1.0, 2.0], [1.0, math.nan])
    fails("at most 6", [1.0], {str(k): [1.0] for k in range(7)})
    fails("png", [1.0], [1.0], "p.pdf")
    assert not list(tmp_path.iterdir())
