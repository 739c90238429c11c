"""One sheet about a mesh file: what is in it, a field, boundaries, a section, cell quality.

python viz/inspect.py FILE [-o inspect.png] [--field NAME] [--up AXIS]
"""

import sys

if __name__ != "__main__":  # a script in this folder has asked for the standard library's inspect
    import sysconfig
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("inspect", f"{sysconfig.get_path('stdlib')}/inspect.py")
    sys.modules["inspect"] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules["inspect"])


def main() -> None:
    """Read the file and draw the sheet."""
    from argparse import ArgumentParser
    from pathlib import Path

    import meshsim
    from meshsim import render

    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("inspect.png"))
    parser.add_argument("--field")
    parser.add_argument("--up", choices="xyz")
    chosen = parser.parse_args()
    print(
        render.overview(meshsim.read(chosen.file), chosen.output, name=chosen.field, up=chosen.up)
    )


if __name__ == "__main__":
    main()
