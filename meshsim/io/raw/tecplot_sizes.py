"""The header of a Tecplot ASCII file against what follows it.

VTK's reader searches without end for numbers that are not there, and takes words for 0.

The format: Tecplot 360 Data Format Guide, "ASCII Data".
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from meshsim.io.raw import content, expect, numbers

CORNERS = {
    "LINESEG": 2, "TRIANGLE": 3, "QUADRILATERAL": 4, "TETRAHEDRON": 4, "BRICK": 8,
}  # fmt: skip
FORMS = ("POINT", "BLOCK", "FEPOINT", "FEBLOCK")
# zones that share values with others, or have polyhedra: their numbers are not counted
OTHERS = ("VARSHARELIST", "CONNECTIVITYSHAREZONE", "PASSIVEVARLIST", "D", "FACES")
RECORDS = ("TEXT", "GEOMETRY", "DATASETAUXDATA", "VARAUXDATA", "CUSTOMLABELS", "FILETYPE")
_TOKEN = re.compile(rb"""#[^\n]*|"[^"\n]*"|'[^'\n]*'|[=(),]|[^\s=(),"']+|["']""")
_NUMBER = re.compile(
    r"(?:\d+\*)?[-+]?(\d+\.?\d*|\.\d+)([eEdD][-+]?\d+)?|[-+]?(nan|inf(inity)?)", re.I
)
_NEXT = re.compile(rb"^[ \t]*(ZONE|TITLE|VARIABLES|%b)\b" % b"|".join(r.encode() for r in RECORDS),
                   re.M | re.I)  # fmt: skip


@dataclass
class Zone:
    """The header of a zone: its entries by their keys in capitals, and where its numbers begin."""

    entries: dict[str, str] = field(default_factory=dict)
    start: int = 0

    @property
    def name(self) -> str:
        """As messages have it."""
        return f"zone {self.entries.get('T', '')[:40]!r}"

    def size(self, *keys: str, default: int | None = None) -> int:
        """One of the lengths."""
        said = next((self.entries[key] for key in keys if key in self.entries), None)
        if said is None and default is not None:
            return default
        sound = said is not None and re.fullmatch(r"\d{1,18}", said)
        got = "nothing" if said is None else repr(said[:20])
        expect(sound, f"{self.name}: {keys[0]}: expected a number, got {got}")
        return int(said or 0)


class _Header:
    """The tokens of a file."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def next(self) -> str:
        """The next token, "" at the end; comments are left out."""
        while found := _TOKEN.search(self.data, self.at):
            self.at = found.end()
            if not found[0].startswith(b"#"):
                token = found[0].decode("latin-1")
                expect(token not in ("'", '"'), f"a text without end (byte {found.start()})")
                return token
        self.at = len(self.data)
        return ""

    def peek(self) -> str:
        """The next token, which stays the next."""
        at = self.at
        token = self.next()
        self.at = at
        return token

    def value(self, key: str) -> str:
        """What follows a key: "= word", "= text" or "= (…)"."""
        got = self.next()
        expect(got == "=", f"{key[:20]}: expected '=' and a value, got {got[:20]!r}")
        token = self.next()
        expect(token not in ("", "=", ",", ")"), f"{key[:20]}: expected a value, got {token!r}")
        if token != "(":
            return token.strip("\"'")
        depth, words = 1, []
        while depth:
            token = self.next()
            expect(token, f"{key[:20]}: a list without end")
            depth += {"(": 1, ")": -1}.get(token, 0)
            words.append(token)
        return " ".join(words[:-1])


def check(path: str) -> None:
    """Refuse a file whose zones have fewer or more numbers than their headers say.

    Raises:
        ValueError: or that has other words among them, or no sound header.
    """
    data = content(path)
    header, variables, zones = _Header(data), 0, 0
    while word := header.next().upper():
        if word == "TITLE":
            header.value(word)
        elif word == "VARIABLES":
            variables = _variables(header)
        elif word == "ZONE":
            zone = _zone(header)
            expect(variables, "names no VARIABLES before its zones")
            following = _NEXT.search(data, zone.start)
            end = following.start() if following else len(data)
            _values(zone, variables, data[zone.start : end])
            header.at, zones = end, zones + 1
        elif word in RECORDS:
            following = _NEXT.search(data, header.at)
            header.at = following.start() if following else len(data)
        elif word != ",":
            raise ValueError(f"expected TITLE, VARIABLES or ZONE, got {word[:20]!r}")
    expect(zones, "holds no zone")


def _variables(header: _Header) -> int:
    got = header.next()
    expect(got == "=", f"VARIABLES: expected '=' and names, got {got[:20]!r}")
    count = 0
    while token := header.peek():
        if token.upper() in ("ZONE", "TITLE", *RECORDS):
            break
        header.next()
        expect(token not in ("=", "(", ")"), f"VARIABLES: expected names, got {token!r}")
        count += token != ","
    return count


def _zone(header: _Header) -> Zone:
    zone = Zone()
    while token := header.peek():
        if _NUMBER.fullmatch(token) or token.upper() == "ZONE":
            break
        header.next()
        if token == ",":
            continue
        key = token.upper()
        if key == "AUXDATA":
            header.value(header.next())
            continue
        zone.entries[key] = header.value(key)
    zone.start = header.at
    return zone


def _values(zone: Zone, variables: int, text: bytes) -> None:
    """Refuse numbers that are not those of a zone."""
    if b"#" in text:
        text = re.sub(rb"#[^\n]*", b"", text)
    if not zone.entries.keys().isdisjoint(OTHERS):
        return
    expect(b"*" not in text, f"{zone.name}: repeated values (as in 3*0.5) are not supported")
    points, cells, corners = _sizes(zone)
    at_cells = _at_cells(zone, variables)
    total = points * (variables - at_cells) + cells * at_cells + (cells * corners)
    found = numbers(text.replace(b",", b" "))
    said = f"{zone.name}: expected {total} numbers, got {len(found)}"
    expect(len(found) >= total, f"ends early ({said})")
    expect(len(found) == total, said)
    if corners:
        nodes = found[total - cells * corners :]
        wrong = ~((nodes >= 1) & (nodes <= points) & (nodes % 1 == 0))
        first = nodes[wrong][:1].tolist()
        expect(not first, f"{zone.name}: a corner is {first}, which is outside 1..{points}")


def _sizes(zone: Zone) -> tuple[int, int, int]:
    """How many points and cells a zone has, and corners each: 0 where they are not said."""
    kind = zone.entries.get("ZONETYPE", zone.entries.get("ET", "")).upper().removeprefix("FE")
    form = zone.entries.get("DATAPACKING", zone.entries.get("F", "POINT")).upper()
    expect(form in FORMS, f"{zone.name}: F: expected one of {', '.join(FORMS)}, got {form[:20]!r}")
    if kind in ("", "ORDERED") and not form.startswith("FE"):
        lengths = [zone.size(axis, default=1) for axis in "IJK"]
        return math.prod(lengths), math.prod(max(1, n - 1) for n in lengths), 0
    known = f"{zone.name}: ET: expected one of {', '.join(CORNERS)}, got {kind[:20]!r}"
    expect(kind in CORNERS, known)
    return zone.size("N", "NODES"), zone.size("E", "ELEMENTS"), CORNERS[kind]


def _at_cells(zone: Zone, variables: int) -> int:
    """How many of the variables have values at the cells."""
    said = zone.entries.get("VARLOCATION", "").upper()
    if not said:
        return 0
    if "[" not in said:
        return re.split(r"[\s,]+", said).count("CELLCENTERED")
    found: set[int] = set()
    for numbers_of, where in re.findall(r"\[([^\]]*)\]\s*=\s*(\w+)", said):
        for part in numbers_of.replace(" ", "").split(","):
            ends = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part)
            expect(ends, f"{zone.name}: VARLOCATION: {part[:20]!r} is no variable")
            assert ends is not None
            rows = range(int(ends[1]), int(ends[2] or ends[1]) + 1)
            found = found | {*rows} if where == "CELLCENTERED" else found - {*rows}
    inside = all(1 <= n <= variables for n in found)
    expect(inside, f"{zone.name}: VARLOCATION: a variable outside 1..{variables}")
    return len(found)
