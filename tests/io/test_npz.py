"""Our .npz: what does not follow the layout of `meshsim.io.to_npz` is refused in one line."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from meshsim import Sample, Series
from meshsim.check import InputError
from meshsim.io import read, write
from tests.helpers import MESHES

WORD, NOTHING = np.array("inlet"), np.zeros(0, np.int64)


@pytest.fixture
def changed(tmp_path):
    """Writes a mesh of the tests, or a series on it, with some arrays changed or taken out."""

    def make(name: str, changes: dict, times: bool = False):
        mesh = MESHES[name]
        fields = {"p": torch.rand(mesh.n_points), "v": torch.rand(mesh.n_points, mesh.dim)}
        mesh = mesh.replace(point_fields=fields, cell_fields={"q": torch.rand(mesh.n_cells)})
        frames = {"w": torch.rand(2, mesh.n_points)}
        what = Sample({"mesh": Series(mesh, [0.0, 1.0], frames)}, {"a": 1.0}) if times else mesh
        write(what, tmp_path / "a.npz")
        data = dict(np.load(tmp_path / "a.npz"))
        for key, values in changes.items():
            data[key] = values(data[key]) if callable(values) else values
        np.savez(tmp_path / "a.npz", **{k: v for k, v in data.items() if v is not None})
        return tmp_path / "a.npz"

    return make


RAGGED = r"expected offsets that rise from 0 to \d+"
ROWS = r"expected \d+ rows, one for each (point|cell)"
WHOLE = "expected (whole )?numbers"


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("polygons", {"cells/polygon/offsets": NOTHING}, RAGGED),
        ("polygons", {"cells/polygon/offsets": np.array([0])}, RAGGED),
        ("polygons", {"cells/polygon/offsets": lambda x: x[::-1]}, RAGGED),
        ("polygons", {"cells/polygon/offsets": lambda x: x + 1}, RAGGED),
        ("polygons", {"cells/polygon/offsets": np.array(3)}, r"shape \(\) \(expected \(n,\)\)"),
        ("polygons", {"cells/polygon/offsets": lambda x: x + 0.5}, WHOLE),
        ("polygons", {"cells/polygon/offsets": None}, "lacks offsets"),
        ("polygons", {"cells/polygon/nodes": np.array(3)}, r"expected \(n,\)"),
        ("polygons", {"cells/polygon/type": np.array([1])}, "unknown array"),
        ("polyhedra", {"cells/polyhedron/offsets": NOTHING}, RAGGED),
        ("polyhedra", {"cells/polyhedron/face_offsets": NOTHING}, RAGGED),
        ("polyhedra", {"cells/polyhedron/face_offsets": lambda x: x[:-1]}, RAGGED),
        ("polyhedra", {"cells/polyhedron/nodes": lambda x: x[:-1]}, RAGGED),
        ("mixed_solid", {"cells/wedge": lambda x: x[0]}, r"expected \(n, k\)"),
        ("mixed_solid", {"cells/wedge": lambda x: x[:, :5]}, r"not \(C, 6\)"),
        ("mixed_solid", {"cells/wedge": lambda x: x.astype(float)}, WHOLE),
        ("channel", {"point/p": lambda x: x[:-1]}, ROWS),
        ("channel", {"point/v": lambda x: np.concatenate([x, x])}, ROWS),
        ("channel", {"point/p": np.array(2.0)}, ROWS),
        ("channel", {"cell/q": np.array(2.0)}, ROWS),
        ("channel", {"cell/q": NOTHING}, ROWS),
        ("channel", {"cell/q": WORD}, WHOLE),
        ("channel", {"region/left": WORD}, WHOLE),
        ("channel", {"region/left": np.array(["a", "b"])}, WHOLE),
        ("channel", {"region/left": np.array([0.5])}, WHOLE),
        ("channel", {"region/left": np.array(1)}, r"expected \(n,\)"),
        ("channel", {"region/left": np.array([9999])}, r"index 9999 is outside"),
        ("channel", {"boundary/inlet/line": WORD}, WHOLE),
        ("channel", {"boundary/inlet/line": np.array([0.5, 1.5])}, WHOLE),
        ("channel", {"boundary/inlet/line": np.array([0, 1])}, r"expected \(n, k\)"),
        ("channel", {"boundary/inlet/line": np.array([[0, 1, 2]])}, "of a face type"),
        ("channel", {"boundary/more/triangle": np.array([[0, 1, 2]] * 2)}, "face of 3 points"),
        (
            "channel",
            {"boundary_field/inlet/flux": np.array(1.0)},
            "expected 2 rows, one for each f",
        ),
        ("channel", {"boundary_kind/wall": np.array(["a", "b"])}, "expected a word"),
        ("mixed_solid", {"boundary/floor/polygon/offsets": WORD}, WHOLE),
        ("mixed_solid", {"boundary/floor/polygon/offsets": NOTHING}, RAGGED),
        ("mixed_solid", {"boundary/floor/polygon/nodes": None}, "lacks nodes"),
        ("channel", {"points": np.array(2.0)}, r"points` has shape \(\)"),
        ("channel", {"points": WORD}, WHOLE),
        ("channel", {"z": np.zeros(3)}, "`z` has shape"),
        ("channel", {"file_order": np.array(0)}, r"expected \(n,\)"),
    ],
)
@pytest.mark.parametrize("times", [False, True])
def test_arrays_of_another_form_are_refused(name, changes, message, times, changed):
    path = changed(name, changes, times)
    with pytest.raises(InputError, match=message) as error:
        read(path, trust=True)
    said = str(error.value)
    assert "\n" not in said and said.startswith(f"{path}: ") and len(said) < len(str(path)) + 200


def test_times_are_a_list(changed):
    for values, message in (
        (np.zeros((2, 2)), "no list"),
        (WORD, WHOLE),
        (np.array(1.0), "no list"),
    ):
        with pytest.raises(InputError, match=message):
            read(changed("channel", {"times": values}, True), trust=True)
    with pytest.raises(InputError, match="`points` has 3 times, `times` 2"):
        moving = {"points": lambda x: np.stack([x, x, x])}
        read(changed("channel", moving, True), trust=True)


def test_what_is_not_ours_may_be_words(changed):
    """Other arrays are let be, and lists of nothing have no words."""
    more = {"title": np.array("a flow"), "notes": np.zeros(0)}
    assert read(changed("channel", more), trust=True).n_points == MESHES["channel"].n_points
