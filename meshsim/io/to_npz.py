"""meshsim's own .npz: everything a Mesh, a Series or a Sample with one branch holds.

The arrays (names in capitals are free; "/" in them is written %2F):

    points                      (N, D), or (T, N, D) for moving points
    cells/TYPE                  (C, k) point indices; ragged types have cells/polygon/nodes and
                                …/offsets, cells/polyhedron/nodes, …/offsets, …/face_offsets
    point/FIELD, cell/FIELD     (N, …), (C, …); with `times`, (T, N, …) is a field in time
    global/FIELD                anything
    boundary/NAME/TYPE          (n, k) point indices of faces of one type, or, for faces of
                                several, boundary/NAME/polygon/nodes and …/offsets
    boundary_field/NAME/FIELD   (n, …), in the order of these faces
    boundary_kind/NAME          what the source said the boundary is
    region/NAME                 cell indices
    times                       (T,), rising
    parameter/NAME              makes it a Sample
    z, flattened, file_order, notes     as in `Mesh`
    dtypes                      "point:FIELD=bfloat16", for numbers that NumPy lacks
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO
from urllib.parse import quote

import numpy as np

from meshsim.check import InputError
from meshsim.io import plain
from meshsim.mesh import Mesh, as_tensor
from meshsim.sample import Sample
from meshsim.series import Series


def _key(name: str) -> str:
    return quote(name, safe=" !#$&'()*+,-.:;<=>?@[]^_`{|}~")


def arrays(obj: Mesh | Series | Sample) -> dict[str, np.ndarray]:
    """The arrays of the file by their names."""
    parameters = {}
    if isinstance(obj, Sample):
        parameters = {f"parameter/{_key(k)}": plain.array(v) for k, v in obj.parameters.items()}
        obj = obj.branch
    mesh = obj.mesh if isinstance(obj, Series) else obj
    out = _mesh(mesh)
    if isinstance(obj, Series):
        if obj.later:
            raise InputError("an .npz holds one topology, the series has several: write .pvd")
        out["times"] = plain.array(obj.times)
        for place, fields in (("point", obj.point_fields), ("cell", obj.cell_fields)):
            for name, frames in fields.items():
                out[f"{place}/{_key(name)}"] = _stacked(frames, f"{place} field {name!r}")
        if obj.points is not None:
            out["points"] = _stacked(obj.points, "points")
    return out | parameters


def _stacked(frames: Any, what: str) -> np.ndarray:
    parts = [plain.array(as_tensor(frames[t])) for t in range(len(frames))]
    if len({part.shape for part in parts}) > 1:
        raise InputError(f"{what} has frames of different shape")
    return np.stack(parts)


def _mesh(mesh: Mesh) -> dict[str, np.ndarray]:
    out: dict[str, np.ndarray] = {"points": plain.array(mesh.points)}
    for block in mesh.cells:
        at = f"cells/{block.type}"
        if at in out or f"{at}/nodes" in out:
            raise InputError(f"an .npz holds one block of {block.type} cells, the mesh has several")
        if block.offsets is None:
            out[at] = plain.array(block.nodes)
            continue
        out[f"{at}/nodes"], out[f"{at}/offsets"] = map(plain.array, (block.nodes, block.offsets))
        if block.face_offsets is not None:
            out[f"{at}/face_offsets"] = plain.array(block.face_offsets)
    for place, fields in (
        ("point", mesh.point_fields),
        ("cell", mesh.cell_fields),
        ("global", mesh.global_fields),
    ):
        out |= {f"{place}/{_key(name)}": plain.array(v) for name, v in fields.items()}
    for name, part in mesh.boundaries.items():
        at, faces = f"boundary/{_key(name)}", plain.faces(mesh, part.faces)
        typed = plain.face_blocks(faces)
        if len(typed) == 1 and "offsets" not in typed[0]:
            out[f"{at}/{typed[0]['type']}"] = typed[0]["nodes"]
        else:
            out[f"{at}/polygon/nodes"] = faces["nodes"]
            out[f"{at}/polygon/offsets"] = plain.ragged(faces["sizes"])
        if part.kind:
            out[f"boundary_kind/{_key(name)}"] = np.array(part.kind)
        for key, values in part.fields.items():
            out[f"boundary_field/{_key(name)}/{_key(key)}"] = plain.array(values)
    out |= {f"region/{_key(name)}": plain.array(rows) for name, rows in mesh.regions.items()}
    if mesh.z is not None:
        out["z"] = np.array(mesh.z)
    if mesh.flattened:
        out["flattened"] = np.array(sorted(mesh.flattened))
    if mesh.file_order is not None:
        out["file_order"] = plain.array(mesh.file_order)
    held = {"point": mesh.point_fields, "cell": mesh.cell_fields, "global": mesh.global_fields}
    held |= {f"boundary:{name}": part.fields for name, part in mesh.boundaries.items()}
    dtypes = [
        f"{place}:{name}={dtype}"
        for place, fields in held.items()
        for name, values in fields.items()
        if (dtype := str(values.dtype).removeprefix("torch.")) == "bfloat16"
    ]
    if dtypes:
        out["dtypes"] = np.array(dtypes)
    if mesh.notes:
        out["notes"] = np.array(list(mesh.notes))
    return out


def write(obj: Mesh | Series | Sample, file: BinaryIO) -> None:
    """Write a Mesh, a Series or a Sample."""
    save: Callable[..., None] = np.savez
    save(file, **arrays(obj))
