"""Which format a file has: by its content first, by its name where the content does not say."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meshsim.check import InputError, MeshsimError, nearest
from meshsim.io.raw import OPENERS, unpacked
from meshsim.io.raw.cfdbench import FILES as CFDBENCH


@dataclass(frozen=True)
class Format:
    """A file format.

    Arguments:
        name: what users call it, also its usual suffix.
        reader: the library that reads it ("meshsim" for our own readers).
        module: the module of `meshsim.io.raw`.
        options: what that module's `read` needs to know.
        surface: a format of surfaces, never read as planar (DESIGN §3, Dimension).
    """

    name: str
    reader: str
    module: str
    options: dict[str, Any] = field(default_factory=dict)
    surface: bool = False


FORMATS: dict[str, Format] = {
    "npz": Format("npz", "meshsim", "npz"),
    "pvd": Format("pvd", "vtk", "pvd"),
    "vtk": Format("vtk", "vtk", "vtk", {"kind": "legacy"}),
    "vtkhdf": Format("vtkhdf", "vtk", "vtk", {"kind": "vtkhdf"}),
    "msh": Format("msh", "meshsim", "gmsh"),
    "su2": Format("su2", "meshsim", "su2"),
    "cgns": Format("cgns", "meshsim", "cgns"),
    "xdmf": Format("xdmf", "meshsim", "xdmf"),
    "ensight": Format("ensight", "vtk", "ensight"),
    "exodus": Format("exodus", "vtk", "exodus"),
    "fluent": Format("fluent", "meshsim", "fluent"),
    "tecplot": Format("tecplot", "vtk", "tecplot"),
    "glb": Format("glb", "trimesh", "glb", surface=True),
    "openfoam": Format("openfoam", "meshsim", "foam"),
    "stl": Format("stl", "meshsim", "surfaces", {"kind": "stl"}, surface=True),
    "obj": Format("obj", "meshsim", "surfaces", {"kind": "obj"}, surface=True),
    "off": Format("off", "meshsim", "surfaces", {"kind": "off"}, surface=True),
    "ply": Format("ply", "meshsim", "ply", surface=True),
    "unv": Format("unv", "meshsim", "unv"),
    "med": Format("med", "meshsim", "med"),
    "bdf": Format("bdf", "meshsim", "nastran"),
    "inp": Format("inp", "meshsim", "abaqus"),
    "avs": Format("avs", "meshsim", "ucd"),
    "cfdbench": Format("cfdbench", "meshsim", "cfdbench"),
    "tfrecord": Format("tfrecord", "meshsim", "trajectories"),
    "trajectories": Format("trajectories", "meshsim", "trajectories"),
}
XML = {
    "vtu": "UnstructuredGrid",
    "vtp": "PolyData",
    "vts": "StructuredGrid",
    "vtr": "RectilinearGrid",
    "vti": "ImageData",
    "pvtu": "PUnstructuredGrid",
    "pvtp": "PPolyData",
    "pvts": "PStructuredGrid",
    "pvtr": "PRectilinearGrid",
    "pvti": "PImageData",
    "vtm": "vtkMultiBlockDataSet",
}
FORMATS |= {name: Format(name, "vtk", "vtk", {"kind": kind}) for name, kind in XML.items()}
FORMATS["vtm"] = Format("vtm", "vtk", "multiblock")
MESHIO = {
    "mesh": "medit", "meshb": "medit", "f3grid": "flac3d", "ugrid": "ugrid", "node": "tetgen",
    "ele": "tetgen", "mdpa": "mdpa", "post": "permas", "xml": "dolfin-xml", "hmf": "hmf",
}  # fmt: skip
FORMATS |= {name: Format(name, "meshio", "other", {"kind": kind}) for name, kind in MESHIO.items()}
# what is tried where the first reader fails or finds no cells. Only readers that refuse what is
# damaged: VTK opens a ply that is cut short, meshio fills up a su2, trimesh drops broken faces
FALLBACKS: dict[str, tuple[Format, ...]] = {
    "vtu": (Format("vtu", "meshio", "other", {"kind": "vtu"}),),
    "vtk": (Format("vtk", "meshio", "other", {"kind": "vtk"}),),
    "tecplot": (Format("tecplot", "meshio", "other", {"kind": "tecplot"}),),
}
ALIASES = {"xmf": "xdmf", "gmsh": "msh", "foam": "openfoam", "vtmb": "vtm", "stla": "stl",
           "stlb": "stl", "vtkhdf5": "vtkhdf", "e": "exodus", "exo": "exodus", "ex2": "exodus",
           "exii": "exodus", "g": "exodus", "gen": "exodus",
           "cas": "fluent", "gltf": "glb", "tec": "tecplot", "case": "ensight",
           "encas": "ensight", "rmed": "med", "mmed": "med",
           "nas": "bdf", "fem": "bdf", "nastran": "bdf"}  # fmt: skip


_UCD = re.compile(rb"(#[^\n]*\n\s*)*\d+([ \t]+\d+){4}[ \t]*\r?\n\s*\d+([ \t]+[-+.\deE]+){3}\s")
# names of links, as the two kinds of HDF5 groups store them: after their length, or ended by zeros
_CELLS = re.compile(rb"\x05cells|\0cells\0")
_PLACES = re.compile(rb"\x03pos|\x08mesh_pos|\x09world_pos|\0(?:mesh_|world_)?pos\0")
_NASTRAN = re.compile(rb"^[ \t]*(CEND[ \t]*\r?$|BEGIN[ ,]+BULK|GRID\*?[ ,\t]+\d)", re.M | re.I)


def format_of(path: str | Path) -> Format:
    """The format of a file or case folder.

    Arguments:
        path: an existing file or folder.

    Raises:
        InputError: it does not exist, is empty, or is of no known format.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _folder(path)
        head = _head(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except MeshsimError:
        raise
    except (EOFError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be unpacked ({error})") from error
    name = _sniff(path, head)
    if not head and name != "openfoam":
        raise InputError(f"{path}: the file is empty (0 bytes)")
    if name is None:
        name = suffix_of(path)
    if name not in FORMATS:
        known = [n for n in FORMATS if n not in MESHIO]
        raise InputError(f"{path}: of no known format; {nearest(name, known)}")
    return FORMATS[name]


def suffix_of(path: str | Path) -> str:
    """The suffix that says the format, without dot and packing: "obj" for car.obj.gz.

    >>> suffix_of("car.obj.gz"), suffix_of("a.xmf")
    ('obj', 'xdmf')
    """
    names = [s.lower().lstrip(".") for s in Path(path).suffixes]
    while names and names[-1] in ("gz", "xz", "bz2"):
        names.pop()
    last = names[-1] if names else ""
    return ALIASES.get(last, last)


def case_folder(path: Path) -> Path:
    """The folder of an OpenFOAM case, given itself, its .foam file or its controlDict."""
    if path.is_dir():
        return path
    return path.parent.parent if path.parent.name == "system" else path.parent


def _folder(path: Path) -> Format:
    # a folder without a mesh is still a case, so that the message can say what it lacks
    signs = ("constant/polyMesh", "system/controlDict", "processor0", "constant")
    more = (*path.glob("*/polyMesh"), *path.glob("processors[0-9]*"))
    if more or any((path / sign).exists() for sign in signs):
        return FORMATS["openfoam"]
    if all((path / name).is_file() for name in CFDBENCH):
        return FORMATS["cfdbench"]
    raise InputError(
        f"{path}: is a folder, but no OpenFOAM case (no constant/polyMesh, no system/controlDict)"
    )


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        start = file.read(8)
    if any(start.startswith(magic) for magic in OPENERS):
        with unpacked(str(path)) as packed:
            return bytes(packed.read(4096))
    with open(path, "rb") as file:
        return file.read(4096)


def _sniff(path: Path, head: bytes) -> str | None:
    """A format by the first bytes of a file; None where they do not say."""
    suffix = suffix_of(path)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if suffix == "openfoam" or (path.name == "controlDict" and b"FoamFile" in head):
        return "openfoam"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return _hdf(path, suffix)
    if re.match(rb"CDF[\x01\x02\x05]", head):
        if b"num_nodes" not in head:
            raise InputError(f"{path}: a netCDF file, but no Exodus mesh (no num_nodes in it)")
        return "exodus"
    if b"ADF Database Version" in head[:64]:
        return "cgns"
    if head.startswith(b"PK\x03\x04"):
        return "npz" if _is_npz(path) else None
    if text.startswith((b"<?xml", b"<VTKFile", b"<Xdmf", b"<!DOCTYPE Xdmf", b"<!--")):
        found = re.search(rb'<VTKFile[^>]*\btype="(\w+)"', head)
        if found:
            kinds = {kind: name for name, kind in XML.items()} | {"Collection": "pvd"}
            kind = found[1].decode()
            if kind not in kinds:
                raise InputError(f"{path}: VTK files of type {kind} are not supported")
            return kinds[kind]
        return "xdmf" if b"<Xdmf" in head else None
    if text.startswith(b"{") and b'"files"' in text and suffix == "series":
        return "pvd"
    if text.startswith(b"# vtk DataFile"):
        return "vtk"
    if re.match(rb"(?:#[^\n]*\n\s*)*(TITLE|VARIABLES|ZONE)\b", text, re.I) and re.search(
        rb"^\s*(VARIABLES\s*=|ZONE\b)", head, re.M | re.I
    ):
        return "tecplot"
    if head.startswith(b"#!TDV"):
        raise InputError(f"{path}: binary Tecplot is not supported (save it as ASCII)")
    if head.startswith(b"glTF"):
        return "glb"
    if suffix in ("bdf", "dat", "", "txt", "pch") and _NASTRAN.search(head):
        return "bdf"
    if suffix in ("dat", "plt", "tec"):
        raise InputError(f"{path}: {_no_tecplot(head)}")
    if re.match(rb"\(\s*\d+\s*[\"\d(]", text):
        return "fluent"
    if re.match(rb"\$(MeshFormat|NOD|PhysicalNames|Comments|Nodes)\b", text):
        return "msh"
    if re.search(rb"^\s*type:\s*(ensight|master_server)\b", head, re.M | re.I):
        return "ensight"
    if re.match(rb"ply\s*\r?\n", head):
        return "ply"
    if re.match(rb"(ST)?C?N?4?n?OFF(?![A-Za-z])", text):
        return "off"
    if re.match(rb"[ \t\r\n]*-1[ \t]*\r?\n[ \t]*\d{2,4}[ \t]*\r?\n", head):
        return "unv"
    if re.search(rb"^\s*(NDIME|NZONE)\s*=", head, re.M):
        return "su2"
    if suffix in ("inp", "avs", "ucd") and (head[:1] == b"\x07" or _UCD.match(text)):
        return "avs"
    facets = int.from_bytes(head[80:84], "little")
    if facets and path.stat().st_size == 84 + 50 * facets:
        return "stl"
    if text.startswith(b"solid") and re.search(rb"\bfacet\s+normal\b|\bendsolid\b", head):
        return "stl"
    return None


def _no_tecplot(head: bytes) -> str:
    """What a .dat seems to be that is no Tecplot file."""
    words = {
        "a table of forces, no mesh": rb"^#\s*(Force|Moment|CofR|Cd\b)",
        "Nastran bulk data (name it .bdf)": (
            rb"^\s*(SOL\s+\d|CEND\b|BEGIN\s+BULK|GRID[*,\s]|NASTRAN\b|INIT\s+MASTER)"
        ),
        "a table of values over time, no mesh": rb"^#\s*Time\b",
    }
    for what, pattern in words.items():
        if re.search(pattern, head, re.M | re.I):
            return f"seems to be {what}"
    if 535532 in (int.from_bytes(head[:4], order) for order in ("little", "big")):
        return "seems to be an SU2 restart file: read its mesh and attach it"
    if b"\0" in head:
        return "a binary file of no known format, no Tecplot"
    rows = [line.split() for line in head.splitlines()[1:20] if line.strip()]
    if rows and all(len(row) == 2 for row in rows):
        return "seems to be a list of x, y (the outline of an airfoil, for instance), no mesh"
    return "is no Tecplot file (expected TITLE, VARIABLES or ZONE)"


def _hdf(path: Path, suffix: str) -> str | None:
    """HDF5 holds many formats: look for names, without opening a hostile file.

    "trajectories" says that names of links are theirs; the groups that have to have them are known
    once the guarded child has opened the file (`meshsim.io.entries.count`).
    """
    if suffix in ("cgns", "vtkhdf", "med", "hmf", "exodus"):
        return suffix
    with open(path, "rb") as file:
        start = file.read(1 << 16)
    if b"CGNSLibraryVersion" in start:
        return "cgns"
    if b"meshes" in start and (path.name.endswith((".cas.h5", ".msh.h5")) or suffix == "cas"):
        return "fluent"
    if b"VTKHDF" in start:
        return "vtkhdf"
    if b"num_nodes" in start and b"num_el_blk" in start:
        return "exodus"
    if b"ENS_MAA" in start:
        return "med"
    if suffix in ("h5", "hdf5") and _CELLS.search(start) and _PLACES.search(start):
        return "trajectories"
    return None


def _is_npz(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as file:
            return any(name.endswith(".npy") for name in file.namelist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise InputError(f"{path}: a damaged zip archive ({error})") from error
