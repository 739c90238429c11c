"""Plain arrays between processes."""

import io
import json

import numpy as np
import pytest

from meshsim.io import wire


def through(tree, limit=1 << 30):
    data = io.BytesIO(b"".join(bytes(part) for part in wire.encode(tree)))

    def read(view):
        assert data.readinto(view) == len(view)

    out = wire.decode(read, limit)
    assert data.read() == b""
    return out


def test_trees_come_through_with_dtype_and_shape():
    arrays = {
        "f8": np.random.default_rng(0).random((3, 2)),
        "i1": np.array([-1, 2], np.int8),
        "bool": np.array([True, False]),
        "big": np.arange(4, dtype=">i4"),
        "strided": np.arange(12).reshape(3, 4)[:, ::2],
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.array(2.5),
        "nan": np.array([np.nan, np.inf]),
    }
    tree = {"a": arrays, "list": [1, "två", None, True, {"x": np.int64(3)}], "t": (1.5, np.nan)}
    back = through(tree)
    for name, values in arrays.items():
        found = back["a"][name]
        assert found.shape == values.shape
        assert found.dtype == values.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found, values)
    assert back["list"] == [1, "två", None, True, {"x": 3}]
    assert back["t"][0] == 1.5 and np.isnan(back["t"][1])


def test_objects_are_refused():
    with pytest.raises(ValueError, match="dtype object"):
        wire.encode({"x": np.array([None])})
    with pytest.raises(TypeError):
        wire.encode({"x": {1, 2}})


def test_answers_that_are_damaged_or_too_large_are_refused():
    with pytest.raises(ValueError, match="too large"):
        through({"x": np.zeros(1000)}, limit=1000)
    header = json.dumps({"tree": {}, "arrays": [{"dtype": "<f8", "shape": [10**12]}]}).encode()
    for data in (b"x" * 100, wire.MAGIC + len(header).to_bytes(8, "little") + header):
        stream = io.BytesIO(data)
        with pytest.raises(ValueError, match="damaged"):
            wire.decode(lambda view, s=stream: s.readinto(view), 1 << 30)
