"""Inputs too large for the memory that may be used: cut into their parts, or refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from meshsim.data.sources import Source, is_case, named_by
from meshsim.io import entries
from meshsim.io.formats import suffix_of

LISTS = ("pvtu", "pvtp", "pvts", "pvtr", "pvti", "vtm")
_WHY = (
    "only .pvtu and its kin, .vtm, decomposed OpenFOAM cases with a folder for each processor, and"
    " .cgns, .vtkhdf, .vtu and .vtp of several zones, partitions or pieces can be cut"
)


def parts(source: Source) -> list[Source]:
    """The parts of a source as sources of their own, `NAME.part0` and so on; [] if it has none.

    Parts are the pieces of a .pvtu (.pvtp, .pvts, .pvtr, .pvti), the data sets of a .vtm, the
    processor folders of a decomposed OpenFOAM case (a collated one has none), the zones of a CGNS
    file, the partitions of a .vtkhdf and the pieces of a .vtu or .vtp. Each is read as it lies:
    cells that VTK marks as duplicates stay, and so do the patches between processors. A sample of
    several branches is never cut. Parameters are those of the whole.
    """
    if out := pieces(source):
        return out
    if not _is_alone(source) or not source.path.is_file():
        return []
    return [_part(source, k, source.files[0][1], k) for k in range(len(entries.parts(source.path)))]


def pieces(source: Source) -> list[Source]:
    """Those parts of a source that are files or folders of their own."""
    found = _pieces(source.files[0][1]) if _is_alone(source) else []
    return [_part(source, k, path, None) for k, path in enumerate(found)]


def _is_alone(source: Source) -> bool:
    return len(source.files) == 1 and source.entry is None


def _part(source: Source, k: int, path: Path, part: int | None) -> Source:
    files = ((source.files[0][0], path),)
    name = f"{source.name}.part{k}"
    return replace(source, name=name, files=files, whole=source.name, part=part)


def _pieces(path: Path) -> list[Path]:
    if path.is_dir():
        if any(path.glob("processors[0-9]*")):  # files of several processors are no parts
            return []
        inside = [p for p in path.iterdir() if re.fullmatch(r"processor\d+", p.name) and is_case(p)]
        return sorted(inside, key=lambda p: int(p.name[9:]))
    if suffix_of(path) in LISTS:
        found = named_by(path)
        # a list in a list falls into the files of the inner one
        return [q for p in found for q in (_pieces(p) or [p])]
    return []


def cut(
    found: Sequence[Source],
    limit: int,
    known: Sequence[str],
    peak: Callable[[Source], int] = lambda source: 0,
) -> list[Source]:
    """The sources, those too large replaced by their parts or marked as refused.

    Arguments:
        found: all sources.
        limit: bytes; 0: none.
        known: names of sources that were cut before, and so are again.
        peak: bytes that reading a source, or a part of one, needs.
    """
    out: list[Source] = []
    for source in found:
        if source.name in known and (pieces := parts(source)):
            out += pieces
        elif not limit or source.lacking or (whole := peak(source)) <= limit:
            out.append(source)
        elif (pieces := parts(source)) and max(map(peak, pieces)) <= limit:
            out += pieces
        else:
            out.append(replace(source, lacking=_refusal(source, whole, limit, len(pieces))))
    return sorted(out, key=lambda s: s.name)


def _refusal(source: Source, peak: int, limit: int, pieces: int) -> str:
    why = f"one of its {pieces} parts is too large too" if pieces else _WHY
    return (
        f"{source.path}: reading it is expected to need {gigabytes(peak)} of memory, more than"
        f" the {gigabytes(limit)} allowed ({why})"
    )


def gigabytes(size: int) -> str:
    """Bytes for people.

    >>> gigabytes(1_500_000_000), gigabytes(250_000), gigabytes(400)
    ('1.5 GB', '0.25 MB', '400 bytes')
    """
    if size < 1000:
        return f"{size} bytes"
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"
