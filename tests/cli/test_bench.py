"""`meshsim bench`: figures that can be trusted, or a refusal."""

from __future__ import annotations

import json
import time

import pytest
import torch

import meshsim.ops  # noqa: F401  loads the operators
from meshsim import native, timing
from meshsim.check import WorkError
from meshsim.cli import main

KEYS = {"ratio", "low", "high", "milliseconds", "peak_bytes", "error"}
compiled = pytest.mark.skipif(not native.isa(), reason="no compiled operators here")


@pytest.mark.parametrize("name", ["blocks", "attention", "segment", "neighbors", "tables"])
def test_each_case_stands_beside_its_peer(name: str, capsys: pytest.CaptureFixture) -> None:
    before = torch.get_num_threads()
    assert main(["bench", name, "--quick", "--reference", "--threads", "1", "--json"]) == 0
    assert torch.get_num_threads() == before
    out, err = capsys.readouterr()
    assert "1 threads" in err and torch.__version__ in err
    document = json.loads(out)
    assert document
    for case, rows in document.items():
        assert next(iter(rows)) != "meshsim" and "meshsim" in rows, case
        for variant, row in rows.items():
            assert set(row) == KEYS
            assert 0 < row["low"] <= row["ratio"] <= row["high"]
            # gradients of ReLU jump where rounding flips a sign: at 2⁻⁹ it does so more often
            assert row["error"] < (0.1 if "bfloat16" in variant else 1e-3), (case, variant)
        first = next(iter(rows.values()))
        assert first["low"] == first["ratio"] == first["high"] == 1


@compiled
def test_it_names_the_instruction_set(capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", "tables", "--quick"]) == 0
    out = capsys.readouterr().out
    assert f"meshsim on {native.isa()}" in out.splitlines()[0]
    assert "np.unique" in out and "meshsim" in out


def test_it_refuses_what_is_not_compiled(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "has_kernel", lambda op, device: False)
    assert main(["bench", "tables", "--quick"]) == 1
    assert "expected the native variant, got reference" in capsys.readouterr().err
    assert main(["bench", "tables", "--quick", "--reference"]) == 0


def test_an_unknown_name_is_named(capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", "block"]) == 2
    assert "did you mean 'blocks'" in capsys.readouterr().err
    assert main(["bench", "--threads", "0"]) == 2


def test_ratios_are_of_the_same_round() -> None:
    took = {"slow": [2.0, 20.0, 3.0], "quick": [1.0, 5.0, 1.0]}
    row = timing.against(took, "slow")["quick"]
    assert (row["ratio"], row["low"], row["high"]) == (3.0, 2.0, 4.0)
    assert row["milliseconds"] == 1000.0
    row = timing.against(took, "quick", over=True)["slow"]
    assert (row["ratio"], row["low"], row["high"]) == (3.0, 2.0, 4.0)


def test_a_call_that_gives_nothing_has_no_error() -> None:
    calls = {"a": lambda: torch.ones(3), "copy": lambda: None}
    exact = [torch.full((3,), 2.0, dtype=torch.float64)]
    rows = timing.measure(calls, exact, rounds=3, take=lambda name, y: [2 * y])
    assert all(set(row) == KEYS for row in rows.values())
    assert [row["error"] for row in rows.values()] == [0, 0]


def test_calls_are_interleaved_and_the_first_round_is_dropped() -> None:
    order: list[str] = []
    calls = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    took = timing.interleave(calls, rounds=4)
    assert order == ["a", "b"] * 5
    assert [len(t) for t in took.values()] == [4, 4]


def test_few_rounds_where_time_is_short() -> None:
    took = timing.interleave({"a": lambda: time.sleep(0.002)}, rounds=50, seconds=0.001)
    assert len(took["a"]) == 3


@pytest.mark.skipif(not timing.STATM.exists(), reason="resident memory is not known here")
def test_peak_memory_counts_what_is_freed_again() -> None:
    size = 1 << 27

    def call() -> None:
        x = torch.ones(size // 4)
        time.sleep(0.01)
        del x

    assert 0.95 * size < timing.peak_bytes(call) < 1.3 * size
    assert timing.peak_bytes(lambda: None) < 0.1 * size


def test_saved_tensors_leave_out_weights_and_count_storages_once() -> None:
    linear = torch.nn.Linear(4, 4)
    x = torch.randn(5, 4, requires_grad=True)
    found = timing.saved_tensors(lambda: linear(x) * x, list(linear.parameters()))
    assert sorted(t.untyped_storage().nbytes() for t in found) == [80, 80]  # x, and the product
    assert len(timing.saved_tensors(lambda: linear(x) * x, [])) == 3


@compiled
def test_require_says_which_operator_runs_how() -> None:
    timing.require(["segment_sum"])
    with pytest.raises(WorkError, match="segment_sum: expected the reference variant, got native"):
        timing.require(["segment_sum"], "reference")
