"""Where everything of a picture goes, in pixels, from the measured sizes of its texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from meshsim.render.colour import Number, Scale, coordinate_texts, nice_ticks
from meshsim.render.view import View

Box = tuple[int, int, int, int]  # left, top, width, height


@dataclass(frozen=True, eq=False)
class Frame:
    """What stands around a panel.

    Arguments:
        scale: its scale; neighbouring frames that share one share a bar. None: no bar.
        title: above the panel.
        note: grey, beside the title.
    """

    scale: Scale | None
    title: str = ""
    note: str = ""


@lru_cache(maxsize=4096)
def text_width(text: str, size: Number, bold: bool = False) -> float:
    """Width of a text in pixels, at a size in pixels.

    >>> text_width("", 12.0)
    0.0
    """
    if not text:
        return 0.0
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    font = FontProperties(size=size, weight="bold" if bold else "normal")
    return float(RendererAgg(1, 1, 72).get_text_width_height_descent(text, font, False)[0])


def shorten(text: str, width: Number, size: Number, bold: bool = False) -> str:
    """The text, with its end left away where it is wider than `width`."""
    if text_width(text, size, bold) <= width:
        return text
    keep = len(text)
    while keep > 1 and text_width(text[:keep].rstrip() + "…", size, bold) > width:
        keep -= 1
    return text[:keep].rstrip() + "…"


def caption(scale: Scale) -> str:
    """What stands above a bar: the power of ten and the unit."""
    return " ".join(part for part in (scale.ticks(9)[1], scale.unit) if part)


@dataclass(frozen=True, eq=False)
class Layout:
    """Places in pixels, from the upper left corner.

    Arguments:
        size: width and height of the picture, even.
        boxes: of the panels.
        groups: panels that share a bar.
        bars: left side of each group's bar.
        legend: upper left corner of each entry.
        lines: text lines above each panel.
        unit: what every distance scales with.
    """

    size: tuple[int, int]
    boxes: list[Box]
    groups: list[list[int]]
    bars: list[int]
    legend: list[tuple[float, float]]
    lines: int
    unit: Number

    @property
    def font(self) -> float:
        """Size of most texts."""
        return 13 * self.unit

    @property
    def head(self) -> float:
        """Size of the title."""
        return 17 * self.unit

    @property
    def margin(self) -> float:
        """Empty space along the edges of the picture."""
        return 16 * self.unit

    @property
    def gap(self) -> float:
        """Empty space between panels."""
        return 12 * self.unit

    @property
    def line(self) -> float:
        """Height of a text line above a panel."""
        return self.font + 8 * self.unit

    @property
    def bar(self) -> int:
        """Width of a scale bar."""
        return round(15 * self.unit)


def arrange(
    frames: Sequence[Frame],
    view: View,
    *,
    title: str = "",
    width: int = 1200,
    stamp: str = "",
    legend: Sequence[str] = (),
) -> Layout:
    """Put panels one above the other or side by side, whichever leaves them larger.

    Arguments:
        frames: one a panel.
        view: what all panels show.
        title: of the whole picture.
        width: greatest width; a tall picture comes out narrower.
        stamp: the widest time stamp to come.
        legend: texts below the panels.
    """
    width = max(int(width), 300)
    ways = [_arrange(frames, view, title, width, stamp, legend, way) for way in (True, False)]
    return max(ways, key=lambda way: way.boxes[0][2] * way.boxes[0][3])


def _groups(frames: Sequence[Frame]) -> list[list[int]]:
    groups: list[list[int]] = []
    for i, frame in enumerate(frames):
        if i and frame.scale is not None and frame.scale is frames[i - 1].scale:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _room(scale: Scale | None, font: Number, unit: Number) -> float:
    """Width of a bar with its numbers and its caption."""
    if scale is None:
        return 0.0
    texts = [text for most in range(2, 10) for _, text in scale.ticks(most)[0]]
    widest = max((text_width(t, font) for t in texts), default=0.0)
    return max(24 * unit + widest, text_width(caption(scale), font)) + 3 * unit


def _gutter(view: View, font: Number, unit: Number) -> float:
    """Room for the numbers left of a planar panel."""
    if not view.flat:
        return 0.0
    texts = [t for most in range(2, 9) for t in coordinate_texts(nice_ticks(*view.reach(1), most))]
    return max(text_width(t, font) for t in texts) + 10 * unit


def _head_lines(frames: Sequence[Frame], font: Number, unit: Number, width: Number) -> int:
    """0 to 2: a title and its note stand beside each other where they fit."""
    if not any(f.title or f.note for f in frames):
        return int(any(f.scale is not None and caption(f.scale) for f in frames))
    wide = max(
        text_width(f.title, font, True) + text_width(f.note, font) + 20 * unit for f in frames
    )
    return 2 if wide > width and any(f.note for f in frames) else 1


def _arrange(
    frames: Sequence[Frame],
    view: View,
    title: str,
    width: int,
    stamp: str,
    legend: Sequence[str],
    stacked: bool,
) -> Layout:
    u = min(max(width / 1000, 0.8), 2.5)
    groups = _groups(frames)
    form = Layout((0, 0), [], groups, [], [], 0, u)
    font, head, margin, line = form.font, form.head, form.margin, form.line
    gap, bar_gap, n = form.gap, 14 * u, len(frames)
    rooms = [_room(frames[g[0]].scale, font, u) for g in groups]
    gutter = _gutter(view, font, u)
    below = font + 10 * u if view.flat else 4 * u
    top = margin + (head + 12 * u if title or stamp else 0)
    free = width - 2 * margin - gutter
    if stacked:
        panel_w = free - max(rooms) - bar_gap * (max(rooms) > 0)
        rows = n
    else:
        bars = sum(room + bar_gap + gap for room in rooms if room)
        panel_w = (free - bars - gap * (n - 1)) / n
        rows = 1
    panel_w = max(panel_w, 60 * u)
    lines = _head_lines(frames, font, u, panel_w)
    highest = (0.75 if n > 1 else 0.8) * width
    tallest = (highest - top - margin - below - rows * lines * line - gap * (rows - 1)) / rows
    panel_h = panel_w / view.aspect
    if panel_h > max(tallest, 80 * u):
        panel_h = max(tallest, 80 * u)
        # a panel is as wide as what is written above it, where there is room
        above = max(max(text_width(f.title, font, True), text_width(f.note, font)) for f in frames)
        panel_w = max(panel_h * view.aspect, 60 * u, min(above + u, panel_w))
        lines = _head_lines(frames, font, u, panel_w)
    panel_h = max(panel_h, (24 if frames[0].scale is None else 40) * u)  # a bar needs more
    boxes, bars_at = [], []
    x, y = margin + gutter, top + lines * line
    for group, room in zip(groups, rooms, strict=True):
        for _ in group:
            boxes.append((x, y))
            if stacked:
                y += panel_h + gap + lines * line
            else:
                x += panel_w + gap
        bars_at.append(x + panel_w + bar_gap if stacked else x - gap + bar_gap)
        if not stacked and room:
            x += room + bar_gap
    bottom = boxes[-1][1] + panel_h + below
    right = max(
        [left + panel_w for left, _ in boxes]
        + [at + room for at, room in zip(bars_at, rooms, strict=True) if room]
    )
    # a narrow panel must not cut the title off
    need = text_width(title, head, True) + (text_width(stamp, head) + 30 * u if stamp else 0)
    wide = max(right + margin, min(need + 2 * margin, width))
    shift = (wide - right - margin) / 2
    places, bottom = _legend(legend, wide, bottom, form, triad=not view.flat)
    return Layout(
        (2 * round(wide / 2 + 0.25), 2 * round((bottom + 0.75 * margin) / 2 + 0.25)),
        [(round(a + shift), round(b), round(panel_w), round(panel_h)) for a, b in boxes],
        groups,
        [round(at + shift) for at in bars_at],
        places,
        lines,
        u,
    )


def _legend(
    legend: Sequence[str], width: Number, bottom: Number, form: Layout, triad: bool
) -> tuple[list[tuple[float, float]], float]:
    """Places of the entries, in as many rows as they need, and where they end."""
    u, left = form.unit, form.margin + (60 * form.unit if triad else 0)
    places: list[tuple[float, float]] = []
    x, y = left, bottom + 10 * u
    for text in legend:
        wide = 20 * u + min(text_width(text, form.font), width - form.margin - left - 20 * u)
        if x > left and x + wide > width - form.margin:
            x, y = left, y + form.font + 8 * u
        places.append((x, y))
        x += wide + 18 * u
    end = y + form.font + 4 * u if places else bottom
    return places, max(end, bottom + 44 * u if triad else 0)
