"""TFRecord trajectories and their HDF5 kin: every number back, every damage said in one line."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsim import Mesh, Series
from meshsim.check import InputError
from meshsim.io import read
from meshsim.io.raw.records import example, index, masked_crc
from tests import trajectory_files as files


def trusted(path, entry=None):
    return read(path, entry=entry, trust=True)


def test_checksums_are_the_published_ones():
    # RFC 3720, B.4: CRC-32C of 32 bytes of zeros, of ones, of 0 … 31
    for data, crc in (
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ):
        assert files.crc32c(data) == crc
        assert masked_crc(data) == int.from_bytes(files.masked(data), "little")


def test_a_message_written_by_hand():
    # Example { features { feature { key "ab" value { float_list [1, -2] } }
    #                      feature { key "n" value { int64_list [1, -1, 300] } } } }
    floats = b"\x12\x0a" + b"\x0a\x08" + np.array([1, -2], "<f4").tobytes()
    ints = b"\x1a\x0f\x0a\x0d" + b"\x01" + b"\xff" * 9 + b"\x01" + b"\xac\x02"
    first = b"\x0a\x02ab" + b"\x12" + bytes([len(floats)]) + floats
    second = b"\x0a\x01n" + b"\x12" + bytes([len(ints)]) + ints
    entries = b"".join(b"\x0a" + bytes([len(e)]) + e for e in (first, second))
    found = example(b"\x0a" + bytes([len(entries)]) + entries)
    assert found["ab"].dtype == np.float32 and found["ab"].tolist() == [1, -2]
    assert found["n"].dtype == np.int64 and found["n"].tolist() == [1, -1, 300]
    loose = b"\x1a\x04\x08\x07\x08\x09"  # [7, 9], not packed
    entry = b"\x0a\x01n" + b"\x12" + bytes([len(loose)]) + loose
    entry = b"\x0a" + bytes([len(entry)]) + entry
    assert example(b"\x0a" + bytes([len(entry)]) + entry)["n"].tolist() == [7, 9]


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=9), st.binary(max_size=300), max_size=5))
def test_messages_come_back(features):
    found = example(files.message(features))
    assert {name: [bytes(v) for v in values] for name, values in found.items()} == {
        name: [value] for name, value in features.items()
    }


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_no_bytes_are_more_than_a_value_error(data):
    with contextlib.suppress(ValueError):
        example(data)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=6), st.integers(0, 40))
def test_records_are_found_by_their_heads(tmp_path_factory, parts, cut):
    path = tmp_path_factory.mktemp("records") / "a.tfrecord"
    whole = b"".join(map(files.framed, parts))
    data = whole[: max(0, len(whole) - cut)]
    path.write_bytes(data)
    places, wrong = index(str(path))
    assert [data[a : a + n] for a, n in places] == parts[: len(places)]
    ends = np.cumsum([0, *(16 + len(part) for part in parts)])
    assert len(places) == int((ends <= len(data)).sum()) - 1
    assert bool(wrong) == (len(data) not in ends)


def same(series, arrays, dt):
    assert isinstance(series, Series)
    assert torch.equal(series.mesh.points, torch.from_numpy(arrays["mesh_pos"][0]))
    assert torch.equal(series.mesh.cells[0].nodes, torch.from_numpy(arrays["cells"][0]).long())
    kind = series.mesh.point_fields["node_type"]
    assert kind.dtype == torch.int64
    assert torch.equal(kind, torch.from_numpy(arrays["node_type"][0, :, 0]).long())
    times = torch.arange(len(series), dtype=torch.float64) * dt
    assert torch.allclose(series.times, times, rtol=1e-15)
    assert torch.equal(series.field("velocity"), torch.from_numpy(arrays["velocity"]))
    assert torch.equal(series.field("pressure"), torch.from_numpy(arrays["pressure"][..., 0]))


def test_flows_come_back_to_the_bit(tmp_path):
    made = files.cylinder_flow(tmp_path)
    path = tmp_path / "train.tfrecord"
    for i, arrays in enumerate(made):
        found = trusted(path, i)
        same(found, arrays, 0.01)
        assert found.mesh.dim == 2 and found.mesh.notes == ()
    first = read(path)  # in the guarded child
    same(first, made[0], 0.01)
    assert first.mesh.notes == ("the first of 3 trajectories",)


def test_the_hdf5_kin_is_the_same(tmp_path):
    made = files.cylinder_flow(tmp_path, count=12)
    files.hdf5(tmp_path / "train.h5", made)
    for i in (0, 2, 11):  # in the order of numbers, not of words
        same(trusted(tmp_path / "train.h5", i), made[i], 0.01)
    (tmp_path / "meta.json").unlink()
    found = trusted(tmp_path / "train.h5", 1)
    same(found, made[1], 1.0)
    assert found.mesh.notes == ("times are numbers of frames: the data set says no time step",)


def deforming(folder, times=3):
    """`deforming_plate` made small: two tetrahedra that move, stress."""
    rest = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], np.float32)
    cells = np.array([[0, 1, 2, 3], [1, 2, 3, 4]], np.int32)
    moved = rest + np.arange(times, dtype=np.float32)[:, None, None] * 0.1
    stress = np.arange(times * 5, dtype=np.float32).reshape(times, 5, 1)
    features = {
        "cells": files.feature("static", "int32", 1, -1, 4),
        "node_type": files.feature("static", "int32", 1, -1, 1),
        "mesh_pos": files.feature("static", "float32", 1, -1, 3),
        "world_pos": files.feature("dynamic", "float32", times, -1, 3),
        "stress": files.feature("dynamic", "float32", times, -1, 1),
    }
    files.meta(folder, features, times, 0, collision_radius=0.03)
    arrays = {
        "cells": cells[None],
        "node_type": np.array([0, 1, 3, 0, 0], np.int32)[None, :, None],
        "mesh_pos": rest[None],
        "world_pos": moved,
        "stress": stress,
    }
    files.write(folder / "valid.tfrecord", [arrays])
    return arrays


def test_plates_move(tmp_path):
    arrays = deforming(tmp_path)
    found = trusted(tmp_path / "valid.tfrecord")
    assert found.mesh.cells[0].type == "tetra"
    for t in range(3):
        assert torch.equal(found.frame(t).points, torch.from_numpy(arrays["world_pos"][t]))
    assert torch.equal(found.mesh.point_fields["mesh_pos"], torch.from_numpy(arrays["mesh_pos"][0]))
    assert found.field("stress").shape == (3, 5)
    assert found.times.tolist() == [0, 1, 2]


def test_cloth_in_space_keeps_its_plane_coordinates(tmp_path):
    flat, cells = files.plane(3, 3)
    world = np.stack([np.pad(flat, ((0, 0), (0, 1))) + t for t in range(4)]).astype(np.float32)
    features = {
        **files.FLOW,
        "world_pos": files.feature("dynamic", "float32", 4, -1, 3),
    }
    files.meta(tmp_path, features, 4, 0.02)
    kind = np.zeros((1, 9, 1), np.int32)
    arrays = {"cells": cells[None], "mesh_pos": flat[None], "node_type": kind, "world_pos": world}
    files.write(tmp_path / "test.tfrecord", [arrays])
    found = trusted(tmp_path / "test.tfrecord")
    assert found.mesh.dim == 3 and found.mesh.cells[0].type == "triangle"  # flat, but only at first
    assert found.mesh.point_fields["mesh_pos"].shape == (9, 2)
    assert torch.equal(found.frame(3).points, torch.from_numpy(world[3]))


def test_remeshed_cloth_is_a_segment_for_each_mesh(tmp_path):
    """`flag_dynamic`: sizes differ from time to time, lengths stand in arrays of their own."""
    meshes = [files.plane(3, 3), files.plane(3, 3), files.plane(4, 3)]
    features = {
        "cells": files.feature("dynamic_varlen", "int32", -1, 3),
        "mesh_pos": files.feature("dynamic_varlen", "float32", -1, 2),
        "node_type": files.feature("dynamic_varlen", "int32", -1, 1),
        "world_pos": files.feature("dynamic_varlen", "float32", -1, 3),
        # as two of the published files have it
        "sizing_field": {"type": "dynamic_varlen", "dtype": "<dtype: 'float32'>", "shape": [-1, 4]},
    }
    files.meta(tmp_path, features, 3, 0.02)
    points = [np.pad(p, ((0, 0), (0, 1))) + np.float32(t) for t, (p, _) in enumerate(meshes)]
    parts = {
        "cells": [c for _, c in meshes],
        "mesh_pos": [p for p, _ in meshes],
        "node_type": [np.zeros((len(p), 1), np.int32) for p in points],
        "world_pos": points,
        "sizing_field": [np.ones((len(p), 3), np.float32) for p in points],
    }
    arrays = {}
    for name, values in parts.items():
        arrays[name] = np.concatenate(values)
        arrays[f"length_{name}"] = np.array([len(v) for v in values], np.int32)
    files.write(tmp_path / "train.tfrecord", [arrays])
    found = trusted(tmp_path / "train.tfrecord")
    assert [len(segment) for segment in found.segments] == [2, 1]
    assert [s.mesh.n_points for s in found.segments] == [9, 12]
    assert torch.allclose(
        torch.cat([s.times for s in found.segments]), torch.arange(3).double() * 0.02
    )
    assert found.later[0].field("sizing_field").shape == (1, 12, 3)
    assert torch.equal(found.frame(1).points, torch.from_numpy(points[1]))


def damaged(path, at, by=1):
    data = bytearray(path.read_bytes())
    data[at] ^= by
    path.write_bytes(bytes(data))


def test_damage_is_said_with_the_record(tmp_path):
    path = tmp_path / "train.tfrecord"
    made = files.cylinder_flow(tmp_path)
    good = path.read_bytes()
    sizes = [len(files.message({k: v.tobytes() for k, v in t.items()})) + 16 for t in made]
    damaged(path, sizes[0] + 500)
    same(trusted(path, 0), made[0], 0.01)
    same(trusted(path, 2), made[2], 0.01)
    with pytest.raises(InputError, match=rf"record 1 \(byte {sizes[0]}\): is damaged \(checksum\)"):
        trusted(path, 1)
    path.write_bytes(good)
    damaged(path, sizes[0] + 1)
    same(trusted(path, 0), made[0], 0.01)
    with pytest.raises(InputError, match=r"record 1 .*: its length is damaged"):
        trusted(path, 1)
    path.write_bytes(good[:-7])
    with pytest.raises(InputError, match=r"record 2 .*: ends early \(expected \d+ bytes"):
        trusted(path, 2)
    path.write_bytes(good[: sizes[0] + 5])
    with pytest.raises(InputError, match=r"record 1 .*: ends early \(its head has 12 bytes"):
        read(path, entry=1)
    path.write_bytes(good)
    with pytest.raises(InputError, match=r"has no record 3 \(records 0\.\.2\)"):
        trusted(path, 3)
    with pytest.raises(InputError, match="leave out `entry`"):
        (tmp_path / "a.off").write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
        read(tmp_path / "a.off", entry=0)


def test_what_does_not_fit_meta_json_is_said(tmp_path):
    path = tmp_path / "train.tfrecord"
    made = files.cylinder_flow(tmp_path, count=1)

    def fails(message, features=None, arrays=None):
        files.write(path, [arrays or made[0]])
        files.meta(tmp_path, {**flow, **(features or {})}, 4, 0.01)
        with pytest.raises(InputError, match=message):
            trusted(path)

    flow = {
        **files.FLOW,
        "velocity": files.feature("dynamic", "float32", 4, -1, 2),
        "pressure": files.feature("dynamic", "float32", 4, -1, 1),
    }
    odd = {"velocity": files.feature("dynamic", "float32", 7, -1, 2)}
    fails(r"record 0: `velocity`: 96 numbers do not make shape \[7, -1, 2\]", odd)
    fails("feature 'velocity': type 'moving' is none of static", {"velocity": {"type": "moving"}})
    some = {"density": files.feature("dynamic", "float32", 4, -1, 1)}
    fails("record 0: has no feature 'density'", some)
    fails(
        "`pressure` has 2 times, others 4",
        {"pressure": files.feature("dynamic", "float32", 2, -1, 1)},
    )
    wide = {"cells": files.feature("static", "int32", 1, -1, 6)}
    fails("cells of 6 points in 2-D", wide)
    cells = {**made[0], "cells": made[0]["cells"] + 9}
    fails("outside 0..11", None, cells)
    fails("unknown dtype", {"pressure": {**flow["pressure"], "dtype": "string"}})
    (tmp_path / "meta.json").write_text("{")
    with pytest.raises(InputError, match=r"meta\.json: not JSON"):
        trusted(path)
    (tmp_path / "meta.json").unlink()
    with pytest.raises(InputError, match=r"no meta\.json beside it"):
        trusted(path)


def test_other_hdf5_is_not_taken_for_trajectories(tmp_path):
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["cells"], file["pos"] = np.zeros((2, 3), int), np.zeros((4, 2))
    with pytest.raises(InputError, match="no group holds a trajectory"):
        trusted(tmp_path / "a.h5")
    made = files.cylinder_flow(tmp_path / "flow", count=1)
    files.hdf5(tmp_path / "flow" / "t.h5", made)
    with h5py.File(tmp_path / "flow" / "t.h5", "a") as file:
        file["0/velocity2"] = h5py.ExternalLink(str(tmp_path / "a.h5"), "/pos")
    with pytest.raises(InputError, match="group '0': `velocity2`: is a link"):
        trusted(tmp_path / "flow" / "t.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["x"] = np.zeros(3)
    with pytest.raises(InputError, match="of no known format"):
        trusted(tmp_path / "b.h5")


def test_meshes_can_be_taken_from_a_time(tmp_path):
    made = files.cylinder_flow(tmp_path)
    found = read(tmp_path / "train.tfrecord", time="last", trust=True)
    assert isinstance(found, Mesh)
    assert torch.equal(found.point_fields["velocity"], torch.from_numpy(made[0]["velocity"][-1]))
