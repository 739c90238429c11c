"""Scales: limits, colours and the numbers beside the bar."""

import numpy as np
import pytest

from meshsim.check import InputError
from meshsim.render.colour import (
    DIVERGING,
    MISSING,
    SEQUENTIAL,
    Span,
    colour_map,
    error_scale,
    nice_ticks,
    scale,
    span,
    tick_texts,
)


def test_maps_are_even_to_the_eye():
    """Lightness (CIE L*) of viridis rises all the way; RdBu is lightest in the middle."""

    def lightness(name):
        rgb = colour_map(name) / 255
        linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
        y = linear @ [0.2126, 0.7152, 0.0722]
        return np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)

    rise = np.diff(lightness(SEQUENTIAL)[::8])
    assert rise.min() > 0 and rise.max() < 2 * rise.mean()
    signed = lightness(DIVERGING)
    assert signed.argmax() in (127, 128)
    assert np.abs(signed[:128] - signed[:127:-1]).max() < 12


def test_the_ends_and_the_middle_take_their_colours():
    s = scale(Span(0.0, 10.0, 0.0, 10.0))
    wanted = colour_map(SEQUENTIAL)[[0, 0, 128, 255, 255]]
    assert np.array_equal(s.colour(np.array([-5.0, 0, 5, 10, 99])), wanted)
    for bad in (np.nan, np.inf, -np.inf):
        assert tuple(s.colour(np.array([bad]))[0]) == MISSING


def test_values_around_zero_get_a_balanced_diverging_scale():
    s = scale(span([np.linspace(-3, 2, 500)]))
    assert (s.low, s.high) == (-3, 3)
    assert np.array_equal(s.colours, colour_map(DIVERGING))
    one_sided = scale(span([np.linspace(-0.1, 2, 500)]))
    assert (one_sided.low, one_sided.high) == (-0.1, 2)
    assert np.array_equal(one_sided.colours, colour_map(SEQUENTIAL))
    assert scale(Span(-3.0, 2.0, -3.0, 2.0), cmap="magma").low == -3


@pytest.mark.parametrize("value", [0.0, 7.0, -101325.0, 1e-30])
def test_constant_fields_sit_in_the_middle(value):
    s = scale(span([np.full(9, value)]))
    assert s.low < value < s.high and not s.under and not s.over
    assert (value - s.low) / (s.high - s.low) == pytest.approx(0.5)


def test_noise_of_single_precision_counts_as_constant():
    values = np.float32(101325) * (1 + 1e-7 * np.random.default_rng(0).standard_normal(100))
    s = scale(span([values]))
    assert s.high - s.low > 1000


def test_nothing_finite_gives_a_scale_too():
    for values in ([], [np.zeros(0)], [np.full(3, np.nan)]):
        reach = span(values)
        assert (reach.low, reach.high) == (0, 1)
        assert scale(reach).high == 1


def test_outliers_do_not_take_the_scale():
    values = np.concatenate([np.linspace(0, 1, 1000), [40.0]])
    reach = span([values])
    assert reach.most == 40 and reach.high < 1.01 and reach.low == 0
    s = scale(reach)
    assert s.over and not s.under
    assert span([np.linspace(0, 1, 1000)]).high == 1  # without outliers nothing is left out
    spike = np.zeros(1000)
    spike[3] = 5.0
    assert span([spike]).high == 5  # what is all there is to see stays


def test_given_limits_are_kept_and_checked():
    s = scale(Span(0.0, 9.0, 0.0, 9.0), clim=(2.0, 5.0))
    assert (s.low, s.high, s.under, s.over) == (2, 5, True, True)
    for clim in ((1.0, 1.0), (2.0, 1.0), (0.0, np.nan), (-np.inf, 0.0)):
        with pytest.raises(InputError, match="clim"):
            scale(Span(0.0, 1.0, 0.0, 1.0), clim=clim)
    with pytest.raises(InputError, match="did you mean 'viridis'"):
        scale(Span(0.0, 1.0, 0.0, 1.0), cmap="virids")


def test_errors_are_white_at_zero():
    for signed in (True, False):
        s = error_scale(span([np.linspace(-2, 1, 100)]), signed=signed)
        assert s.high == 2 and s.low == (-2 if signed else 0)
        assert s.colour(np.zeros(1)).min() > 240
        none = error_scale(span([np.zeros(9)]), signed=signed)
        assert none.high == 1 and none.colour(np.zeros(1)).min() > 240


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (0.0, 1.0),
        (-0.2, 1.83),
        (1e-9, 3e-9),
        (-4e7, 1e7),
        (101325.0, 101325.4),
        (5.0, 5.0001),
        (-1.0, 1.0),
    ],
)
@pytest.mark.parametrize("most", [2, 4, 9])
def test_ticks_are_round_few_and_inside(low, high, most):
    values = nice_ticks(low, high, most)
    assert 1 <= len(values) <= most
    assert all(low - 1e-9 * (high - low) <= v <= high + 1e-9 * (high - low) for v in values)
    texts, power = tick_texts(values)
    assert len(set(texts)) == len(texts)
    factor = 10.0 ** int(
        power[3:].translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")) if power else 0
    )
    for text, value in zip(texts, values, strict=True):
        written = float(text.replace("−", "-")) * factor
        assert written == pytest.approx(value, abs=0.02 * (high - low))
