"""Files of an EnSight gold case, walked from heading to heading.

VTK reads what is cut short as if it were whole, with whatever was in memory for values. A form
that is not known here (`Unknown`) is left to VTK alone.

The format: EnSight User Manual, "EnSight Gold Casefile Format".
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from meshsim.io.raw import beside, content, expect

ELEMENTS = {
    "point": 1, "bar2": 2, "bar3": 3, "tria3": 3, "tria6": 6, "quad4": 4, "quad8": 8,
    "tetra4": 4, "tetra10": 10, "pyramid5": 5, "pyramid13": 13, "penta6": 6, "penta15": 15,
    "hexa8": 8, "hexa20": 20,
}  # fmt: skip
RAGGED = ("nsided", "nfaced")
COMPONENTS = {"scalar": 1, "vector": 3, "tensor symm": 6, "tensor asym": 9}
_VARIABLE = re.compile(r"(complex )?(scalar|vector|tensor symm|tensor asym) per (node|element)")
BEGIN, END = "BEGIN TIME STEP", "END TIME STEP"


class Unknown(Exception):
    """A form of the files that is not known here."""


@dataclass
class Part:
    """How many points a part has, and how many cells of each type ("block": of a structured)."""

    points: int = 0
    cells: dict[str, int] = field(default_factory=dict)


@dataclass
class Model:
    """The parts by their numbers at each step of a geometry file, which step is asked for."""

    steps: list[dict[int, Part]]
    step: int
    binary: bool


class _Binary:
    """A file of 80 characters a heading and 4 bytes a number ("C Binary")."""

    def __init__(self, path: str):
        self.name, self.size = os.path.basename(path), os.path.getsize(path)
        self.path, self.at, self.order = path, 0, ""

    def _bytes(self, n: int, keep: bool = True) -> bytes:
        expect(n >= 0, f"{self.name} is damaged ({n // 4} values in a row)")
        start, self.at = self.at, self.at + n
        early = f"{self.name} ends early (expected {self.at} bytes, got {self.size})"
        expect(self.at <= self.size, early)
        if not keep:
            return b""
        with open(self.path, "rb") as file:
            file.seek(start)
            return file.read(n)

    @property
    def ended(self) -> bool:
        """Whether nothing is left."""
        return self.at == self.size

    def line(self) -> str:
        """The next heading, "" at the end."""
        return "" if self.ended else self._bytes(80).split(b"\0")[0].decode("latin-1").strip()

    def numbers(self, n: int) -> list[int]:
        """That many whole numbers."""
        data = self._bytes(4 * n)
        if not self.order and n:  # the first is the number of a part, which is small
            self.order = min("<>", key=lambda order: abs(struct.unpack(f"{order}i", data[:4])[0]))
        return list(struct.unpack(f"{self.order}{n}i", data))

    column = numbers

    def skip(self, rows: int, width: int = 1) -> None:
        """Rows of numbers."""
        self._bytes(4 * rows * width, keep=False)


def broken(text: bytes) -> bool:
    """Whether the last line has no end and is shorter than the one before: all are equally long."""
    lines = text.split(b"\n")
    return len(lines) > 2 and lines[-1] != b"" and len(lines[-1]) < len(lines[-2].rstrip(b"\r"))


class _Text:
    """A file of a heading, a number or a row of them a line; VTK leaves out empty lines and "#"."""

    def __init__(self, path: str):
        self.name, self.data, self.at = os.path.basename(path), content(path), 0
        expect(not broken(self.data[-4096:]), f"{self.name} ends early")
        raw = np.frombuffer(self.data + b"\n", np.uint8)
        starts = np.concatenate([[0], np.flatnonzero(raw[:-1] == 10) + 1])
        self.starts = starts[~np.isin(raw[starts], (10, 13, 35))]

    @property
    def ended(self) -> bool:
        """Whether nothing is left."""
        return self.at == len(self.starts)

    def line(self) -> str:
        """The next heading, "" at the end."""
        if self.ended:
            return ""
        start = int(self.starts[self.at])
        end = self.data.find(b"\n", start)
        self.at += 1
        return self.data[start : None if end < 0 else end].decode("latin-1").strip()

    def numbers(self, n: int) -> list[int]:
        """That many whole numbers, in a line."""
        self.skip(1)
        self.at -= 1
        line = self.line()
        words = line.split()[:n]
        whole = len(words) == n and all(re.fullmatch(r"[-+]?\d{1,18}", word) for word in words)
        expect(whole, f"{self.name}: expected {n} whole numbers, got {line[:40]!r}")
        return [int(word) for word in words]

    def column(self, n: int) -> list[int]:
        """That many whole numbers, a line each."""
        self.skip(n)
        self.at -= n
        return [self.numbers(1)[0] for _ in range(n)]

    def skip(self, rows: int, width: int = 1) -> None:
        """Rows of numbers, a line each."""
        expect(rows >= 0, f"{self.name} is damaged ({rows} values in a row)")
        got = len(self.starts) - self.at
        expect(rows <= got, f"{self.name} ends early (expected {rows} more lines, got {got})")
        self.at += rows


TimeSet = tuple[list[float], list[int]]  # times, and the numbers in the names of files


def check(path: str, case: dict[str, list[str]], time: float | None) -> None:
    """Refuse a gold case whose geometry or variables end early, at a time.

    Arguments:
        case: the lines of the case file by their headings.
        time: None where the case has no times.
    """
    if "gold" not in " ".join(case["FORMAT"]).lower():
        return
    try:
        sets = _time_sets(case.get("TIME", []))
        model = _geometry(path, case, sets, time)
        for line in case.get("VARIABLE", []):
            key, _, rest = line.partition(":")
            known, words = _VARIABLE.fullmatch(" ".join(key.split())), rest.split()
            if known is None:
                continue
            names = words[-3:-1] if known[1] else words[-1:]
            for name in names:
                file, step = _file(path, name, words[: -len(names) - 1], sets, time)
                if os.path.isfile(file):
                    _variable(file, model, step, COMPONENTS[known[2]], known[3] == "node")
    except Unknown:
        return


def _time_sets(lines: list[str]) -> dict[int, TimeSet]:
    """The time sets by their numbers."""
    try:
        return _said(lines)
    except (ValueError, IndexError):
        raise Unknown from None


def _said(lines: list[str]) -> dict[int, TimeSet]:
    said: dict[int, dict[str, list[str]]] = {}
    key, here = "", 0
    for line in lines:
        name, colon, rest = line.partition(":")
        if colon:
            key = " ".join(name.split()).lower()
        words = (rest if colon else line).split()
        if key == "time set":
            here = int(words[0])
        said.setdefault(here, {}).setdefault(key, []).extend(words)
    out = {}
    for number, about in said.items():
        times = [float(word) for word in about.get("time values", [])]
        numbers = [int(word) for word in about.get("filename numbers", [])]
        if not numbers:
            start, step = (
                int(about.get(f"filename {what}", [other])[0])
                for what, other in (("start number", "0"), ("increment", "1"))
            )
            numbers = [start + step * i for i in range(len(times))]
        out[number] = (times, numbers[: len(times)])
    return out


def _file(
    path: str, name: str, words: list[str], sets: dict[int, TimeSet], time: float | None
) -> tuple[str, int]:
    """A file at a time, and which of its steps if it holds several."""
    name = name.strip("\"'")
    said = next((int(word) for word in words if word.isdigit()), None)
    times, numbers = sets.get(min(sets, default=0) if said is None else said, ([], []))
    step = 0
    if time is not None and times:
        step = max(0, sum(t <= time + 1e-12 * abs(time) for t in times) - 1)
    if "*" in name:
        if step >= len(numbers):
            raise Unknown
        name = re.sub(r"\*+", str(numbers[step]).zfill(name.count("*")), name, count=1)
    return beside(path, name), 0 if said is None else step


def _opened(file: str) -> _Binary | _Text:
    with open(file, "rb") as opened:
        head = opened.read(96).upper()
    if b"FORTRAN BINARY" in head:
        raise Unknown
    return _Binary(file) if head.startswith(b"C BINARY") else _Text(file)


def _geometry(
    path: str, case: dict[str, list[str]], sets: dict[int, TimeSet], time: float | None
) -> Model:
    """The model at a time."""
    said = (line.partition(":") for line in case["GEOMETRY"])
    words = next((rest.split() for key, _, rest in said if key.strip().lower() == "model"), [])
    if not words or "change_coords_only" in words:
        raise Unknown
    file, step = _file(path, words[-1], words[:-1], sets, time)
    if not os.path.isfile(file):
        raise Unknown
    walk = _opened(file)
    if isinstance(walk, _Binary):
        walk.line()
    steps = list(_models(walk))
    if not steps:
        raise Unknown
    return Model(steps, min(step, len(steps) - 1), isinstance(walk, _Binary))


def _models(walk: _Binary | _Text) -> Iterator[dict[int, Part]]:
    """The parts at each step of a geometry file."""
    line = walk.line()
    while line:
        begun = line == BEGIN
        if begun:
            walk.line()
        walk.line()
        ids = []
        for what in ("node id", "element id"):
            said = walk.line().lower()
            if not said.startswith(what):
                raise Unknown
            ids.append(said.split()[-1] in ("given", "ignore"))
        parts: dict[int, Part] = {}
        line = walk.line()
        if line == "extents":
            walk.skip(*((3, 2) if isinstance(walk, _Text) else (6, 1)))
            line = walk.line()
        while line.startswith("part"):
            number = walk.numbers(1)[0]
            walk.line()
            parts[number], line = _part(walk, *ids)
        yield parts
        line = walk.line() if begun and line == END else ""
        if line != BEGIN:
            return


def _part(walk: _Binary | _Text, point_ids: bool, cell_ids: bool) -> tuple[Part, str]:
    """A part after its description, and the heading that follows it."""
    part, kind = Part(), walk.line()
    if kind.split()[:1] == ["block"]:
        return _block(walk, kind.split()[1:])
    if kind != "coordinates":
        return part, kind
    part.points = walk.numbers(1)[0]
    for _ in range(3 + point_ids):
        walk.skip(part.points)
    line = walk.line()
    while (name := line.removeprefix("g_")) in (*ELEMENTS, *RAGGED):
        count = part.cells[line] = walk.numbers(1)[0]
        if cell_ids:
            walk.skip(count)
        if name in ELEMENTS:
            walk.skip(count, ELEMENTS[name])
        else:
            _ragged(walk, name, count)
        line = walk.line()
    return part, line


def _ragged(walk: _Binary | _Text, name: str, count: int) -> None:
    """Polygons by their corners; polyhedra by their faces, and these by their corners."""
    sizes = walk.column(count)
    text = isinstance(walk, _Text)
    if name == "nfaced":
        sizes = walk.column(sum(sizes))
    walk.skip(len(sizes) if text else sum(sizes))


def _block(walk: _Binary | _Text, words: list[str]) -> tuple[Part, str]:
    """A structured part."""
    if not {*words} <= {"iblanked", "rectilinear", "uniform", "curvilinear"}:
        raise Unknown
    sizes = walk.numbers(3)
    total = int(np.prod(np.array(sizes, dtype=object)))
    cells = int(np.prod(np.array([max(1, n - 1) for n in sizes], dtype=object)))
    if "rectilinear" in words:
        for n in sizes:
            walk.skip(n)
    elif "uniform" in words:
        walk.skip(6)
    else:
        for _ in range(3):
            walk.skip(total)
    if "iblanked" in words:
        walk.skip(total)
    return Part(total, {"block": cells}), walk.line()


def _variable(file: str, model: Model, step: int, components: int, at_points: bool) -> None:
    """Walk a file of a variable up to the end of a step."""
    walk: _Binary | _Text = _Binary(file) if model.binary else _Text(file)
    line = walk.line()
    if line != BEGIN:
        _values(walk, model.steps[model.step], components, at_points)
        return
    for i in range(step + 1):
        expect(line == BEGIN, f"{walk.name} ends early (expected {step + 1} steps, got {i})")
        walk.line()
        line = _values(walk, model.steps[min(i, len(model.steps) - 1)], components, at_points)
        expect(line == END, f"{walk.name} is damaged (expected {END!r}, got {line[:40]!r})")
        line = walk.line()


def _values(walk: _Binary | _Text, parts: dict[int, Part], components: int, at_points: bool) -> str:
    """Walk the values in all parts, and give the heading that follows them."""
    line = walk.line()
    expect(line, f"{walk.name} ends early (expected parts with values)")
    while line.startswith("part"):
        number = walk.numbers(1)[0]
        line = walk.line()
        expect(line, f"{walk.name} ends early (expected values of part {number})")
        if number not in parts:
            raise Unknown
        part = parts[number]
        while line and not line.startswith("part") and line != END:
            kind, *how = line.split()
            known = ("coordinates", "block") if at_points else (*ELEMENTS, *RAGGED, *part.cells)
            expect(not walk.ended, f"{walk.name} ends early (expected values after {line[:40]!r})")
            heading = f"expected the heading of values, got {line[:40]!r}"
            expect(kind in known, f"{walk.name} is damaged ({heading})")
            if not at_points and kind not in part.cells:
                raise Unknown
            count = part.points if at_points else part.cells[kind]
            if how[:1] == ["undef"]:
                walk.skip(1)
            elif how[:1] == ["partial"]:
                count = walk.numbers(1)[0]
                walk.skip(count)
            for _ in range(components):
                walk.skip(count)
            line = walk.line()
    expect(not (line and "part".startswith(line)), f"{walk.name} ends early (in {line!r})")
    return line
