"""What holds for the package as a whole: cheap import, public names, small files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import meshsim

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch_geometric", "pyvista", "vtk", "vtkmodules", "skfem", "gmsh", "matplotlib", "meshio")


def test_import_is_cheap() -> None:
    """`import meshsim` and its data structures load none of the heavy packages."""
    code = (
        "import sys, meshsim; meshsim.Mesh; meshsim.Series; meshsim.Sample;"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_help_and_a_mistyped_name_need_no_torch() -> None:
    """It takes longer to load than all else that they do."""
    for arguments, code in (["--help"], 0), (["info", "nothing.vtu"], 2):
        run = (
            f"import sys; from meshsim.cli import main; code = main({arguments!r});"
            f"print(code, [m for m in ('torch', *{HEAVY!r}) if m in sys.modules])"
        )
        out = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True)
        assert out.stdout.splitlines()[-1] == f"{code} []"


def test_every_public_name_is_there() -> None:
    for name in meshsim.__all__:
        assert getattr(meshsim, name) is not None
    assert set(meshsim.__all__) <= set(dir(meshsim))


def test_files_stay_small() -> None:
    """No source file has more than 500 lines."""
    sources = [*(ROOT / "meshsim").rglob("*.py"), *(ROOT / "datasets").rglob("*.py")]
    long = {str(p): n for p in sources if (n := len(p.read_text().splitlines())) > 500}
    assert not long


def test_datasets_and_viz_are_no_packages() -> None:
    """An `__init__.py` there would shadow packages of those names from the repository root."""
    for folder in ("datasets", "viz"):
        assert not list((ROOT / folder).rglob("__init__.py"))


def test_errors_survive_the_way_from_a_worker_process() -> None:
    """What a spawned worker raises is pickled: the parent must get the same error."""
    import pickle

    from meshsim.check import InputError, MissingExtra, WorkError

    for error in (InputError("a"), WorkError("b"), MissingExtra("gmsh", "solve")):
        back = pickle.loads(pickle.dumps(error))
        assert type(back) is type(error) and str(back) == str(error)
