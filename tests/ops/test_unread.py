"""Wrong indices that only a kernel sees, as on a GPU, whose indices the host does not read.

Run on a GPU, or with `MESHSIM_EMULATED=unread` on the emulated kernels.
"""

import os

import pytest
import torch
from torch import Tensor

from meshsim import native

UNREAD = os.environ.get("MESHSIM_EMULATED") == "unread"
DEVICE = "cpu" if UNREAD else "cuda"
pytestmark = pytest.mark.skipif(
    not UNREAD and not native.has_kernel("scatter_softmax", "CUDA"),
    reason="needs a GPU, or MESHSIM_EMULATED=unread",
)
N, ROWS = 5, 300
BAD = {0: N, 7: -1, 150: 1 << 40, 299: -(1 << 63)}


def case(width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """(rows of two batches, a good index, the same with wrong entries)."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, ROWS, width, generator=g).to(DEVICE, dtype)
    index = torch.randint(0, N, (ROWS,), generator=g)
    wrong = index.clone()
    for row, value in BAD.items():
        wrong[row] = value
    return x, index.to(DEVICE), wrong.to(DEVICE)


@pytest.mark.parametrize("width", [1, 3, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_rows_of_a_wrong_index_become_nan_and_change_no_other(width: int, dtype: torch.dtype):
    x, index, wrong = case(width, dtype)
    ops, rest = torch.ops.meshsim, [i for i in range(ROWS) if i not in BAD]
    y = ops.scatter_softmax(x, index, N)
    top = ops.scatter_logsumexp(x[:, rest].contiguous(), index[rest], N)
    grads = torch.randn(2, N, width).to(DEVICE, dtype)
    calls = [
        lambda i, at: ops.scatter_softmax(x[:, at].contiguous(), i, N),
        lambda i, at: ops.scatter_softmax_backward(
            x[:, at].contiguous(), y[:, at].contiguous(), i, N
        ),
        lambda i, at: ops.scatter_logsumexp_backward(grads, x[:, at].contiguous(), top, i),
    ]
    for call in calls:
        torch.full((2, ROWS, width), 7.0).to(DEVICE, dtype)  # what fresh memory may hold
        found, right = call(wrong, list(range(ROWS))), call(index[rest], rest)
        assert found[:, list(BAD)].isnan().all()
        assert torch.equal(found[:, rest], right)


def test_without_any_right_index_all_is_nan():
    x = torch.ones(2, 6, 3, device=DEVICE)
    index = torch.arange(6, device=DEVICE)
    assert torch.ops.meshsim.scatter_softmax(x, index, 0).isnan().all()
    assert (torch.ops.meshsim.scatter_sum(x, index + 9, 4) == 0).all()


def test_picked_rows_edges_and_attention_are_nan_too():
    x, ptr = torch.ones(4, 16, device=DEVICE), torch.tensor([0, 1, 2, 3, 4], device=DEVICE)
    wrong = torch.tensor([0, 4, -1, 3], device=DEVICE)
    found = torch.ops.meshsim.gather_sum(x, wrong, ptr, wrong, ptr)
    assert found.isnan().all(1).tolist() == [False, True, True, False]
    mask = (ptr, wrong, ptr, torch.arange(4, device=DEVICE), None, 2, 1.0)
    out, lse = torch.ops.meshsim.csr_attention(x, x, x, *mask)
    assert out.isnan().all(1).tolist() == lse.isnan().all(1).tolist() == [False, True, True, False]
    weight, bias = torch.zeros(1, 16, 16, device=DEVICE), torch.zeros(1, 16, device=DEVICE)
    net = (weight, bias, torch.ones(2, 16, device=DEVICE), "relu", 1e-5, False)
    tables = (wrong, torch.arange(4, device=DEVICE), ptr, ptr, torch.arange(4, device=DEVICE))
    e, total = torch.ops.meshsim.edge_block(x, x, x, *tables, *net)
    assert e.isnan().all(1).tolist() == total.isnan().all(1).tolist() == [False, True, True, False]
