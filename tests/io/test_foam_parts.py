"""Decomposed OpenFOAM cases equal the cases they were split from; regions are branches."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from meshsim.check import InputError
from meshsim.io import read
from meshsim.sample import Sample
from meshsim.series import Series
from tests.helpers import MESHES
from tests.io.test_foam import HEAD, Writer, case, field

MESH = MESHES["mixed_solid"]


def patches(mesh):
    outside = range(mesh.faces.n_internal, len(mesh.faces))
    return [("inlet", "patch", [outside[3], outside[1]]), ("nothing", "wall", [])]


def split(folder, mesh, owner_of, times=("0", "2"), binary=False):
    """Write the processor folders of a case: each cell belongs to `owner_of[cell]`."""
    w = Writer(binary)
    order = case(folder, mesh, binary, patches(mesh))
    of = mesh.faces
    rings = [of.nodes[of.offsets[f] : of.offsets[f + 1]].tolist() for f in order]
    owner = of.owner[order].numpy()
    neighbour = np.concatenate(
        [of.neighbour[: of.n_internal].numpy(), [-1] * (len(order) - of.n_internal)]
    )
    starts = [("inlet", of.n_internal, 2), ("nothing", of.n_internal + 2, 0)]
    starts.append(("other", of.n_internal + 2, len(order) - of.n_internal - 2))
    rng = np.random.default_rng(1)
    for p in range(max(owner_of) + 1):
        mine = rng.permutation(np.flatnonzero(owner_of == p))  # cells in any order
        local = {c: i for i, c in enumerate(mine.tolist())}
        inside = [f for f in range(of.n_internal) if owner[f] in local and neighbour[f] in local]
        lists = [
            (
                name,
                "patch" if name == "inlet" else "wall",
                [f for f in range(a, a + n) if owner[f] in local],
            )
            for name, a, n in starts
        ]
        cut = [f for f in range(of.n_internal) if (owner[f] in local) != (neighbour[f] in local)]
        lists.append((f"procBoundary{p}to{1 - p}", "processor", cut))
        faces, own, nei, signed = [], [], [], []
        for f in inside + [f for _, _, part in lists for f in part]:
            a, b = int(owner[f]), int(neighbour[f])
            turned = a not in local or (b in local and local[b] < local[a])
            ring = [rings[f][0], *rings[f][:0:-1]] if turned else rings[f]
            faces.append(ring)
            signed.append(-(f + 1) if turned else f + 1)
            own.append(local[b] if turned else local[a])
            if a in local and b in local:
                nei.append(local[a] if turned else local[b])
        points = rng.permutation(np.unique(np.concatenate(faces)))
        number = {x: i for i, x in enumerate(points.tolist())}
        poly = folder / f"processor{p}/constant/polyMesh"
        poly.mkdir(parents=True)
        x = np.asarray(mesh.points, np.float64)[points]
        (poly / "points").write_bytes(w.head("vectorField", "points") + w.numbers(x))
        kind = "faceCompactList" if binary else "faceList"
        (poly / "faces").write_bytes(
            w.head(kind, "faces") + w.faces([[number[i] for i in r] for r in faces])
        )
        for name, values in (("owner", own), ("neighbour", nei), ("pointProcAddressing", points),
                             ("cellProcAddressing", mine), ("faceProcAddressing", signed),
                             ):  # fmt: skip
            data = w.numbers(np.array(values, int))
            (poly / name).write_bytes(w.head("labelList", name) + data)
        entries, start = "", len(inside)
        for name, kind, part in lists:
            entries += f"{name} {{ type {kind}; nFaces {len(part)}; startFace {start}; }}\n"
            start += len(part)
        text = HEAD.format(form="ascii", kind="polyBoundaryMesh", name="boundary")
        (poly / "boundary").write_text(f"{text}\n{len(lists)}\n(\n{entries})\n")
        for t in times:
            listed = w.numbers([float(f) for f in lists[0][2]])
            value = b"inlet { type fixedValue; value nonuniform List<scalar> " + listed + b"; }"
            field(folder / f"processor{p}", "p", t, mine * 10.0 + float(t), binary, value)
            u = np.stack([mine * 1.0, mine * 2.0, mine * 0 + float(t)], 1)
            field(folder / f"processor{p}", "U", t, u, binary)
            phi = Writer(False).head("surfaceScalarField", "phi") + b"x"
            (folder / f"processor{p}/{t}/phi").write_bytes(phi)
    for t in times:
        cells = np.arange(mesh.n_cells)
        listed = w.numbers([float(of.n_internal), of.n_internal + 1.0])
        value = b"inlet { type fixedValue; value nonuniform List<scalar> " + listed + b"; }"
        field(folder, "p", t, cells * 10.0 + float(t), binary, value)
        u = np.stack([cells * 1.0, cells * 2.0, cells * 0 + float(t)], 1)
        field(folder, "U", t, u, binary)


def same(a, b):
    assert torch.equal(a.points, b.points)
    assert [(x.type, x.nodes.tolist()) for x in a.cells] == [
        (x.type, x.nodes.tolist()) for x in b.cells
    ]
    assert list(a.boundaries) == list(b.boundaries)
    for name, part in a.boundaries.items():
        other = b.boundaries[name]
        assert torch.equal(part.faces, other.faces) and part.kind == other.kind
        assert {k: v.tolist() for k, v in part.fields.items()} == {
            k: v.tolist() for k, v in other.fields.items()
        }
    assert set(a.cell_fields) == set(b.cell_fields)
    for name, values in a.cell_fields.items():
        assert torch.equal(values, b.cell_fields[name])


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("keep", ["nothing", "mesh"])
def test_parts_are_joined_into_the_whole(binary, keep, tmp_path):
    folder = tmp_path / "case"
    owner_of = np.arange(MESH.n_cells) % 2
    split(folder, MESH, owner_of, binary=binary)
    shutil.copytree(folder, tmp_path / "whole", ignore=shutil.ignore_patterns("processor*"))
    for t in ("0", "2"):
        shutil.rmtree(folder / t)
    if keep == "nothing":
        shutil.rmtree(folder / "constant")
    whole, joined = read(tmp_path / "whole"), read(folder)
    assert isinstance(joined, Series) and joined.times.tolist() == [0, 2]
    for i in range(2):
        same(whole.frame(i), joined.frame(i))
    same(read(tmp_path / "whole", time=2), read(folder, time="last"))
    notes = " | ".join(joined.mesh.notes)
    assert "joined from 2 processor folders" in notes and "faces are left out: phi" in notes


def test_the_case_itself_is_read_where_it_has_the_last_time(tmp_path):
    split(tmp_path / "case", MESH, np.arange(MESH.n_cells) % 2)
    notes = read(tmp_path / "case").mesh.notes
    assert not any("joined" in note for note in notes)
    shutil.rmtree(tmp_path / "case/2")
    series = read(tmp_path / "case")
    assert series.times.tolist() == [0, 2]
    assert any("joined" in note for note in series.mesh.notes)


def test_faults_are_named(tmp_path):
    split(tmp_path / "case", MESH, np.arange(MESH.n_cells) % 2)
    for name in ("constant", "0", "2"):
        shutil.rmtree(tmp_path / "case" / name)

    def refused(match, change):
        shutil.copytree(tmp_path / "case", tmp_path / "copy")
        change(tmp_path / "copy")
        with pytest.raises(InputError, match=match) as error:
            read(tmp_path / "copy", time="last")
        assert "\n" not in str(error.value)
        shutil.rmtree(tmp_path / "copy")

    poly = "processor1/constant/polyMesh"
    for what in ("point", "cell", "face"):
        name = f"{what}ProcAddressing"
        refused(
            rf"processor1: polyMesh/{name} is not there", lambda p, n=name: (p / poly / n).unlink()
        )
        refused(
            name, lambda p, n=name: (p / poly / n).write_bytes((p / poly / n).read_bytes()[:-20])
        )
    refused(
        "are in no processor|is in one of them only|damaged",
        lambda p: shutil.rmtree(p / "processor1"),
    )

    def first(name, value):
        """Another first number in a list of the second processor."""

        def change(folder):
            path = folder / poly / name
            path.write_text(re.sub(r"\n\(\n-?\d+", f"\n(\n{value}", path.read_text(), count=1))

        return change

    refused("faces are in no processor", first("faceProcAddressing", 10**13))
    refused("cell 9999999999999", first("cellProcAddressing", 10**13 - 1))
    for name, value in (("owner", -1), ("neighbour", -1), ("neighbour", 99)):
        refused(f"processor1: {name} names a cell outside", first(name, value))

    def half(folder):
        path = folder / "processor1/2/p"
        path.write_text(
            path.read_text().partition("nonuniform")[0] + "nonuniform List<scalar> 3(1 "
        )

    refused("processor1/2/p", half)
    (tmp_path / "case/processor1/2/U").unlink()
    series = read(tmp_path / "case")
    assert set(series.cell_fields) == {"p"}
    assert any("not in all processors, so left out: U" in note for note in series.mesh.notes)
    (tmp_path / "case/processor1/3").mkdir()
    assert any("times that not all processors have: 3" in note
               for note in read(tmp_path / "case").mesh.notes)  # fmt: skip


def test_regions_are_branches(tmp_path):
    folder = tmp_path / "case"
    for name, mesh in (("fluid", MESH), ("solid", MESHES["warped"])):
        case(tmp_path / name, mesh, False)
        shutil.copytree(tmp_path / name / "constant/polyMesh", folder / f"constant/{name}/polyMesh")
        for t in ("0", "1"):
            (folder / t).mkdir(exist_ok=True)
            field(tmp_path / name, "T", t, np.arange(float(mesh.n_cells)) + float(t), False)
            shutil.copytree(tmp_path / name / t, folder / t / name)
    sample = read(folder)
    assert isinstance(sample, Sample) and set(sample.branches) == {"fluid", "solid"}
    assert torch.equal(sample.branches["fluid"].mesh.points, MESH.points)
    solid = sample.branches["solid"]
    assert solid.times.tolist() == [0, 1]
    same(
        solid.frame(1).replace(boundaries={}),
        read(folder, time=1).branches["solid"].replace(boundaries={}),
    )
    order = solid.mesh.file_order
    rows = torch.arange(solid.mesh.n_cells) if order is None else order
    assert solid.frame(1).cell_fields["T"].tolist() == (rows + 1.0).tolist()


@pytest.mark.parametrize("handler", ["uncollated", "collated"])
def test_a_case_of_decomposepar(handler, tmp_path):
    tool = shutil.which("decomposePar")
    settings = Path("/usr/share/openfoam/etc/bashrc")
    if not tool or not settings.is_file():
        pytest.skip("needs OpenFOAM (decomposePar)")
    folder = tmp_path / "case"
    case(folder, MESH, False, patches(MESH))
    cells = np.arange(float(MESH.n_cells))
    walls = b"inlet { type fixedValue; value uniform 3; } "
    walls += b"nothing { type zeroGradient; } other { type zeroGradient; }"
    field(folder, "p", "0", cells, False, walls)
    (folder / "system").mkdir()
    for name, text in (
        ("controlDict", "startTime 0; endTime 1; deltaT 1; writeInterval 1; writePrecision 17;"),
        ("decomposeParDict", "numberOfSubdomains 2; method simple; "
         "coeffs { n (1 1 2); } simpleCoeffs { n (1 1 2); delta 0.001; }"),
        ("fvSchemes", ""), ("fvSolution", ""),
    ):  # fmt: skip
        head = HEAD.format(form="ascii", kind="dictionary", name=name)
        (folder / "system" / name).write_text(head + text + "\n")
    whole = read(folder, time=None)
    done = subprocess.run(
        ["bash", "-c", f". {settings}; exec decomposePar -fileHandler {handler} -case {folder}"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    written = {"uncollated": "processor1", "collated": "processors2"}[handler]
    if not (folder / written / "0/p").exists():
        pytest.skip(f"decomposePar did not run here: {done.stdout[-300:]} {done.stderr[-300:]}")
    shutil.rmtree(folder / "constant")
    shutil.rmtree(folder / "0")
    joined = read(folder)
    torch.testing.assert_close(joined.points, whole.points, rtol=0, atol=1e-12)
    same(joined.replace(points=whole.points), whole)
