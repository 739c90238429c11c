"""Finding samples: files, globs, folders and case directories."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path

from meshsim.check import InputError
from meshsim.io.raw.cfdbench import FILES as CFDBENCH

# what a search takes for meshes; other formats (.dat, .xml, …) have to be asked for
_VTK = ("vtu", "vtk", "vtp", "vts", "vtr", "vti", "vtm", "pvd", "vtkhdf")
_PARALLEL = ("pvtu", "pvtp", "pvts", "pvtr", "pvti")
_SOLVERS = ("msh", "su2", "cgns", "med", "e", "exo", "ex2", "bdf", "nas", "inp", "openfoam")
_SURFACES = ("stl", "obj", "ply", "off")
SUFFIXES = frozenset([*_VTK, *_PARALLEL, *_SOLVERS, *_SURFACES, "xdmf", "npz", "tfrecord"])
_MANY = frozenset(["tfrecord", "h5", "hdf5"])  # these may hold many samples a file
# these files name others that belong to them
_INDEXES = frozenset(["pvd", "vtm", "xdmf", *_PARALLEL])
_REFERENCE = re.compile(rb"""(?:file|Source)\s*=\s*["']([^"'<>]+)["']|>\s*([^<>:\s]+\.h5):""")

# folders of a case that hold times, or the case's parts with theirs
_HELD = re.compile(r"[\d.eE+-]+|processors?\d+(_\d+-\d+)?")
_PIECE = re.compile(r"(.+)\.(\d+)\.part")
_SPLITS = {s: s for s in ("train", "valid", "test")} | {"val": "valid", "validation": "valid"}


@dataclass(frozen=True)
class Source:
    """One sample to be: its name, and the file or case folder of each branch.

    Arguments:
        name: of the sample.
        path: what to call it in messages: the file, or the folder of several.
        files: {branch: file or case folder}.
        relative: `path` relative to the input folder, with slashes.
        split: the split that the folder layout says, or "".
        lacking: why it cannot be read, or "".
        entry: which of the samples of a file that holds many, or None.
        whole: the name of what this is a part of, or "".
        part: which of the parts of its file, or None: all of it.
    """

    name: str
    path: Path
    files: tuple[tuple[str, Path], ...]
    relative: str
    split: str = ""
    lacking: str = ""
    entry: int | None = None
    whole: str = ""
    part: int | None = None

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def sidecar(self) -> Path | None:
        """The file of parameters: `<stem>.json` beside it, or `parameters.json` in its folder."""
        stem = self.path.resolve() if self.path.is_dir() else self.path.with_suffix("")
        beside = stem.with_name(f"{stem.name}.json")
        inside = self.path / "parameters.json"
        return next((file for file in (beside, inside) if file.is_file()), None)


def search(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    branch: str = "mesh",
    branches: Mapping[str, str] | None = None,
) -> list[Source]:
    """Every sample in files, globs, folders (searched in depth) and case directories, sorted.

    A folder in PLAID's layout (`data/<split>/sample_*/meshes/*.cgns`) gives a sample a folder and
    its splits, and so do folders called train, valid (val, validation) and test. Files that a
    `.pvd` or another index names are parts of it, not samples. Of a file with many trajectories
    (`train.tfrecord` and its HDF5 kin) each is a sample, `train_000000` and so on, and the file's
    name says the split.

    Arguments:
        sources: paths or patterns; "**" goes through folders.
        branch: what to call the only branch.
        branches: {branch: pattern}: every folder that has a file for each is one sample, and one
            that has a file for some is a sample that lacks something.

    Raises:
        InputError: a source that does not exist or holds nothing, two samples of one name, no
            folder that has all branches.
    """
    out: list[Source] = []
    asked = [sources] if isinstance(sources, str | os.PathLike) else [*sources]
    if not asked:
        raise InputError("sources: expected files, globs or folders, got none")
    for given in asked:
        text = os.fspath(given)
        path = Path(text)
        if path.exists():
            root = path if path.is_dir() and not is_case(path) else path.parent
            found = _search(path, root, branch, branches)
        elif glob.has_magic(text):
            matches = [Path(match) for match in sorted(glob.glob(text, recursive=True))]
            # "runs/*.dat" says what it wants, "runs/*" does not
            said = not glob.has_magic(Path(text).suffix or "*")
            matches = [m for m in matches if m.is_dir() or said or _readable(m)]
            fixed = Path(text)
            while glob.has_magic(str(fixed)):
                fixed = fixed.parent
            if not matches:
                raise InputError(f"{text}: no file fits")
            found = [s for m in matches for s in _search(m, fixed, branch, branches)]
        else:
            raise InputError(f"{text}: no such file or folder")
        if not found:
            what = " and ".join(branches.values()) if branches else "mesh files"
            inside = "trajectories in this file" if path.is_file() else f"{what} in this folder"
            raise InputError(f"{text}: no {inside}")
        out += found
    first: dict[tuple[Path, int | None], Source] = {}
    for source in out:
        first.setdefault((source.path.resolve(), source.entry), source)
    if all(source.lacking for source in out):
        raise InputError(out[0].lacking)
    return sorted(_unique(list(first.values())), key=lambda source: source.name)


def is_case(folder: Path) -> bool:
    """Whether a folder is an OpenFOAM case or one of CFDBench."""
    return (
        _is_grid(folder)
        or (folder / "constant" / "polyMesh").is_dir()
        or any(folder.glob("processors[0-9]*"))
        or (folder / "system" / "controlDict").is_file()
    )


def _is_grid(folder: Path) -> bool:
    return all((folder / name).is_file() for name in CFDBENCH)


def source_files(source: Source) -> list[Path]:
    """Every file that a sample is made of: the files, what they name, its parameters."""
    out: dict[Path, None] = {}
    for _, path in source.files:
        if source.entry is not None:  # see `hash_source`
            about = path.with_name("meta.json")
            out |= dict.fromkeys([about] if about.is_file() else [])
        elif path.is_dir() or _suffix(path) == "openfoam":
            out |= dict.fromkeys(_case_files(path if path.is_dir() else path.parent))
        elif path.is_file():
            out |= dict.fromkeys([path, *_parts(path)])
        else:
            out |= dict.fromkeys(pieces(path))
    if source.sidecar:
        out[source.sidecar] = None
    return list(out)


def hash_source(source: Source, more: Sequence[Path] = (), trust: bool = False) -> dict[str, str]:
    """{path relative to the source's folder: sha256}, of what it is made of and of more files.

    A sample of a file that holds many is hashed alone, as "train.tfrecord#12".

    Raises:
        InputError: a file, or the sample in it, cannot be read.
    """
    out = hash_files([*source_files(source), *more], source.path.parent, source.part is not None)
    if source.entry is not None:
        from meshsim.io.entries import digest

        out[f"{source.path.name}#{source.entry}"] = digest(source.path, source.entry, trust)
    return out


def hash_files(files: Sequence[Path], root: Path, again: bool = False) -> dict[str, str]:
    """{path relative to root: sha256}.

    Arguments:
        again: they will be asked for again: what has not changed since is not read twice.

    Raises:
        InputError: a file cannot be read.
    """
    out = {}
    for file in files:
        try:
            known = os.stat(file)
            stamp = (known.st_size, known.st_mtime_ns, known.st_ino)
            out[_relative(file, root)] = _digest(file, stamp) if again else _digest_of(file)
        except OSError as error:
            raise InputError(f"{file}: cannot read: {error.strerror}") from error
    return out


def _digest_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@lru_cache(16)
def _digest(file: Path, stamp: tuple[int, int, int]) -> str:
    """That of a file with this size, time and number."""
    return _digest_of(file)


def _search(
    path: Path, root: Path, branch: str, branches: Mapping[str, str] | None
) -> list[Source]:
    if branches:
        below = (p for p in path.rglob("*") if p.is_dir())
        shown = (p for p in below if not any(n[0] == "." for n in p.relative_to(path).parts))
        folders = [path, *sorted(shown)]
        sets = ((folder, *_matched(folder, branches)) for folder in folders)
        return [
            replace(_source(folder, root, files), lacking=lacking)
            for folder, files, lacking in sets
            if files
        ]
    if path.is_file() or is_case(path):
        return _of_file(path, root, branch)
    found: list[Path] = []
    parts: set[Path] = set()
    for place, inside, names in os.walk(path):
        here = Path(place)
        inside.sort()
        if is_case(here):
            found.append(here)
            inside.clear()
            continue
        inside[:] = [name for name in inside if not name.startswith(".")]
        for file in sorted(here / name for name in names if not name.startswith(".")):
            if _readable(file):
                found.append(file)
                if _suffix(file) in _INDEXES:
                    parts.update(p.resolve() for p in _parts(file))
    kept = [p for p in found if p.resolve() not in parts]
    return [source for p in kept for source in _of_file(p, root, branch)]


def _of_file(path: Path, root: Path, branch: str) -> list[Source]:
    """The sample of a file or case, or those of a file that holds many: none of an alien one."""
    if path.is_dir() or not _holds_many(path):
        return [_plaid(path, root, branch) or _source(path, root, ((branch, path),))]
    from meshsim.io.entries import count

    whole = _source(path, root, ((branch, path),))
    split = _SPLITS.get(path.name.partition(".")[0], whole.split)
    try:
        n, wrong = count(path)
    except InputError as error:
        return [replace(whole, split=split, lacking=str(error))]
    found = [
        replace(whole, name=f"{whole.name}_{i:06d}", split=split, entry=i)
        for i in range(n + bool(wrong))
    ]
    if wrong:
        found[-1] = replace(found[-1], lacking=f"{path}: {wrong}")
    return found


def pieces(path: Path) -> list[Path]:
    """The files `<name>.00.part`, `<name>.01.part`, … that a file was cut into, in order.

    Raises:
        InputError: there are none, or one between them is missing.
    """
    found = {}
    for piece in path.parent.iterdir():
        cut = _PIECE.fullmatch(piece.name)
        if cut and cut[1] == path.name:
            found[int(cut[2])] = piece
    if not found:
        raise InputError(f"{path}: no such file, nor parts of it")
    if lost := set(range(max(found) + 1)) - set(found):
        raise InputError(f"{path}: part {min(lost)} of {max(found) + 1} is missing")
    return [found[n] for n in sorted(found)]


def _matched(folder: Path, branches: Mapping[str, str]) -> tuple[tuple[tuple[str, Path], ...], str]:
    """The files of the branches that a folder has, and why they make no sample, or ""."""
    here = {p.name for p in folder.iterdir()}
    names = sorted(here | {cut[1] for name in here if (cut := _PIECE.fullmatch(name))})
    out: list[tuple[str, Path]] = []
    wrong = []
    for branch, pattern in branches.items():
        fits = [name for name in names if fnmatch(name, pattern)]
        if len(fits) > 1:
            wrong.append(f"{folder}: several files fit branch {branch!r}: {', '.join(fits)}")
        elif not fits:
            wrong.append(f"{folder}: no file fits branch {branch!r} ({pattern})")
        out += [(branch, folder / name) for name in fits]
    return tuple(out), wrong[0] if wrong else ""


def _plaid(file: Path, root: Path, branch: str) -> Source | None:
    """The sample of a file `<split>/sample_000000000/meshes/mesh_000000000.cgns`."""
    sample = file.parent.parent
    if file.parent.name != "meshes" or not re.fullmatch(r"sample_\d+", sample.name):
        return None
    split = sample.parent.name if sample.parent.parent.name == "data" else ""
    every = sorted(file.parent.glob("mesh_*.cgns"))
    if len(every) > 1:
        lacking = f"{sample}: a PLAID sample with several meshes is not supported yet"
        files = tuple((branch, mesh) for mesh in every)
        return Source(sample.name, sample, files, _relative(sample, root), split, lacking)
    return Source(sample.name, file, ((branch, file),), _relative(file, root), split)


def _source(path: Path, root: Path, files: tuple[tuple[str, Path], ...]) -> Source:
    relative = _relative(path, root)
    name = relative if path.is_dir() else str(Path(relative).with_suffix("").as_posix())
    top = relative.partition("/")[0] if "/" in relative else ""
    split = _SPLITS.get(top, "")
    return Source(path.resolve().name if name == "." else name, path, files, relative, split)


def _unique(found: list[Source]) -> list[Source]:
    """Samples whose names clash get their file's suffix; an error where that does not help."""

    clash = Counter(source.name for source in found)
    out = [replace(s, name=s.name + s.path.suffix) if clash[s.name] > 1 else s for s in found]
    clash = Counter(source.name for source in out)
    for source in out:
        if clash[source.name] > 1:
            same = [str(s.path) for s in out if s.name == source.name]
            raise InputError(f"two samples would be called {source.name!r}: {', '.join(same[:2])}")
    return out


def _readable(path: Path) -> bool:
    return _suffix(path) in SUFFIXES or _holds_many(path)


def _holds_many(path: Path) -> bool:
    from meshsim.io.entries import holds_many

    return _suffix(path) in _MANY and holds_many(path)


def _suffix(path: Path) -> str:
    from meshsim.io.formats import suffix_of

    return suffix_of(path)


def _case_files(case: Path) -> list[Path]:
    """Mesh, control file, times and parts of an OpenFOAM case; logs and scripts are left out."""
    if _is_grid(case):
        return [case / name for name in CFDBENCH]
    times = [p for p in case.iterdir() if p.is_dir() and _HELD.fullmatch(p.name)]
    inside = [p for folder in (case / "constant", *times) for p in folder.rglob("*")]
    return sorted(p for p in (*inside, case / "system" / "controlDict") if p.is_file())


def named_by(index: Path) -> list[Path]:
    """Files that a .pvd, .pvtu, .vtm or .xdmf names and that lie beside or below it, in order."""
    if _suffix(index) not in _INDEXES:
        return []
    try:
        text = index.read_bytes()
    except OSError:
        return []
    found = (os.path.normpath(os.fsdecode(a or b)) for a, b in _REFERENCE.findall(text))
    inside = [name for name in dict.fromkeys(found) if not os.path.isabs(name) and "\0" not in name]
    parts = [index.parent / name for name in inside if not name.startswith("..")]
    return [part for part in parts if part.is_file()]


def _parts(index: Path, seen: frozenset[Path] = frozenset()) -> list[Path]:
    """Files that an index names, and those that they name."""
    seen |= {index}
    found = [part for part in sorted(named_by(index)) if part not in seen]
    return [p for part in found for p in (part, *_parts(part, seen))]


def _relative(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()
