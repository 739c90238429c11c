"""`view`: slices, halves, boundaries, quality, samples of a store, a page from this machine."""

from __future__ import annotations

import ctypes.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from PIL import Image

import meshsim
from meshsim.cli import main
from tests.render.browsing import pictures
from tests.render.test_cells import sided
from tests.render.test_section import cube

from .conftest import square, wave
from .test_errors import fails


@pytest.fixture
def box(tmp_path: Path) -> Path:
    mesh = cube(3)
    # flat: pictures are as high as their meshes, and pixels cost time
    mesh = sided(mesh.replace(points=mesh.points * torch.tensor([1.0, 1.0, 0.2]), cell_fields={}))
    meshsim.write(mesh, tmp_path / "box.npz")
    return tmp_path / "box.npz"


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """A volume with three times."""
    mesh = cube(2).replace(point_fields={}, cell_fields={})
    mesh = mesh.replace(points=mesh.points * torch.tensor([1.0, 1.0, 0.3]))
    p = torch.stack([mesh.points[:, 0] * t for t in (1.0, 2.0, 3.0)])
    meshsim.write(meshsim.Series(mesh, [0.0, 0.5, 1.0], {"p": p}), tmp_path / "film.npz")
    return tmp_path / "film.npz"


def drawn(path: Path) -> float:
    """The share of a picture that is not white."""
    return float((np.array(Image.open(path).convert("RGB")).min(-1) < 250).mean())


@pytest.mark.parametrize(
    "how",
    [
        ["--slice", "x=0.1"], ["--slice", "z", "--up", "z"],
        ["--slice", "x", "--slice", "z=0.1", "--field", "u"],
        ["--clip", "y", "--edges"], ["--boundaries"], ["--boundary", "z low", "--up", "z"],
        ["--quality", "--clip", "x=0.4", "--field", "aspect ratio"],
    ],
)  # fmt: skip
def test_pictures_of_a_volume(box: Path, tmp_path: Path, how: list[str]) -> None:
    out = tmp_path / "o.png"
    assert main(["view", "--trust", str(box), *how, "-o", str(out)]) == 0
    assert drawn(out) > 0.1


def test_movies_and_pages_of_sections(film: Path, tmp_path: Path) -> None:
    for how in (["--slice", "x"], ["--clip", "z=0.15"]):
        out, page = tmp_path / "o.gif", tmp_path / "o.html"
        assert main(["view", "--trust", str(film), *how, "-o", str(out)]) == 0
        assert Image.open(out).n_frames == 3  # type: ignore[attr-defined]
        assert main(["view", "--trust", str(film), *how, "-o", str(page)]) == 0
        found = re.search(r'id="scene">(.*?)</script>', page.read_text(), re.S)
        assert found is not None and json.loads(found[1])["times"] == ["0", "0.5", "1"]


def test_what_is_wrong_is_said(box: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    start, end = ["view", "--trust", str(box)], ["-o", str(tmp_path / "o.png")]
    fails(capsys, [*start, "--slice", "w=1", *end], "unknown axis 'w'")
    fails(capsys, [*start, "--slice", "x=7", *end], "beside the mesh", "0..1")
    fails(capsys, [*start, "--clip", "x=", *end], "an axis and a number")
    fails(capsys, [*start, "--boundary", "wall", *end], "unknown boundary 'wall'")
    fails(capsys, [*start, "--regions", *end], "no regions")
    fails(capsys, [*start, "--boundaries", "--quality", *end], "expected one of")
    fails(capsys, [*start, "--slice", "x", "--clip", "y", *end], "expected one of")
    fails(capsys, [*start, "--quality", "--field", "p", *end], "unknown quality 'p'")
    fails(capsys, [*start, "--quality", "-o", str(tmp_path / "o.gif")], "draws a .png")
    fails(capsys, [*start, "--sample", "a", *end], "not a store")
    fails(capsys, [*start, "--branch", "a", *end], "no branches")
    meshsim.write(square(), tmp_path / "flat.npz")
    fails(capsys, ["view", "--trust", str(tmp_path / "flat.npz"), "--clip", "x", *end], "no inside")
    assert not (tmp_path / "o.png").exists()


def test_a_store_is_browsed(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from meshsim.render import samples

    names = list(meshsim.Store(store).names)
    monkeypatch.chdir(tmp_path)
    assert main(["view", str(store)]) == 0
    text = Path("waves.html").read_text()
    assert not re.findall(r"https?:|//\w+\.|@import|fetch\(|XMLHttp|WebSocket", text)
    found = re.search(r'id="data">(.*?)</script>', text, re.S)
    assert found is not None
    data = json.loads(found[1])
    assert data["names"] == names and len(data["pages"]) == len(names)
    scenes = [json.loads(re.search(r'id="scene">(.*?)</script>', page, re.S)[1])  # type: ignore[index]
              for page in data["pages"]]  # fmt: skip
    assert len({json.dumps(s["fields"][0]["ticks"]) for s in scenes}) == 1  # one scale
    assert all(len(s["times"]) == 12 for s in scenes)
    assert "left out" not in capsys.readouterr().err
    monkeypatch.setattr(samples, "LETTERS", 1)
    assert main(["view", str(store), "-o", "s.html"]) == 0
    said = capsys.readouterr().err
    assert f"the first 1 of 4 samples; left out: {names[1]} to {names[-1]}" in said
    fails(capsys, ["view", str(store), "--sample", "wave"], "unknown sample 'wave'")


def test_a_sheet_of_samples_has_one_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from meshsim.render import samples

    scales = []
    make = samples.colour.scale
    monkeypatch.setattr(samples.colour, "scale", lambda s: scales.append(make(s)) or scales[-1])
    made = {n: square().with_fields({"p": torch.full((49,), float(i))})
            for i, n in enumerate(("a", "b", "c"))}  # fmt: skip
    found = samples.sheet(list(made), made.__getitem__, tmp_path / "s.png", field="p", width=500)
    assert (found.shown, found.left_out) == (["a", "b", "c"], [])
    (scale,) = scales
    assert (scale.low, scale.high) == (0.0, 2.0)
    image = np.array(Image.open(found.path).convert("RGB")).astype(int)
    for value in range(3):  # a tile of each sample's one colour
        wanted = scale.colour(np.array([float(value)]))[0].astype(int)
        assert (np.abs(image - wanted).max(-1) < 3).mean() > 0.05
    monkeypatch.setattr(samples, "TILES", 2)
    found = samples.sheet(list(made), made.__getitem__, tmp_path / "s.png", width=300)
    assert (found.shown, found.left_out) == (["a", "b"], ["c"])


def test_branches(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "two.zarr"
    two = meshsim.Store.create(str(path))
    flat = cube(2)
    flat = flat.replace(points=flat.points * torch.tensor([1.0, 1.0, 0.2]))
    strip = square()
    strip = strip.replace(points=strip.points * torch.tensor([1.0, 0.2]))
    two.append(meshsim.Sample({"surface": strip, "volume": flat}, {}, "a"))
    out = tmp_path / "o.png"
    given = ["view", str(path), "--sample", "a", "-o", str(out)]
    assert main(given) == 0
    assert "branch surface of surface, volume" in capsys.readouterr().err
    assert main([*given, "--branch", "volume", "--clip", "x"]) == 0
    fails(capsys, [*given, "--branch", "solid"], "unknown branch 'solid'")


def test_no_display(
    box: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    fails(capsys, ["view", "--trust", str(box), "--show"], "no display", "--serve")
    fails(capsys, ["view", "--trust", str(box), "--show", "-o", "a.png"], "write no file")
    if ctypes.util.find_library("X11"):
        monkeypatch.setenv("DISPLAY", ":4242")  # which nobody serves
        fails(capsys, ["view", "--trust", str(box), "--show"], "no display", "--serve")


def test_a_missing_extra_and_a_taken_port(
    box: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        pytest.importorskip("trame.app")
        fails(capsys, ["view", "--trust", str(box), "--serve", "--port", str(port)], f"port {port}")
    monkeypatch.setitem(sys.modules, "trame.app", None)
    fails(capsys, ["view", "--trust", str(box), "--serve"], "trame is not installed", "viz", code=1)


def test_a_browser_turns_what_is_served(film: Path, tmp_path: Path) -> None:
    for name in ("trame.app", "trame.widgets.vtk", "trame.widgets.vuetify3"):
        pytest.importorskip(name)
    free = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    process = subprocess.Popen(
        [sys.executable, "-m", "meshsim", "view", "--trust", str(film), "--serve"],
        env=free, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stderr is not None
    said = process.stderr.readline()
    try:
        found = re.match(r"(http://127\.0\.0\.1:\d+/)", said)
        assert found, said
        with urlopen(found[1], timeout=20) as answer:
            assert answer.status == 200 and b"<html" in answer.read().lower()
        move = "trame.state.set('time', 0)"
        last, first = pictures(found[1], tmp_path, "document.querySelector('canvas')", ("", move))
        drawn = np.ptp(last[80:], axis=-1) > 60
        assert drawn.mean() > 0.05
        assert (np.abs(first - last)[80:].max(-1) > 40)[drawn].mean() > 0.2  # another time
    finally:
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=60)[1]
    assert process.returncode == 130, rest
    assert rest.strip().splitlines()[-1].startswith("error: interrupted") and "Trace" not in rest
    assert rest.count("\n") == 1, rest


def test_a_plot_over_a_line_has_several_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    kept: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda f, *a, **k: (kept.append(f), save(f, *a, **k)))
    meshsim.write(wave(0.7).branch, tmp_path / "w.npz")
    given = ["sample", str(tmp_path / "w.npz"), "--line", "0,0.5", "1,0.5", "-n", "20"]
    given += ["-o", str(tmp_path / "o.csv"), "--plot", str(tmp_path / "o.png")]
    assert main(given) == 0
    lines = [axis.get_lines() for axis in kept[0].axes]
    assert [len(some) for some in lines] == [6, 6]
    assert [line.get_label() for line in lines[0]][::5] == ["t = 0", "t = 1.1"]
    assert all(len(line.get_xdata()) == 20 for line in lines[0])
    assert main([*given, "--time", "0.1"]) == 0
    assert len(kept[1].axes[0].get_lines()) == 1
