"""Pictures of a mesh file: the cells with their boundaries, every field, and a page to turn it.

python viz/look.py FILE [-o FOLDER]
"""

from argparse import ArgumentParser
from pathlib import Path

import meshsim
from meshsim import render
from meshsim.render.values import frame


def main() -> None:
    """Read the file and write the pictures."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("pictures"))
    chosen = parser.parse_args()
    obj = meshsim.read(chosen.file)
    mesh, _ = frame(obj)
    print(render.cells(obj, chosen.output / "cells.png"))
    for name in [*mesh.point_fields, *mesh.cell_fields]:
        file = "".join(c if c.isalnum() else "_" for c in name)
        print(render.field(obj, name, chosen.output / f"field_{file}.png"))
    print(render.page(obj, chosen.output / "page.html"))


if __name__ == "__main__":
    main()
