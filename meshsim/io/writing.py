"""`write`: any Mesh, Series or Sample to a file, whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from meshsim.check import InputError, MeshsimError, WorkError, nearest, one_line
from meshsim.io import plain, to_foam, to_npz, to_surface, to_text, to_vtk
from meshsim.io.formats import suffix_of
from meshsim.io.holds import HOLDS, branch_of, check, sentences
from meshsim.io.raw import Tree
from meshsim.mesh import Mesh
from meshsim.sample import Sample
from meshsim.series import Series

REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT, errno.EISDIR)
STREAMS: dict[str, Callable[[Tree, BinaryIO], None]] = {
    "vtu": to_vtk.vtu,
    "vtp": to_vtk.vtp,
    "vtk": to_vtk.vtk,
    "msh": to_text.msh,
    "su2": to_text.su2,
    "stl": to_surface.stl,
    "obj": to_surface.obj,
    "off": to_surface.off,
    "ply": to_surface.ply,
}
Progress = Callable[[int, int], None]


def losses(obj: Mesh | Series | Sample, path: str | Path) -> list[str]:
    """What a format cannot hold of an object, said before it is written.

    Arguments:
        path: the file to be written, or just its suffix ("vtu", ".vtu").

    Returns:
        Sentences; [] where the file will hold everything.

    Raises:
        InputError: the format is unknown, or cannot hold the cells or the times at all.

    >>> mesh = Mesh([[0., 0.], [1., 0.], [0., 1.]], {"triangle": [[0, 1, 2]]}, {"p": [1., 2., 3.]})
    >>> losses(mesh, "vtu")
    []
    >>> losses(mesh, "su2")[0]
    '.su2 cannot hold fields: p is lost'
    """
    if to_foam.place(Path(path)):
        return to_foam.losses(obj)
    name = _format(path)
    check(obj, name)
    return sentences(obj, name)


def write(
    obj: Mesh | Series | Sample, path: str | Path, *, progress: Progress | None = None
) -> list[str]:
    """Write a Mesh, Series or Sample; the suffix says the format.

    The file appears whole or not at all. A .pvd has its frames in a folder beside it, an .xdmf
    its arrays in an .h5; the file that names them is written last. Where `path` is the folder of
    an OpenFOAM case with the same mesh, or a time folder in it, the cell fields go into its time
    folders, and files of fields that are there keep their boundary conditions.

    Arguments:
        progress: called with (frames written, all frames) of a series.

    Returns:
        What the format could not hold, a sentence each; see `losses`.

    Raises:
        InputError: unknown suffix, a format that cannot hold the cells, a folder that cannot be
            written to.
        WorkError: the disk is full, or writing failed half-way.

    >>> import tempfile
    >>> mesh = Mesh([[0., 0.], [1., 0.], [0., 1.]], {"triangle": [[0, 1, 2]]})
    >>> write(mesh, tempfile.mkdtemp() + "/a.vtu")
    []
    """
    path = Path(path)
    found = to_foam.place(path)
    if found:
        with told(path):
            return to_foam.write(obj, *found)
    name = _format(path)
    check(obj, name)
    out = sentences(obj, name)
    branch = branch_of(obj)
    with told(path):
        if name == "npz":
            with replacing(path) as part, part.open("wb") as file:
                to_npz.write(obj, file)
        elif name == "pvd":
            _pvd(branch, path, progress)
        elif name == "xdmf":
            _xdmf(branch, path)
        elif name == "cgns":
            _cgns(_mesh(branch), path)
        else:
            with replacing(path) as part, part.open("wb") as file:
                STREAMS[name](plain.tree(_mesh(branch)), file)
    return out


def _mesh(branch: Mesh | Series) -> Mesh:
    assert isinstance(branch, Mesh)  # `check` has refused series
    return branch


def _format(path: str | Path) -> str:
    text = str(path)
    suffixes = Path(path).suffixes
    if suffixes and suffixes[-1].lower() in (".gz", ".xz", ".bz2"):
        raise InputError(f"{path}: packed files are read, but not written")
    name = suffix_of(path) or (text.lower() if text.lower() in HOLDS else "")
    if name not in HOLDS:
        raise InputError(f"{path}: cannot write .{name}; {nearest(name, HOLDS)}")
    return name


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """Errors of the system as one line that names the file: refused → input, failed → work."""
    try:
        yield
    except MeshsimError as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}") from error
    except OSError as error:
        reason = one_line(error.strerror or error)
        if error.errno in REFUSED:
            raise InputError(f"{path}: cannot write: {reason}") from error
        raise WorkError(f"{path}: writing failed: {reason}") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to; it takes the name of `path` if all goes well."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _pvd(branch: Mesh | Series, path: Path, progress: Progress | None) -> None:
    series = Series(branch, [0.0]) if isinstance(branch, Mesh) else branch
    folder = path.with_name(f"{path.stem}_frames")
    if folder.exists() and not _ours(folder, path.stem):
        raise InputError(f"{folder} is in the way (the frames of {path.name} would go there)")
    total = sum(len(segment) for segment in series.segments)
    digits = max(4, len(str(total - 1)))
    part = path.with_name(f".{folder.name}.{os.getpid()}.part")
    lines, n = [], 0
    try:
        part.mkdir()
        for segment in series.segments:
            for frame, time in zip(segment, segment.times.tolist(), strict=True):
                name = f"{path.stem}_{n:0{digits}d}.vtu"
                with (part / name).open("wb") as file:
                    to_vtk.vtu(plain.tree(frame), file)
                where = to_vtk.attribute(f"{folder.name}/{name}")
                lines.append(f'<DataSet timestep="{time!r}" part="0" file={where}/>')
                n += 1
                if progress is not None:
                    progress(n, total)
        body = "\n".join(lines)
        with replacing(path) as listed:
            listed.write_text(
                '<?xml version="1.0"?>\n<VTKFile type="Collection" version="0.1"'
                f' byte_order="LittleEndian">\n<Collection>\n{body}\n</Collection>\n</VTKFile>\n',
                encoding="utf-8",
            )
            path.unlink(missing_ok=True)  # never a list of frames that are of another series
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _ours(folder: Path, stem: str) -> bool:
    pattern = re.compile(re.escape(stem) + r"_\d+\.vtu")
    return folder.is_dir() and all(pattern.fullmatch(entry.name) for entry in folder.iterdir())


def _xdmf(branch: Mesh | Series, path: Path) -> None:
    from meshsim.io import to_xdmf

    heavy = path.with_suffix(".h5")
    with replacing(path) as part, replacing(heavy) as heavy_part:
        with heavy_part.open("w+b") as file:
            text = to_xdmf.write(branch, path.stem, file)
        part.write_text(text, encoding="utf-8")


def _cgns(mesh: Mesh, path: Path) -> None:
    from meshsim.io import to_cgns

    order = None if mesh.file_order is None else plain.array(mesh.file_order)
    found = plain.tree(mesh.replace(file_order=None), pad=False)
    with replacing(path) as part, part.open("w+b") as file:
        to_cgns.write(found, file, order)
