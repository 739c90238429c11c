"""Texts, bars and panels never overlap and never leave the picture."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from meshsim.render.board import Board
from meshsim.render.colour import error_scale, scale, span
from meshsim.render.layout import Frame, shorten, text_width
from meshsim.render.view import look
from tests.render.drawing import texts

rng = np.random.default_rng(0)
SHAPES = {
    "channel": np.array([[0.0, 0], [2.2, 0.41]]),
    "long": np.array([[0.0, 0], [50.0, 0.41]]),
    "square": np.array([[-1.0, -1], [1, 1]]),
    "tall": np.array([[1000.0, 0], [1000.5, 9]]),
    "car": rng.uniform(-1, 1, (100, 3)) * [0.9, 0.55, 2.1],
    "cube": rng.uniform(0, 1, (100, 3)),
    "tower": rng.uniform(0, 1, (100, 3)) * [1, 1, 8],
    "tiny": np.array([[0.0, 0], [2.2e-7, 0.9e-7]]),
    "far": np.array([[1e5, 1e5], [1e5 + 1e-3, 1e5 + 1e-3]]),
    "needle": np.array([[0.0, 0], [1, 200]]),
}
FIELDS = {
    "plain": np.linspace(0, 1.8, 50),
    "small": np.linspace(-3e-7, 5e-7, 50),
    "large": 101325 + np.linspace(0, 0.04, 50),
    "spiky": np.append(np.linspace(-1, 1, 500), 60.0),
}


def boxes(board):
    """Where every text stands: (left, top, right, bottom) in pixels from the upper left."""
    canvas = FigureCanvasAgg(board.figure)
    canvas.draw()
    found = []
    for text in board.figure.texts:
        box = text.get_window_extent(canvas.get_renderer())
        low, high = board.height - box.y1, board.height - box.y0
        found.append((text.get_text(), (box.x0, low, box.x1, high)))
    return found


def overlap(a, b, slack=1.0):
    return min(a[2], b[2]) - max(a[0], b[0]) > slack and min(a[3], b[3]) - max(a[1], b[1]) > slack


def check(board):
    written = boxes(board)
    assert len(written) > 2
    for text, box in written:
        assert box[0] >= -1 and box[1] >= -1, text
        assert box[2] <= board.width + 1 and box[3] <= board.height + 1, (text, box)
    for (one, a), (two, b) in combinations(written, 2):
        assert not overlap(a, b), f"{one!r} and {two!r} overlap"
    panels = [(x, y, x + w, y + h) for x, y, w, h in board.boxes]
    for (one, a), panel in ((w, p) for w in written for p in panels):
        assert not overlap(a, panel), f"{one!r} overlaps a panel"
    for a, b in combinations(panels, 2):
        assert not overlap(a, b, 0)
    for x0, y0, x1, y1 in panels:
        assert x0 >= 0 and y0 >= 0 and x1 <= board.width and y1 <= board.height


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_overlaps(shape, field):
    values = FIELDS[field]
    shared = scale(span([values]), unit="m/s")
    wrong = error_scale(span([values * 0.1]), signed=True, unit="m/s")
    view = look(SHAPES[shape])
    for width in (600, 1400):
        check(Board([Frame(shared)], view, title="velocity magnitude (m/s)", width=width))
        board = Board(
            [
                Frame(shared, "truth"),
                Frame(shared, "prediction"),
                Frame(wrong, "|prediction − truth|", "relative L2 0.034, largest 0.31"),
            ],
            view,
            title="velocity magnitude (m/s)",
            width=width,
            stamp="t = 12.345",
            legend=[((9, 9, 9), "no value (12 points)"), ((9, 9, 9), "another")],
        )
        check(board)
        assert board.width <= width + 2 and board.width % 2 == 0 and board.height % 2 == 0


def test_long_texts_are_shortened():
    shared = scale(span([FIELDS["plain"]]), unit="kg m⁻¹ s⁻² and more")
    long = "a_very_long_name_of_a_field_that_nobody_could_fit_into_one_line_of_a_picture " * 4
    for shape in ("channel", "cube"):
        board = Board(
            [Frame(shared, long), Frame(shared, long, long)],
            look(SHAPES[shape]),
            title=long,
            width=700,
            stamp="t = 1.0",
            legend=[((0, 0, 0), long)] * 5,
        )
        check(board)
        assert any(text.endswith("…") for text in texts(board))
    assert text_width(shorten(long, 100, 12.0), 12.0) <= 100


def test_thin_meshes_keep_their_titles_numbers_and_scales():
    shared = scale(span([np.linspace(0, 200, 50)]), unit="Pa")
    frames = [Frame(shared, "truth"), Frame(shared, "prediction", "relative L2 0.11")]
    tall = Board(frames, look(np.array([[0.0, 0], [1, 200]])), width=700)
    assert {"truth", "prediction", "relative L2 0.11"} <= set(texts(tall))
    flat = Board([Frame(shared)], look(np.array([[0.0, 0], [200, 1]])), width=600)
    check(flat)
    assert texts(flat).count("200") == 2  # the coordinate and the upper end of the bar
    upright = [t for t in flat.figure.texts if t.get_ha() == "right"]
    assert [t.get_text() for t in upright] == ["0.0"]  # on the mesh, not far below it


def test_labels_are_there():
    shared = scale(span([FIELDS["plain"]]), unit="m/s")
    wrong = error_scale(span([FIELDS["small"]]), signed=True, unit="m/s")
    board = Board(
        [Frame(shared, "truth"), Frame(shared, "prediction"), Frame(wrong, "error", "largest 1")],
        look(SHAPES["channel"]),
        title="speed (m/s)",
        legend=[((1, 2, 3), "wall")],
    )
    written = texts(board)
    for text in ("speed (m/s)", "truth", "prediction", "error", "largest 1", "wall"):
        assert written.count(text) == 1
    assert written.count("m/s") == 1 and "×10⁻⁷ m/s" in written  # one bar for two panels
    assert {"0.0", "0.5", "1.0", "1.5", "2.0"} <= set(written)  # coordinates


def test_small_coordinates_keep_their_power_of_ten():
    written = texts(Board([Frame(None)], look(SHAPES["tiny"]), title="x"))
    assert {"0", "1.0×10⁻⁷"} <= set(written) or {"0", "1×10⁻⁷"} <= set(written)


def test_wide_meshes_are_stacked_and_cubes_stand_side_by_side():
    shared = scale(span([FIELDS["plain"]]))
    three = [Frame(shared, name) for name in "abc"]
    channel, cube = (Board(three, look(SHAPES[s])).boxes for s in ("channel", "cube"))
    assert len({box[0] for box in channel}) == 1 and len({box[1] for box in cube}) == 1
    assert len({box[2:] for box in channel}) == 1 == len({box[2:] for box in cube})


@pytest.mark.parametrize("shape", ["channel", "square", "tall", "car", "tower"])
def test_panels_have_the_aspect_of_the_mesh(shape):
    view = look(SHAPES[shape])
    _, _, width, height = Board([Frame(None)], view, title="x", width=1600).boxes[0]
    if shape != "tall":  # which gets room for its title
        assert width / height == pytest.approx(view.aspect, rel=0.02)


def test_the_bar_shows_the_scale_from_bottom_to_top():
    shared = scale(span([FIELDS["plain"]]))
    board = Board([Frame(shared)], look(SHAPES["channel"]), title="x")
    rows, columns, colours = board._strips[0]
    strip = board.compose([np.zeros((board.boxes[0][3], board.boxes[0][2], 3), np.uint8)])
    shown = strip[rows, columns][:, 3].astype(int)
    assert np.abs(shown[0] - shared.colours[-1]).max() <= 6
    assert np.abs(shown[-1] - shared.colours[0]).max() <= 6
    assert np.array_equal(shown, colours[:, 0])
    assert rows.stop - rows.start == board.boxes[0][3]
    clipped = scale(span([FIELDS["spiky"]]))
    tips = Board([Frame(clipped)], look(SHAPES["channel"]), title="x")
    assert tips._strips[0][0].start > tips.boxes[0][1]  # room for a tip
