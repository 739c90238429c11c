"""A field in time, alone or beside the truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshsim.check import InputError, MissingExtra, WorkError
from meshsim.mesh import Mesh
from meshsim.render import colour
from meshsim.render.board import Board
from meshsim.render.colour import Number, Scale
from meshsim.render.compare import check_same, error, error_title, shared_scale
from meshsim.render.layout import Frame
from meshsim.render.output import target, whole
from meshsim.render.panel import Panel
from meshsim.render.values import Quantity, branch, quantity, with_unit
from meshsim.render.view import View, look, used_points
from meshsim.sample import Sample
from meshsim.series import Series

Array = NDArray[Any]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Shot:
    """One frame of a movie: where its meshes come from."""

    series: Series
    index: int
    truth: Series | None
    truth_index: int

    @property
    def time(self) -> float:
        """In the file's unit."""
        return float(self.series.times[self.index])

    def meshes(self) -> tuple[Mesh, Mesh | None]:
        """The prediction (or the only one) and the truth."""
        mesh = self.series.frame(self.index)
        return mesh, None if self.truth is None else self.truth.frame(self.truth_index)


def _shots(series: Series, truth: Series | None, most: int) -> list[Shot]:
    """At most so many evenly spaced frames, each with the truth's frame of the same time."""
    every = [(part, i) for part in series.segments for i in range(len(part))]
    chosen = range(0, len(every), -(-len(every) // most))
    shots = []
    for part, index in (every[i] for i in chosen):
        found, at = None, 0
        if truth is not None:
            time = float(part.times[index])
            found, at = _nearest(truth, time)
        shots.append(Shot(part, index, found, at))
    return shots


def _nearest(truth: Series, time: Number) -> tuple[Series, int]:
    """The truth's frame at a time; InputError where it has none."""
    gaps = [(part.times - time).abs().min().item() for part in truth.segments]
    part = truth.segments[int(np.argmin(gaps))]
    span = float(truth.segments[-1].times[-1] - truth.times[0])
    if min(gaps) > 1e-4 * span / max(len(part) - 1, 1) + 1e-12 * abs(time):
        raise InputError(
            f"the truth has no frame at time {time:g} (nearest is {min(gaps):.3g} off)"
        )
    return part, int((part.times - time).abs().argmin())


def stamps(times: Sequence[Number]) -> list[str]:
    """Time stamps with as many decimals as tell the frames apart.

    >>> stamps([0.0, 0.02, 0.04])
    ['t = 0.00', 't = 0.02', 't = 0.04']
    """
    largest = max(abs(t) for t in times)
    power = 0
    if largest >= 1e5 or 0 < largest < 1e-2:
        power = math.floor(math.log10(largest))
    scaled = [t / 10.0**power for t in times]
    step = min((abs(b - a) for a, b in pairwise(scaled)), default=1.0)
    places = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 2
    tail = f"×10{str(power).translate(colour.SUPERSCRIPT)}" if power else ""
    return [f"t = {t:.{places}f}{tail}".replace("-", "−") for t in scaled]


class _Camera:
    """Makes pictures of shots; pixels of a mesh that rests are found once."""

    def __init__(
        self,
        view: View,
        board: Board,
        shown: Quantity,
        scales: Sequence[Scale],
        edges: bool,
        cut: str | None,
    ):
        self.view, self.board, self.shown, self.scales = view, board, shown, scales
        self.edges, self.cut = edges, cut
        self._panels: dict[int, Panel] = {}

    def _panel(self, series: Series, mesh: Mesh) -> Panel:
        key = id(series)
        if key not in self._panels or series.points is not None:
            known = self._panels.get(key)
            size = self.board.boxes[0][2:]
            self._panels[key] = Panel(
                mesh,
                self.view,
                *size,
                edges=self.edges,
                cut=self.cut,
                # planar triangles stay what they are when their points move
                shown=known.surface if known is not None and self.view.flat else None,
            )
        return self._panels[key]

    def picture(self, shot: Shot, stamp: str) -> Array:
        """The whole picture of one time."""
        mesh, truth = shot.meshes()
        panel = self._panel(shot.series, mesh)
        where = self.shown.location
        images = [panel.image(self.shown.values(mesh), where, self.scales[0])]
        if truth is not None and shot.truth is not None:
            moving = shot.truth.points is not None
            other = self._panel(shot.truth, truth) if moving else panel
            apart, _ = error(truth, mesh, self.shown)
            images = [
                other.image(self.shown.values(truth), where, self.scales[0]),
                images[0],
                panel.image(apart, where, self.scales[1]),
            ]
        return self.board.compose(images, stamp)


def movie(
    series: Mesh | Series | Sample,
    name: str | None = None,
    out: str | Path = "movie.gif",
    *,
    truth: Mesh | Series | Sample | None = None,
    component: int | str | None = None,
    cmap: str | None = None,
    clim: tuple[Number, Number] | None = None,
    title: str | None = None,
    unit: str = "",
    fps: Number = 12.0,
    frames: int = 120,
    edges: bool = False,
    cut: str | None = None,
    view: str = "auto",
    up: str | None = None,
    width: int = 900,
    progress: Progress | None = None,
) -> Path:
    """Draw a field at the times of a series; with the truth also that, and the error.

    Arguments:
        series: what is shown, on one scale at all times; its mesh may move or change.
        name: a point or cell field; None: the first there is.
        out: a .gif, or a .mp4 (extra `viz`).
        truth: has a frame at every time that is shown, on the same mesh.
        component: see `field`, like every other argument that is not named here.
        fps: frames a second.
        frames: at most so many; of more, every second, third and so on is taken.
        width: in pixels.
        progress: called as `progress(done, total)` after each frame.

    Returns:
        `out`.

    Raises:
        InputError: no series, no truth at a time, and what `field` raises.
        MissingExtra: .mp4 without imageio and its ffmpeg.
        WorkError: `out` cannot be written.
    """
    path = target(out, (".gif", ".mp4"))
    shown_series, known = branch(series), None if truth is None else branch(truth)
    for value, what in ((shown_series, "series"), (known, "truth")):
        if isinstance(value, Mesh):
            raise InputError(f"`{what}`: a movie needs a series, got a mesh of one time")
    if not (fps > 0 and frames > 0):
        raise InputError(f"expected positive `fps` and `frames`, got {fps} and {frames}")
    assert isinstance(shown_series, Series) and not isinstance(known, Mesh)
    shots = _shots(shown_series, known, frames)
    shown = quantity(shots[0].meshes()[0], name, component)
    spans, signed = _spans(shots, shown)
    times = stamps([shot.time for shot in shots])
    eye = look(_everywhere(shots), view, up)
    if known is None:
        scales = [colour.scale(spans[0], cmap=cmap, clim=clim, unit=unit)]
        around = [Frame(scales[0])]
    else:
        scales = [
            shared_scale(spans[1], spans[0], cmap, clim, unit),
            colour.error_scale(spans[2], signed=signed, unit=unit),
        ]
        around = [
            Frame(scales[0], "truth"),
            Frame(scales[0], "prediction"),
            Frame(scales[1], error_title(1 if signed else 2)),
        ]
    board = Board(
        around,
        eye,
        title=with_unit(shown.label, unit) if title is None else title,
        width=width,
        stamp=max(times, key=len),
    )
    camera = _Camera(eye, board, shown, scales, edges, cut)

    def pictures() -> Iterator[Array]:
        for done, (shot, stamp) in enumerate(zip(shots, times, strict=True), 1):
            yield camera.picture(shot, stamp)
            if progress is not None:
                progress(done, len(shots))

    if path.suffix.lower() == ".gif":
        write_gif(pictures(), path, fps, palette(scales, shaded=not eye.flat))
    else:
        write_mp4(pictures(), path, fps)
    return path


def _spans(shots: Sequence[Shot], shown: Quantity) -> tuple[list[colour.Span], bool]:
    """How far prediction, truth and error reach over all frames, and whether errors have signs."""
    parts: tuple[list[Array], list[Array], list[Array]] = ([], [], [])
    signed = True
    for shot in shots:
        mesh, truth = shot.meshes()
        parts[0].append(shown.values(mesh))
        if truth is not None:
            check_same(truth, mesh, shown)
            parts[1].append(shown.values(truth))
            parts[2].append(error(truth, mesh, shown)[0])
            signed = shown.vector(mesh).shape[1] == 1
    return [colour.span(values) for values in parts], signed


def _everywhere(shots: Sequence[Shot]) -> Array:
    """All points that the shots show."""
    seen: dict[int, Array] = {}
    for number, shot in enumerate(shots):
        for series, mesh in zip((shot.series, shot.truth), shot.meshes(), strict=True):
            if series is not None and mesh is not None:
                key = id(series) if series.points is None else -1 - 2 * number - (mesh is not None)
                if key not in seen:
                    seen[key] = used_points(mesh)
    return np.concatenate(list(seen.values()))


def palette(scales: Sequence[Scale], shaded: bool) -> Array:
    """At most 256 colours for a movie: few levels of each scale make files small, greys for text.

    Arguments:
        scales: the first, of the field, gets the most levels.
        shaded: colours come darker too.

    Returns:
        (n, 3) uint8.
    """
    levels = [40, 20] if len(scales) > 1 else [48]
    parts = [np.linspace(0, 255, 10)[:, None].repeat(3, 1)]
    for scale, n in zip(scales, levels, strict=True):
        colours = scale.colours[np.linspace(0, 255, n).round().astype(int)]
        parts += [colours * light for light in ((1.0, 0.9, 0.8, 0.7) if shaded else (1.0,))]
    parts.append(np.array([colour.MISSING]))
    return np.concatenate(parts).round().astype(np.uint8)


def write_gif(pictures: Iterator[Array], path: Path, fps: Number, colours: Array) -> None:
    """Write pictures as .gif with one palette for all of them, (n, 3) uint8."""
    from PIL import Image

    book = Image.new("P", (1, 1))
    book.putpalette(colours.ravel().tolist())

    def reduced() -> Iterator[Any]:
        for picture in pictures:
            # no dithering: noise would make the file several times larger
            yield Image.fromarray(picture).quantize(palette=book, dither=Image.Dither.NONE)

    images = reduced()
    with whole(path) as half:
        next(images).save(
            half,
            save_all=True,
            append_images=images,
            duration=round(1000 / fps),
            loop=0,
            disposal=1,
            optimize=False,
        )


def write_mp4(pictures: Iterator[Array], path: Path, fps: Number) -> None:
    """Write pictures as .mp4 (H.264)."""
    try:
        import imageio.v2 as imageio
        import imageio_ffmpeg
    except ImportError as missing:
        raise MissingExtra(str(missing.name), "viz") from missing
    options: dict[str, Any] = {"codec": "libx264", "quality": 8, "macro_block_size": 2}
    with whole(path) as half:
        n = 0
        with imageio.get_writer(half, fps=fps, **options) as writer:
            for n, picture in enumerate(pictures, 1):  # noqa: B007
                writer.append_data(picture)
        try:  # the encoder ends without a word when the disk is full
            held = imageio_ffmpeg.count_frames_and_secs(str(half))[0]
        except RuntimeError:
            held = 0
        if held != n:
            raise WorkError(f"{path}: cut short at frame {held} of {n}: is the disk full?")
