"""The page that turns: it holds everything, loads nothing, and draws."""

import json
import re
import shutil
import subprocess
import sys
from base64 import b64decode

import numpy as np
import pytest

from meshsim import Series, render
from meshsim.check import InputError
from tests.helpers import MESHES
from tests.render.drawing import grid, pixels


def scene(path):
    text = path.read_text()
    found = re.search(r'<script type="application/json" id="scene">(.*?)</script>', text, re.S)
    return json.loads(found.group(1)), text


def code(text, dtype):
    return np.frombuffer(b64decode(text), dtype)


@pytest.mark.parametrize("name", MESHES)
def test_everything_is_inside_and_nothing_is_loaded(tmp_path, name):
    data, text = scene(render.page(MESHES[name], tmp_path / "p.html"))
    assert not re.findall(r"https?:|//\w+\.|\bimport\b|@import|fetch\(|XMLHttp|WebSocket", text)
    assert set(re.findall(r'(?:src|href)="([^"]*)"', text)) == {"data:,"}
    assert "%" + "SCENE%" not in text
    n = len(code(data["points"], np.float32)) // 3
    faces = code(data["faces"], np.uint32)
    assert n > 0 and len(faces) % data["corners"] == 0 and faces.max() == n - 1
    assert len(code(data["normals"], np.int8)) == 4 * n
    assert [f["name"] for f in data["fields"]] == ["p", "u magnitude", "k"]
    for field in data["fields"]:
        values = code(field["values"][0], np.float32)
        assert (
            len(field["values"]) == 1
            and len(values) == n
            and values.min() >= -1e-6
            and values.max() <= 1 + 1e-6
        )
        assert len(code(field["colours"], np.uint8)) == 768


@pytest.mark.parametrize("name", ["mixed_solid", "cube_surface", "channel", "quadratic3d"])
def test_vertices_carry_the_values_of_their_points_and_cells(tmp_path, name):
    mesh = MESHES[name]
    data, _ = scene(render.page(mesh, tmp_path / "p.html"))
    points = code(data["points"], np.float32).reshape(-1, 3)[:, : mesh.dim].astype(float)
    known = mesh.points.numpy()
    # the page's points are moved to their middle
    used = np.unique(np.concatenate([b.nodes.reshape(-1).numpy() for b in mesh.cells]))
    middle = (known[used].min(0) + known[used].max(0)) / 2
    gaps = np.linalg.norm(points[:, None] + middle - known[None], axis=-1)
    assert gaps.min(1).max() < 1e-5
    p = mesh.point_fields["p"].numpy()[gaps.argmin(1)]
    values = code(data["fields"][0]["values"][0], np.float32)
    low, high = p.min(), p.max()
    assert np.corrcoef(values, p)[0, 1] > 0.99999 and high > low
    cells = code(data["fields"][2]["values"][0], np.float32).astype(float)
    triangles = code(data["faces"], np.uint32).reshape(-1, 3)
    assert np.ptp(cells[triangles], axis=1).max() < 1e-6  # one value a triangle


def test_missing_values_titles_and_times(tmp_path):
    values = np.arange(45.0)
    values[4] = np.inf
    series = Series(grid(), [0.0, 2.0], {"p": np.stack([values, values])})
    data, text = scene(render.page(series, tmp_path / "p.html", name="p", unit="Pa"))
    assert data["fields"][0]["title"] == "p (Pa)" and data["fields"][0]["caption"] == "Pa"
    assert (code(data["fields"][0]["values"][1], np.float32) > 1e15).sum() == 1
    assert "<title>p (Pa), t = 2</title>" in text and data["flat"]
    data, _ = scene(render.page(grid(), tmp_path / "p.html"))
    assert data["fields"][0]["ticks"] == []


def test_a_series_brings_its_times(tmp_path, monkeypatch):
    ramp = np.linspace(0, 1, 45)
    series = Series(grid(), [0.0, 0.5, 2.0, 2.5], {"p": [ramp * t for t in (1.0, 2.0, 3.0, 4.0)]})
    data, _ = scene(render.page(series, tmp_path / "p.html"))
    assert data["times"] == ["0", "0.5", "2", "2.5"]
    found = [code(values, np.float32) for values in data["fields"][0]["values"]]
    for t, values in enumerate(found):  # one scale for all
        assert np.allclose(np.sort(values), np.sort(ramp) * (t + 1) / 4, atol=1e-6)
    data, _ = scene(render.page(series, tmp_path / "p.html", time=0.5))
    assert data["times"] == ["0.5"] and len(data["fields"][0]["values"]) == 1
    monkeypatch.setattr(sys.modules["meshsim.render.page"], "ROOM", 2 * 45)
    data, _ = scene(render.page(series, tmp_path / "p.html"))
    assert data["times"] == ["0.5", "2.5"]  # evenly, the last among them
    moving = Series(grid(), [0.0, 1.0], points=[grid().points, 2 * grid().points])
    data, _ = scene(render.page(moving, tmp_path / "p.html"))
    assert data["times"] == ["1"] and len(data["fields"][0]["values"]) == 1


def test_names_cannot_break_out_of_the_page(tmp_path):
    bad = "</script><script>alert(1)</script>&<b>"
    out = render.page(grid().with_fields({bad: np.arange(45.0)}), tmp_path / "p.html")
    data, text = scene(out)
    assert data["fields"][0]["name"] == bad
    assert text.count("<script") == 2 and "<b>" not in re.sub(r"<script.*?</script>", "", text)
    with pytest.raises(InputError, match=r"\.html or \.htm"):
        render.page(grid(), tmp_path / "p.png")


def shot(page, path, extra=""):
    """What a browser makes of a page; `extra` is run in it at the end."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium to draw the page: none is installed")
    if extra:
        text = page.read_text().replace("</body>", f"<script>{extra}</script></body>")
        page = page.with_stem("moved")
        page.write_text(text)
    subprocess.run(
        [
            browser, "--headless=new", "--no-sandbox", "--use-gl=angle",
            "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--hide-scrollbars",
            "--window-size=640,480", "--virtual-time-budget=1000",
            f"--user-data-dir={path.parent / 'profile'}", f"--screenshot={path}", page.as_uri(),
        ],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    return pixels(path)[60:420, 20:520]


def test_a_browser_draws_it(tmp_path):
    page = render.page(MESHES["mixed_solid"], tmp_path / "p.html", name="p")
    view = shot(page, tmp_path / "p.png")
    coloured = np.ptp(view, axis=-1) > 40
    assert 0.15 < coloured.mean() < 0.9
    assert len(np.unique(view[coloured] // 16, axis=0)) > 20


def test_the_slider_moves_the_time(tmp_path):
    ramp = np.linspace(0, 1, 45)
    series = Series(grid(), [0.0, 1.0], {"p": [ramp, ramp[::-1]]})
    page = render.page(series, tmp_path / "p.html")
    last = shot(page, tmp_path / "last.png")
    move = 'const r = $("time"); r.value = 0; r.dispatchEvent(new Event("input"));'
    first = shot(page, tmp_path / "first.png", move)
    drawn = np.ptp(last, axis=-1) > 40
    assert drawn.mean() > 0.15
    assert (np.abs(first.astype(int) - last).max(-1) > 60)[drawn].mean() > 0.5
    # the first time is the last one turned half round
    turned = np.abs(first[::-1, ::-1].astype(int) - first).max(-1)[drawn].mean()
    assert turned > 60
