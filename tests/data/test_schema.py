import numpy as np
import pytest
import torch

from meshsim import Mesh, Sample, Series
from meshsim.check import InputError
from meshsim.data import Field, Schema

SCHEMA = Schema(
    [
        Field("velocity", "state", components=2, unit="m/s", noise=0.02),
        Field("pressure", "target"),
        Field("inflow", "parameter", "global"),
    ]
)


def test_roles_and_order():
    assert SCHEMA.names == ("velocity", "pressure", "inflow")
    assert [f.name for f in SCHEMA.states] == ["velocity"]
    assert [f.name for f in SCHEMA.targets] == ["pressure"]
    assert [f.name for f in SCHEMA.parameters] == ["inflow"]
    assert "velocity" in SCHEMA and len(SCHEMA) == 3 and SCHEMA["pressure"].location == "point"


def test_dict_round_trip():
    assert Schema.from_dict(SCHEMA.to_dict()) == SCHEMA
    assert Schema.from_dict({"p": {"role": "target"}}) == Schema([Field("p", "target")])


@pytest.mark.parametrize(
    "table, message",
    [
        ({"p": {"role": "target", "component": 2}}, "did you mean 'components'"),
        ({"p": {"role": "stat"}}, "did you mean 'state'"),
        ({"p": {"role": "target", "location": "node"}}, "location of field 'p'"),
        ({"p": {}}, "`role` is missing"),
        ({"p": 3}, "expected a table"),
        ({"p": {"role": "target", "components": 0}}, "1 or more"),
        ({"p": {"role": "target", "components": True}}, "1 or more"),
        ({"p": {"role": "target", "noise": -1.0}}, "0 or more"),
        ({"p": {"role": "target", "scale": 0.0}}, "above 0"),
        ({"p": {"role": "state", "location": "global"}}, "points or cells"),
    ],
)
def test_bad_entries_are_named(table, message):
    with pytest.raises(InputError) as error:
        Schema.from_dict(table)
    assert message in str(error.value) and "'p'" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_name_twice_is_refused():
    with pytest.raises(InputError, match="two fields called 'p'"):
        Schema([Field("p", "target"), Field("p", "state")])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_fitting_sample_passes(flow, dtype):
    SCHEMA.check(flow(dtype=dtype))


def test_a_missing_field_is_named_with_the_nearest(flow):
    with pytest.raises(InputError, match=r"sample 'a': field 'presure' is missing.*'pressure'"):
        Schema([Field("presure", "target")]).check(flow())


def test_a_field_elsewhere_is_said(mixed_mesh):
    with pytest.raises(InputError, match="field 'volume' is in the cells"):
        Schema([Field("volume", "target")]).check(Sample(mixed_mesh, name="m"))


def test_components_are_counted_flat(mixed_mesh):
    sample = Sample(mixed_mesh, name="m")
    Schema([Field("grad(U)/x", "target", components=4)]).check(sample)
    Schema([Field("shear", "target", "boundary", 2)]).check(sample)
    Schema([Field("drag", "target", "global")]).check(sample)
    with pytest.raises(InputError, match="'m': field 'velocity': expected 3 components, got 2"):
        Schema([Field("velocity", "state", components=3)]).check(sample)


def _series(frames):
    mesh = Mesh([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], {"triangle": [[0, 1, 2]]})
    return Sample(Series(mesh, range(len(frames)), {"p": frames}), name="s")


def test_nan_is_found_in_any_frame():
    good, bad = torch.zeros(3), torch.tensor([0.0, float("nan"), 0.0])
    schema = Schema([Field("p", "state")])
    schema.check(_series([good, good]))
    with pytest.raises(InputError, match=r"sample 's': field 'p': .*frame 2.*row 1"):
        schema.check(_series([good, good, bad]))
    schema.check(_series([good, good, bad]), values=False)


def test_a_frame_of_another_length_is_found():
    with pytest.raises(InputError, match=r"sample 's': field 'p': frame 1 "):
        Schema([Field("p", "state")]).check(_series([torch.zeros(3), torch.zeros(2)]))
    with pytest.raises(InputError, match=r"field 'p': frame 0: expected 3 rows, got shape"):
        Schema([Field("p", "state")]).check(_series([torch.zeros(2), torch.zeros(2)]))


def test_with_branches_one_is_enough_but_all_are_checked(mixed_mesh):
    bare = Mesh([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], {"triangle": [[0, 1, 2]]})
    schema = Schema([Field("pressure", "target")])
    schema.check(Sample({"a": bare, "b": mixed_mesh}, name="x"))
    wrong = bare.with_fields({"pressure": torch.zeros(3, 2)})
    with pytest.raises(InputError, match="expected 1 components, got 2"):
        schema.check(Sample({"a": wrong, "b": mixed_mesh}, name="x"))
