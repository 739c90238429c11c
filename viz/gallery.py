"""One page with a picture of every mesh in a folder; or the ten pictures in the README.

python viz/gallery.py FOLDER [-o gallery.html]
python viz/gallery.py --readme FOLDER [-o viz/gallery]

The README's are of ten files by other people, which lie in FOLDER (the tests' MESHSIM_REAL_DATA)
beside MANIFEST.tsv; the rows of its table are printed, with the source and licence of each file.
"""

import csv
import os
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

import meshsim
from meshsim import Mesh, Series, render
from meshsim.check import MeshsimError
from meshsim.render.section import plane

KINDS = "vtu vtk vtp pvd msh su2 stl obj ply off cgns xdmf foam npz"
WIDE = 480  # pixels of a README picture
VTK, SEACAS = "pyvista__vtk-data/Data", "gsjaardema__seacas/packages/seacas/libraries/ioss"
CAR = "PLAID-lib__plaid/tests/containers/dataset_cgns/data/train/sample_000000000/meshes"
Draw = Callable[[Mesh | Series, Path], Path]


def clipped(axis: str, field: str, up: str, **how: object) -> Draw:
    """A field in a volume that is cut open."""

    def draw(obj: Mesh | Series, out: Path) -> Path:
        half = render.clip(obj, *plane(obj, axis), up=up)
        return render.field(half, field, out, up=up, width=WIDE, edges=True, **how)

    return draw


def sliced(axis: str, field: str, **how: object) -> Draw:
    """A field in a plane; of a series as a movie."""

    def draw(obj: Mesh | Series, out: Path) -> Path:
        cut = render.section(obj, [plane(obj, axis)])
        make = render.movie if out.suffix == ".gif" else render.field
        return make(cut, field, out, view=axis, width=WIDE, **how)

    return draw


def of_field(field: str, **how: object) -> Draw:
    """A field on the surface; of a series as a movie."""

    def draw(obj: Mesh | Series, out: Path) -> Path:
        make = render.movie if out.suffix == ".gif" else render.field
        return make(obj, field, out, width=WIDE, **how)

    return draw


def of_names(**how: object) -> Draw:
    """Boundaries and regions with their names."""
    return lambda obj, out: render.cells(obj, out, width=WIDE, **how)


def of_quality(axis: str, **how: object) -> Draw:
    """Quality of a volume that is cut open, and histograms."""
    return lambda obj, out: render.quality(obj, out, clipped=axis, width=2 * WIDE, **how)


# name of the picture: (file, member of an archive, what it is, how it is drawn)
TEN: dict[str, tuple[str, str, str, Draw]] = {
    "disk.png": (
        f"{VTK}/disk_out_ref.ex2", "", "volume (Exodus), cut open", clipped("y", "Temp", "z"),
    ),
    "can.png": (f"{VTK}/can.vtu", "", "volume (VTU), cut open", clipped("y", "EQPS", "z")),
    "cylinder.png": (
        f"{VTK}/Quadratic/CylinderQuadratic.vtk", "", "volume (VTK), quadratic tetrahedra, section",
        sliced("z", "velocity"),
    ),
    "boundaries.png": (
        f"{SEACAS}/src/main/test/BC_without_parents.cgns", "", "volume (CGNS), boundaries",
        of_names(),
    ),
    "quality.png": (
        f"{VTK}/mesh_fs8.exo", "", "volume (Exodus), wedges, quality", of_quality("x"),
    ),
    "car.png": (
        f"{CAR}/mesh_000000000.cgns", "", "surface (CGNS), pressure", of_field("pressure"),
    ),
    "cow.png": (f"{VTK}/cow.obj", "", "surface (OBJ), polygons, groups", of_names(up="y")),
    "part.png": ("mikedh__trimesh/models/featuretype.STL", "", "surface (STL)", of_names()),
    "wavy.gif": (
        f"{VTK}/vtu_series/wavy.zip", "mesh.vtu.series", "series (VTU)",
        of_field("z", up="z", frames=8, fps=6.0),
    ),
    "cavity.gif": (
        f"{VTK}/OpenFOAM.zip", "OpenFOAM/cavity", "series (OpenFOAM), section",
        sliced("z", "U"),
    ),
}  # fmt: skip


def main() -> None:
    """Draw what can be read, and say what cannot."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--readme", action="store_true", help="the pictures in the README")
    chosen = parser.parse_args()
    known = os.environ.get("MESHSIM_REAL_DATA") if chosen.readme else None
    folder = chosen.folder or (Path(known) if known else None)
    if folder is None or not folder.is_dir():
        parser.error(f"{folder or 'FOLDER'}: no such folder")
    if chosen.readme:
        readme(folder, chosen.output or Path(__file__).parent / "gallery")
    else:
        everything(folder, chosen.output or Path("gallery.html"))


def everything(folder: Path, out: Path) -> None:
    """The page with every mesh."""
    files = sorted(f for f in folder.rglob("*") if f.suffix[1:].lower() in KINDS.split())
    pictures, failed = {}, []
    with TemporaryDirectory() as place:
        for number, file in enumerate(files):
            name = str(file.relative_to(folder))
            try:
                picture = Path(place) / f"{number}.png"
                pictures[name] = render.field(meshsim.read(file), out=picture, width=900)
                print(name)
            except MeshsimError as error:
                failed.append(f"{name}: {error}")
                print(failed[-1])
        what = [f"{len(pictures)} of {len(files)} files could be drawn.", *failed]
        report = {"title": f"Meshes in {folder.name}", "what": what}
        print(render.report(report, pictures, out))


@contextmanager
def unpacked(file: Path, member: str) -> Iterator[Path]:
    """A file, or what lies in an archive."""
    if not member:
        yield file
        return
    with TemporaryDirectory() as place:
        ZipFile(file).extractall(place)
        yield Path(place, member)


def readme(folder: Path, out: Path) -> None:
    """The ten pictures, and the rows of their table."""
    with open(folder / "MANIFEST.tsv", newline="", encoding="utf-8") as file:
        known = {row["path"]: row for row in csv.DictReader(file, delimiter="\t")}
    cells = []
    for picture, (path, member, what, draw) in TEN.items():
        with unpacked(folder / path, member) as source:
            made = draw(meshsim.read(source), out / picture)
        row, inside = known[path], path.partition("/")[2].rpartition("/")[2]
        credit = f"{what}: `{inside}`, {row['source_repo']}, {row['licence'].partition(' (')[0]}"
        cells.append((f"![{what}](viz/gallery/{made.name})", credit))
    for a, b in zip(cells[::2], cells[1::2], strict=True):
        print(f"| {a[0]} | {b[0]} |\n| {a[1]} | {b[1]} |")


if __name__ == "__main__":
    main()
