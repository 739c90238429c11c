"""From a solved OpenFOAM case to a sample: the body's surface and the cells around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from ahmed_case import BODY, DENSITY, GROUND, MIDDLE
from ahmed_geometry import Design
from torch import Tensor

import meshsim
from meshsim.geometry.cells import Cells, take
from meshsim.geometry.topology import Faces
from meshsim.io import to_npz
from meshsim.mesh import Boundary, Mesh

# how far the stored cells reach before, behind, beside and above the body (m)
BEFORE, BEHIND, BESIDE, ABOVE = 0.4, 1.0, 0.35, 0.4


def load(case: Path) -> Mesh:
    """The mesh of a solved case with its averaged fields: pressure (Pa), velocity, k and, on the
    body, the wall shear stress (Pa).

    The stress is the traction of the air on the body: OpenFOAM's `wallShearStress` has the
    opposite sign and, like its pressure, is divided by the density.
    """
    found = meshsim.read(case, time="last", trust=True)
    assert isinstance(found, Mesh)
    raw, patch = found.cell_fields, found.boundaries[BODY]
    fields = {"pressure": DENSITY * raw["pMean"], "velocity": raw["UMean"], "k": raw["kMean"]}
    at_body = {
        "pressure": DENSITY * patch.fields["pMean"],
        "wall_shear_stress": -DENSITY * patch.fields["wallShearStressMean"],
    }
    boundaries = {name: Boundary(b.faces, {}, b.kind) for name, b in found.boundaries.items()}
    boundaries[BODY] = Boundary(patch.faces, at_body, patch.kind)
    return found.replace(cell_fields=fields, boundaries=boundaries, notes=())


def skin(mesh: Mesh) -> Mesh:
    """The body's faces as a mesh, normals out of the body; pressure and wall shear stress."""
    body = mesh.boundaries[BODY]
    # a boundary face looks out of the air: into the body
    rings = [ring.flip(0) for ring in _rings(mesh.faces, body.faces)]
    sizes = torch.tensor([len(ring) for ring in rings])
    names = {3: "triangle", 4: "quad"}
    blocks, order = [], []
    for size, name in (*names.items(), (0, "polygon")):
        some = (sizes == size) if size else (sizes > 4)
        rows = some.nonzero().squeeze(1).tolist()
        nodes = [rings[row] for row in rows]
        if not rows:
            continue
        order += rows
        if size:
            blocks.append(Cells(name, torch.stack(nodes)))
        else:
            blocks.append(Cells(name, torch.cat(nodes), _offsets(sizes[rows])))
    used, renamed = torch.unique(
        torch.cat([b.nodes.flatten() for b in blocks]), return_inverse=True
    )
    ends = np.cumsum([b.nodes.numel() for b in blocks])[:-1].tolist()
    parts = renamed.tensor_split(ends)
    cells = [
        Cells(b.type, part.reshape(b.nodes.shape), b.offsets)
        for b, part in zip(blocks, parts, strict=True)
    ]
    fields = {name: values[order].float() for name, values in body.fields.items()}
    return Mesh(mesh.points[used], cells, cell_fields=fields)


def around(mesh: Mesh, design: Design) -> Mesh:
    """The cells whose centres lie in a box around body and near wake.

    Boundaries: body (with its fields), ground, symmetry, and "cut", where the box ends.
    """
    top = design.clearance + design.height
    low = torch.tensor([-BEFORE, -1.0, -1.0], dtype=torch.float64)
    high = [design.length + BEHIND, design.width / 2 + BESIDE, top + ABOVE]
    at = mesh.cell_centres
    keep = ((at > low) & (at < torch.tensor(high, dtype=torch.float64))).all(1)
    first, cells = 0, []
    for block in mesh.cells:
        rows = keep[first : first + len(block)].nonzero().squeeze(1)
        first += len(block)
        cells.append(take(block, rows))
    used = torch.zeros(mesh.n_points, dtype=torch.bool)
    for block in cells:
        used[block.nodes] = True
    new = used.cumsum(0) - 1
    cells = [Cells(b.type, new[b.nodes], b.offsets, b.face_offsets) for b in cells if len(b)]
    fields = {name: values[keep].float() for name, values in mesh.cell_fields.items()}
    out = Mesh(mesh.points[used], cells, cell_fields=fields)
    patches, values, kinds = {}, {}, {}
    for name in (BODY, GROUND, MIDDLE):
        old = mesh.boundaries[name]
        inside = keep[mesh.faces.owner[old.faces]]
        rings = [new[ring] for ring in _rings(mesh.faces, old.faces[inside])]
        sizes = torch.tensor([len(ring) for ring in rings])
        patches[name] = [Cells("polygon", torch.cat(rings), _offsets(sizes))]
        values[name] = {key: v[inside].float() for key, v in old.fields.items()}
        kinds[name] = old.kind
    out = out.with_boundary_cells(patches, values, kinds)
    free = out.faces.neighbour < 0
    for boundary in out.boundaries.values():
        free[boundary.faces] = False
    cut = Boundary(free.nonzero().squeeze(1), {}, "patch")
    return out.replace(boundaries={**out.boundaries, "cut": cut})


def _offsets(sizes: Tensor) -> Tensor:
    return torch.nn.functional.pad(sizes.cumsum(0), (1, 0))


def _rings(faces: Faces, ids: Tensor) -> list[Tensor]:
    starts, ends = faces.offsets[ids].tolist(), faces.offsets[ids + 1].tolist()
    return [faces.nodes[a:b] for a, b in zip(starts, ends, strict=True)]


def save(mesh: Mesh, scalars: Mapping[str, object], path: Path) -> None:
    """A mesh as a compressed .npz, with values that belong to the whole of it."""
    arrays = to_npz.arrays(mesh.replace(global_fields=scalars))
    small = {
        name: a.astype(np.int32) if a.dtype == np.int64 and a.max(initial=0) < 2**31 else a
        for name, a in arrays.items()
    }
    write: Callable[..., None] = np.savez_compressed
    write(path, **small)
