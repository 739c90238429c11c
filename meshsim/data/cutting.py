"""Inputs too large for the memory that may be used: cut into their parts, or refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from meshsim.data.sources import Source, is_case, named_by
from meshsim.io.formats import suffix_of

LISTS = ("pvtu", "pvtp", "pvts", "pvtr", "pvti", "vtm")
_WHY = "only .pvtu and its kin, .vtm and decomposed OpenFOAM cases can be cut"


def parts(source: Source) -> list[Source]:
    """The parts of a source as sources of their own, `NAME.part0` and so on; [] if it has none.

    Parts are the pieces of a .pvtu (.pvtp, .pvts, .pvtr, .pvti), the data sets of a .vtm and the
    processor folders of a decomposed OpenFOAM case. Each is read as it lies: cells that VTK marks
    as duplicates stay, and so do the patches between processors. A sample of several branches is
    never cut. Parameters are those of the whole.
    """
    if len(source.files) != 1:
        return []
    branch, path = source.files[0]
    return [
        replace(
            source,
            name=f"{source.name}.part{k}",
            files=((branch, part),),
            whole=source.name,
        )
        for k, part in enumerate(_pieces(path))
    ]


def _pieces(path: Path) -> list[Path]:
    if path.is_dir():
        inside = [p for p in path.iterdir() if re.fullmatch(r"processor\d+", p.name) and is_case(p)]
        return sorted(inside, key=lambda p: int(p.name[9:]))
    if suffix_of(path) in LISTS:
        found = named_by(path)
        # a list in a list falls into the files of the inner one
        return [q for p in found for q in (_pieces(p) or [p])]
    return []


def cut(
    found: Sequence[Source], peaks: dict[str, int], limit: int, known: Sequence[str]
) -> list[Source]:
    """The sources, those too large replaced by their parts or marked as refused.

    Arguments:
        found: all sources.
        peaks: {name: bytes}, for the parts too; see `peaks_of`.
        limit: bytes.
        known: names of sources that were cut before, and so are again.
    """
    out: list[Source] = []
    for source in found:
        whole, pieces = peaks.get(source.name, 0), parts(source)
        if source.name in known and pieces:
            out += pieces
        elif not limit or whole <= limit or source.lacking:
            out.append(source)
        elif pieces and max(peaks[p.name] for p in pieces) <= limit:
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

    >>> gigabytes(1_500_000_000), gigabytes(250_000)
    ('1.5 GB', '0.25 MB')
    """
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"
