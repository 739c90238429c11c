"""JSON beside and inside of mesh files: whatever stands in it, one line says what is wrong."""

from __future__ import annotations

import json
import re

import h5py
import numpy as np
import pytest
import torch

from meshsim import Series
from meshsim.check import InputError
from meshsim.data.parameters import read_parameters
from meshsim.io import extras, read, write
from meshsim.io.build import Built
from tests import trajectory_files as files
from tests.helpers import MESHES

NO_JSON = {
    "latin-1": '{"a": "é"}'.encode("latin-1"),
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "zeros": b"\0\0\0",
    "nothing": b"",
    "cut": b'{"parameters": {"a"',
    "nested": b"[" * 200_000,
    "nested tables": b'{"a":' * 100_000,
}


def refused(make, match=""):
    with pytest.raises(InputError, match=match) as error:
        make()
    said = str(error.value)
    assert "\n" not in said and "damaged, or of a kind" not in said and len(said) < 700


@pytest.mark.parametrize("name", NO_JSON)
def test_what_is_no_json_is_said(name, tmp_path):
    (tmp_path / "a.json").write_bytes(NO_JSON[name])
    refused(lambda: read_parameters(tmp_path / "a.json"), r"a\.json: not valid JSON")
    files.cylinder_flow(tmp_path, count=1)
    (tmp_path / "meta.json").write_bytes(NO_JSON[name])
    for trust in (True, False):
        refused(lambda trust=trust: read(tmp_path / "train.tfrecord", trust=trust), "not JSON")
    case = tmp_path / "case"
    case.mkdir()
    for axis in "uv":
        np.save(case / f"{axis}.npy", np.zeros((2, 3, 3)))
    (case / "case.json").write_bytes(NO_JSON[name])
    refused(lambda: read(case, trust=True), r"case\.json: not JSON")


def test_numbers_beyond_the_floats(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"parameters": {"a": 10**400}}))
    refused(lambda: read_parameters(tmp_path / "a.json"), "parameter 'a': expected a number")
    for axis in "uv":
        np.save(tmp_path / f"{axis}.npy", np.zeros((2, 3, 3)))
    (tmp_path / "case.json").write_text(json.dumps({"width": 10**400, "height": 1}))
    refused(lambda: read(tmp_path, trust=True), "'width': expected a number")
    write(Series(MESHES["channel"], [0.0, 1.0]), tmp_path / "a.pvd")
    one = {"name": "a_0000.vtu", "time": 10**400}
    (tmp_path / "a.vtu.series").write_text(json.dumps({"files": [one]}))
    refused(lambda: read(tmp_path / "a.vtu.series", trust=True), "is no list of files")


def test_arrays_that_say_more_than_their_file_has(tmp_path):
    for axis in "uv":
        np.save(tmp_path / f"{axis}.npy", np.zeros((2, 3, 3)))
    (tmp_path / "case.json").write_text(json.dumps({"width": 1.0, "height": 1.0}))
    assert read(tmp_path, trust=True).branch.mesh.n_cells == 9
    data = (tmp_path / "v.npy").read_bytes()
    huge = data.replace(b"3, 3), }        ", b"99999, 99999), }")
    assert len(huge) == len(data) and huge != data
    for wrong in (huge, data[:-8], data[:40], b"x"):
        (tmp_path / "v.npy").write_bytes(wrong)
        refused(lambda: read(tmp_path, trust=True), r"v\.npy: is no array, or ends early")


def shapes(*given):
    return [("velocity", "shape", shape, "velocity|others 3") for shape in given]


@pytest.mark.parametrize(
    ("feature", "key", "value", "message"),
    [
        *shapes([1e9], [-2, 12, 2], [True, -1, 2], [[4], -1, 2], "4", {}, [], None),
        *shapes([3, None], [10**30, -1, 2], [2**62, 2**62], [-1, -1, -1], [0, 0, 0], [-1]),
        *(
            (feature, "dtype", dtype, f"feature '{feature}': unknown dtype")
            for feature in ("pressure", "cells")
            for dtype in (["float32"], {}, None, 3, "float7", "int128", "float" + "9" * 30, "|O8")
        ),
        ("cells", "dtype", "float32", "`cells` has dtype float32"),
        ("cells", "type", ["static"], "none of static"),
        ("", "dt", 10**400, "`dt`: expected a number"),
        ("", "dt", float("inf"), "`dt`: expected a number"),
        ("", "dt", True, "`dt`: expected a number"),
        ("", "features", "x", "no table `features`"),
        ("", "features", {"a": None}, "feature 'a': expected a table"),
    ],
)
def test_what_meta_json_may_not_say(feature, key, value, message, tmp_path):
    files.cylinder_flow(tmp_path, count=1)
    meta = json.loads((tmp_path / "meta.json").read_text())
    (meta["features"][feature] if feature else meta)[key] = value
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    refused(lambda: read(tmp_path / "train.tfrecord", trust=True), message)


@pytest.mark.parametrize("length", ["4", 2.5, None, True, -1, 0, float("inf"), 10**400, [4]])
def test_lengths_of_trajectories(length, tmp_path):
    files.cylinder_flow(tmp_path, count=1)
    meta = json.loads((tmp_path / "meta.json").read_text())
    meta["features"]["velocity"]["shape"][0] = -1
    assert len(read(tmp_path / "train.tfrecord", trust=True)) == 4
    meta["trajectory_length"] = length
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    refused(lambda: read(tmp_path / "train.tfrecord", trust=True), "trajectory_length|do not make")


@pytest.mark.parametrize("value", [None, 3, "x", [1]])
def test_meta_json_of_hdf5_is_a_table_too(value, tmp_path):
    files.hdf5(tmp_path / "train.h5", files.cylinder_flow(tmp_path, count=1))
    (tmp_path / "meta.json").write_text(json.dumps(value))
    refused(lambda: read(tmp_path / "train.h5", trust=True), r"meta\.json: expected a table")


def test_what_our_writers_said_is_left_out_where_it_is_damaged(tmp_path):
    """It is what a stranger's file may say too."""
    mesh = MESHES["polygons"].replace(point_fields={"t": torch.rand(12, 3, 3)}, cell_fields={})
    write(mesh, tmp_path / "a.cgns")
    found: list[str] = []

    def look(name, node):
        if isinstance(node, h5py.Dataset) and b"widths" in node[()].tobytes():
            found.append(name)

    with h5py.File(tmp_path / "a.cgns") as file:
        file.visititems(look)
        size = file[found[0]].size
    for text in (
        b"\xff" * size,
        b"[" * size,
        b'{"widths": {"t": 1e300}}',
        b'{"widths": {"t": []}}',
    ):
        with h5py.File(tmp_path / "a.cgns", "r+") as file:
            file[found[0]][()] = np.frombuffer(text.ljust(size)[:size], np.int8)
        assert read(tmp_path / "a.cgns", trust=True).n_points == 12


def test_extras_that_are_nested_without_end_are_stale():
    assert extras.unpack({"meshsim": "[" * 200_000}, 3, [])[0] == {}


@pytest.mark.parametrize("shape", [[-1, -1], [-3, -1], [2**32, 2**32]])
def test_shapes_of_another_size_are_not_taken(shape):
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], float)
    block = {"type": "triangle", "nodes": np.array([[0, 1, 2]]), "rows": np.arange(1)}
    about = {"types": ["triangle"], "flattened": [], "dtypes": {}, "dim": 3, "z": None}
    about |= {"shapes": {"point:p": shape}, "key": extras.fingerprint(3, [block])}
    tree = {"points": points, "blocks": [block], "extras": extras.pack(about, {})}
    values = np.arange(3.0)[:, None]
    mesh = Built({**tree, "point_fields": {"p": values}}, False, True).mesh
    assert mesh.point_fields["p"].flatten().tolist() == [0, 1, 2]


HEAD = """ply
format ascii 1.0
element vertex 3
property float x
property float y
property float z
element face 1
property list uchar int vertex_indices
end_header
"""
ROWS = "0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        *(
            ("vertex 3", f"vertex {count}", "expected a number of vertex")
            for count in ("1e9", "-1", "3.0", "nan", "²", "0x3")
        ),
        ("vertex 3", "vertex 99999999999", r"ends early \(expected 99999999999 vertex"),
        ("vertex 3", "vertex 1" + "0" * 5000, r"ends early \(expected 10000"),
        ("face 1", "face -1", "expected a number of face"),
        ("vertex 3", "vertex", "has a damaged header: 'element vertex'"),
        ("list uchar int", "list float int", "a list counted by float"),
        ("list uchar int", "list list int", "unknown type in"),
        ("list uchar int", "list uchar word", "unknown type in"),
        ("list uchar int", "list int", "unknown type in|damaged header"),
        ("float y", "float x", "names the property 'x' of 'vertex' twice"),
        ("face 1", "vertex 1", "names the element 'vertex' twice"),
        ("uchar int", "uchar float", "corners are no whole numbers"),
    ],
)
def test_headers_of_ply(old, new, message, tmp_path):
    rows = ROWS.replace("0 1 2", "0 1.5 2") if "whole" in message else ROWS
    (tmp_path / "a.ply").write_text(HEAD.replace(old, new) + rows, encoding="utf-8")
    refused(lambda: read(tmp_path / "a.ply", trust=True), message)


@pytest.mark.parametrize(
    "said",
    [
        *("[1e9]", "[-1]", "[3, null]", "[[3]]", '"3"', "true", "{}", "[4611686018427387904, 4]"),
        *('[3], "dtype": ["float32"]', '[3], "name": ["v"]', '[3]}, "w": [1], "x": {"shape": [3]'),
    ],
)
def test_what_a_ply_says_of_its_fields(said, tmp_path):
    """Columns are read; what is said of them is left out where it cannot be meant."""
    mesh = MESHES["cube_surface"]
    values = torch.rand(mesh.n_points, 3)
    write(mesh.replace(point_fields={"v": values}, cell_fields={}), tmp_path / "a.ply")
    head, end, rest = (tmp_path / "a.ply").read_bytes().partition(b"end_header")
    changed = re.sub(rb'"shape": \[3\]', b'"shape": ' + said.encode(), head)
    assert changed != head
    (tmp_path / "a.ply").write_bytes(changed + end + rest)
    found = read(tmp_path / "a.ply", trust=True)
    columns = [v.reshape(mesh.n_points, -1) for v in found.point_fields.values()]
    assert torch.equal(torch.cat(columns, 1), values)
