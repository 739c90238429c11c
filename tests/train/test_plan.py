"""Plans: shares of the work become steps, whatever a step costs."""

import pytest

from meshsim.train.config import TrainConfig
from meshsim.train.plan import Plan, stages


def parts(**train):
    return stages(TrainConfig(steps=1, **train))


def test_stages_are_cut_where_any_ramp_changes():
    found = parts(unroll=[[0.0, 1.0], [0.5, 4.0]], batch=[[0.0, 4.0], [0.25, 2.0]])
    assert [(s.start, s.unroll, s.batch) for s in found] == [(0, 1, 4), (0.25, 1, 2), (0.5, 4, 2)]
    assert sum(s.share for s in found) == pytest.approx(1)


def test_steps_are_shared_out_by_work():
    plan = Plan.of_steps(parts(unroll=[[0.0, 1.0], [0.5, 4.0]], batch=2), 1000)
    assert plan.counts == (800, 200) and plan.steps == 1000
    assert plan.share(800) == pytest.approx(0.5) and plan.share(1000) == 1
    assert [plan.stage(s) for s in (0, 799, 800, 999)] == [0, 0, 1, 1]


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 100])
def test_every_step_has_a_stage_and_shares_rise(steps):
    plan = Plan.of_steps(parts(unroll=[[0.0, 1.0], [0.3, 2.0], [0.6, 8.0]]), steps)
    assert plan.steps == steps
    shares = [plan.share(s) for s in range(steps + 1)]
    assert shares[0] == 0 and shares[-1] == pytest.approx(1) and shares == sorted(shares)
    assert all(plan.counts[plan.stage(s)] > 0 for s in range(steps))


def test_measured_costs_fill_the_time():
    plan = Plan.of_seconds(parts(unroll=[[0.0, 1.0], [0.5, 4.0]]), 60.0, [0.1, 0.3])
    assert plan.counts == (300, 100)
    assert plan.share(300) == pytest.approx(0.5)
    assert Plan.from_dict(plan.to_dict()) == plan
