"""The probe takes the fastest number of threads and prefers fewer."""

import pytest
import torch

from meshsim.train import threads


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when `work` says so."""
    now = {"t": 0.0}
    monkeypatch.setattr(threads.time, "perf_counter", lambda: now["t"])
    before = torch.get_num_threads()
    yield now
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({1: 1.0, 2: 0.55, 4: 0.3}, 4),
        ({1: 1.0, 2: 0.95, 4: 0.92}, 1),  # not worth it
        ({1: 0.08, 2: 0.54, 4: 0.01}, 1),  # spinning: the rest is not even tried
        ({1: 1.0, 2: 0.6, 4: 5.0}, 2),
    ],
)
def test_fastest(clock, seconds, chosen):
    def work():
        clock["t"] += seconds[torch.get_num_threads()]

    assert threads.fastest(work, [1, 2, 4]) == chosen
    assert torch.get_num_threads() == chosen


def test_only_one_candidate_is_not_timed(clock):
    assert threads.fastest(lambda: 1 / 0, [1]) == 1


def test_the_environment_limits_the_candidates(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads.available() == 3 and threads.candidates(3) == [1, 2, 3]
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    assert threads.available() >= 1


def test_message_block_work_runs():
    threads.message_block_work(nodes=20, degree=3, width=4)()
