"""Exodus files written variable by variable, as the format's public description lays them out."""

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from scipy.io import netcdf_file

WORD = 33


def write(
    path: Path,
    points: np.ndarray,
    blocks: Sequence[tuple[int, str, np.ndarray, str]],
    sides: Sequence[tuple[int, str, list[int], list[int]]] = (),
    nodes: Sequence[tuple[int, str, list[int]]] = (),
    times: Sequence[float] = (),
    nodal: dict[str, np.ndarray] | None = None,
    elem: dict[str, list[np.ndarray | None]] | None = None,
) -> None:
    """A file in classic netCDF.

    Arguments:
        blocks: (id, element type, (n, k) nodes from 0, name).
        sides: (id, name, elements from 1, sides from 1).
        nodes: (id, name, nodes from 1).
        nodal: {name: (T, N)}.
        elem: {name: a (T, n) for each block, or None}.
    """
    with netcdf_file(str(path), "w", version=2) as file:
        file.api_version = file.version = np.float32(5.1)
        file.floating_point_word_size = np.int32(8)
        file.file_size = np.int32(1)
        file.title = b"made by hand"

        def put(called, kind, dims, values, **about):
            variable = file.createVariable(called, kind, dims)
            for key, value in about.items():
                setattr(variable, key, value)
            variable[:] = values

        def words(name, dim, items):
            table = np.array([list(item.ljust(WORD, "\0")) for item in items], "S1")
            put(name, "c", (dim, "len_name"), table)

        dimension = file.createDimension
        dimension("time_step", None)
        sizes = {"len_string": WORD, "len_line": 81, "four": 4, "len_name": WORD,
                 "num_dim": points.shape[1], "num_nodes": len(points),
                 "num_elem": sum(len(b[2]) for b in blocks), "num_el_blk": len(blocks)}  # fmt: skip
        for name, size in sizes.items():
            dimension(name, size)
        put("eb_status", "i", ("num_el_blk",), 1)
        put("eb_prop1", "i", ("num_el_blk",), [b[0] for b in blocks], name=b"ID")
        words("eb_names", "num_el_blk", [b[3] for b in blocks])
        for axis, values in zip("xyz", points.T, strict=False):
            put(f"coord{axis}", "d", ("num_nodes",), values)
        for k, (_, kind, cells, _) in enumerate(blocks, 1):
            dims = (f"num_el_in_blk{k}", f"num_nod_per_el{k}")
            for dim, size in zip(dims, cells.shape, strict=True):
                dimension(dim, size)
            put(f"connect{k}", "i", dims, cells + 1, elem_type=kind.encode())
        for short, what, sets in (("ss", "num_side_sets", sides), ("ns", "num_node_sets", nodes)):
            if sets:
                dimension(what, len(sets))
                put(f"{short}_status", "i", (what,), 1)
                put(f"{short}_prop1", "i", (what,), [s[0] for s in sets], name=b"ID")
                words(f"{short}_names", what, [s[1] for s in sets])
        for k, (_, _, elements, faces) in enumerate(sides, 1):
            dimension(f"num_side_ss{k}", len(elements))
            put(f"elem_ss{k}", "i", (f"num_side_ss{k}",), elements)
            put(f"side_ss{k}", "i", (f"num_side_ss{k}",), faces)
        for k, (_, _, members) in enumerate(nodes, 1):
            dimension(f"num_nod_ns{k}", len(members))
            put(f"node_ns{k}", "i", (f"num_nod_ns{k}",), members)
        if nodal:
            dimension("num_nod_var", len(nodal))
            words("name_nod_var", "num_nod_var", list(nodal))
            for k, values in enumerate(nodal.values(), 1):
                put(f"vals_nod_var{k}", "d", ("time_step", "num_nodes"), values)
        if elem:
            dimension("num_elem_var", len(elem))
            words("name_elem_var", "num_elem_var", list(elem))
            there = [[int(v[b] is not None) for v in elem.values()] for b in range(len(blocks))]
            put("elem_var_tab", "i", ("num_el_blk", "num_elem_var"), there)
            for k, parts in enumerate(elem.values(), 1):
                for b, values in enumerate(parts, 1):
                    if values is not None:
                        dims = ("time_step", f"num_el_in_blk{b}")
                        put(f"vals_elem_var{k}eb{b}", "d", dims, values)
        put("time_whole", "d", ("time_step",), np.array(times))


def as_hdf5(source: Path, target: Path) -> None:
    """The same file as netCDF-4 stores it: HDF5 with dimension scales."""
    with netcdf_file(str(source), mmap=False) as file, h5py.File(target, "w") as out:
        steps = file.variables["time_whole"].shape[0]
        for i, (name, length) in enumerate(file.dimensions.items()):
            more = {} if length else {"maxshape": (None,), "chunks": (1,)}
            scale = out.create_dataset(name, (length or steps,), ">f4", **more)
            scale.make_scale(f"This is a netCDF dimension but not a netCDF variable.{length}")
            scale.attrs["_Netcdf4Dimid"] = np.int32(i)
        for name, variable in file.variables.items():
            values = np.array(variable.data)
            plain = values.astype(values.dtype.newbyteorder("="))
            moving = variable.dimensions and file.dimensions[variable.dimensions[0]] is None
            rest = plain.shape[1:]
            more = {"maxshape": (None, *rest), "chunks": (1, *rest)} if moving else {}
            stored = out.create_dataset(name, data=plain, **more)
            for axis, dim in enumerate(variable.dimensions):
                stored.dims[axis].attach_scale(out[dim])
            for key, value in variable._attributes.items():
                stored.attrs[key] = np.bytes_(value) if isinstance(value, bytes) else value
        for key, value in file._attributes.items():
            if isinstance(value, bytes):
                out.attrs[key] = np.bytes_(value)
            else:
                out.attrs[key] = np.asarray(value).astype(np.asarray(value).dtype.newbyteorder("="))
