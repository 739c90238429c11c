"""Nastran's bulk data as cards: free, small and large fields, continuations, includes, names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from meshsim.io.raw import content, expect
from meshsim.io.raw.numbered import included

_EXPONENT = re.compile(r"(?<=[0-9.])([+-])(?=\d)")
_INCLUDE = re.compile(r"INCLUDE\s*['\"]?([^'\"$]+)['\"]?", re.I)
_NAMES = (
    re.compile(r"\$HMNAME\s+(?:PROP|COMP)\w*\s+(\d+)\s*\"([^\"]+)\"", re.I),
    re.compile(r"\$ANSA_NAME_COMMENT;(\d+);P\w+;([^;]+);", re.I),
    re.compile(r"\$\s*(?:Femap.*?\s)?Property\s+(\d+)\s*:\s*(\S.*?)\s*$", re.I),
)
_ANSA = re.compile(r"\$ANSA_NAME;(\d+);P\w+;", re.I)
_PSET = re.compile(r"\$\s*Pset:\s*\"([^\"]+)\".*\"\w+\.(\d+)\"", re.I)


@dataclass
class Deck:
    """What was met beside the cards.

    Arguments:
        names: {property number: name} from comments of HyperMesh, ANSA, Femap and Patran.
        included: files that were read; `missing` those that were not, and why.
        open: BEGIN BULK has no ENDDATA.
    """

    names: dict[int, str] = field(default_factory=dict)
    included: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    open: bool = False


def number(text: str) -> float:
    """A real number as Nastran writes it: 1.2-3 is 1.2e-3, 1.D0 is 1; blank is 0.

    >>> number("-1.2-3"), number("7.D+1"), number("")
    (-0.0012, 70.0, 0.0)
    """
    if not text:
        return 0.0
    try:
        return float(text)
    except ValueError:
        return float(_EXPONENT.sub(r"E\1", text.upper().replace("D", "E")).replace("EE", "E"))


def cards(path: str, deck: Deck) -> Iterator[list[str]]:
    """Cards of the bulk data: upper-case name, then fields without blanks, empty where blank."""
    text = content(path).decode("latin-1")
    lines = text.splitlines()
    start = next(
        (i + 1 for i, line in enumerate(lines) if re.match(r"\s*BEGIN\b.*\bBULK", line, re.I)), 0
    )
    for line in lines[:start]:
        _comment(line, None, deck) if line.startswith("$") else None
        found = _INCLUDE.match(line.strip())
        if found:
            deck.missing.append(f"{found[1].strip()} (before BEGIN BULK)")
    deck.open = start > 0
    current: list[str] = []
    for line in _lines(lines[start:], path, deck, ()):
        name, fields = _split(line)
        if name in ("", "+", "*"):
            expect(current, f"continues a card that is not there: {line[:40]!r}")
            current += fields
            continue
        if current:
            yield current
        if name == "ENDDATA":
            deck.open = False
            return
        expect(not name.startswith("="), "repeats cards by '=', which is not supported")
        current = [name, *fields]
    if current:
        yield current


def _lines(lines: list[str], path: str, deck: Deck, above: tuple[str, ...]) -> Iterator[str]:
    """Lines without comments, those of included files among them."""
    before = None
    for raw in lines:
        if raw.startswith("$"):
            _comment(raw, before, deck)
            before = raw
            continue
        line = raw.split("$", 1)[0].rstrip()
        if not line.strip():
            continue
        found = _INCLUDE.match(line.strip())
        if not found:
            yield line
            continue
        name = found[1].strip()
        place, why = included(path, name)
        if not place:
            deck.missing.append(f"{name} ({why})")
        elif place in above or len(above) > 8 or place == os.path.realpath(path):
            raise ValueError(f"includes {name!r} in a circle")
        else:
            deck.included.append(name)
            inner = content(place).decode("latin-1").splitlines()
            yield from _lines(inner, path, deck, (*above, place))


def _split(line: str) -> tuple[str, list[str]]:
    """Name ("" or "+" or "*" for a continuation) and the four or eight fields of a line."""
    if "," in line:
        parts = [part.strip() for part in line.split(",")]
        name, fields = parts[0].upper(), parts[1:]
        wide = name.endswith("*")
        width = 4 if wide else 8
        fields = (fields + [""] * width)[: width if len(parts) <= 10 else None]
    else:
        line = line.expandtabs(8)
        name = line[:8].strip().upper()
        wide = name.endswith("*") or name.startswith("*")
        step = 16 if wide else 8
        fields = [line[i : i + step].strip() for i in range(8, 72, step)]
    if name[:1] in ("+", "*"):
        return name[0], fields
    return name.rstrip("*").strip(), fields


def _comment(line: str, before: str | None, deck: Deck) -> None:
    """Remember a name that a mesher left in a comment."""
    for pattern in _NAMES:
        found = pattern.match(line)
        if found:
            if "COMP" not in line[:14].upper() or int(found[1]) not in deck.names:
                deck.names[int(found[1])] = found[2].strip()
            return
    found = _PSET.match(line)
    if found:
        deck.names.setdefault(int(found[2]), found[1].strip())
        return
    found = _ANSA.match(before or "")
    if found and len(line) > 1:
        deck.names[int(found[1])] = line[1:].strip()
