"""One page with a picture of every mesh in a folder; files that cannot be read are listed.

python viz/gallery.py FOLDER [-o gallery.html]
"""

from argparse import ArgumentParser
from pathlib import Path
from tempfile import TemporaryDirectory

import meshsim
from meshsim import render
from meshsim.check import MeshsimError

KINDS = "vtu vtk vtp pvd msh su2 stl obj ply off cgns xdmf foam npz"


def main() -> None:
    """Draw what can be read, and say what cannot."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("gallery.html"))
    chosen = parser.parse_args()
    if not chosen.folder.is_dir():
        parser.error(f"{chosen.folder}: no such folder")
    files = sorted(f for f in chosen.folder.rglob("*") if f.suffix[1:].lower() in KINDS.split())
    pictures, failed = {}, []
    with TemporaryDirectory() as folder:
        for number, file in enumerate(files):
            name = str(file.relative_to(chosen.folder))
            try:
                out = Path(folder) / f"{number}.png"
                pictures[name] = render.field(meshsim.read(file), out=out, width=900)
                print(name)
            except MeshsimError as error:
                failed.append(f"{name}: {error}")
                print(failed[-1])
        what = [f"{len(pictures)} of {len(files)} files could be drawn.", *failed]
        report = {"title": f"Meshes in {chosen.folder.name}", "what": what}
        print(render.report(report, pictures, chosen.output))


if __name__ == "__main__":
    main()
