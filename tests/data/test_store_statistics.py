"""The statistics that a store keeps."""

import numpy as np
import pytest

from meshsim import Sample
from meshsim.check import InputError
from meshsim.data import Field, Schema, Store

SCHEMA = Schema(
    [
        Field("velocity", "state", components=2),
        Field("pressure", "target"),
        Field("inflow", "parameter", "global"),
    ]
)


def test_statistics_are_exact_and_kept(tmp_path, flow, monkeypatch):
    store = Store.create(tmp_path / "s", SCHEMA)
    samples = {name: flow(name=name, seed=k, frames=5 + k) for k, name in enumerate("abcd")}
    for sample in samples.values():
        store.append(sample)
    store.set_splits({"train": ["a", "b", "d"], "test": ["c"]})
    got = store.statistics(stride=2)
    used = [samples[n] for n in "abd"]
    u = [np.asarray(s.branch.point_fields["velocity"], np.longdouble) for s in used]
    t = [s.branch.times.numpy()[:, None, None] for s in used]
    values = np.concatenate([x.reshape(-1, 2) for x in u])
    rates = np.concatenate(
        [((x[2:] - x[:-2]) / (y[2:] - y[:-2])).reshape(-1, 2) for x, y in zip(u, t, strict=True)]
    )
    for name, x in (("velocity", values), ("velocity.rate", rates)):
        assert got[name].count == len(x)
        np.testing.assert_allclose(got[name].mean, x.mean(0).astype(float), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(got[name].std, x.std(0).astype(float), rtol=1e-12)
    assert got["inflow"].count == 3
    assert (got["inflow"].min.item(), got["inflow"].max.item()) == (1.0, 4.0)
    assert list(got) == ["velocity", "pressure", "inflow", "velocity.rate"]

    # asked again they come from the store, not from the frames
    monkeypatch.setattr(Store, "_moments_of", None)
    again = Store(store.path).statistics(stride=2)
    assert {k: m.to_dict() for k, m in again.items()} == {k: m.to_dict() for k, m in got.items()}
    assert Store(store.path).statistics(["d", "b", "a"], stride=2)["inflow"].count == 3
    monkeypatch.undo()
    # and not when anything they depend on is another
    assert store.statistics(stride=1)["velocity.rate"].count > got["velocity.rate"].count
    store.set_splits({"train": ["a"]})
    assert store.statistics(stride=2)["inflow"].count == 1


def test_statistics_of_a_replaced_sample_are_new(tmp_path, flow):
    store = Store.create(tmp_path / "s", SCHEMA)
    store.append(flow(seed=0))
    before = store.statistics(["a"])["velocity"].to_dict()
    store.remove("a")
    store.append(flow(seed=1))
    assert store.statistics(["a"])["velocity"].to_dict() != before


def test_statistics_cover_every_location(tmp_path, mixed_mesh):
    schema = Schema(
        [
            Field("volume", "target", "cell"),
            Field("shear", "target", "boundary", 2),
            Field("drag", "target", "global"),
            Field("long", "target", "global", 100),
            Field("kind", "parameter"),
        ]
    )
    store = Store.create(tmp_path / "s", schema)
    store.append(Sample({"one": mixed_mesh, "two": mixed_mesh}, name="a"))
    got = store.statistics(["a"])
    assert got["volume"].count == 8 and got["shear"].mean.tolist() == [2.0, 3.0]
    assert got["drag"].mean.item() == 1.25 and got["long"].count == 2
    assert got["kind"].max.item() == 9.0
    assert store.statistics(["a"], branch="one")["volume"].count == 4


def test_statistics_need_a_schema_and_samples(tmp_path, flow):
    store = Store.create(tmp_path / "s")
    store.append(flow())
    with pytest.raises(InputError, match="no schema"):
        store.statistics(["a"])
    assert store.statistics(["a"], schema=SCHEMA)["velocity"].count == 7 * 16
    with pytest.raises(InputError, match="is empty"):
        store.statistics([], schema=SCHEMA)
    with pytest.raises(InputError, match="field 'q' is missing"):
        store.statistics(["a"], schema=Schema([Field("q", "target")]))
    with pytest.raises(InputError, match="stride"):
        store.statistics(["a"], schema=SCHEMA, stride=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_pass_equals_two_in_float64(tmp_path, flow, dtype):
    """Values of 1e6 ± 1 in samples of other lengths, as they come while they are stored."""
    store = Store.create(tmp_path / "s", SCHEMA)
    samples = [flow(f"s{k}", frames=3 + 5 * k, seed=k, dtype=dtype, shift=1e6) for k in range(6)]
    for sample in samples:
        store.append(sample)
    got = store.statistics(store.names)["velocity"]
    frames = [np.asarray(s.branch.point_fields["velocity"], np.float64) for s in samples]
    values = np.concatenate([x.reshape(-1, 2) for x in frames])
    mean = values.mean(0)
    std = np.sqrt(np.square(values - mean).mean(0))
    assert got.count == len(values) and np.all(np.abs(mean - 1e6) < 1) and np.all(std < 2)
    np.testing.assert_allclose(got.mean, mean, rtol=1e-10, atol=0)
    np.testing.assert_allclose(got.std, std, rtol=1e-10, atol=0)
