"""Dividing samples into splits: by name, by pattern, by fraction; seeded, without state."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from meshsim.check import InputError, nearest

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
            fractions[name] = float(entry)
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


def _rank(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()
