"""Non-orthogonality, skewness and aspect ratio are those that OpenFOAM's checkMesh prints."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import meshsim
from meshsim.defects import directions
from meshsim.geometry.figures import figures
from meshsim.mesh import Mesh
from tests.helpers import MESHES
from tests.sound import SOUND

# What checkMesh 1912 printed for these meshes, written by `polymesh` below:
# aspect ratio, largest and mean non-orthogonality, skewness.
PRINTED = {
    "tetra": (1.71372, 36.8992, 22.1066, 0.265635),
    "pyramid": (4.24701, 4.4599, 1.81586, 0.44778),
    "wedge": (2.13894, 28.4367, 15.9534, 0.356656),
    "hexahedron": (1.10287, 2.26917, 1.37625, 0.0178527),
    "warped": (2.26936, 36.5857, 19.0899, 0.284646),
    "polyhedra": (1.5, 25.2394, 17.7742, 0.333333),
}
CASES = (
    "OpenFOAM__OpenFOAM-dev/tutorials/incompressibleFluid/airFoil2D",
    "fluiddyn__fluidfoam/output_samples/ascii",
)
HEAD = "FoamFile {{ version 2.0; format ascii; class {}; object {}; }}\n"
SAID = {
    "aspect": r"[Mm]ax aspect ratio = (\S+)",
    "angle": r"non-orthogonality Max: (\S+) average: (\S+)",
    "skew": r"Max skewness = ([0-9.e+-]+)",
}


def sound(name: str) -> Mesh:
    return SOUND[name] if name in SOUND else MESHES[name]


def found(mesh: Mesh) -> list[float]:
    f = figures(mesh.points, mesh.cells, mesh.faces, directions(mesh))
    return [*map(float, (f.aspect.max(), f.angle.max())), f.mean_angle, float(f.skewness.max())]


def polymesh(mesh: Mesh, case: Path) -> None:
    """The mesh as a case with one patch, in plain text."""
    f, folder = mesh.faces, case / "constant" / "polyMesh"
    folder.mkdir(parents=True)
    rings = [f.nodes[a:b].tolist() for a, b in zip(f.offsets, f.offsets[1:], strict=False)]
    n = f.n_internal
    files = {
        "points": ("vectorField", [f"({' '.join(map(repr, p))})" for p in mesh.points.tolist()]),
        "faces": ("faceList", [f"{len(r)}({' '.join(map(str, r))})" for r in rings]),
        "owner": ("labelList", f.owner.tolist()),
        "neighbour": ("labelList", f.neighbour[:n].tolist()),
    }
    for name, (kind, rows) in files.items():
        text = "\n".join(map(str, rows))
        (folder / name).write_text(f"{HEAD.format(kind, name)}{len(rows)}\n(\n{text}\n)\n")
    patch = f"1(all {{ type patch; nFaces {len(f) - n}; startFace {n}; }})"
    (folder / "boundary").write_text(HEAD.format("polyBoundaryMesh", "boundary") + patch)


def check_mesh(case: Path) -> list[float]:
    """The figures that checkMesh prints, and the numbers as it rounds them."""
    program = shutil.which("checkMesh")
    if program is None:
        pytest.skip("OpenFOAM's checkMesh is not installed")
    env = dict(os.environ)
    for above in Path(program).resolve().parents:
        for place in (above, above / "share" / "openfoam"):
            if (place / "etc" / "controlDict").is_file():
                env.setdefault("WM_PROJECT_DIR", str(place))
    (case / "system").mkdir(exist_ok=True)
    for name, text in {
        "controlDict": "application x; startFrom startTime; startTime 0; stopAt endTime; endTime 1;"
        " deltaT 1; writeControl timeStep; writeInterval 1;",
        "fvSchemes": "ddtSchemes{} gradSchemes{} divSchemes{} laplacianSchemes{}"
        " interpolationSchemes{} snGradSchemes{}",
        "fvSolution": "",
    }.items():
        (case / "system" / name).write_text(HEAD.format("dictionary", name) + text)
    command = [program, "-case", str(case), "-constant"]
    out = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120).stdout
    hits = [re.search(pattern, out) for pattern in SAID.values()]
    assert all(hits), out[-2000:]
    return [float(x) for hit in hits if hit for x in hit.groups()]


def same(ours: list[float], printed: list[float]) -> None:
    """To the six digits printed; figures that are rounding errors are none."""
    for a, b in zip(ours, printed, strict=True):
        assert f"{a:.6g}" == f"{b:.6g}" or max(abs(a), abs(b)) < 1e-5


@pytest.mark.parametrize("name", list(PRINTED))
def test_figures_are_those_that_were_printed(name: str) -> None:
    same(found(sound(name)), list(PRINTED[name]))


@pytest.mark.parametrize("name", list(PRINTED))
def test_check_mesh_prints_these_figures(name: str, tmp_path: Path) -> None:
    polymesh(sound(name), tmp_path)
    printed = check_mesh(tmp_path)
    assert printed == pytest.approx(list(PRINTED[name]), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_figures_of_real_cases(case: str, real_data: Path, tmp_path: Path) -> None:
    if not (real_data / case).is_dir():
        pytest.skip(f"{case} is not among the real data")
    copy = tmp_path / "case"
    shutil.copytree(real_data / case / "constant", copy / "constant", copy_function=shutil.copyfile)
    for file in (copy / "constant" / "polyMesh").iterdir():
        text = file.read_bytes() if file.is_file() else b""
        if text and b"version" not in text[:900]:  # newer programs leave it out
            file.write_bytes(text.replace(b"{", b"{\n    version 2.0;", 1))
    read = meshsim.read(copy)
    mesh = read if isinstance(read, Mesh) else read.mesh
    same(found(mesh), check_mesh(copy))


def test_a_sheared_row_has_the_angle_of_its_shear() -> None:
    """Cells x + y tan θ: their centres lie along x, the faces between them are turned by θ."""
    for theta in (0.0, 30.0, 75.0):
        t = torch.tan(torch.tensor(theta).deg2rad()).double()
        x = torch.arange(4).double()
        points = torch.stack(
            [torch.cat([x, x + t]), torch.tensor([0.0, 1]).repeat_interleave(4)], 1
        )
        i = torch.arange(3)
        mesh = Mesh(points, {"quad": torch.stack([i, i + 1, i + 5, i + 4], 1)})
        f = figures(mesh.points, mesh.cells, mesh.faces)
        torch.testing.assert_close(f.angle, torch.full((2,), theta).double(), atol=1e-5, rtol=0)
        assert float(f.skewness[:2].max()) < 1e-12 and float(f.openness.max()) < 1e-12
