"""XDMF: XML beside an HDF5 file of the same name; a mesh, or a series frame by frame."""

from __future__ import annotations

from typing import Any, BinaryIO
from xml.sax.saxutils import escape

import numpy as np

from meshsim.check import InputError
from meshsim.io import plain
from meshsim.io.hdf5 import hdf5
from meshsim.io.raw import Tree
from meshsim.io.raw.xdmf_cells import MIXED
from meshsim.io.to_vtk import attribute, face_streams, in_file_order
from meshsim.mesh import Mesh, as_tensor
from meshsim.series import Frames, Series

NUMBERS = {name: number for number, (name, _) in MIXED.items()}
SIMPLE = {
    "triangle": "Triangle", "quad": "Quadrilateral", "tetra": "Tetrahedron", "pyramid": "Pyramid",
    "wedge": "Wedge", "hexahedron": "Hexahedron", "line3": "Edge_3", "triangle6": "Triangle_6",
    "quad8": "Quadrilateral_8", "quad9": "Quadrilateral_9", "tetra10": "Tetrahedron_10",
    "pyramid13": "Pyramid_13", "wedge15": "Wedge_15", "wedge18": "Wedge_18",
    "hexahedron20": "Hexahedron_20", "hexahedron24": "Hexahedron_24",
    "hexahedron27": "Hexahedron_27",
}  # fmt: skip
KINDS = {"f": "Float", "i": "Int", "u": "UInt"}
ATTRIBUTES = {(): "Scalar", (3,): "Vector", (6,): "Tensor6", (9,): "Tensor"}


class Heavy:
    """The HDF5 file that arrays go to; gives the DataItem that names each."""

    def __init__(self, file: Any, name: str):
        self.file, self.name, self.count = file, name, 0

    def item(self, values: np.ndarray) -> str:
        """Store an array and give its element."""
        values = np.ascontiguousarray(values)
        key = f"data{self.count}"
        self.count += 1
        self.file.create_dataset(key, data=values)
        shape = " ".join(map(str, values.shape))
        return (
            f'<DataItem Format="HDF" NumberType="{KINDS[values.dtype.kind]}"'
            f' Precision="{values.dtype.itemsize}" Dimensions="{shape}">'
            f"{escape(self.name)}:/{key}</DataItem>"
        )

    def beside(self, found: Tree, topology: str) -> None:
        """Store what XDMF has no place for in a group that the topology's array names."""
        key = topology.rpartition(":/")[2].partition("<")[0]
        group = self.file.create_group(f"beside_{key}")
        self.file[key].attrs["meshsim"] = group.name
        for i, (name, values) in enumerate(plain.packed(found).items()):
            if isinstance(values, str):
                values = np.frombuffer(values.encode("utf-8"), np.uint8)
            node = group.create_dataset(f"array{i}", data=plain.flat_rows(np.asarray(values)))
            node.attrs["name"] = name


def write(obj: Mesh | Series, stem: str, file: BinaryIO) -> str:
    """Write the arrays to `file`, an HDF5 file; gives the XML, which names them in `stem`.h5."""
    with hdf5(file) as opened:
        heavy = Heavy(opened, f"{stem}.h5")
        if isinstance(obj, Mesh):
            body = _grid(plain.tree(obj), heavy)
        else:
            body = _series(obj, heavy)
    return f'<?xml version="1.0"?>\n<Xdmf Version="3.0">\n<Domain>\n{body}\n</Domain>\n</Xdmf>\n'


def _series(series: Series, heavy: Heavy) -> str:
    grids = []
    for segment in series.segments:
        found = plain.tree(segment.mesh)
        topology, geometry = _topology(found, heavy), _geometry(found["points"], heavy)
        constant = [
            _attribute(name, values, centre, heavy)
            for place, centre in (("point", "Node"), ("cell", "Cell"))
            for name, values in found[f"{place}_fields"].items()
        ]
        constant += _globals(found, heavy)
        heavy.beside(_with_frames(found, segment), topology)
        for t, time in enumerate(segment.times.tolist()):
            if segment.points is not None:
                moved = plain.array(as_tensor(segment.points[t]))
                geometry = _geometry(plain.lifted(moved, segment.mesh.z), heavy)
            fields = [
                _attribute(name, _frame(segment.mesh, frames, t, centre == "Cell"), centre, heavy)
                for centre, named in (("Node", segment.point_fields), ("Cell", segment.cell_fields))
                for name, frames in named.items()
            ]
            parts = [f'<Time Value="{time!r}"/>', topology, geometry, *constant, *fields]
            grids.append('<Grid Name="mesh" GridType="Uniform">\n' + "\n".join(parts) + "\n</Grid>")
    head = '<Grid Name="series" GridType="Collection" CollectionType="Temporal">'
    return "\n".join([head, *grids, "</Grid>"])


def _frame(mesh: Mesh, frames: Frames, t: int, cells: bool) -> np.ndarray:
    values = plain.array(as_tensor(frames[t]))
    values = plain.in_file_order(mesh, values) if cells else values
    return plain.padded(values, mesh.dim)


def _with_frames(found: Tree, segment: Series) -> Tree:
    """The tree with the fields of the first frame too, for the shapes and types to remember."""
    frame = plain.tree(segment.frame(0))
    kept = ("point_fields", "cell_fields", "dtypes", "triples")
    return {**found, **{key: frame[key] for key in kept}}


def _grid(found: Tree, heavy: Heavy) -> str:
    parts = [_topology(found, heavy), _geometry(found["points"], heavy)]
    heavy.beside(found, parts[0])
    for place, centre in (("point", "Node"), ("cell", "Cell")):
        for key, values in found[f"{place}_fields"].items():
            parts.append(_attribute(key, values, centre, heavy))
    parts += _globals(found, heavy)
    return '<Grid Name="mesh" GridType="Uniform">\n' + "\n".join(parts) + "\n</Grid>"


def _globals(found: Tree, heavy: Heavy) -> list[str]:
    return [
        _attribute(name, np.atleast_1d(values), "Grid", heavy)
        for name, values in found["global_fields"].items()
    ]


def _geometry(points: np.ndarray, heavy: Heavy) -> str:
    kind = "XYZ" if points.shape[1] == 3 else "XY"
    return f'<Geometry GeometryType="{kind}">{heavy.item(points)}</Geometry>'


def _topology(found: Tree, heavy: Heavy) -> str:
    blocks = found["blocks"]
    n = sum(len(block["rows"]) for block in blocks)
    if len(blocks) == 1 and blocks[0]["type"] in SIMPLE:
        nodes = in_file_order(blocks)[2]
        kind, values = SIMPLE[blocks[0]["type"]], nodes.reshape(n, -1)
        return (
            f'<Topology TopologyType="{kind}" NumberOfElements="{n}">{heavy.item(values)}'
            "</Topology>"
        )
    values = _mixed(blocks, n)
    return f'<Topology TopologyType="Mixed" NumberOfElements="{n}">{heavy.item(values)}</Topology>'


def _mixed(blocks: list[Tree], n: int) -> np.ndarray:
    """The stream of a mixed topology: number, size where it is free, points."""
    _, offsets, nodes = in_file_order(blocks)
    streams = face_streams(blocks)
    kinds = np.zeros(n, np.int64)
    for block in blocks:
        if block["type"] not in NUMBERS:
            raise InputError(f"cells of type {block['type']} cannot be written to .xdmf")
        kinds[block["rows"]] = NUMBERS[block["type"]]
    parts = []
    sized = np.isin(kinds, (1, 2, 3))
    for row, (a, b) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
        head = [kinds[row], b - a] if sized[row] else [kinds[row]]
        parts.append(np.array(head, np.int64))
        parts.append(streams[row] if row in streams else nodes[a:b])
    return np.concatenate(parts)


def _attribute(name: str, values: np.ndarray, centre: str, heavy: Heavy) -> str:
    rows = plain.flat_rows(values)
    kind = ATTRIBUTES.get(rows.shape[1:], "Matrix")
    return (
        f'<Attribute Name={attribute(name)} AttributeType="{kind}" Center="{centre}">'
        f"{heavy.item(rows)}</Attribute>"
    )
