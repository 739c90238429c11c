"""Which split each sample of a store belongs to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from meshsim.check import InputError
from meshsim.data import splits
from meshsim.data.options import Options
from meshsim.data.sources import Source


def divide(
    names: Sequence[str],
    found: Sequence[Source],
    options: Options,
    provenance: Callable[[str], Mapping[str, Any]] | None = None,
) -> dict[str, list[str]]:
    """{split: names}; parts of one input, and with `split_by` the samples of a folder, share one.

    The rule then divides inputs, or folders, instead of samples. A folder is called as in the
    names of its samples ("a/b" of "a/b/flow_1"); where these have none, by its own name, or by
    that of the sample which is alone in it.

    Arguments:
        names: of the samples.
        found: the inputs that are there.
        options: with the rule, see `Options`.
        provenance: of a sample that is in the store and not among the inputs.

    Raises:
        InputError: a rule that does not fit the names; the inputs say two splits for samples that
            share one; all samples are in one folder, so that nothing can be divided.
    """
    wholes = {source.name: source.whole or source.name for source in found}
    for name in names:
        if name not in wholes:
            wholes[name] = (provenance(name) if provenance else {}).get("whole", name)
    groups = wholes
    if options.split_by == "folder":
        groups = {name: whole.rpartition("/")[0] or whole for name, whole in wholes.items()}
        groups |= _folders(found, wholes)
    every = sorted({groups[name] for name in names})
    said: dict[str, str] = {}
    for source in found if options.splits is None else ():
        group, split = groups[source.name], source.split
        if split and said.setdefault(group, split) != split:
            raise InputError(
                f"`split_by`: samples in {group!r} are in the splits {said[group]!r} and {split!r}"
                " by their files; divide by sample, or say `splits`"
            )
    if options.splits is None and not said and len(every) == 1 and len({*wholes.values()}) > 1:
        raise InputError(
            f"`split_by`: all samples are in one folder, {every[0]!r}: divide by sample"
        )
    rule: Mapping[str, Any] = options.splits or splits.DEFAULT
    if said:
        rule = {s: [n for n in every if said.get(n) == s] for s in sorted({*said.values()})}
    rule = splits.read_files(rule, every, (source.path.parent for source in found))
    divided = splits.split(every, rule, options.seed)
    place = {group: split for split, members in divided.items() for group in members}
    out: dict[str, list[str]] = {split: [] for split in divided}
    for name in sorted(names):
        if groups[name] in place:
            out[place[groups[name]]].append(name)
    return out


def _folders(found: Sequence[Source], wholes: Mapping[str, str]) -> dict[str, str]:
    """{sample: what to call the folder that its input is in}."""
    members: dict[Path, list[str]] = {}
    for source in found:
        members.setdefault(source.path.parent.resolve(), []).append(source.name)
    called: dict[Path, str] = {}
    for folder, inside in members.items():
        inputs = {wholes[name] for name in inside}
        shared = {name.rpartition("/")[0] for name in inputs}
        label = shared.pop() if len(shared) == 1 else ""
        called[folder] = label or (inputs.pop() if len(inputs) == 1 else folder.name)
    depth = 1
    while clash := {label for label, n in Counter(called.values()).items() if n > 1}:
        depth += 1
        for folder, label in called.items():
            if label in clash:
                called[folder] = "/".join(folder.parts[-depth:])
    return {name: called[folder] for folder, inside in members.items() for name in inside}
