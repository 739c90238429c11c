"""Dividing samples into splits: by name, pattern, fraction or a file; seeded, without state."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from meshsim.check import InputError, check_known, finite_number, nearest
from meshsim.data.files import read_json

DEFAULT: Mapping[str, Any] = {"train": 0.8, "valid": 0.1, "test": 0.1}


def split(names: Sequence[str], rule: Mapping[str, Any], seed: int = 0) -> dict[str, list[str]]:
    """Divide names into splits.

    Names and patterns are served first, in the order of the rule; fractions then share out what
    is left. A name's place depends on the seed and the name alone (sha256), not on the order.

    Arguments:
        names: of the samples.
        rule: {split: fraction, or list of names and patterns ("flow_1*")}; "rest" for all that
            no other split takes.
        seed: another seed, another division.

    Returns:
        {split: names, sorted}, disjoint.

    Raises:
        InputError: fractions that do not add up to 1, a name or pattern that fits nothing, a name
            given twice.

    >>> split(["a", "b", "c"], {"test": ["b"], "train": "rest"})
    {'test': ['b'], 'train': ['a', 'c']}
    """
    out: dict[str, list[str]] = {name: [] for name in rule}
    taken: dict[str, str] = {}
    fractions: dict[str, float] = {}
    known = set(names)
    for name, entry in rule.items():
        if entry == "rest":
            fractions[name] = 1.0
        elif isinstance(entry, int | float) and not isinstance(entry, bool):
            fractions[name] = finite_number(entry, f"splits.{name}")
        elif isinstance(entry, str | list | tuple) and entry:
            for pattern in [entry] if isinstance(entry, str) else entry:
                named = pattern in known  # then it is no pattern
                found = [pattern] if named else [n for n in names if fnmatchcase(n, str(pattern))]
                if not found:
                    raise InputError(
                        f"splits.{name}: no sample fits {pattern!r}: {nearest(str(pattern), names)}"
                    )
                for member in found:
                    if taken.get(member, name) != name:
                        raise InputError(
                            f"splits.{name}: sample {member!r} is in {taken[member]!r} already"
                        )
                    taken[member] = name
        elif not isinstance(entry, list | tuple):
            raise InputError(
                f"splits.{name}: expected a fraction, names or patterns, or 'rest', got {entry!r}"
            )
    if fractions and (min(fractions.values()) < 0 or abs(sum(fractions.values()) - 1) > 1e-6):
        raise InputError(
            f"splits: fractions (and one 'rest') are expected to add up to 1, got {fractions}"
        )
    for member, name in taken.items():
        out[name].append(member)
    left = sorted((n for n in names if n not in taken), key=lambda n: _rank(n, seed))
    start, share = 0, 0.0
    for name, fraction in fractions.items():
        share += fraction
        # half up, so that a single sample goes to the first split with the usual fractions
        end = min(len(left), int(share * len(left) + 0.5 + 1e-9))
        out[name] += left[start:end]
        start = end
    return {name: sorted(members) for name, members in out.items()}


def check_files(rule: Mapping[str, Any]) -> None:
    """Raise `InputError` unless each table in a rule is {"json": file, "key": key}."""
    for name, entry in rule.items():
        if isinstance(entry, Mapping):
            for key in entry:
                check_known(key, ("json", "key"), f"key of splits.{name}:")
            if not all(isinstance(entry.get(key), str) for key in ("json", "key")):
                raise InputError(
                    f"splits.{name}: expected {{json = file, key = …}}, got {dict(entry)}"
                )


def read_files(
    rule: Mapping[str, Any], names: Sequence[str], folders: Iterable[Path]
) -> dict[str, Any]:
    """The rule with the names that its files list, instead of the tables that name the files.

    A file holds {key: [names]}. A name is a sample's, or the last part of it ("run_7" of
    "ahmed/run_7"); a number is that of the one sample whose name ends with it. Names of samples
    that are not there are left out, so that part of a data set will do.

    Arguments:
        rule: as for `split`; tables {"json": file, "key": key}.
        names: of the samples.
        folders: where files are looked for, the first that has it.

    Raises:
        InputError: no such file or key; no list of names; none of all that is listed is there.
    """
    out: dict[str, Any] = dict(rule)
    said = {name: entry for name, entry in rule.items() if isinstance(entry, Mapping)}
    if not said:
        return out
    known: dict[str | int, set[str]] = {}
    for name in names:
        last = name.rsplit("/", 1)[-1]
        number = re.search(r"(\d+)$", last)
        spoken: set[str | int] = {name, last}
        if number:
            spoken.add(int(number[1]))
        for called in spoken:
            known.setdefault(called, set()).add(name)
    places, example = list(dict.fromkeys(folders)), ""
    for name, entry in said.items():
        path = next((p for f in places if (p := f / entry["json"]).is_file()), None)
        if path is None:
            where = str(places[0]) if places else "the input"
            raise InputError(f"splits.{name}: no file {entry['json']!r} in {where}")
        table = read_json(path)
        if not isinstance(table, dict):
            raise InputError(f"{path}: expected {{key: [names]}}, got {type(table).__name__}")
        if entry["key"] not in table:
            raise InputError(f"{path}: no {entry['key']!r}: {nearest(entry['key'], table)}")
        members = table[entry["key"]]
        if not isinstance(members, list) or not all(isinstance(m, str | int) for m in members):
            raise InputError(f"{path}: {entry['key']!r}: expected names, got {str(members)[:60]}")
        example = example or str(members[0] if members else "")
        members = [int(m) if _digits(m) and m not in known else m for m in members]
        fits = {m: known[m] for m in members if m in known}
        for member, several in fits.items():
            if len(several) > 1 and member not in several:
                raise InputError(f"{path}: {member!r} fits samples {', '.join(sorted(several))}")
        out[name] = sorted({m if m in several else min(several) for m, several in fits.items()})
    if names and not any(out[name] for name in said):
        raise InputError(f"splits: none of the samples is listed, {example!r} for one is not there")
    return out


def _digits(text: str | int) -> bool:
    return isinstance(text, str) and text.isdecimal()


def _rank(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()
