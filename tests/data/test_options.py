import numpy as np
import pytest
import torch

from meshsim import Mesh, Series
from meshsim.check import InputError
from meshsim.data import Field, Schema, read_preprocess_config
from meshsim.data.options import apply, check_chosen, check_options


def test_fields_rename_select_and_stack(mixed_mesh):
    options = check_options(
        {"fields": {"p": "pressure", "u": ["P", "p"], "vol": "volume", "tau": "shear"}}
    )
    mesh = apply(mixed_mesh, options)
    assert list(mesh.point_fields) == ["p", "u"] and list(mesh.cell_fields) == ["vol"]
    assert torch.equal(mesh.point_fields["p"], mixed_mesh.point_fields["pressure"])
    stacked = torch.stack([mixed_mesh.point_fields["P"], mixed_mesh.point_fields["p"]], 1)
    assert torch.equal(mesh.point_fields["u"], stacked)
    assert list(mesh.boundaries["wall"].fields) == ["tau"] and not mesh.global_fields
    assert mesh.flattened == frozenset()
    kept = apply(mixed_mesh, check_options({"fields": {"U": "velocity"}}))
    assert kept.flattened == {"U"}
    assert list(apply(mixed_mesh, check_options({"fields": ["p"]})).point_fields) == ["p"]


def test_no_options_change_nothing(mixed_mesh, same):
    from meshsim import Sample

    same(Sample(mixed_mesh), Sample(apply(mixed_mesh, check_options(None))))


def test_series_are_thinned_stacked_and_cast_lazily(flow):
    series = flow(frames=7, dtype=np.float64).branch

    read = []

    class Watched:
        def __len__(self):
            return 7

        def __getitem__(self, t):
            read.append(t)
            return series.point_fields["pressure"][t]

    lazy = Series(series.mesh, series.times, {"p": Watched(), "q": Watched()})
    options = check_options({"fields": {"pq": ["p", "q"]}, "frames": [1, 6, 2], "dtype": "float32"})
    out = apply(lazy, options)
    assert torch.equal(out.times, series.times[1:6:2]) and read == []
    frame = out.point_fields["pq"][1]
    assert read == [3, 3] and frame.dtype == torch.float32 and frame.shape == (16, 2)
    assert torch.equal(
        frame[:, 0].double(), torch.from_numpy(series.point_fields["pressure"][3]).float().double()
    )
    with pytest.raises(InputError, match="past the last of 7 times"):
        apply(series, check_options({"frames": [9]}))


def test_chosen_fields_must_be_somewhere(mixed_mesh, flow):
    options = check_options({"fields": {"p": "presure"}})
    with pytest.raises(InputError, match="field 'presure' is missing: did you mean 'pressure'"):
        check_chosen({"mesh": mixed_mesh}, [], options)
    check_chosen({"mesh": mixed_mesh}, ["p"], options)
    both = check_options({"fields": ["inflow", "velocity", "volume"]})
    check_chosen({"a": mixed_mesh, "b": flow().branch}, ["inflow"], both)


def test_tables_make_a_schema():
    options = check_options(
        {
            "fields": {
                "velocity": {"from": ["vx", "vy"], "role": "state", "components": 2, "noise": 0.02},
                "pressure": {"role": "target"},
            }
        }
    )
    assert options.fields == {"velocity": ("vx", "vy"), "pressure": ("pressure",)}
    assert options.schema == Schema(
        [Field("velocity", "state", components=2, noise=0.02), Field("pressure", "target")]
    )


@pytest.mark.parametrize(
    "config, message",
    [
        ({"field": {}}, "did you mean 'fields'"),
        ({"planar": "yes"}, "`planar`: expected bool"),
        ({"seed": True}, "`seed`: expected int"),
        ({"fields": {"p": 3}}, "fields.p"),
        ({"fields": {"p": []}}, "fields.p"),
        ({"fields": {"p": {"role": "targt"}}}, "did you mean 'target'"),
        ({"fields": {"p": {"role": "target", "form": "x"}}}, "did you mean 'from'|known"),
        ({"dtype": "float16"}, "`dtype`"),
        ({"frames": [3, 2]}, "`frames`"),
        ({"frames": [0, 0, 0]}, "`frames`"),
        ({"frames": ["a"]}, "`frames`"),
        ({"splits": {"train": 0.5}}, "add up to 1"),
        ({"branches": {"a": 3}}, "branches.a"),
        ({"splits": {"train": float("nan")}}, r"`splits\.train`: expected a finite number"),
        *(
            ({key: value}, f"`{key}`: expected a finite number")
            for key in ("dt", "time")
            for value in (10**400, float("nan"), float("-inf"))
        ),
    ],
)
def test_bad_options_are_named(config, message):
    with pytest.raises(InputError, match=message) as error:
        check_options(config)
    assert "\n" not in str(error.value)


def test_a_toml_file(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text('seed = 3\n[fields]\nU = "velocity"\n[splits]\ntest = ["b"]\ntrain = "rest"\n')
    assert check_options(read_preprocess_config(file)).seed == 3
    for text, message in (("x = [", "not valid TOML"), ("sed = 3", r"c\.toml: .*'seed'")):
        file.write_text(text)
        with pytest.raises(InputError, match=message):
            read_preprocess_config(file)
    with pytest.raises(InputError, match="cannot read"):
        read_preprocess_config(tmp_path / "missing.toml")


def test_segments_are_all_treated():
    a = Mesh([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], {"triangle": [[0, 1, 2]]})
    later = Series(a, [2.0, 3.0], {"u": torch.ones(2, 3)})
    series = Series(a, [0.0, 1.0], {"u": torch.zeros(2, 3)}, later=(later,))
    out = apply(series, check_options({"fields": {"v": "u"}, "frames": [1]}))
    assert [len(s) for s in out.segments] == [1, 1]
    assert [list(s.point_fields) for s in out.segments] == [["v"], ["v"]]


def test_a_location_chooses_between_points_and_cells():
    """Files that have a field at both are cut down to one; elsewhere the field is missing."""
    corner = Mesh([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], {"triangle": [[0, 1, 2]]})
    mesh = corner.with_fields(point={"U": torch.ones(3), "p": torch.ones(3)})
    mesh = mesh.with_fields(cell={"U": torch.zeros(1)})
    both = apply(mesh, check_options({"fields": {"u": "U"}}))
    assert list(both.point_fields) == list(both.cell_fields) == ["u"]
    options = check_options({"fields": {"u": {"from": "U", "location": "cell"}}})
    assert options.schema is None
    out = apply(mesh, options)
    assert not out.point_fields and list(out.cell_fields) == ["u"]
    check_chosen({"mesh": mesh}, [], options)
    lacking = check_options({"fields": {"p": {"location": "cell"}}})
    with pytest.raises(InputError, match="field 'p' is missing in the cells"):
        check_chosen({"mesh": mesh}, [], lacking)
    frames = Series(corner, [0.0, 1.0], {"U": torch.ones(2, 3)}, {"U": torch.ones(2, 1)})
    at_points = check_options(
        {"fields": {"U": {"role": "state", "location": "point", "components": 1}}}
    )
    assert at_points.schema == Schema([Field("U", "state")])
    out = apply(frames, at_points)
    assert list(out.point_fields) == ["U"] and not out.cell_fields
    with pytest.raises(InputError, match="'cell'"):
        check_options({"fields": {"p": {"location": "cel"}}})


@pytest.mark.parametrize("cells", [{"mesh": 0}, {"mesh": True}, {"mesh": 1.5}, {"volume": 3}])
def test_bad_numbers_of_cells(cells):
    with pytest.raises(InputError, match="cells"):
        check_options({"cells": cells})
