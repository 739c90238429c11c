"""The store: samples on disk with schema, splits and statistics."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from meshsim.check import InputError, check_known
from meshsim.data import disk, manifest
from meshsim.data.files import Lock, read_json, writing_to
from meshsim.data.layout import key
from meshsim.data.schema import Field, Schema, find
from meshsim.data.staging import write_sample
from meshsim.data.statistics import Moments, merge_moments, rate_moments
from meshsim.sample import Sample
from meshsim.series import Series

VERSION = 1
_MARK = "meshsim_store"
_LOCK = ".lock"
_STAGING = ".staging"
_attempts = count()


class Store:
    """Samples in one Zarr v3 hierarchy: a group for each, written whole or not at all.

    A sample is prepared out of sight, its group document is written last, and one rename puts it
    in its place: what an interrupted writer left never shows. One process writes at a time;
    readers need no lock.

    Arguments:
        path: the store's folder; see `create` for a new one.

    Raises:
        InputError: there is no store, it is broken, or of another version.

    >>> from tempfile import mkdtemp
    >>> from meshsim import Mesh
    >>> store = Store.create(mkdtemp() + "/store")
    >>> store.append(Sample(Mesh([[0., 0.], [1., 0.], [0., 1.]], {"triangle": [[0, 1, 2]]}),
    ...                     {"inflow": 1.5}, name="a"))
    >>> store.names, store.sample("a").parameters["inflow"].item()
    (['a'], 1.5)
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self._lock: Lock | None = None
        self._depth = 0
        self._contents: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {}
        if not self.path.is_dir():
            raise InputError(f"{self.path}: no such store")
        if not (self.path / disk.GROUP).exists():
            raise InputError(f"{self.path}: not a store (it has no {disk.GROUP})")
        self._root()

    @classmethod
    def create(
        cls,
        path: Path | str,
        schema: Schema | None = None,
        overwrite: bool = False,
        arguments: Any = None,
    ) -> Store:
        """A new, empty store.

        Arguments:
            path: a folder that is not there yet, or is empty.
            schema: every sample must fit it; None: any sample may come.
            overwrite: empty a store that is there; nothing else is ever deleted.
            arguments: what it is made from (JSON-able), to be asked for later.

        Raises:
            InputError: something is there already, or the folder cannot be written.
        """
        path = Path(path)
        with writing_to(path):
            path.mkdir(parents=True, exist_ok=True)
            _check_free(path, overwrite)
            with Lock(path / _LOCK, "this store"):
                _check_free(path, overwrite)  # somebody may have been quicker
                _move_away(path)
                root = {"version": VERSION, "schema": schema.to_dict() if schema else None}
                disk.write_group(path, {_MARK: root | {"splits": {}, "arguments": arguments}})
                (path / "samples").mkdir(exist_ok=True)
                disk.write_group(path / "samples", {})
        store = cls(path)
        with store.writing():  # clears what was moved away
            return store

    def __getstate__(self) -> Path:
        return self.path

    def __setstate__(self, path: Path) -> None:
        self.__init__(path)  # type: ignore[misc]

    def _root(self) -> dict[str, Any]:
        root = disk.read_group(self.path).get(_MARK)
        if not isinstance(root, dict):
            raise InputError(f"{self.path}: a zarr hierarchy, but not a meshsim store")
        if root.get("version") != VERSION:
            raise InputError(
                f"{self.path}: a store of version {root.get('version')} (expected {VERSION}); "
                "preprocess again"
            )
        return root

    def _change(self, **entries: Any) -> None:
        with self.writing(), writing_to(self.path):
            disk.write_group(self.path, {_MARK: self._root() | entries})

    @property
    def version(self) -> int:
        """Version of the layout."""
        return int(self._root()["version"])

    @property
    def schema(self) -> Schema | None:
        """What every sample fits, if it was said."""
        table = self._root().get("schema")
        return None if table is None else Schema.from_dict(table)

    @property
    def arguments(self) -> Any:
        """What `create` was told of what the store is made from."""
        return self._root().get("arguments")

    @property
    def names(self) -> list[str]:
        """Names of the samples, sorted; those that were written whole."""
        folder = self.path / "samples"
        names = [unquote(p.name) for p in folder.iterdir()] if folder.is_dir() else []
        return sorted(name for name in names if name != disk.GROUP and self._content(name))

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self._content(name))

    def _folder(self, name: str) -> Path:
        return self.path / "samples" / key(name)

    def _content(self, name: str) -> dict[str, Any] | None:
        """The group document of a sample; None if there is none or it is not finished."""
        file = self._folder(name) / disk.GROUP
        try:
            found = os.stat(file)
        except OSError:
            return None
        stamp = (found.st_mtime_ns, found.st_ino)
        if name not in self._contents or self._contents[name][0] != stamp:
            content = disk.read_group(file.parent).get(disk.MARK)
            if not isinstance(content, dict):
                return None
            self._contents[name] = (stamp, content)
        return self._contents[name][1]

    def _known(self, name: str) -> dict[str, Any]:
        content = self._content(name)
        if content is None:
            check_known(name, self.names, f"sample of {self.path}")
        assert content is not None
        return content

    def sample(self, name: str) -> Sample:
        """A sample; frames of series are read chunk by chunk when asked for.

        Raises:
            InputError: no sample of that name, or its files are broken.
        """
        return disk.read_sample(self._folder(name), name, self._known(name))

    def document(self, name: str) -> tuple[Path, dict[str, Any]]:
        """Where a sample's arrays are, and what they mean; for reading parts of them."""
        return self._folder(name), self._known(name)

    def provenance(self, name: str) -> dict[str, Any]:
        """Where a sample came from."""
        return dict(self._known(name)["provenance"])

    @property
    def manifest(self) -> dict[str, dict[str, Any]]:
        """{sample: what became of the input}, those that failed or wait included; sorted.

        An entry has "source", "status" ("done", "failed" or "waiting"), "reader" {branch: name},
        "contents" (see `meshsim.data.manifest.contents`), "seconds", "bytes_read",
        "bytes_stored" and "error". It is no part of the fingerprint.
        """
        kept, out = manifest.read(self.path), self.entries()
        out |= {n: e for n, e in kept.items() if n not in out or e["status"] == "failed"}
        return {
            name: out[name] for name in sorted(out) if out[name]["status"] != "done" or name in self
        }

    def entries(self) -> dict[str, dict[str, Any]]:
        """The manifest's entries of the samples that are in the store."""
        return {name: manifest.stored(name, self._known(name)) for name in self.names}

    def moments(self, name: str, branch: str | None = None) -> dict[tuple[str, str], Moments]:
        """{(field, location): moments of its values} of one sample, computed when it was stored."""
        out: dict[tuple[str, str], Moments] = {}
        for where, tables in self._known(name)["moments"].items():
            for place, fields in tables.items() if branch in (None, where) else ():
                for field, table in fields.items():
                    moments = Moments.from_dict(table)
                    out.setdefault((field, place), Moments(len(moments))).merge(moments)
        return out

    def fields(self, name: str) -> dict[tuple[str, str, str], int]:
        """{(branch, location, field): components} of a sample; ("", "parameter", name) too."""
        return {(b, place, f): n for b, place, f, n in self._known(name)["fields"]}

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the store's lock, so that no other process writes meanwhile; may be nested.

        Raises:
            WorkError: another process is writing.
            InputError: the folder cannot be written to.
        """
        if self._depth == 0:
            self._lock = Lock(self.path / _LOCK, "this store").__enter__()
            _clear(self.path / _STAGING)
            for part in self.path.glob(".*.json.*.part"):  # of one that was killed as it wrote
                part.unlink(missing_ok=True)
        self._depth += 1
        try:
            yield
        except BaseException:
            if self._depth == 1:
                disk.settle()
            raise
        finally:
            self._depth -= 1
            if self._depth == 0 and self._lock is not None:
                _clear(self.path / _STAGING)
                self._lock.__exit__()
                self._lock = None

    def staging(self, name: str) -> Path:
        """A folder for `write_sample`, to be handed to `commit`; another one at every call.

        zarr writes in threads that may go on for a moment after one of them has failed.
        """
        return self.path / _STAGING / f"{os.getpid()}-{next(_attempts)}" / key(name)

    def commit(self, name: str, staged: Path) -> None:
        """Put a sample that was written to its staging folder in its place, replacing its like."""
        target = self._folder(name)
        with self.writing(), writing_to(self.path):
            if target.exists():
                os.replace(target, _aside(self.path))
            os.replace(staged, target)

    def append(self, sample: Sample, provenance: Mapping[str, Any] | None = None) -> None:
        """Add a sample; it is there when this returns, and not at all if anything goes wrong.

        Arguments:
            sample: its `name` must be new.
            provenance: where it came from (JSON-able).

        Raises:
            InputError: the name is taken or missing, the sample does not fit the schema, a
                value is not finite.
            WorkError: the disk is full.
        """
        with self.writing():
            if not sample.name:
                raise InputError("a sample needs a name to be stored")
            if sample.name in self:
                raise InputError(f"{self.path}: there is a sample {sample.name!r} already")
            staged = self.staging(sample.name)
            try:
                write_sample(staged, sample, self.schema, dict(provenance or {}), self.path)
            except BaseException:
                shutil.rmtree(staged, ignore_errors=True)
                raise
            self.commit(sample.name, staged)

    def remove(self, name: str) -> None:
        """Take a sample out, and out of the splits."""
        with self.writing(), writing_to(self.path):
            self._known(name)
            splits = {k: [m for m in v if m != name] for k, v in self.splits.items()}
            self._change(splits=splits)
            os.replace(self._folder(name), _aside(self.path))

    @property
    def splits(self) -> dict[str, list[str]]:
        """{split: names of samples}."""
        return {name: list(members) for name, members in self._root()["splits"].items()}

    @property
    def cut(self) -> list[str]:
        """Names of inputs whose parts are samples of their own."""
        return list(self._root().get("cut", []))

    def set_cut(self, names: Sequence[str]) -> None:
        """Remember which inputs are cut: started again, `preprocess` cuts them again."""
        self._change(cut=sorted(names))

    def set_splits(self, splits: Mapping[str, Sequence[str]]) -> None:
        """Divide the samples.

        Raises:
            InputError: a name that is not in the store, or is in two splits.
        """
        known = set(self.names)
        seen: dict[str, str] = {}
        for split, members in splits.items():
            for member in members:
                if member not in known:
                    check_known(member, known, f"sample in split {split!r}:")
                if member in seen:
                    raise InputError(
                        f"sample {member!r} is in the splits {seen[member]!r} and {split!r}"
                    )
                seen[member] = split
        self._change(splits={split: list(members) for split, members in splits.items()})

    def members(self, split: str | Sequence[str]) -> list[str]:
        """The names in a split; a list of names is checked and returned."""
        if isinstance(split, str):
            splits = self.splits
            check_known(split, splits, f"split of {self.path}")
            return splits[split]
        known = set(self.names)
        for name in split:
            if name not in known:
                check_known(name, known, f"sample of {self.path}")
        return list(split)

    def statistics(
        self,
        split: str | Sequence[str] = "train",
        *,
        schema: Schema | None = None,
        stride: int = 1,
        branch: str | None = None,
    ) -> dict[str, Moments]:
        """Exact moments over a split of every field's values and of every state's rate.

        The rate at stride s is (u[t + s] − u[t]) / (time[t + s] − time[t]). The answer is kept in
        the store, and holds for the contents it was computed from.

        Arguments:
            split: its name, or names of samples.
            schema: the fields; default: the store's.
            stride: frames between the two states of a rate.
            branch: one branch of the samples only.

        Returns:
            {"velocity": …, "velocity.rate": …, "inflow": …}.

        Raises:
            InputError: no schema, an empty split, a sample that lacks a field.
        """
        fields = schema or self.schema
        if fields is None:
            raise InputError(f"{self.path}: the store has no schema: say which fields there are")
        if stride < 1:
            raise InputError(f"stride: expected 1 or more, got {stride}")
        members = sorted(self.members(split))
        if not members:
            raise InputError(f"{self.path}: split {split!r} is empty")
        basis = [[m, self._known(m)["sha256"]] for m in members]
        asked = [basis, [f.__dict__ for f in fields], stride, branch]
        mark = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
        file = self.path / "statistics" / disk.GROUP
        with contextlib.suppress(InputError):
            kept = disk.read_group(file.parent).get(mark) if file.exists() else None
            if kept:
                return {name: Moments.from_dict(table) for name, table in kept.items()}
        out = merge_moments(self._moments_of(m, fields, stride, branch) for m in members)
        # a store that cannot be written to is no reason to fail
        with contextlib.suppress(OSError, InputError):
            file.parent.mkdir(exist_ok=True)
            old = disk.read_group(file.parent) if file.exists() else {}
            disk.write_group(
                file.parent, old | {mark: {name: m.to_dict() for name, m in out.items()}}
            )
        return out

    def _moments_of(
        self, name: str, fields: Schema, stride: int, branch: str | None
    ) -> dict[str, Moments]:
        stored = self.moments(name, branch)
        sample = self.sample(name)
        fields.check(sample, values=False)
        out = {field.name: self._values(sample, field, stored, branch) for field in fields}
        for field in fields.states:
            rate = out[f"{field.name}.rate"] = Moments(field.components)
            for part in _series(sample, branch):
                frames = part.point_fields if field.location == "point" else part.cell_fields
                if field.name in frames:
                    rate.merge(rate_moments(frames[field.name], part.times, stride))
        return out

    @staticmethod
    def _values(
        sample: Sample, field: Field, stored: dict[tuple[str, str], Moments], branch: str | None
    ) -> Moments:
        is_parameter = field.location == "global" and field.name in sample.parameters
        if (field.name, field.location) in stored and not is_parameter:
            return stored[field.name, field.location]
        moments = Moments(field.components)
        for place in find(sample, field, branch):
            if place.values is not None:
                moments.update(place.values.reshape(-1, field.components))
        return moments

    def fingerprint(self) -> str:
        """sha256 of version, schema, splits and the contents of all samples."""
        root = self._root()
        samples = {name: self._known(name)["sha256"] for name in self.names}
        whole = [root["version"], root["schema"], sorted(root["splits"].items()), samples]
        return hashlib.sha256(json.dumps(whole).encode()).hexdigest()

    def verify(self, names: Sequence[str] | None = None) -> None:
        """Read everything and raise `InputError` where it is not what was written."""
        for name in self.names if names is None else names:
            content = self._known(name)
            folder = self._folder(name)
            disk.check_whole(folder, content)
            if disk.content_hash(folder, content) != content["sha256"]:
                raise InputError(f"{folder}: the sample is broken (its contents have changed)")

    def is_whole(self, name: str) -> bool:
        """Whether all files of a sample are there with all their bytes."""
        try:
            disk.check_whole(self._folder(name), self._known(name))
        except InputError:
            return False
        return True

    def __repr__(self) -> str:
        splits = ", ".join(f"{name}: {len(members)}" for name, members in self.splits.items())
        return f"Store({str(self.path)!r}, {len(self)} samples{'; ' + splits if splits else ''})"


def _series(sample: Sample, branch: str | None) -> Iterator[Series]:
    for name, content in sample.branches.items():
        if branch in (None, name) and isinstance(content, Series):
            yield from content.segments


def _is_store(path: Path) -> bool:
    try:
        return _MARK in read_json(path / disk.GROUP)["attributes"]
    except (InputError, KeyError, TypeError):
        return False


def _check_free(path: Path, overwrite: bool) -> None:
    others = [p for p in path.iterdir() if p.name not in (_LOCK, _STAGING) and p.suffix != ".part"]
    if others and not _is_store(path):
        raise InputError(f"{path}: holds other files and is no store")
    if others and not overwrite:
        raise InputError(f"{path}: there is a store already (overwrite replaces it)")


def _aside(path: Path) -> Path:
    """A free place in the staging folder, to move what is to be deleted."""
    staging = path / _STAGING
    staging.mkdir(exist_ok=True)
    n = 0
    while (staging / f"old-{os.getpid()}-{n}").exists():
        n += 1
    return staging / f"old-{os.getpid()}-{n}"


def _move_away(path: Path) -> None:
    for name in ("samples", "statistics", manifest.FILE):
        if (path / name).exists():
            os.replace(path / name, _aside(path))


def _clear(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
