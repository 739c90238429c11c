"""VTK's own formats, read by VTK: XML (vtu, vtp, vts, vtr, vti, their parallel and multi-block
kin), legacy vtk and VTKHDF."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from meshsim.io.raw import (
    SURFACE,
    VTK_TYPES,
    Tree,
    beside,
    by_size,
    content,
    expect,
    gather,
    ragged,
    rows_of_size,
    steps,
    unpacked,
)
from meshsim.io.raw.markup import check_file, parse
from meshsim.io.raw.merge import merge

# Lagrange and Bézier cells of low order have the nodes of their VTK kin in the same order
LAGRANGE = {
    68: {2: "line", 3: "line3"},
    69: {3: "triangle", 6: "triangle6", 7: "triangle7"},
    70: {4: "quad", 9: "quad9"},
    71: {4: "tetra", 10: "tetra10"},
    72: {8: "hexahedron", 27: "hexahedron27"},
    73: {6: "wedge", 15: "wedge15", 18: "wedge18"},
    74: {5: "pyramid", 13: "pyramid13", 14: "pyramid14"},
}
CHAINS = (2, 4, 6)  # poly-vertex, poly-line, triangle strip
FLAT = (1, 2, 3, 4, 5, 6, 7, 9)
GRIDS = {8: ("quad", [0, 1, 3, 2]), 11: ("hexahedron", [0, 1, 3, 2, 4, 5, 7, 6])}
PIECE = re.compile(rb"""<Piece\b[^>]*?\bNumberOfPoints\s*=\s*["'](\d+)["']""")
CHUNK = 1 << 20
XML = {
    "UnstructuredGrid": "vtkXMLUnstructuredGridReader",
    "PolyData": "vtkXMLPolyDataReader",
    "StructuredGrid": "vtkXMLStructuredGridReader",
    "RectilinearGrid": "vtkXMLRectilinearGridReader",
    "ImageData": "vtkXMLImageDataReader",
    "PUnstructuredGrid": "vtkXMLPUnstructuredGridReader",
    "PPolyData": "vtkXMLPPolyDataReader",
    "PStructuredGrid": "vtkXMLPStructuredGridReader",
    "PRectilinearGrid": "vtkXMLPRectilinearGridReader",
    "PImageData": "vtkXMLPImageDataReader",
    "vtkMultiBlockDataSet": "vtkXMLMultiBlockDataReader",
}


def read(path: str, options: Tree) -> Tree:
    """Any of VTK's formats as a tree.

    Arguments:
        options: {"kind": a key of `XML`, "legacy" or "vtkhdf"}; with "part" one piece of a .vtu or
            .vtp or one partition of a .vtkhdf is read; {"parts": True} gives {"parts": [points of
            each]} instead.
    """
    if options.get("parts"):
        return {"parts": _parts(path, options["kind"])}
    import vtkmodules.vtkCommonDataModel  # noqa: F401, registers the classes of data
    from vtkmodules import vtkIOXML

    kind = options["kind"]
    if kind == "legacy":
        from vtkmodules.vtkIOLegacy import vtkGenericDataObjectReader

        reader = vtkGenericDataObjectReader()
        for what in ("Scalars", "Vectors", "Normals", "Tensors", "TCoords", "Fields"):
            getattr(reader, f"ReadAll{what}On")()
    elif kind == "vtkhdf":
        from vtkmodules.vtkIOHDF import vtkHDFReader

        reader = vtkHDFReader()
    else:
        expect(kind in XML, f"VTK files of type {kind!r} are not supported")
        check_file(path)
        if kind == "vtkMultiBlockDataSet" or (kind.startswith("P") and kind != "PolyData"):
            _check_names(path)
        reader = getattr(vtkIOXML, XML[kind])()
    reader.SetFileName(path)
    told(reader.UpdateInformation)
    if "part" in options:
        part, count = options["part"], len(_parts(path, kind))
        expect(0 <= part < count, f"has no part {part} (it has {count})")
        told(lambda: reader.UpdatePiece(part, count, 0))
        return tree(reader.GetOutputDataObject(0))
    at = times(reader)
    if len(at) < 2:
        return _found(reader)
    if kind in XML:
        # VTK 9.7 gives arrays of uninitialised memory for the times after the first
        out = _found(reader)
        out["notes"] = [*out["notes"], f"holds {len(at)} times, of which only the first is read"]
        return out

    def load(step: int) -> Tree:
        told(lambda: reader.UpdateTimeStep(at[step]))
        return tree(reader.GetOutputDataObject(0), compare=False)

    if "step" in options:
        expect(0 <= options["step"] < len(at), f"has no step {options['step']}")
        name = f"time {at[options['step']]:g}"
        return steps.frame(load(options["step"]), options, name)
    whole = steps.looked_at(len(at), os.path.getsize(path))
    keys = [steps.key(load(i)) if see else (None, None, None) for i, see in enumerate(whole)]
    return steps.series(load, at, keys)


def _parts(path: str, kind: str) -> list[int]:
    """Points of the pieces of a .vtu or .vtp, or of the partitions of a .vtkhdf at one time."""
    if kind == "vtkhdf":
        import h5py

        with h5py.File(path, "r") as file:
            root = file.get("VTKHDF", {})
            listed = "NumberOfPoints" in root and "Steps" not in root
            return [int(n) for n in root["NumberOfPoints"][()]] if listed else []
    if kind not in ("UnstructuredGrid", "PolyData"):
        return []
    found, before = [], b""
    with unpacked(path) as file:
        while block := file.read(CHUNK):
            # a tag may lie across two blocks: what is behind the last ">" comes again
            text, end, before = (before + block).rpartition(b">")
            found += [int(n) for n in PIECE.findall(text + end)]
            if b"<AppendedData" in text:
                break
    return found


def _found(reader: Any) -> Tree:
    data = run(reader)
    expect(data is not None, "VTK found no data set in it")
    return tree(data)


def _check_names(path: str) -> None:
    """Look at every file that a list of pieces names: VTK would open it wherever it lies."""
    for entry in parse(content(path)).iter():
        for key in ("file", "Source"):
            name = entry.get(key)
            expect(
                name is None or os.path.exists(beside(path, name)),
                f"names {name!r}, which is not there",
            )


def run(reader: Any) -> Any:
    """Update a VTK reader and give its output; anything VTK calls an error is raised."""
    told(reader.Update)
    return reader.GetOutputDataObject(0)


def told(update: Callable[[], Any]) -> None:
    """Let VTK do something; anything that it calls an error is raised."""
    from vtkmodules.vtkCommonCore import vtkLogger, vtkOutputWindow, vtkStringOutputWindow

    before, said = vtkOutputWindow.GetInstance(), vtkStringOutputWindow()
    loud = vtkLogger.GetCurrentVerbosityCutoff()
    vtkLogger.SetStderrVerbosity(vtkLogger.VERBOSITY_OFF)
    vtkOutputWindow.SetInstance(said)
    try:
        update()
    finally:
        vtkOutputWindow.SetInstance(before)
        vtkLogger.SetStderrVerbosity(loud)
    words = said.GetOutput() or ""
    if isinstance(words, bytes):
        words = words.decode("utf-8", "replace")
    for message in words.split("\n\n"):
        first, _, text = message.strip().partition("\n")
        if first.startswith("ERROR") or "rror reading" in text or "rror parsing" in text:
            raise ValueError(text.split("): ", 1)[-1])


def times(reader: Any) -> list[float]:
    """The times that a VTK reader offers, after its UpdateInformation."""
    from vtkmodules.vtkCommonExecutionModel import vtkStreamingDemandDrivenPipeline

    about, key = reader.GetOutputInformation(0), vtkStreamingDemandDrivenPipeline.TIME_STEPS()
    return [float(about.Get(key, i)) for i in range(about.Length(key))]


def tree(data: Any, compare: bool = True) -> Tree:
    """A VTK data object as a tree; the leaves of a composite one are merged."""
    if data.IsA("vtkCompositeDataSet"):
        return merge(*leaves(data), compare=compare)
    expect(data.IsA("vtkDataSet"), f"holds {data.GetClassName()}, which is no mesh")
    notes: list[str] = []
    if data.IsA("vtkPolyData"):
        blocks, repeat = _surface(data, notes)
    else:
        if not data.IsA("vtkUnstructuredGrid"):
            data = _unstructured(data)
        blocks, repeat = _grid(data, notes)
    points = array(data.GetPoints().GetData()) if data.GetPoints() else np.zeros((0, 3))
    n, cells = len(points), data.GetNumberOfCells()
    cell_fields = _fields(data.GetCellData(), cells, "cell", notes)
    if repeat is not None:
        cell_fields = {name: values[repeat] for name, values in cell_fields.items()}
    out: Tree = {
        "points": points.astype(np.float64) if points.dtype.kind != "f" else points,
        "blocks": blocks,
        "point_fields": _fields(data.GetPointData(), n, "point", notes),
        "cell_fields": cell_fields,
        "notes": notes,
    }
    return out | _globals(data.GetFieldData())


def leaves(data: Any) -> tuple[list[Tree], list[str]]:
    """The data sets with points in a composite one, as trees, and their names."""
    parts: list[Tree] = []
    names: list[str] = []
    walk = data.NewIterator()
    walk.SkipEmptyNodesOn()
    walk.InitTraversal()
    while not walk.IsDoneWithTraversal():
        leaf = walk.GetCurrentDataObject()
        if leaf.IsA("vtkDataSet") and leaf.GetNumberOfPoints():
            meta = walk.GetCurrentMetaData() if walk.HasCurrentMetaData() else None
            name = meta.Get(data.NAME()) if meta is not None and meta.Has(data.NAME()) else ""
            parts.append(tree(leaf))
            names.append(name or f"block{len(parts)}")
        walk.GoToNextItem()
    return parts, names


def _unstructured(data: Any) -> Any:
    from vtkmodules.vtkFiltersCore import vtkAppendFilter

    append = vtkAppendFilter()
    append.AddInputData(data)
    append.Update()
    out = append.GetOutput()
    out.GetFieldData().ShallowCopy(data.GetFieldData())
    return out


def array(a: Any) -> np.ndarray:
    """A NumPy copy of a VTK array, whatever its storage."""
    from vtkmodules import vtkCommonCore
    from vtkmodules.util.numpy_support import vtk_to_numpy

    if type(a).__name__.startswith("vtkType") or not a.HasStandardMemoryLayout():
        plain = vtkCommonCore.vtkDataArray.CreateDataArray(a.GetDataType())
        plain.DeepCopy(a)
        a = plain
    out = vtk_to_numpy(a)
    return np.array(out)


def _fields(data: Any, n: int, where: str, notes: list[str]) -> dict[str, np.ndarray]:
    out = {}
    for i in range(data.GetNumberOfArrays()):
        found = data.GetAbstractArray(i)
        name = _name(found, i)
        if not found.IsA("vtkDataArray"):
            notes.append(f"{where} field {name!r} is not numeric and was left out")
            continue
        values = array(found)
        rows = found.GetNumberOfTuples()
        expect(rows == n, f"{where} field {name!r} has {rows} rows (expected {n})")
        out[name] = values
    return out


def _name(found: Any, i: int) -> str:
    name = found.GetName()
    if isinstance(name, bytes):  # no UTF-8
        name = name.decode("utf-8", "replace")
    return name or f"field{i}"


def _globals(data: Any) -> Tree:
    out: Tree = {"global_fields": {}, "extras": {}}
    for i in range(data.GetNumberOfArrays()):
        found = data.GetAbstractArray(i)
        name = _name(found, i)
        ours = name == "meshsim" or name.startswith("meshsim:")
        if found.IsA("vtkStringArray"):
            if ours:
                out["extras"][name] = str(found.GetValue(0)) if found.GetNumberOfValues() else ""
        elif found.IsA("vtkDataArray"):
            values = array(found)
            if name == "meshsim":
                out["extras"][name] = values.astype(np.uint8).tobytes().decode("utf-8", "replace")
            else:
                out["extras" if ours else "global_fields"][name] = values
    return out


def _grid(data: Any, notes: list[str]) -> tuple[list[Tree], np.ndarray | None]:
    kinds = (
        array(data.GetCellTypes() if hasattr(data, "GetCellTypes") else data.GetCellTypesArray())
        if data.GetNumberOfCells()
        else np.zeros(0, np.uint8)
    )
    cells = data.GetCells()
    if cells is None:
        return [], None
    offsets = array(cells.GetOffsetsArray()).astype(np.int64, copy=False)
    nodes = array(cells.GetConnectivityArray()).astype(np.int64, copy=False)
    if len(kinds) == 0:
        return [], None
    _check_offsets(offsets, len(kinds), len(nodes))
    sizes = np.diff(offsets)
    kinds = _links(kinds, sizes)
    if np.isin(kinds, CHAINS).any():
        return _split(nodes, offsets, kinds, notes)
    blocks: list[Tree] = []
    for number in dict.fromkeys(kinds.tolist()):
        rows = np.flatnonzero(kinds == number)
        if number == 0:
            notes.append(f"{len(rows)} empty cells were left out")
        elif number == 42:
            blocks.append(_polyhedra(data, rows))
        elif number == 7:
            flat = gather(nodes, offsets, rows)
            blocks.append(
                {"type": "polygon", "nodes": flat, "offsets": ragged(sizes[rows]), "rows": rows}
            )
        else:
            for size in np.unique(sizes[rows]).tolist():
                name, order = _named(number, size)
                some = rows[sizes[rows] == size]
                corners = rows_of_size(nodes, offsets, some, size)
                if list(order) != list(range(size)):
                    corners = corners[:, order]
                blocks.append({"type": name, "nodes": corners, "rows": some})
    if not (kinds == 0).any():
        return blocks, None
    keep = np.flatnonzero(kinds)
    for block in blocks:
        block["rows"] = np.searchsorted(keep, block["rows"])
    return blocks, keep


def _named(number: int, size: int) -> tuple[str, Any]:
    if number == 27 and size == 14:  # how VTK gives the 14 nodes that it has no type for
        return "pyramid14", np.arange(14)
    if number in VTK_TYPES:
        name, k = VTK_TYPES[number]
        expect(size == k, f"a {name} with {size} nodes (expected {k})")
        return name, np.arange(size)
    if number in GRIDS:
        name, order = GRIDS[number]
        expect(size == len(order), f"a {name} with {size} nodes (expected {len(order)})")
        return name, order
    of_order = LAGRANGE.get(number) or LAGRANGE.get(number - 7, {})
    expect(size in of_order, f"cells of VTK type {number} with {size} nodes are not supported")
    return of_order[size], np.arange(size)


def _check_offsets(offsets: np.ndarray, n: int, length: int) -> None:
    good = len(offsets) == n + 1 and offsets[0] == 0 and (np.diff(offsets) >= 0).all()
    expect(good and offsets[-1] <= length, "the offsets of its cells are damaged")


def _polyhedra(data: Any, rows: np.ndarray) -> Tree:
    """Polyhedra as cells → faces → points, from whichever store this VTK has."""
    cell_faces, faces = data.GetPolyhedronFaceLocations(), data.GetPolyhedronFaces()
    expect(cell_faces is not None and faces is not None, "polyhedra without faces")
    of_cell = array(cell_faces.GetOffsetsArray()).astype(np.int64)
    ids = array(cell_faces.GetConnectivityArray()).astype(np.int64)
    of_face = array(faces.GetOffsetsArray()).astype(np.int64)
    nodes = array(faces.GetConnectivityArray()).astype(np.int64)
    _check_offsets(of_cell, data.GetNumberOfCells(), len(ids))
    _check_offsets(of_face, len(of_face) - 1, len(nodes))
    mine = gather(ids, of_cell, rows)
    expect(
        not len(mine) or (mine.min() >= 0 and mine.max() < len(of_face) - 1),
        "a polyhedron names a face that is not there",
    )
    return {
        "type": "polyhedron",
        "nodes": gather(nodes, of_face, mine),
        "offsets": ragged(np.diff(of_cell)[rows]),
        "face_offsets": ragged(np.diff(of_face)[mine]),
        "rows": rows,
    }


def _surface(data: Any, notes: list[str]) -> tuple[list[Tree], np.ndarray | None]:
    """Vertices, lines, polygons and strips of a vtkPolyData, in this order."""
    parts = (
        (data.GetVerts(), 2),
        (data.GetLines(), 4),
        (data.GetPolys(), 7),
        (data.GetStrips(), 6),
    )
    nodes, sizes, kinds = [], [], []
    for cells, kind in parts:
        n = cells.GetNumberOfCells() if cells is not None else 0
        if n:
            offsets = array(cells.GetOffsetsArray()).astype(np.int64)
            nodes.append(array(cells.GetConnectivityArray()).astype(np.int64))
            _check_offsets(offsets, n, len(nodes[-1]))
            sizes.append(np.diff(offsets))
            kinds.append(np.full(n, kind))
    if not nodes:
        return [], None
    size = np.concatenate(sizes)
    kinds_of_all = _links(np.concatenate(kinds), size)
    return _split(np.concatenate(nodes), ragged(size), kinds_of_all, notes)


def _links(kinds: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Chains of one link are plain vertices and lines."""
    kinds = np.where((kinds == 2) & (sizes == 1), 1, kinds)
    return np.where((kinds == 4) & (sizes == 2), 3, kinds)


def _split(
    nodes: np.ndarray, offsets: np.ndarray, kinds: np.ndarray, notes: list[str]
) -> tuple[list[Tree], np.ndarray | None]:
    """Cells of which some are chains: poly-vertices, poly-lines and strips fall into their parts.

    Returns:
        The blocks, and for each cell the cell of the file that it comes from (None: itself).
    """
    if not np.isin(kinds, CHAINS).any():
        return by_size(nodes, offsets, SURFACE), None
    expect(np.isin(kinds, FLAT).all(), "chains of cells mixed with volume cells are not supported")
    out_nodes: list[np.ndarray] = []
    out_sizes: list[int] = []
    source: list[int] = []
    ends = zip(offsets[:-1].tolist(), offsets[1:].tolist(), kinds.tolist(), strict=True)
    for i, (a, b, kind) in enumerate(ends):
        cell = nodes[a:b]
        if kind == 2:
            parts = [cell[j : j + 1] for j in range(len(cell))]
        elif kind == 4:
            parts = [cell[j : j + 2] for j in range(len(cell) - 1)]
        elif kind == 6:
            parts = [
                cell[j : j + 3] if j % 2 == 0 else cell[[j + 1, j, j + 2]]
                for j in range(len(cell) - 2)
            ]
        else:
            parts = [cell]
        out_nodes += parts
        out_sizes += [len(part) for part in parts]
        source += itertools.repeat(i, len(parts))
    notes.append(f"{len(kinds)} chains and strips of cells were split into {len(source)} cells")
    flat = np.concatenate(out_nodes) if out_nodes else np.zeros(0, np.int64)
    return by_size(flat, ragged(np.array(out_sizes)), SURFACE), np.array(source, np.int64)
