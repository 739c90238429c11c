"""gather_sum is a sparse matrix product: against the dense one, with its transpose as gradient."""

import pytest
import torch
from torch.library import opcheck

from meshsim import native
from meshsim.ops.gather import gather_sum, transpose

INDICES = torch.tensor([3, 3, 0, 1, 2, 0])
ROWPTR = torch.tensor([0, 2, 2, 5, 6])  # a repeated column, an empty row
N = 5  # column 4 is used by nobody


def dense(indices, rowptr, n):
    out = torch.zeros(len(rowptr) - 1, n, dtype=torch.float64)
    for i in range(len(out)):
        for k in range(int(rowptr[i]), int(rowptr[i + 1])):
            out[i, indices[k]] += 1
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_is_a_matrix_product(dtype):
    x = torch.arange(15.0).reshape(N, 3).to(dtype)  # sums are exact in every precision
    y = gather_sum(x, INDICES, ROWPTR, *transpose(INDICES, ROWPTR, N))
    assert y.dtype == dtype
    assert torch.equal(y.double(), dense(INDICES, ROWPTR, N) @ x.double())


def test_transpose_is_the_transposed_matrix_and_its_own_inverse():
    back = transpose(INDICES, ROWPTR, N)
    assert torch.equal(dense(*back, 4), dense(INDICES, ROWPTR, N).T)
    again = transpose(*back, 4)
    assert torch.equal(dense(*again, N), dense(INDICES, ROWPTR, N))
    assert torch.equal(again[1], ROWPTR)


def test_gradients():
    lists = (INDICES, ROWPTR, *transpose(INDICES, ROWPTR, N))
    x = torch.randn(N, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: gather_sum(t, *lists), x)
    assert torch.autograd.gradgradcheck(lambda t: gather_sum(t, *lists), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dispatcher_contract(dtype):
    x = torch.randn(N, 2, dtype=dtype, requires_grad=True)
    lists = (INDICES, ROWPTR, *transpose(INDICES, ROWPTR, N))
    opcheck(torch.ops.meshsim.gather_sum.default, (x, *lists))


def test_nothing_to_gather():
    none, zero = INDICES[:0], ROWPTR[:1]
    x = torch.zeros(N, 2, requires_grad=True)
    y = gather_sum(x, none, zero, *transpose(none, zero, N))
    assert y.shape == (0, 2)
    y.sum().backward()
    assert torch.equal(x.grad, torch.zeros(N, 2))


def test_native_kernel_runs():
    running = native.active()["gather_sum"]
    if running["cpu"] != "native" and not native.allowed():
        pytest.skip(running["why"])
    assert running["cpu"] == "native"


@pytest.mark.parametrize("bad", [-1, N])
def test_indices_outside_are_named(bad):
    if native.active()["gather_sum"]["cpu"] != "native":
        pytest.skip("the reference leaves it to torch")
    indices = INDICES.clone()
    indices[2] = bad
    lists = (INDICES, ROWPTR)
    with pytest.raises(ValueError, match=f"`indices`: index {bad} at row 2 is outside 0..4"):
        gather_sum(torch.zeros(N, 2), indices, ROWPTR, *lists)


def test_tensors_of_another_device_are_named():
    lists = [INDICES, ROWPTR, *transpose(INDICES, ROWPTR, N)]
    for place, name in enumerate(["indices", "rowptr", "t_indices", "t_rowptr"]):
        wrong = [x.to("meta") if i == place else x for i, x in enumerate(lists)]
        with pytest.raises(
            ValueError, match=f"`{name}`: expected a tensor on cpu, got one on meta"
        ):
            gather_sum(torch.zeros(N, 2), *wrong)
