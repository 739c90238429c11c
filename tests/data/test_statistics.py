import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsim import Sample
from meshsim.check import InputError
from meshsim.data import Field, Moments, Normaliser, Schema, field_moments, rate_moments

LONG = np.longdouble


def two_pass(x):
    """Mean and standard deviation in extended precision."""
    x = np.asarray(x).reshape(-1, x.shape[-1]).astype(LONG)
    mean = x.mean(0)
    return mean, np.sqrt(((x - mean) ** 2).mean(0))


def close(a, b, tolerance=1e-12):
    a, b = np.asarray(a, LONG), np.asarray(b, LONG)
    return bool((np.abs(a - b) <= tolerance * np.maximum(np.abs(b), 1e-300)).all())


def stream(x, cuts):
    moments = Moments(x.shape[-1])
    for part in np.split(x, cuts):
        moments.update(part)
    return moments


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(2, 400),
    offset=st.sampled_from([0.0, 1.0, -50.0, 1e3]),
    scale=st.sampled_from([1e-3, 1.0, 1e6]),
    dtype=st.sampled_from([np.float32, np.float64]),
    data=st.data(),
)
def test_streaming_equals_two_passes_whatever_the_chunks(seed, n, offset, scale, dtype, data):
    random = np.random.default_rng(seed)
    x = (scale * (offset + random.normal(size=(n, 3)))).astype(dtype)
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=8)))
    moments = stream(x, cuts)
    mean, std = two_pass(x)
    # a mean near zero is a difference: its error is measured by the deviation
    assert np.all(np.abs(moments.mean.numpy() - mean) <= 1e-12 * np.maximum(np.abs(mean), std))
    assert close(moments.std.numpy(), std, 1e-12 * max(1.0, abs(offset)))
    assert moments.count == n
    assert np.array_equal(moments.min.numpy(), x.min(0).astype(float))
    assert np.array_equal(moments.max.numpy(), x.max(0).astype(float))


def test_a_million_values_in_many_chunks():
    x = np.random.default_rng(1).normal(3.0, 2.0, size=(1_000_000, 1))
    mean, std = two_pass(x)
    for chunk in (999_999, 4096, 777):
        moments = stream(x, range(chunk, len(x), chunk))
        assert close(moments.mean.numpy(), mean) and close(moments.std.numpy(), std)


def test_merge_is_associative_to_round_off_and_empty_is_neutral():
    random = np.random.default_rng(2)

    def fresh():
        generator = np.random.default_rng(3)
        return [Moments(2).update(generator.normal(5, 2, size=(n, 2))) for n in (1, 40, 1000)]

    a, b, c = fresh()
    left = a.merge(b).merge(c)
    a, b, c = fresh()
    right = a.merge(b.merge(c))
    for key in ("mean", "m2"):
        assert close(getattr(left, key).numpy(), getattr(right, key).numpy(), 1e-13)
    x = Moments(2).update(random.normal(size=(7, 2)))
    before = x.to_dict()
    assert x.merge(Moments(2)).to_dict() == before
    assert Moments(2).merge(x).to_dict() == before


def test_empty_chunks_change_nothing():
    moments = Moments(2).update(np.zeros((0, 2))).update(torch.zeros(0, 5, 2))
    assert moments.count == 0 and moments.scale.tolist() == [1.0, 1.0]


def test_constants_get_scale_one():
    x = np.full((1000, 3), 0.1)
    x[:, 1] = np.arange(1000)
    moments = stream(x, [1, 7, 512])
    assert moments.scale[0] == 1.0 and moments.scale[2] == 1.0
    assert moments.scale[1] == moments.std[1] > 100
    # round-off of a constant is not a signal
    noisy = Moments(1).update(1e5 * (1 + 1e-16 * np.random.default_rng(0).normal(size=(50, 1))))
    assert noisy.scale.item() == 1.0


def test_json_round_trip_is_exact():
    moments = stream(np.random.default_rng(0).normal(size=(100, 3)), [3, 50])
    again = Moments.from_dict(json.loads(json.dumps(moments.to_dict())))
    assert again.to_dict() == moments.to_dict() and again.count == 100
    empty = Moments.from_dict(json.loads(json.dumps(Moments(2).to_dict())))
    assert empty.count == 0 and len(empty) == 2


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_moments_refuse_what_is_not_finite(bad):
    with pytest.raises(InputError, match="not finite"):
        Moments(1).update([[1.0], [bad]])
    with pytest.raises(InputError, match="2 components"):
        Moments(2).update([[1.0]])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_decode_undoes_encode(seed, dtype):
    torch.manual_seed(seed)
    x = (torch.randn(50, 3, dtype=torch.float64) * 7 + 3).to(dtype)
    normaliser = Normaliser({"u": Moments(3).update(x), "u.rate": ([0.0] * 3, [2.0] * 3)})
    for name in normaliser.names:
        back = normaliser.decode(name, normaliser.encode(name, x))
        assert back.dtype == dtype
        torch.testing.assert_close(
            back, x, rtol=8 * torch.finfo(dtype).eps, atol=1e-5 * (dtype == torch.float32) + 1e-14
        )
    z = normaliser.encode("u", x).double()
    assert z.mean(0).abs().max() < 1e-5 and (z.std(0, correction=0) - 1).abs().max() < 1e-5


def test_normaliser_keeps_its_names_through_state_dict_and_json():
    first = Normaliser({"velocity.rate": ([1.0, 2.0], [3.0, 4.0]), "a/b%2E": (0.0, 5.0)})
    again = Normaliser.from_dict(json.loads(json.dumps(first.to_dict())))
    assert again.names == first.names
    assert again.state_dict().keys() == first.state_dict().keys()
    again.load_state_dict(first.state_dict())
    assert again.std("velocity.rate").tolist() == [3.0, 4.0]
    assert "velocity.rate" in again and "velocity" not in again


def test_normaliser_errors_name_the_quantity():
    normaliser = Normaliser({"velocity": ([0.0, 0.0], [1.0, 1.0])})
    with pytest.raises(InputError, match="did you mean 'velocity'"):
        normaliser.encode("velocty", torch.zeros(1, 2))
    with pytest.raises(InputError, match=r"`velocity`: expected 2 components last.*\(4, 3\)"):
        normaliser.encode("velocity", torch.zeros(4, 3))
    with pytest.raises(InputError, match="above 0"):
        Normaliser({"p": ([0.0], [0.0])})


def test_a_reference_scale_replaces_the_statistics():
    schema = Schema([Field("p", "target", scale=100.0)])
    normaliser = Normaliser({"p": Moments(1).update([[5.0], [7.0]]), "q": (1.0, 2.0)}, schema)
    assert normaliser.mean("p").item() == 0.0 and normaliser.std("p").item() == 100.0
    assert normaliser.mean("q").item() == 1.0


@pytest.mark.parametrize("stride", [1, 2, 5, 6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rates_equal_two_passes_over_any_blocks(flow, stride, dtype, monkeypatch):
    import meshsim.data.statistics as module

    series = flow(frames=7, dtype=dtype, shift=3.0).branch
    u = np.asarray(series.point_fields["velocity"], dtype=LONG)
    t = series.times.numpy().astype(LONG)
    rates = (u[stride:] - u[:-stride]) / (t[stride:] - t[:-stride])[:, None, None]
    mean, std = two_pass(rates)
    for block in (1, 2, 3, 100):
        monkeypatch.setattr(module, "block_length", lambda _, block=block: block)
        got = rate_moments(series.point_fields["velocity"], series.times, stride)
        assert got.count == rates.shape[0] * rates.shape[1]
        assert np.abs(got.mean.numpy() - mean).max() <= 1e-12 * std.max()
        assert close(got.std.numpy(), std)


def test_rates_of_a_short_series_are_empty(flow):
    series = flow(frames=3).branch
    assert rate_moments(series.point_fields["velocity"], series.times, 3).count == 0


def test_field_moments_take_chosen_rows(flow):
    sample = flow()
    schema = Schema(
        [
            Field("velocity", "state", components=2),
            Field("pressure", "target"),
            Field("inflow", "parameter", "global"),
        ]
    )
    rows = torch.tensor([0, 3, 5])
    got = field_moments(sample, schema, stride=2, where=rows)
    u = np.asarray(sample.branch.point_fields["velocity"], float)[:, rows]
    assert close(got["velocity"].std.numpy(), two_pass(u)[1])
    t = sample.branch.times.numpy()
    rates = (u[2:] - u[:-2]) / (t[2:] - t[:-2])[:, None, None]
    assert close(got["velocity.rate"].std.numpy(), two_pass(rates)[1])
    assert got["inflow"].count == 1 and got["pressure"].count == 7 * 3
    mask = torch.zeros(16, dtype=torch.bool)
    mask[rows] = True
    assert (
        field_moments(sample, schema, stride=2, where=mask)["velocity"].to_dict()
        == got["velocity"].to_dict()
    )
    assert isinstance(sample, Sample)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_component_comes_out_as_it_is(dtype):
    x = torch.tensor([[1e-6, 5.0, 0.0], [3e-6, 5.0, 0.0]], dtype=torch.float64)
    normaliser = Normaliser({"u": Moments(3).update(x)})
    again = Normaliser.from_dict(json.loads(json.dumps(normaliser.to_dict())))
    for norm in (normaliser, again):
        y = torch.randn(7, 3, dtype=dtype)
        out = norm.decode("u", y)
        assert (out[:, 1] == 5.0).all() and (out[:, 2] == 0.0).all()
        assert (out[:, 0] != 2e-6).all()
        # what is given may differ from what was seen
        assert norm.encode("u", torch.tensor([[2e-6, 6.0, -1.0]], dtype=dtype)).tolist() == [
            [0.0, 1.0, -1.0]
        ]
    schema = Schema([Field("u", "target", "point", 3, scale=2.0)])
    with_scale = Normaliser({"u": Moments(3).update(x)}, schema)
    assert with_scale.decode("u", torch.ones(1, 3)).tolist() == [[2.0, 2.0, 2.0]]
    nothing = Normaliser({"u": Moments(1)})
    assert nothing.decode("u", torch.ones(1, 1)).tolist() == [[1.0]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("chunk", [1, 1000, 65_537])
def test_a_small_deviation_beside_a_large_mean(dtype, chunk):
    """1e6 ± 1: sums of squares would lose all digits of the deviation."""
    draw = np.random.default_rng(5)
    x = (1e6 + draw.normal(size=(4000 if chunk == 1 else 300_000, 2))).astype(dtype)
    moments = stream(x, range(chunk, len(x), chunk))
    wide = x.astype(np.float64)
    mean = wide.mean(0)
    std = np.sqrt(np.square(wide - mean).mean(0))
    np.testing.assert_allclose(moments.mean.numpy(), mean, rtol=1e-10, atol=0)
    np.testing.assert_allclose(moments.std.numpy(), std, rtol=1e-10, atol=0)
