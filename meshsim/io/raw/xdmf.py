"""XDMF 2 and 3: XML that names arrays in HDF5, in binary files or in itself; with times."""

from __future__ import annotations

import os
import re
import sys
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from meshsim.io.raw import SURFACE, Tree, beside, by_size, content, expect, numbers
from meshsim.io.raw.cgns_cells import _boxes
from meshsim.io.raw.markup import parse
from meshsim.io.raw.merge import merge
from meshsim.io.raw.xdmf_cells import MIXED, mixed

Element = ElementTree.Element
NAMES = {
    "triangle": "triangle", "quadrilateral": "quad", "tetrahedron": "tetra", "pyramid": "pyramid",
    "wedge": "wedge", "hexahedron": "hexahedron", "edge_3": "line3", "triangle_6": "triangle6",
    "tri_6": "triangle6", "quadrilateral_8": "quad8", "quad_8": "quad8", "quad_9": "quad9",
    "quadrilateral_9": "quad9", "tetrahedron_10": "tetra10", "tet_10": "tetra10",
    "pyramid_13": "pyramid13", "wedge_15": "wedge15", "wedge_18": "wedge18",
    "hexahedron_20": "hexahedron20", "hex_20": "hexahedron20", "hexahedron_24": "hexahedron24",
    "hex_24": "hexahedron24", "hexahedron_27": "hexahedron27", "hex_27": "hexahedron27",
}  # fmt: skip
NODES = {name: k for name, k in MIXED.values() if k}


def read(path: str, options: Tree) -> Tree:
    """An XDMF file as a tree; `options["step"]` reads one time of a series."""
    file = _cached(path)
    try:
        steps, times = file.steps()
        if "step" in options:
            expect(0 <= options["step"] < len(steps), f"has no step {options['step']}")
            return file.frame(steps[options["step"]], options)
        if times is None:
            return file.grid(steps[0])
        return file.series(steps, times)
    finally:
        file.close()


_last: list[Any] = []  # (path, time, size) and the parsed XML of the file that was read last


def _cached(path: str) -> File:
    """A file; the XML is parsed once for all its frames."""
    about = os.stat(path)
    key = (path, about.st_mtime_ns, about.st_size)
    if not _last or _last[0] != key:
        _last[:] = [key, File(path)]
    found: File = _last[1]
    return found


class File:
    """An open XDMF file and the HDF5 files that it names."""

    def __init__(self, path: str):
        self.path = path
        self.root = parse(content(path))
        for element in self.root.iter():
            element.tag = str(element.tag).rsplit("}", 1)[-1]
        self.opened: dict[str, Any] = {}

    def close(self) -> None:
        """Close the HDF5 files."""
        for file in self.opened.values():
            file.close()
        self.opened.clear()

    def steps(self) -> tuple[list[Element], list[float] | None]:
        """The grids of a series with their times, or the one grid (or all grids) and None."""
        domain = self.root.find("Domain")
        grids = [] if domain is None else domain.findall("Grid")
        expect(grids, "holds no Grid")
        for grid in grids:
            if grid.get("CollectionType", "").lower() == "temporal":
                steps = grid.findall("Grid")
                expect(steps, "holds a series without steps")
                return steps, self._times(grid, steps)
        if len(grids) == 1:
            return grids, None
        every = ElementTree.Element("Grid", {"GridType": "Collection"})
        every.extend(grids)
        return [every], None

    def _times(self, series: Element, steps: list[Element]) -> list[float]:
        shared = series.find("Time")
        if shared is not None and shared.get("TimeType", "") in ("List", "HyperSlab", "Range"):
            item = shared.find("DataItem")
            listed = numbers(b"" if item is None else (item.text or "").encode())
            if shared.get("TimeType") == "HyperSlab" and len(listed) == 3:
                listed = listed[0] + listed[1] * np.arange(len(steps))
            expect(len(listed) == len(steps), "the list of times and the steps differ in length")
            return [float(t) for t in listed]
        found = [step.find("Time") for step in steps]
        return [
            float(time.get("Value", i)) if time is not None else float(i)
            for i, time in enumerate(found)
        ]

    def series(self, steps: list[Element], times: list[float]) -> Tree:
        """The first step as a tree, with times; steps of another topology are `later` trees."""
        known: dict[str, str] = {}
        keys = [self._keys(step, known) for step in steps]
        order = sorted(range(len(steps)), key=times.__getitem__)
        order = [i for n, i in enumerate(order) if n == 0 or times[i] > times[order[n - 1]]]
        starts = [n for n, i in enumerate(order) if n == 0 or keys[i][0] != keys[order[n - 1]][0]]
        trees = []
        for a, b in zip(starts, [*starts[1:], len(order)], strict=True):
            run = order[a:b]
            tree = self.grid(steps[run[0]], series=True)
            tree["times"], tree["steps"] = [times[i] for i in run], run
            moves = len({keys[i][1] for i in run}) > 1
            tree["frames"] = {
                "point": sorted(tree["point_fields"]),
                "cell": sorted(tree["cell_fields"]),
                "points": moves,
            }
            trees.append(tree)
        if len(order) < len(steps):
            trees[0]["notes"].append(f"{len(steps) - len(order)} steps at a repeated time left out")
        return trees[0] | {"later": trees[1:]}

    def _keys(self, step: Element, known: dict[str, str]) -> tuple[str, str]:
        """What tells one topology, and one geometry, from another; `known` of arrays in HDF5."""

        def key(item: Element) -> str:
            # many writers store the same mesh again at each step: compare the numbers
            return str(zlib.crc32(np.ascontiguousarray(self.item(item)).data))

        keys = []
        for tag in ("Topology", "Geometry"):
            parts = []
            for leaf in self._leaves(step):
                element = self._part(leaf, tag)
                for item in [] if element is None else element.findall("DataItem"):
                    # others name one array at each step: read it once
                    named = item.get("Format", "").upper() == "HDF"
                    place = (item.text or "").strip() if named else ""
                    if place not in known or not place:
                        known[place] = key(item)
                    parts.append(known[place])
            keys.append(" ".join(parts))
        return keys[0], keys[1]

    def _leaves(self, grid: Element) -> Iterator[Element]:
        inner = grid.findall("Grid")
        if grid.get("GridType", "Uniform").lower() in ("collection", "tree") and inner:
            for child in inner:
                yield from self._leaves(child)
        else:
            yield grid

    def frame(self, grid: Element, options: Tree) -> Tree:
        """The fields of a step; of one plain grid without reading its cells again."""
        leaves = list(self._leaves(grid))
        kinds = {a.get("ItemType") for leaf in leaves for a in leaf.findall("Attribute")}
        if len(leaves) > 1 or kinds - {None} or "rows" not in options:
            return self.grid(grid, series=True)
        out: Tree = {"point_fields": {}, "cell_fields": {}, "global_fields": {}, "notes": []}
        for attribute in leaves[0].findall("Attribute"):
            self._attribute(attribute, out, *options["rows"])
        geometry = self._part(leaves[0], "Geometry")
        if options.get("moves") and geometry is not None:
            out["points"] = self._points(geometry)
        return out

    def grid(self, grid: Element, series: bool = False) -> Tree:
        """A grid as a tree; the leaves of a spatial collection are merged."""
        leaves = list(self._leaves(grid))
        parts = [self._leaf(leaf) for leaf in leaves]
        names = [leaf.get("Name", f"grid{i + 1}") for i, leaf in enumerate(leaves)]
        return merge(parts, names, compare=not series) if len(parts) > 1 else parts[0]

    def _part(self, grid: Element, tag: str) -> Element | None:
        found = grid.find(tag)
        if found is not None:
            return found
        # an XInclude: …xpointer(//Grid[@Name="mesh"]/Grid[1]/*[self::Topology or self::Geometry])
        for include in grid.findall("include"):
            pointer = include.get("xpointer", "")
            steps = re.findall(r'Grid\[(?:@Name=["\'](.*?)["\']|(\d+))\]', pointer)
            if not steps or not steps[0][0]:
                continue
            named = (g for g in self.root.iter("Grid") if g.get("Name") == steps[0][0])
            target = next(named, None)
            for name, index in steps[1:]:
                inner = [] if target is None else target.findall("Grid")
                if name:
                    target = next((g for g in inner if g.get("Name") == name), None)
                else:
                    target = inner[int(index) - 1] if 0 < int(index) <= len(inner) else None
            if target is not None and target is not grid:
                found = target.find(tag)
                if found is not None and (f"::{tag}" in pointer or "/*" not in pointer):
                    return found
        return None

    def _leaf(self, grid: Element) -> Tree:
        topology, geometry = self._part(grid, "Topology"), self._part(grid, "Geometry")
        expect(topology is not None, "a grid without Topology")
        expect(geometry is not None, "a grid without Geometry")
        assert topology is not None and geometry is not None
        kind = (topology.get("TopologyType") or topology.get("Type") or "").lower()
        if kind.endswith("mesh"):
            points, blocks = self._regular(kind, topology, geometry)
        else:
            points, blocks = self._points(geometry), self._blocks(kind, topology)
        out: Tree = {"points": points, "blocks": blocks, "point_fields": {}, "cell_fields": {},
                     "global_fields": {}, "notes": [], "extras": {}}  # fmt: skip
        for attribute in grid.findall("Attribute"):
            self._attribute(attribute, out, len(points), _count(blocks))
        out["extras"] = self._extras(topology)
        return out

    def _extras(self, topology: Element) -> Tree:
        """What our writer stored beside the topology, in the HDF5 file."""
        item = topology.find("DataItem")
        if item is None or item.get("Format", "").upper() != "HDF":
            return {}
        file, inside = self._opened((item.text or "").strip())
        group = file[inside].attrs.get("meshsim")
        if not isinstance(group, str) or group not in file:
            return {}
        out: Tree = {}
        for node in file[group].values():
            name, values = str(node.attrs["name"]), np.asarray(node[()])
            out[name] = values.tobytes().decode("utf-8", "replace") if name == "meshsim" else values
        return out

    def _points(self, geometry: Element) -> np.ndarray:
        kind = (geometry.get("GeometryType") or geometry.get("Type") or "XYZ").upper()
        items = [self.item(item) for item in geometry.findall("DataItem")]
        expect(items, "a Geometry without DataItem")
        if kind in ("XYZ", "XY"):
            points = items[0].reshape(-1, len(kind))
        elif kind in ("X_Y_Z", "X_Y"):
            points = np.stack([item.reshape(-1) for item in items], 1)
        else:
            raise ValueError(f"geometry of type {kind} is not supported")
        return points if points.dtype.kind == "f" else points.astype(np.float64)

    def _regular(
        self, kind: str, topology: Element, geometry: Element
    ) -> tuple[np.ndarray, list[Tree]]:
        shape = [int(n) for n in (topology.get("Dimensions") or "").split()]
        expect(len(shape) in (2, 3) and min(shape) >= 1, "a regular grid without Dimensions")
        expect(np.prod(shape, dtype=float) < 1e9, "a regular grid with too many points")
        items = [self.item(item).reshape(-1) for item in geometry.findall("DataItem")]
        if "smesh" in kind:
            points = self._points(geometry)
        else:
            if "corectmesh" in kind:
                expect(len(items) == 2, "a regular grid without origin and spacing")
                axes = [o + d * np.arange(n) for o, d, n in zip(*items, shape, strict=True)][::-1]
            else:
                axes = items
            expect(len(axes) == len(shape), "a rectilinear grid without its axes")
            # the last index of Dimensions runs fastest and is x
            grid = np.meshgrid(*axes[::-1], indexing="ij")
            points = np.stack([g.reshape(-1) for g in grid[::-1]], 1).astype(np.float64)
        expect(len(points) == np.prod(shape), f"{len(points)} points (expected {np.prod(shape)})")
        ids = np.arange(len(points)).reshape(shape).transpose()
        ids = ids.squeeze() if min(ids.shape) == 1 else ids
        name = {1: "line", 2: "quad", 3: "hexahedron"}[ids.ndim]
        return points, [{"type": name, "nodes": _boxes(ids)}]

    def _blocks(self, kind: str, topology: Element) -> list[Tree]:
        item = topology.find("DataItem")
        expect(item is not None, "a Topology without DataItem")
        nodes = self.item(item).astype(np.int64)  # type: ignore[arg-type]
        base = int(topology.get("BaseOffset", 0))
        if kind == "mixed":
            announced = topology.get("NumberOfElements") or topology.get("Dimensions")
            n = int(announced.split()[0]) if announced else -1
            return mixed(nodes.reshape(-1), base, n)
        if kind in ("polyvertex", "polyline", "polygon"):
            width = int(topology.get("NodesPerElement", 0)) or nodes.shape[-1]
            names = {**SURFACE} if kind != "polygon" else {3: "triangle", 4: "quad"}
            flat = nodes.reshape(-1) - base
            if kind == "polyvertex":
                return [{"type": "vertex", "nodes": flat[:, None]}]
            expect(width > 1 and flat.size % width == 0, f"a {kind} without NodesPerElement")
            if kind == "polyline" and width > 2:
                cells = nodes.reshape(-1, width) - base
                pairs = np.stack([cells[:, :-1].reshape(-1), cells[:, 1:].reshape(-1)], 1)
                return [{"type": "line", "nodes": pairs}]
            return by_size(flat, np.arange(0, flat.size + 1, width), names)
        expect(kind in NAMES, f"topology of type {kind!r} is not supported")
        k = NODES[NAMES[kind]]
        expect(nodes.size % k == 0, f"{nodes.size} indices for cells of {k}")
        return [{"type": NAMES[kind], "nodes": nodes.reshape(-1, k) - base}]

    def _attribute(self, attribute: Element, out: Tree, n_points: int, n_cells: int) -> None:
        name = attribute.get("Name", "field")
        centre = attribute.get("Center", "Node").lower()
        items = attribute.findall("DataItem")
        if attribute.get("ItemType") == "FiniteElementFunction":
            self._function(attribute, items, out)
            return
        expect(items, f"field {name!r} without DataItem")
        values = self.item(items[0])
        if centre == "grid":
            out["global_fields"][name] = values
            return
        if centre not in ("node", "cell"):
            out["notes"].append(f"field {name!r} at {centre} was left out")
            return
        n = n_points if centre == "node" else n_cells
        expect(n and values.size % n == 0, f"field {name!r} has {values.size} values for {n} rows")
        if values.ndim == 0 or values.shape[0] != n:
            values = values.reshape(n, -1)
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        out["point_fields" if centre == "node" else "cell_fields"][name] = values

    def _function(self, attribute: Element, items: list[Element], out: Tree) -> None:
        """A checkpoint of FEniCS: values at degrees of freedom, of degree one at the points."""
        name = attribute.get("Name", "field")
        family = (attribute.get("ElementFamily"), attribute.get("ElementDegree"))
        if family not in (("CG", "1"), ("Lagrange", "1")) or len(items) != 4:
            out["notes"].append(f"function {name!r} of element {family} was left out")
            return
        dofs, vector, offsets, cells = (self.item(item).reshape(-1) for item in items)
        block = out["blocks"][0]
        k = block["nodes"].shape[-1]
        n = len(out["points"])
        expect(
            len(out["blocks"]) == 1 and len(offsets) == len(cells) + 1 and vector.size % n == 0,
            f"function {name!r} does not fit the mesh",
        )
        width = vector.size // n
        index = offsets[:-1].astype(np.int64)[:, None] + np.arange(k * width)
        cells = cells.astype(np.int64)
        expect(index.max() < len(dofs) and cells.max() < len(block["nodes"]), "damaged function")
        table = dofs.astype(np.int64)[index].reshape(len(cells), width, k)
        expect(table.max() < vector.size, f"function {name!r} does not fit the mesh")
        values = np.full((n, width), np.nan)
        nodes = block["nodes"][cells]
        for component in range(width):
            values[nodes, component] = vector[table[:, component]]
        out["point_fields"][name] = values[:, 0] if width == 1 else values

    def item(self, item: Element) -> np.ndarray:
        """The numbers of a DataItem in their shape."""
        kind = item.get("ItemType", "Uniform").lower()
        if kind == "hyperslab":
            return self._slab(item)
        expect(kind == "uniform", f"data items of type {kind!r} are not supported")
        expect(item.get("Reference") is None, "references between data items are not supported")
        shape = [int(n) for n in (item.get("Dimensions") or "").split()]
        text = (item.text or "").strip()
        where = item.get("Format", "XML").upper()
        if where == "HDF":
            return self._hdf(text, shape)
        dtype = _dtype(item)
        count = int(np.prod(shape, dtype=np.int64)) if shape else -1
        if where == "XML":
            flat = numbers(text.encode(), dtype, count)
        elif where == "BINARY":
            path = beside(self.path, text)
            expect(os.path.exists(path), f"names {text}, which is not there")
            with open(path, "rb") as file:
                file.seek(int(item.get("Seek", 0)))
                raw = file.read(count * dtype.itemsize)
            flat = np.frombuffer(raw[: len(raw) // dtype.itemsize * dtype.itemsize], dtype)
            little = item.get("Endian", "").lower() != "big"
            flat = flat.astype(dtype) if little == (sys.byteorder == "little") else flat.byteswap()
            expect(len(flat) == count, f"{text} ends early (expected {count} numbers)")
        else:
            raise ValueError(f"data items of format {where!r} are not supported")
        return flat.reshape(shape) if shape else flat

    def _opened(self, text: str) -> tuple[Any, str]:
        """The HDF5 file and the place in it that "file.h5:/place" names."""
        import h5py

        name, _, inside = text.rpartition(":")
        path = beside(self.path, name.strip())
        if path not in self.opened:
            expect(os.path.exists(path), f"names {name!r}, which is not there")
            self.opened[path] = h5py.File(path, "r")
        expect(inside in self.opened[path], f"names {inside!r} in {name}, which is not there")
        return self.opened[path], inside

    def _hdf(self, text: str, shape: list[int]) -> np.ndarray:
        file, inside = self._opened(text)
        values = np.asarray(file[inside][()])
        expect(values.dtype.kind in "biuf", f"{text!r} holds no numbers")
        if shape and values.size == np.prod(shape):
            values = values.reshape(shape)
        return values

    def _slab(self, item: Element) -> np.ndarray:
        inner = item.findall("DataItem")
        expect(len(inner) == 2, "a hyperslab without its two parts")
        source = self.item(inner[1])
        start, stride, count = self.item(inner[0]).reshape(3, -1).astype(int).tolist()
        expect(len(start) == source.ndim, "a hyperslab of another dimension than its source")
        cut = tuple(
            slice(a, a + s * (n - 1) + 1, s) for a, s, n in zip(start, stride, count, strict=True)
        )
        shape = [int(n) for n in (item.get("Dimensions") or "").split()]
        return source[cut].reshape(shape) if shape else source[cut]


def _dtype(item: Element) -> np.dtype:
    kind = (item.get("NumberType") or item.get("DataType") or "Float").lower()
    size = int(item.get("Precision", 1 if kind in ("char", "uchar") else 4))
    letter = {"float": "f", "int": "i", "uint": "u", "char": "i", "uchar": "u", "short": "i"}
    expect(kind in letter and size in (1, 2, 4, 8), f"numbers of type {kind} {size}")
    return np.dtype(f"{letter[kind]}{size}")


def _count(blocks: list[Tree]) -> int:
    return sum(len(b["offsets"]) - 1 if "offsets" in b else len(b["nodes"]) for b in blocks)
