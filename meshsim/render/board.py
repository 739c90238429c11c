"""The whole picture: titles, scale bars and legend around the panels.

Matplotlib draws the texts and bars once; the panels' pixels are copied in as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshsim.render.colour import Number, coordinate_texts, nice_ticks
from meshsim.render.layout import Frame, arrange, caption, shorten, text_width
from meshsim.render.view import View

Array = NDArray[Any]

DARK, GREY, LINE = "#1a1c22", "#62656d", "#9a9da5"
AXES = {"x": "#b3352f", "y": "#2f7d3b", "z": "#2f57b3"}


class Board:
    """A picture whose panels are still empty.

    Arguments:
        frames: one a panel.
        view: what all panels show.
        title: of the whole picture; texts wider than their place are shortened.
        width: greatest width in pixels; a tall picture comes out narrower.
        stamp: the widest time stamp to come, or "" for none.
        legend: (colour, text) pairs below the panels.
    """

    def __init__(
        self,
        frames: Sequence[Frame],
        view: View,
        *,
        title: str = "",
        width: int = 1200,
        stamp: str = "",
        legend: Sequence[tuple[Any, str]] = (),
    ):
        from matplotlib.figure import Figure

        self.frames, self.view, self._stamp = list(frames), view, stamp
        self.layout = arrange(
            frames,
            view,
            title=title,
            width=width,
            stamp=stamp,
            legend=[text for _, text in legend],
        )
        self.width, self.height = self.layout.size
        self.boxes = self.layout.boxes
        size = (self.width / 72, self.height / 72)  # at 72 dots an inch a point is a pixel
        self.figure = Figure(size, dpi=72, facecolor="white")
        self._strips: list[tuple[slice, slice, Array]] = []
        self._titles(title)
        for group, at in zip(self.layout.groups, self.layout.bars, strict=True):
            self._bar(group, at)
        if view.flat:
            self._coordinates()
        else:
            self._triad()
        self._legend(legend)
        self._base = _pixels(self.figure)[: self.height, : self.width]
        for rows, columns, colours in self._strips:
            self._base[rows, columns] = colours

    def compose(self, images: Sequence[Array], stamp: str = "") -> Array:
        """The picture with the panels' pixels in their places: (height, width, 3) uint8."""
        out = self._base.copy()
        for image, (left, top, width, height) in zip(images, self.boxes, strict=True):
            out[top : top + height, left : left + width] = image
        if stamp:
            text = _text_pixels(stamp, self._stamp, self.layout.head)
            top = round(self.layout.margin)
            right = self.width - top
            out[top : top + text.shape[0], right - text.shape[1] : right] = text
        return out

    def _text(
        self,
        x: Number,
        y: Number,
        text: str,
        size: Number,
        colour: str = DARK,
        align: str = "left",
        bold: bool = False,
    ) -> None:
        """Text with its baseline `y` pixels below the upper edge."""
        self.figure.text(
            x / self.width,
            1 - y / self.height,
            text,
            size=size,
            color=colour,
            ha=align,
            va="baseline",
            weight="bold" if bold else "normal",
            parse_math=False,
        )

    def _shape(self, corners: Sequence[tuple[Number, Number]], **style: Any) -> None:
        from matplotlib.patches import Polygon

        self.figure.add_artist(
            Polygon([(x / self.width, 1 - y / self.height) for x, y in corners], **style)
        )

    def _line(self, start: tuple[Number, Number], end: tuple[Number, Number], **style: Any) -> None:
        self._shape([start, end], closed=False, fill=False, **style)

    def _titles(self, title: str) -> None:
        form = self.layout
        room = self.width - 2 * form.margin
        if self._stamp:
            room -= text_width(self._stamp, form.head) + 30 * form.unit
        title = shorten(title, room, form.head, True)
        if title:
            self._text(form.margin, form.margin + form.head, title, form.head, bold=True)
        for frame, (left, top, width, _) in zip(self.frames, self.boxes, strict=True):
            base = top - 7 * form.unit
            text = shorten(frame.title, width, form.font, True)
            if text:
                above = form.line if form.lines == 2 else 0.0
                self._text(left, base - above, text, form.font, bold=True)
            if frame.note and form.lines == 2:
                note = shorten(frame.note, width, form.font)
                self._text(left, base, note, form.font, GREY)
            elif frame.note:
                self._text(left + width, base, frame.note, form.font, GREY, "right")

    def _bar(self, group: list[int], at: int) -> None:
        """The scale bar beside a group of panels, as high as they are together."""
        form, scale = self.layout, self.frames[group[0]].scale
        if scale is None:
            return
        u, font = form.unit, form.font
        top, last = self.boxes[group[0]][1], self.boxes[group[-1]]
        bottom = last[1] + last[3]
        if caption(scale):
            self._text(at, top - 7 * u, caption(scale), font, GREY)
        end, tip = at + form.bar, round(0.7 * form.bar)
        for beyond, edge, inner, colour in (
            (scale.over, top, top + tip, scale.colours[-1]),
            (scale.under, bottom, bottom - tip, scale.colours[0]),
        ):
            if beyond:
                corners = [(at, inner), (end, inner), ((at + end) / 2, edge)]
                self._shape(corners, facecolor=colour / 255, edgecolor=LINE, lw=1)
        top, bottom = top + tip * scale.over, bottom - tip * scale.under
        height = bottom - top
        self._shape(
            [
                (at - 0.5, top - 0.5),
                (end + 0.5, top - 0.5),
                (end + 0.5, bottom + 0.5),
                (at - 0.5, bottom + 0.5),
            ],
            fill=False,
            edgecolor=LINE,
            lw=1,
        )
        index = ((1 - (np.arange(height) + 0.5) / height) * 256).astype(int).clip(0, 255)
        self._strips.append((slice(top, bottom), slice(at, end), scale.colours[index][:, None]))
        least = 1 + (height >= 2.4 * font)  # two at the ends of a low bar
        taken = float("inf")  # where the text before stands
        for share, text in scale.ticks(int(min(max(height / (2.8 * font), least), 9)))[0]:
            y = top + (1 - share) * height
            base = min(max(y + 0.36 * font, top + 0.72 * font), bottom)
            if abs(base - taken) < 1.1 * font:  # a low bar has room for one alone
                continue
            taken = base
            self._line((end, y), (end + 4 * u, y), edgecolor=LINE, lw=1)
            self._text(end + 7 * u, base, text, font)

    def _coordinates(self) -> None:
        """Numbers along the panels of a planar mesh: at the left and at the bottom."""
        u, font = self.layout.unit, self.layout.font
        bottoms = {box[0]: box for box in self.boxes}  # the lowest panel of each column
        lefts = {box[1]: box for box in reversed(self.boxes)}  # the first panel of each row
        # beside another panel a text may take half of the gap between them, no more
        most = 0.5 * self.layout.gap - u if len(bottoms) > 1 else float("inf")
        for left, top, width, height in bottoms.values():
            base = top + height
            for place, text in self._ticks(0, width, height, most):
                x = left + place
                self._line((x, base + 1), (x, base + 5 * u), edgecolor=LINE, lw=1)
                self._text(x, base + font + 5 * u, text, font, GREY, "center")
        for left, top, width, height in lefts.values():
            for place, text in self._ticks(1, width, height):
                y = top + place
                self._line((left - 5 * u, y), (left - 1, y), edgecolor=LINE, lw=1)
                self._text(left - 8 * u, y + 0.36 * font, text, font, GREY, "right")

    def _ticks(
        self, axis: int, width: int, height: int, beyond: Number = float("inf")
    ) -> list[tuple[float, str]]:
        """Pixel and text of as many coordinates as do not touch each other, and look good.

        Texts that would reach more than `beyond` pixels over an end of the panel are left away.
        """
        font = self.layout.font
        most = min(max(int(width / (6 * font) if axis == 0 else height / (3 * font)), 2), 9)
        for few in range(most, 1, -1):
            values = nice_ticks(*self.view.reach(axis), most=few)
            texts = coordinate_texts(values)
            points = np.array(values)[:, None].repeat(2, 1)
            places = self.view.pixels(points, width, height)[:, axis].tolist()
            sizes = [text_width(t, font) + 8 * self.layout.unit for t in texts]
            if axis == 1:
                sizes = [1.3 * font] * len(texts)
            if all(
                abs(b - a) >= (p + q) / 2
                for (a, b), (p, q) in zip(pairwise(places), pairwise(sizes), strict=True)
            ):
                break
        else:  # one alone: that in the middle, where the mesh is
            size = (width, height)[axis]
            middle = min(range(len(places)), key=lambda i: abs(places[i] - size / 2))
            places, texts = [places[middle]], [texts[middle]]
        halves = [text_width(t, font) / 2 if axis == 0 else 0.0 for t in texts]
        return [
            (place, text)
            for place, text, half in zip(places, texts, halves, strict=True)
            if place - half >= -beyond and place + half <= width + beyond
        ]

    def _triad(self) -> None:
        """Small lines that say where x, y and z point."""
        u = self.layout.unit
        x, y = self.layout.margin + 24 * u, self.height - 28 * u
        for axis, (name, colour) in enumerate(AXES.items()):
            right, up = self.view.axes[0, axis], -self.view.axes[1, axis]
            if np.hypot(right, up) < 0.2:
                continue
            tip = (x + 16 * u * right, y + 16 * u * up)
            self._line((x, y), tip, edgecolor=colour, lw=1.6 * u)
            size = 0.85 * self.layout.font
            base = y + 23 * u * up + 0.3 * size
            self._text(x + 23 * u * right, base, name, size, colour, "center")

    def _legend(self, legend: Sequence[tuple[Any, str]]) -> None:
        form = self.layout
        side = 0.85 * form.font
        for (colour, text), (x, y) in zip(legend, form.legend, strict=True):
            low, high = y + 0.12 * form.font, y + 0.12 * form.font + side
            corners = [(x, low), (x + side, low), (x + side, high), (x, high)]
            self._shape(corners, facecolor=np.asarray(colour, float) / 255, edgecolor="none")
            room = self.width - form.margin - x - 20 * form.unit
            text = shorten(text, room, form.font)
            self._text(x + side + 6 * form.unit, y + 0.9 * form.font, text, form.font)


def _pixels(figure: Any) -> Array:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def _text_pixels(text: str, widest: str, size: Number) -> Array:
    """A text on white, right-aligned in the room of the widest one."""
    from matplotlib.figure import Figure

    width, height = round(max(text_width(t, size) for t in (text, widest)) + 4), round(1.35 * size)
    figure = Figure((width / 72, height / 72), dpi=72, facecolor="white")
    figure.text(
        1, 1 - size / height, text, size=size, color=DARK, ha="right", va="baseline",
        parse_math=False,
    )  # fmt: skip
    return _pixels(figure)[:height, :width]
