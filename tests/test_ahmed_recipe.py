"""The recipe of Ahmed bodies: surface, designs, cases, what it makes of runs, what it refuses."""

import importlib
import itertools
import json
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

import meshsim
from meshsim.check import InputError, WorkError
from meshsim.geometry import measure
from meshsim.io.raw.foam_file import load
from meshsim.mesh import Boundary, Cells, Mesh
from meshsim.physics.forces import forces

FOLDER = Path(__file__).resolve().parents[1] / "datasets" / "ahmed_body"
MODULES = ("ahmed_geometry", "ahmed_case", "ahmed_run", "ahmed_result", "prepare")


@pytest.fixture(scope="module")
def recipe() -> Iterator[SimpleNamespace]:
    """The recipe's modules, by their names without "ahmed_"."""
    before = sys.modules.pop("prepare", None)
    sys.path.insert(0, str(FOLDER))
    found: dict[str, ModuleType] = {
        name.removeprefix("ahmed_"): importlib.import_module(name) for name in MODULES
    }
    yield SimpleNamespace(**found)
    sys.path.remove(str(FOLDER))
    for name in MODULES:
        sys.modules.pop(name, None)
    if before is not None:
        sys.modules["prepare"] = before


def bodies(recipe: SimpleNamespace) -> list:
    """Bodies of all kinds: that of 1984, a square back, the steepest slant, and draws."""
    standard = [recipe.geometry.Design(slant=s) for s in (25.0, 0.0, 2.0, 40.0)]
    return [*standard, *recipe.geometry.draws(12, seed=3)]


def area_vectors(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    a, b, c = points[triangles].transpose(1, 0, 2)
    return np.cross(b - a, c - a) / 2.0


def volume(points: np.ndarray, triangles: np.ndarray) -> float:
    centre = points[triangles].mean(1)
    return float((centre * area_vectors(points, triangles)).sum() / 3.0)


def smooth_volume(d) -> float:
    """Box less the wedge above the slant and what the rounding takes: ∫ W H − (W − 2i)(H − 2i)."""
    once = d.radius**2 * (1.0 - np.pi / 4.0)  # ∫ i dx with i = R − √(R² − (R − x)²)
    twice = d.radius**3 * (5.0 / 3.0 - np.pi / 2.0)  # ∫ i² dx
    front = 2.0 * (d.width + d.height) * once - 4.0 * twice
    return d.width * d.height * d.length - d.run * d.drop * d.width / 2.0 - front


def test_surface_is_closed_and_wound_outwards(recipe: SimpleNamespace) -> None:
    for design in bodies(recipe):
        points, triangles = recipe.geometry.surface(design)
        sides = triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
        count = Counter(map(tuple, sides.tolist()))
        assert all(n == 1 and count[b, a] == 1 for (a, b), n in count.items())
        area = area_vectors(points, triangles)
        assert np.abs(area.sum(0)).max() < 1e-14
        assert np.linalg.norm(area, axis=1).min() > 1e-6
        assert len(points) - len(count) // 2 + len(triangles) == 2  # Euler: one closed surface
        # the body is convex: all of it lies behind each of its faces
        height = area @ points.T - (area * points[triangles[:, 0]]).sum(1, keepdims=True)
        assert height.max() < 1e-12


def test_volume_is_that_of_the_smooth_body(recipe: SimpleNamespace) -> None:
    for design in bodies(recipe):
        errors = [
            smooth_volume(design) - volume(*recipe.geometry.surface(design, arc))
            for arc in (16, 32, 64)
        ]
        assert errors[-1] > 0.0  # chords lie inside
        assert errors[-1] < 1e-4 * smooth_volume(design)
        for coarse, fine in itertools.pairwise(errors):
            assert coarse / fine == pytest.approx(4.0, rel=0.02)  # second order in the arcs


def test_surface_has_the_dimensions(recipe: SimpleNamespace) -> None:
    for design in bodies(recipe):
        points, triangles = recipe.geometry.surface(design)
        low, high = points.min(0), points.max(0)
        assert low == pytest.approx([0.0, -design.width / 2, design.clearance])
        top = design.clearance + design.height
        assert high == pytest.approx([design.length, design.width / 2, top])
        seen = area_vectors(points, triangles)[:, 0]
        assert seen[seen > 0].sum() == pytest.approx(design.frontal_area)  # from behind
        nose = points[points[:, 0] < design.radius * (1 - 1e-9)]
        for across, end in ((1, design.width / 2), (2, top)):
            inner = np.abs(nose[:, across]) if across == 1 else nose[:, 2]
            outer = inner > end - design.radius * (1 + 1e-9)
            away = np.hypot(nose[outer, 0] - design.radius, inner[outer] - end + design.radius)
            assert outer.sum() == (len(nose) if across == 1 else len(nose) // 2)
            assert away == pytest.approx(design.radius)


def test_stl_is_the_surface(recipe: SimpleNamespace, tmp_path: Path) -> None:
    design = recipe.geometry.Design()
    recipe.geometry.write_stl(design, tmp_path / "body.stl")
    mesh = meshsim.read(tmp_path / "body.stl")
    assert isinstance(mesh, Mesh)
    points, triangles = recipe.geometry.surface(design)
    assert (mesh.n_points, mesh.n_cells) == (len(points), len(triangles))
    normals = measure.cell_normals(mesh.points.double(), mesh.cells).numpy()
    found = (mesh.cell_centres.double().numpy() * normals).sum() / 3.0
    assert found == pytest.approx(volume(points, triangles), rel=1e-5)


def test_sharp_edges_are_edges_of_the_surface(recipe: SimpleNamespace) -> None:
    for design in bodies(recipe):
        points, lines = recipe.geometry.edges(design)
        _, triangles = recipe.geometry.surface(design)
        sides = {tuple(sorted(s)) for s in triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).tolist()}
        assert {tuple(sorted(line)) for line in lines.tolist()} <= sides
        ends = np.sort(points[lines][:, :, 0], axis=1)
        across = (ends == design.length - design.run).all(1)
        assert across.sum() == (design.slant > 3.0)


def test_draws_are_a_latin_hypercube(recipe: SimpleNamespace) -> None:
    draws = recipe.geometry.draws(20, seed=1)
    assert draws == recipe.geometry.draws(20, seed=1) != recipe.geometry.draws(20, seed=2)
    for name, (low, high) in recipe.geometry.RANGES.items():
        part = (np.array([getattr(d, name) for d in draws]) - low) / (high - low) * 20
        assert sorted(np.floor(part).clip(0, 19)) == list(range(20))


def test_every_corner_of_the_ranges_is_a_body(recipe: SimpleNamespace) -> None:
    for values in itertools.product(*recipe.geometry.RANGES.values()):
        design = recipe.geometry.Design(*values)
        assert design.drop < design.height


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius": 0.144}, "radius: expected less than half of width and height"),
        ({"slant": 60.0, "slant_length": 0.4}, "slant: expected one that leaves a base"),
        ({"slant_length": 0.95, "slant": 1.0}, "slant_length: it reaches the rounded front"),
        ({"width": -1.0}, "width: expected a number above 0, got -1.0"),
        ({"inflow": float("nan")}, "inflow: expected a number above 0, got nan"),
    ],
)
def test_impossible_bodies(recipe: SimpleNamespace, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe.geometry.Design(**change)


def test_case_is_complete(recipe: SimpleNamespace, tmp_path: Path) -> None:
    numerics = recipe.case.Numerics()
    recipe.case.write_case(recipe.geometry.Design(), numerics, tmp_path)
    texts = {
        p.name: p.read_text() for p in tmp_path.rglob("*") if p.suffix != ".stl" and p.is_file()
    }
    assert all(text.count("{") == text.count("}") for text in texts.values())
    patches = {"inlet", "outlet", "symmetry", "side", "top", "ground", "body"}
    for name in ("U", "p", "k", "omega", "nut"):
        field = load(str(tmp_path / "0" / name)).dictionary()
        assert set(field["boundaryField"]) == patches
    place = re.search(r"locationInMesh \((.*)\);", texts["snappyHexMeshDict"])
    assert place is not None
    x, y, z = map(float, place[1].split())
    assert -2.5 < x < -0.1 and 0.0 < y < 1.6 and 0.0 < z < 1.6  # ahead of the body, in the air
    control = load(str(tmp_path / "system" / "controlDict")).dictionary()
    assert int(control["endTime"]) == numerics.iterations
    first = int(control["functions"]["means"]["timeStart"])
    assert (numerics.iterations - first) // recipe.case.EVERY + 1 == (
        numerics.averaged // recipe.case.EVERY
    )


def test_turbulence_of_the_inflow(recipe: SimpleNamespace) -> None:
    k, omega = recipe.case.turbulence(40.0)
    assert np.sqrt(2.0 / 3.0 * k) / 40.0 == pytest.approx(recipe.case.INTENSITY)
    assert k / omega / recipe.case.VISCOSITY == pytest.approx(recipe.case.RATIO)


@pytest.mark.skipif(shutil.which("blockMesh") is None, reason="OpenFOAM is not installed")
def test_openfoam_reads_the_background_mesh(recipe: SimpleNamespace, tmp_path: Path) -> None:
    import subprocess

    recipe.case.write_case(recipe.geometry.Design(), recipe.case.Numerics(), tmp_path)
    subprocess.run(
        ["blockMesh", "-case", str(tmp_path)],
        env=recipe.run.environment(),
        stdout=subprocess.DEVNULL,
        check=True,
    )
    shutil.rmtree(tmp_path / "0")
    mesh = meshsim.read(tmp_path, trust=True)
    assert isinstance(mesh, Mesh)
    span = mesh.points.amax(0) - mesh.points.amin(0)
    assert float(mesh.cell_measures.sum()) == pytest.approx(float(span.prod()))
    sizes = mesh.points[mesh.cells[0].nodes].amax(1) - mesh.points[mesh.cells[0].nodes].amin(1)
    assert torch.allclose(sizes, torch.full_like(sizes, 16 * recipe.case.Numerics().size))
    assert set(mesh.boundaries) == {"inlet", "outlet", "symmetry", "side", "top", "ground"}


def air(recipe: SimpleNamespace) -> Mesh:
    """6 × 4 × 4 cells around a hole of 2 × 2 × 2, half of them polyhedra, like a case as read."""
    at = torch.arange(7 * 5 * 5).reshape(7, 5, 5)
    ijk = torch.stack(torch.meshgrid(*(torch.arange(n) for n in (6, 4, 4)), indexing="ij"), -1)
    ijk = ijk.reshape(-1, 3)
    hole = ((ijk >= torch.tensor([2, 0, 1])) & (ijk < torch.tensor([4, 2, 3]))).all(1)
    corners = torch.tensor(
        [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]]
    )
    place = ijk[~hole][:, None] + corners  # (C, 8, 3)
    nodes = at[place[..., 0], place[..., 1], place[..., 2]]
    grid = torch.meshgrid(*(torch.arange(n) for n in (7, 5, 5)), indexing="ij")
    points = torch.stack(grid, -1).reshape(-1, 3).double() * 0.1
    points[:, 0] += 0.02 * points[:, 1] ** 2 - 0.2  # no right angles
    local = torch.tensor(
        [[0, 3, 2, 1], [4, 5, 6, 7], [0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6], [3, 0, 4, 7]]
    )
    half = len(nodes) // 2
    rest = nodes[half:]
    count = len(rest)
    blocks = [
        Cells("hexahedron", nodes[:half]),
        Cells(
            "polyhedron",
            rest[:, local].reshape(-1),
            torch.arange(count + 1) * 6,
            torch.arange(6 * count + 1) * 4,
        ),
    ]
    mesh = Mesh(points, blocks)
    faces = mesh.faces
    outer = (faces.neighbour < 0).nonzero().squeeze(1)
    centre = faces.centre[outer]
    middle, ground = centre[:, 1] < 1e-9, centre[:, 2] < 1e-9
    on_body = (
        (centre[:, 0].sub(0.1).abs() < 0.15)
        & (centre[:, 1] < 0.21)
        & (centre[:, 2].sub(0.2).abs() < 0.11)
        & ~middle
    )
    names = {"body": on_body, "symmetry": middle, "ground": ground & ~middle}
    boundaries = {name: Boundary(outer[rows], {}, "wall") for name, rows in names.items()}
    x = faces.centre[boundaries["body"].faces]
    boundaries["body"] = replace(
        boundaries["body"], fields={"pressure": x[:, 0] + 2.0, "wall_shear_stress": x}
    )
    fields = {"pressure": mesh.cell_centres[:, 0], "velocity": mesh.cell_centres}
    return mesh.replace(cell_fields=fields, boundaries=boundaries)


def test_skin_looks_out_of_the_body(recipe: SimpleNamespace) -> None:
    mesh = air(recipe)
    skin = recipe.result.skin(mesh)
    assert skin.n_cells == 2 * 4 + 2 * 4 + 4  # its side at the plane of symmetry is open
    normals = measure.cell_normals(skin.points, skin.cells)
    out = skin.cell_centres - torch.tensor([0.1, 0.0, 0.2], dtype=torch.float64)
    assert bool(((normals * out).sum(1) > 0).all())
    body = mesh.boundaries["body"]
    at = mesh.faces.centre[body.faces]
    # rows stay with their faces
    assert torch.allclose(skin.cell_fields["wall_shear_stress"].double(), skin.cell_centres)
    inward = mesh.faces.area[body.faces]
    force = forces(
        skin.points,
        skin.cells,
        skin.cell_fields["pressure"].double(),
        skin.cell_fields["wall_shear_stress"].double(),
        on="cell",
    )
    assert torch.allclose(force.pressure, ((at[:, :1] + 2.0) * inward).sum(0), atol=1e-6)
    size = inward.norm(dim=1, keepdim=True)
    assert torch.allclose(force.friction, (at * size).sum(0), atol=1e-6)


def test_cells_around_keep_fields_and_boundaries(
    recipe: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = air(recipe)
    design = replace(recipe.geometry.Design(), length=0.2 + 1e-3, slant_length=0.05, radius=0.05)
    for name, reach in (("BEFORE", 0.1), ("BEHIND", 0.1), ("BESIDE", 0.1), ("ABOVE", 0.2)):
        monkeypatch.setattr(recipe.result, name, reach)
    part = recipe.result.around(mesh, design)
    assert 0 < part.n_cells < mesh.n_cells
    assert {block.type for block in part.cells} == {"hexahedron", "polyhedron"}
    assert torch.allclose(part.cell_fields["velocity"].double(), part.cell_centres, atol=1e-6)
    assert set(part.boundaries) == {"body", "ground", "symmetry", "cut"}
    every = torch.cat([b.faces for b in part.boundaries.values()])
    outer = (part.faces.neighbour < 0).nonzero().squeeze(1)
    assert torch.equal(every.sort().values, outer)  # each outer face once
    assert part.faces.area[outer].sum(0).abs().max() < 1e-12
    body = part.boundaries["body"]
    assert torch.allclose(
        body.fields["wall_shear_stress"].double(), part.faces.centre[body.faces], atol=1e-6
    )
    assert not part.notes


@pytest.mark.parametrize("brackets", [True, False])
def test_tables_of_two_releases(recipe: SimpleNamespace, tmp_path: Path, brackets: bool) -> None:
    text = "# Force\n# Time (total_x)\n5 \t(1e0 2 3) (0.5 1 1.5)\n10 (4 5 6) (2 2.5 3)\n"
    file = tmp_path / "force.dat"
    file.write_text(text if brackets else text.replace("(", "").replace(")", ""))
    wanted = [[5, 1, 2, 3, 0.5, 1, 1.5], [10, 4, 5, 6, 2, 2.5, 3]]
    assert recipe.run.table(file).tolist() == wanted


def test_coefficients(recipe: SimpleNamespace) -> None:
    design = recipe.geometry.Design(inflow=30.0)
    push = 0.5 * recipe.case.DENSITY * 30.0**2 * design.width * design.height / 2.0
    found = recipe.run.coefficients(np.array([push, 7.0, -2.0 * push]), design)
    assert found["drag"] == pytest.approx(1.0) and found["lift"] == pytest.approx(-2.0)


def good_run(recipe: SimpleNamespace):
    """A run that keeps to every bound."""
    force = np.tile([10.0, 40.0, 5.0], (80, 1))
    residuals = {name: most / 10 for name, most in recipe.run.MOST_RESIDUAL.items()}
    return recipe.run.Run(force, 0.1 * force, residuals, 1e-6, {})


def judged(recipe: SimpleNamespace, found, **fields: np.ndarray) -> list[str]:
    given = {
        "pressure": np.array([-1000.0, 950.0]),
        "speed": np.array([0.0, 60.0]),
        "integrated": np.array([10.0, 40.0, 5.0]),
    }
    design, numerics = recipe.geometry.Design(), recipe.case.Numerics()
    return recipe.run.objections(found, design, numerics, **(given | fields))


def test_a_good_run_is_accepted(recipe: SimpleNamespace) -> None:
    assert judged(recipe, good_run(recipe)) == []


def test_bad_runs_are_rejected(recipe: SimpleNamespace) -> None:
    good = good_run(recipe)
    diverged = replace(good, force=np.full((80, 3), 1e30))
    assert "differs" in " ".join(judged(recipe, diverged))
    assert judged(recipe, good, pressure=np.array([0.0, np.nan])) == ["fields are not finite"]
    assert judged(recipe, replace(good, force=good.force * np.nan)) == ["forces are not finite"]
    wandering = good.force.copy()
    wandering[-10:, 0] += 2.0
    said = judged(recipe, replace(good, force=wandering), integrated=wandering[-20:].mean(0))
    assert len(said) == 1 and said[0].startswith("drag coefficient drifts by 0.037")
    swinging = good.force + 1.0 * np.cos(np.pi * np.arange(80))[:, None]
    assert judged(recipe, replace(good, force=swinging)) == []  # the mean stands still
    stuck = replace(good, residuals=good.residuals | {"p": 0.2})
    assert judged(recipe, stuck) == ["residual of p: 2.0e-01 (at most 0.02)"]
    leaking = replace(good, imbalance=0.02)
    assert judged(recipe, leaking) == ["mass flux: 2.0e-02 of it is lost (at most 0.001)"]
    assert "Cp from -1.04 to 1.25" in judged(recipe, good, pressure=np.array([-1e3, 1.2e3]))[0]
    assert "speed up to 5.00" in judged(recipe, good, speed=np.array([200.0]))[0]
    off = judged(recipe, good, integrated=np.array([10.0, 41.0, 5.0]))
    assert off[0].startswith("force by the stored fields differs by 2.4%")
    assert judged(recipe, replace(good, imbalance=float("nan")))  # NaN passes no bound


def programs(folder: Path, script: str) -> Path:
    """A folder with a stand-in for each of OpenFOAM's programs."""
    folder.mkdir(parents=True)
    for name in ("blockMesh", "snappyHexMesh", "simpleFoam"):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return folder


def test_missing_program_is_named(
    recipe: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = programs(tmp_path / "bin", "exit 0")
    (here / "snappyHexMesh").unlink()
    monkeypatch.setenv("PATH", str(here))
    with pytest.raises(WorkError, match="program snappyHexMesh is not on the PATH"):
        recipe.prepare.generate(tmp_path / "out", cases=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("where", ["share/openfoam", "."])
def test_project_folder_is_found(
    recipe: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setenv("PATH", str(programs(tmp_path / "platforms" / "bin", "exit 0")))
    monkeypatch.delenv("WM_PROJECT_DIR", raising=False)
    with pytest.raises(WorkError, match="WM_PROJECT_DIR is not set"):
        recipe.run.environment()
    root = tmp_path / where
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "controlDict").touch()
    assert Path(recipe.run.environment()["WM_PROJECT_DIR"]).resolve() == root.resolve()
    monkeypatch.setenv("WM_PROJECT_DIR", "/given")
    assert recipe.run.environment()["WM_PROJECT_DIR"] == "/given"


def test_rejected_runs_are_recorded_and_not_repeated(
    recipe: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = programs(tmp_path / "bin", 'echo once >> "$COUNT"; echo "FOAM FATAL ERROR: no"; exit 1')
    monkeypatch.setenv("PATH", f"{here}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("WM_PROJECT_DIR", str(tmp_path))
    monkeypatch.setenv("COUNT", str(tmp_path / "count"))
    out = tmp_path / "out"
    for _ in range(2):
        with pytest.raises(WorkError, match="2 of 2 runs were rejected"):
            recipe.prepare.generate(out, cases=2, seed=5)
    assert (tmp_path / "count").read_text().count("once") == 2
    record = json.loads((out / "rejected" / "body_001.json").read_text())
    assert record["reason"] == "blockMesh ended with 1: FOAM FATAL ERROR: no"
    design = recipe.geometry.draws(2, seed=5)[1]
    assert record["case"] == asdict(design) | asdict(recipe.case.Numerics())
    assert sorted(p.name for p in out.iterdir()) == ["rejected"]
    with pytest.raises(InputError, match="holds another case"):
        recipe.prepare.generate(out, cases=2, seed=6)


def test_ended_from_outside_is_no_verdict(
    recipe: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = programs(tmp_path / "bin", "kill -TERM $$")
    monkeypatch.setenv("PATH", f"{here}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("WM_PROJECT_DIR", str(tmp_path))
    with pytest.raises(WorkError, match="blockMesh was ended by signal 15"):
        recipe.prepare.generate(tmp_path / "out", cases=1)
    assert not (tmp_path / "out" / "rejected").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cases": 0}, "cases: expected at least 1, got 0"),
        ({"cells": 100}, "cells: expected 20000 to 5000000, got 100"),
        ({"averaged": 300}, "iterations, averaged: expected"),
        ({"averaged": 15}, "iterations, averaged: expected"),
        ({"iterations": 403}, "iterations: expected a multiple of 5, got 403"),
        ({"workers": 0}, "workers: expected at least 1, got 0"),
        ({"slants": [95.0]}, "slant: expected one that leaves a base"),
    ],
)
def test_bad_options(recipe: SimpleNamespace, tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe.prepare.generate(tmp_path / "out", **options)


def test_configuration_is_read() -> None:
    from meshsim.data import read_preprocess_config

    options = read_preprocess_config(FOLDER / "preprocess.toml")
    assert options["branches"] == {"surface": "surface.npz", "volume": "volume.npz"}
