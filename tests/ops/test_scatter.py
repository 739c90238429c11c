"""scatter and its kin against plain loops, torch_scatter's own results, and its published cases."""

from itertools import product

import pytest
import torch
from torch.library import opcheck

from meshsim import native, ops
from meshsim.ops.scatter import broadcast

REDUCTIONS = ["sum", "add", "mul", "mean", "min", "max"]
FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
INTEGERS = [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64]
# shape, shape of the index, dim: along each dimension, with an index of one and of all dimensions
PLACES = [
    ((7,), (7,), 0),
    ((7,), (7,), -1),
    ((7, 3), (7,), 0),
    ((3, 7), (7,), -1),
    ((3, 7), (7,), 1),
    ((3, 7), (3, 7), 1),
    ((3, 7), (1, 7), 1),
    ((7, 3), (7, 1), 0),
    ((7, 3), (7, 3), 0),
    ((2, 7, 3), (7,), 1),
    ((2, 7, 3), (2, 7), 1),
    ((2, 7, 3), (2, 7, 3), 1),
    ((2, 3, 7), (7,), 2),
    ((7, 2, 3), (7,), -3),
    ((7, 2, 3), (7, 2), 0),
]


def case(shape, index_shape, dtype=torch.float64, n=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    src = torch.randint(1, 9, shape, generator=generator)
    if dtype.is_floating_point:
        src = src / 4
    index = torch.randint(0, n, index_shape, generator=generator)
    return src.to(dtype), index.where(index != 1, 0)  # nobody points at 1


def loop(src, index, dim, n, reduce):
    """Values and places, one number after the other, in python's numbers."""
    wide = broadcast(index, src, dim)
    dim = dim % src.dim()
    shape = list(src.shape)
    shape[dim] = n
    groups = {}
    for at in product(*map(range, src.shape)):
        to = (*at[:dim], int(wide[at]), *at[dim + 1 :])
        groups.setdefault(to, []).append((src[at].item(), at[dim]))
    out = torch.full(shape, 1 if reduce == "mul" else 0, dtype=torch.float64)
    arg = torch.full(shape, src.shape[dim])
    for to, members in groups.items():
        numbers = [value for value, _ in members]
        if reduce in ("min", "max"):
            best = min(numbers) if reduce == "min" else max(numbers)
            arg[to] = next(at for value, at in members if value == best)
            out[to] = best
        elif reduce == "mul":
            for value in numbers:
                out[to] *= value
        else:
            out[to] = sum(numbers)
            if reduce == "mean":
                out[to] /= len(numbers)
    if reduce == "mean" and not src.is_floating_point():
        out = out.floor()
    return out, arg


def run(reduce, *arguments, **named):
    y = getattr(ops, f"scatter_{reduce}")(*arguments, **named)
    return y if isinstance(y, tuple) else (y, None)


def test_native_kernels_run():
    running = native.active()
    if running["scatter_sum"]["cpu"] != "native" and not native.allowed():
        pytest.skip(running["scatter_sum"]["why"])
    names = ("sum", "mean", "mul", "max", "min", "softmax", "logsumexp")
    for name in (*names, "softmax_backward", "logsumexp_backward"):
        assert running[f"scatter_{name}"]["cpu"] == "native"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS])
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_equals_a_loop(reduce, dtype, place):
    shape, index_shape, dim = place
    if reduce == "mul" and dtype in (torch.int8, torch.uint8):
        pytest.skip("products run over")
    src, index = case(shape, index_shape, dtype)
    expected, places = loop(src, index, dim, 5, reduce)
    y, arg = run(reduce, src, index, dim, dim_size=5)
    assert y.dtype == dtype and y.is_contiguous()
    if reduce == "mul" and dtype in (torch.bfloat16, torch.float16):
        torch.testing.assert_close(y.double(), expected, rtol=1e-2, atol=1e-2)
    else:
        torch.testing.assert_close(y.double(), expected.to(dtype).double(), rtol=1e-6, atol=1e-6)
    assert arg is None or torch.equal(arg, places)
    named = ops.scatter(src, index, dim, dim_size=5, reduce=reduce)
    assert torch.equal(named, y)


@pytest.mark.parametrize("width", [1, 3, 4, 8, 20, 64])
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_many_rows(reduce, width):
    # enough for every way of doing it: sorted, counting sort, one after the other
    generator = torch.Generator().manual_seed(0)
    src = torch.rand(3000, width, dtype=torch.float64, generator=generator) + 0.5
    for index in (torch.randint(0, 700, (3000,), generator=generator), torch.arange(3000) // 5):
        n = int(index.max()) + 1
        name = {"add": "sum", "mul": "prod", "min": "amin", "max": "amax"}.get(reduce, reduce)
        wide = index[:, None].expand_as(src)
        start = src.new_full((n, width), 1.0 if reduce == "mul" else 0.0)
        expected = start.scatter_reduce(0, wide, src, name, include_self=reduce == "mul")
        y, arg = run(reduce, src, index, 0)
        torch.testing.assert_close(y, expected)
        if arg is not None:
            full = arg < len(src)
            picked = src.gather(0, arg.clamp_max(len(src) - 1))
            assert torch.equal(picked[full], y[full]) and (y[~full] == 0).all()


@pytest.mark.parametrize("place", PLACES[::2])
@pytest.mark.parametrize("reduce", ["sum", "mul", "mean", "min", "max"])
def test_goes_on_from_out(reduce, place):
    shape, index_shape, dim = place
    src, index = case(shape, index_shape)
    fresh, places = loop(src, index, dim, 5, reduce)
    out = torch.full(fresh.shape, 1.5, dtype=src.dtype)
    y, arg = run(reduce, src, index, dim, out)
    assert y is out
    if reduce in ("min", "max"):
        better = (places < src.shape[dim]) & ((fresh < 1.5) if reduce == "min" else (fresh > 1.5))
        assert torch.equal(y, torch.where(better, fresh, torch.full_like(fresh, 1.5)))
        assert torch.equal(arg, torch.where(better, places, src.shape[dim]))
    elif reduce == "mul":
        torch.testing.assert_close(y, 1.5 * fresh)
    else:
        total, _ = loop(src, index, dim, 5, "sum")
        count, _ = loop(torch.ones_like(src), index, dim, 5, "sum")
        expected = 1.5 + total
        torch.testing.assert_close(
            y, expected / count.clamp_min(1) if reduce == "mean" else expected
        )
    again, _ = run(reduce, src, index, dim, dim_size=5, fill_value=1.5)
    assert torch.equal(again, y)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("reduce", ["sum", "mul", "mean", "min", "max"])
def test_gradients(reduce, place):
    shape, index_shape, dim = place
    generator = torch.Generator().manual_seed(1)
    src = torch.rand(shape, dtype=torch.float64, generator=generator).add(0.5).requires_grad_()
    _, index = case(shape, index_shape)
    assert torch.autograd.gradcheck(lambda t: run(reduce, t, index, dim)[0], src)


def test_gradient_of_zero_in_a_product_is_zero():
    src = torch.tensor([0.0, 2.0, 3.0], requires_grad=True)
    ops.scatter_mul(src, torch.tensor([0, 0, 1])).sum().backward()
    assert src.grad.tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("place", PLACES)
def test_softmax_family(place):
    shape, index_shape, dim = place
    src, index = case(shape, index_shape)
    src.requires_grad_()
    wide = broadcast(index, src, dim)
    total = loop(src.detach().exp(), index, dim, 4, "sum")[0]
    expected = src.detach().exp() / total.gather(dim, wide)
    torch.testing.assert_close(ops.scatter_softmax(src, index, dim), expected)
    torch.testing.assert_close(ops.scatter_log_softmax(src, index, dim), expected.log())
    y = ops.scatter_logsumexp(src, index, dim, dim_size=4)
    torch.testing.assert_close(y, total.log().masked_fill(total == 0, 0.0))
    for f in (ops.scatter_softmax, ops.scatter_log_softmax, ops.scatter_logsumexp):
        assert torch.autograd.gradcheck(lambda t, f=f: f(t, index, dim), src)
    out = torch.full_like(y, 0.5).detach()
    ops.scatter_logsumexp(src.detach(), index, dim, out)
    torch.testing.assert_close(out, (total + torch.tensor(0.5).double().exp()).log())


def test_published_softmax_case():
    src = torch.tensor([0.2, 0, 0.2, -2.1, 3.2, 7, -1, -torch.inf])
    index = torch.tensor([0, 1, 0, 1, 1, 2, 4, 4])
    y = ops.scatter_softmax(src, index)
    for group in (0, 1, 2, 4):
        torch.testing.assert_close(y[index == group], src[index == group].softmax(0))
    logs = ops.scatter_log_softmax(src, index)
    for group in (0, 1, 2, 4):
        torch.testing.assert_close(logs[index == group], src[index == group].log_softmax(0))


@pytest.mark.parametrize("unbiased", [True, False])
def test_std(unbiased):
    src, index = case((2, 7), (2, 7))
    y = ops.scatter_std(src, index, 1, dim_size=4, unbiased=unbiased)
    for b, i in product(range(2), range(4)):
        part = src[b][index[b] == i]
        if len(part) > 1:
            torch.testing.assert_close(
                y[b, i], part.std(correction=int(unbiased)), rtol=1e-5, atol=1e-5
            )
        else:
            assert y[b, i] == 0


def test_lengths():
    index = torch.tensor([2, 0])
    src = torch.ones(2, 3)
    assert ops.scatter_sum(src, index, 0).shape == (3, 3)
    assert ops.scatter_sum(src, index, 0, dim_size=7).shape == (7, 3)
    none = torch.zeros(0, dtype=torch.int64)
    assert ops.scatter_sum(src[:0], none, 0).shape == (0, 3)
    assert torch.equal(ops.scatter_sum(src[:0], none, 0, dim_size=2), torch.zeros(2, 3))
    x = torch.zeros(0, 0, 0, 16, requires_grad=True)
    for reduce in ("add", "mean", "min", "max"):
        y = ops.scatter(x, none, 0, dim_size=0, reduce=reduce)
        y.sum().backward()
        assert y.shape == (0, 0, 0, 16)


def test_strided_sources_and_indices():
    src, index = case((2, 7, 3), (2, 7, 3))
    turned = src.transpose(0, 2).contiguous().transpose(0, 2)
    turned_index = index.transpose(0, 1).contiguous().transpose(0, 1)
    for reduce in REDUCTIONS:
        y, z = run(reduce, turned, turned_index, 1)[0], run(reduce, src, index, 1)[0]
        assert torch.equal(y, z)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["sum", "mean", "mul", "max", "min", "softmax", "logsumexp"])
def test_dispatcher_contract(name, dtype):
    op = getattr(torch.ops.meshsim, f"scatter_{name}").default
    src = (torch.rand(2, 7, 3, dtype=dtype) + 0.5).requires_grad_()
    opcheck(op, (src, torch.tensor([2, 0, 2, 3, 0, 0, 3]), 4))


@pytest.mark.parametrize("name", ["sum", "mean", "max", "softmax", "logsumexp"])
def test_compiles_whole(name):
    op = getattr(torch.ops.meshsim, f"scatter_{name}")
    index = torch.tensor([2, 0, 2, 3, 0, 0, 3])

    def f(x):
        y = op(2 * x, index, 4)
        return ((y[0] if isinstance(y, tuple) else y)[:, 2:] ** 2).sum()

    a = torch.rand(1, 7, 3, dtype=torch.float64, requires_grad=True)
    b = a.detach().clone().requires_grad_()
    f(a).backward()
    torch.compile(f, fullgraph=True, backend="aot_eager")(b).backward()
    torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("groups", [900, 2])
@pytest.mark.parametrize("reduce", ["sum", "mean", "max", "softmax", "logsumexp"])
@pytest.mark.parametrize("width", [4, 40])
def test_same_bits_for_any_number_of_threads(reduce, width, groups):
    generator = torch.Generator().manual_seed(0)
    src = torch.randn(20000, width, generator=generator)
    index = torch.randint(0, groups, (20000,), generator=generator)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            leaf = src.clone().requires_grad_()
            y = run(reduce, leaf, index, 0)[0]
            (y * y.detach().cos()).sum().backward()
            results.append(torch.cat([y.detach(), leaf.grad]))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


@pytest.mark.parametrize("order", ["sorted", "random"])
@pytest.mark.parametrize("reduce", [*REDUCTIONS, "softmax", "logsumexp"])
def test_very_long_groups(reduce, order):
    # longer than threads leave to one of them: 4 · 2¹⁶ numbers
    generator = torch.Generator().manual_seed(0)
    src = 1 + 1e-5 * torch.rand(2, 70_000, 17, dtype=torch.float64, generator=generator)
    index = torch.randint(0, 2, (70_000,), generator=generator) * 2  # nothing in the middle
    index = index.sort().values if order == "sorted" else index
    leaf = src.clone().requires_grad_()
    y, arg = run(reduce, leaf, index, 1)
    parts = [src[:, index == i].requires_grad_() for i in (0, 2)]
    one = {
        "sum": lambda p: p.sum(1),
        "add": lambda p: p.sum(1),
        "mul": lambda p: p.prod(1),
        "mean": lambda p: p.mean(1),
        "min": lambda p: p.min(1).values,
        "max": lambda p: p.max(1).values,
        "softmax": lambda p: p.softmax(1),
        "logsumexp": lambda p: p.logsumexp(1),
    }[reduce]
    for i, part in zip((0, 2), parts, strict=True):
        found = y[:, index == i] if reduce == "softmax" else y[:, i]
        expected = one(part)
        torch.testing.assert_close(found, expected)
        weight = torch.cos(torch.arange(expected.numel(), dtype=torch.float64)).view_as(expected)
        (grad,) = torch.autograd.grad(found, leaf, weight, retain_graph=True)
        (right,) = torch.autograd.grad(expected, part, weight)
        torch.testing.assert_close(grad[:, index == i], right)
        if arg is not None:
            assert torch.equal(src.gather(1, arg[:, i : i + 1])[:, 0], expected)


@pytest.mark.parametrize("name", ["softmax", "logsumexp"])
def test_fused_gradients_equal_the_composed(name):
    src, index = torch.randn(2, 7, 20, dtype=torch.float64), torch.tensor([2, 0, 2, 3, 0, 0, 3])
    src.requires_grad_()
    y = getattr(torch.ops.meshsim, f"scatter_{name}")(src, index, 4)
    y = y if name == "softmax" else y[:, [0, 2, 3]]
    grad = torch.cos(torch.arange(float(y.numel()), dtype=y.dtype)).view(y.shape)
    (plain,) = torch.autograd.grad(y, src, grad, retain_graph=True)
    (again,) = torch.autograd.grad(y, src, grad, create_graph=True)
    torch.testing.assert_close(plain, again.detach())
    op = getattr(torch.ops.meshsim, f"scatter_{name}_backward").default
    groups = torch.randn(2, 4, 20, dtype=torch.float64)
    if name == "softmax":
        opcheck(op, (grad, y.detach(), index, 4))
    else:
        opcheck(op, (groups, src.detach(), groups, index))


@pytest.mark.parametrize("name", ["sum", "mean", "mul", "max", "min", "softmax", "logsumexp"])
def test_direct_calls_with_wrong_tensors_raise(name):
    if native.active()[f"scatter_{name}"]["cpu"] != "native":
        pytest.skip("the reference leaves it to torch")
    op = getattr(torch.ops.meshsim, f"scatter_{name}").default
    src, index = torch.ones(2, 7, 3), torch.tensor([2, 0, 2, 3, 0, 0, 3])
    for wrong in (
        (src[0], index, 4),
        (src, index.view(1, 7), 4),
        (src, index.int(), 4),
        (src, index[:5], 4),
        (src, index, 3),
        (src, index, -1),
        (src.to("meta"), index, 4),  # on another device
        (src, index.to("meta"), 4),
    ):
        try:
            y = op(*wrong)
        except (ValueError, RuntimeError, NotImplementedError):
            continue
        pytest.fail(f"no error, but {y}")
    if name in ("softmax", "logsumexp"):
        back = getattr(torch.ops.meshsim, f"scatter_{name}_backward").default
        for grad in (torch.ones(2, 6, 3), torch.ones(2, 7, 3).double(), torch.ones(7)):
            with pytest.raises(ValueError, match="`grad`: expected"):
                if name == "softmax":
                    back(grad, src, index, 4)
                else:
                    back(grad, src, src[:, :4], index)


@pytest.mark.parametrize("bad", [-1, 4])
@pytest.mark.parametrize("index_shape", [(7,), (2, 7), (2, 7, 3)])
def test_indices_outside_are_named(bad, index_shape):
    src, index = case((2, 7, 3), index_shape)
    index.view(-1)[3] = bad
    for reduce in REDUCTIONS:
        with pytest.raises(ValueError, match=f"`index`: index {bad} at row"):
            run(reduce, src, index, 1, dim_size=4)


def test_wrong_arguments_are_named():
    src, index = case((2, 7, 3), (7,))
    with pytest.raises(ValueError, match="`index`: expected"):
        ops.scatter_sum(src, index.int(), 1)
    with pytest.raises(ValueError, match="`index`: expected"):
        ops.scatter_sum(src, index[:5], 1)
    with pytest.raises(ValueError, match="`index`: expected a shape that broadcasts"):
        ops.scatter_sum(src, index.view(7, 1), 1)
    for dim in (3, -4):
        for at in (index, index.view(1, 7)):
            with pytest.raises(ValueError, match="`dim`: expected a dimension of"):
                ops.scatter_sum(src, at, dim)
    with pytest.raises(ValueError, match="`dim`: expected a dimension of"):
        ops.scatter_sum(src[0], index, 2)
    with pytest.raises(ValueError, match="`reduce`: expected sum, add"):
        ops.scatter(src, index, 1, reduce="median")
    with pytest.raises(ValueError, match="expected floating point"):
        ops.scatter_softmax(index, index)


def test_products_of_nothing_at_all_are_zero():
    none = torch.zeros(0, dtype=torch.int64)
    assert ops.scatter_mul(torch.ones(0), none, dim_size=2).tolist() == [0, 0]
    assert ops.scatter_mul(torch.ones(0), none, out=torch.full((2,), 3.0)).tolist() == [3, 3]
    assert ops.scatter_mul(torch.ones(1), none.new_zeros(1), dim_size=2).tolist() == [1, 1]


def test_groups_of_nothing_but_minus_infinity():
    src, index = torch.tensor([-torch.inf, 2.0, -torch.inf]), torch.tensor([2, 0, 2])
    assert ops.scatter_log_softmax(src, index).tolist() == [-torch.inf, 0, -torch.inf]
    assert ops.scatter_logsumexp(src, index).tolist() == [2, 0, 0]


def test_published_logsumexp_with_out():
    out = torch.tensor([-10.0, -10.0])
    ops.scatter_logsumexp(torch.tensor([-1.0, -50.0]), torch.tensor([0, 0]), out=out)
    torch.testing.assert_close(out, torch.tensor([-0.9999, -10.0]), rtol=0, atol=1e-4)


@pytest.fixture
def peer():
    return pytest.importorskip("torch_scatter", reason="torch-scatter is not installed")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", [*REDUCTIONS, "std", "softmax", "log_softmax", "logsumexp"])
def test_equals_torch_scatter(peer, name, place):
    shape, index_shape, dim = place
    src, index = case(shape, index_shape)
    for kind in (src, src.long())[: 2 if name in REDUCTIONS else 1]:
        ours = getattr(ops, f"scatter_{name}")(kind, index, dim)
        theirs = getattr(peer, f"scatter_{name}")(kind, index, dim)
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", [*REDUCTIONS, "std", "logsumexp"])
def test_with_out_equals_torch_scatter(peer, name, place):
    shape, index_shape, dim = place
    src, index = case(shape, index_shape)
    size = list(shape)
    size[dim] = 5
    out = torch.rand(size, dtype=src.dtype, generator=torch.Generator().manual_seed(2)) * 2
    results = []
    for module in (ops, peer):
        held = out.clone()
        y = getattr(module, f"scatter_{name}")(src, index, dim, held)
        results.append(y if isinstance(y, tuple) else (y,))
        if name != "std":
            assert results[-1][0].data_ptr() == held.data_ptr()
    ours, theirs = results
    if name == "logsumexp":  # its groups without values: see the docstring
        some = loop(torch.ones_like(src), index, dim, 5, "sum")[0] > 0
        assert torch.equal(ours[0][~some], out[~some]) and (theirs[0][~some] == 0).all()
        ours, theirs = ([y[0][some]] for y in (ours, theirs))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [*REDUCTIONS, "std"])
def test_nothing_gives_what_torch_scatter_gives(peer, name):
    none = torch.zeros(0, dtype=torch.int64)
    for src, index, sizes in (
        (torch.zeros(0), none, (None, 3)),
        (torch.zeros(0, 2), none.view(0, 1), (None, 3)),
        (torch.zeros(3, 0), torch.tensor([2, 0, 2]), (3,)),
    ):
        for n in sizes:
            ours = getattr(ops, f"scatter_{name}")(src, index, 0, dim_size=n)
            theirs = getattr(peer, f"scatter_{name}")(src, index, 0, dim_size=n)
            torch.testing.assert_close(ours, theirs)


def test_infinite_extremes_are_lost_by_torch_scatter_alone(peer):
    src, index = torch.tensor([-torch.inf, 2.0, -torch.inf]), torch.tensor([1, 0, 1])
    assert ops.scatter_max(src, index)[0].tolist() == [2, -torch.inf]
    assert peer.scatter_max(src, index)[0].tolist() == [2, 0]
    assert torch.equal(ops.scatter_log_softmax(src, index), peer.scatter_log_softmax(src, index))
    assert torch.equal(ops.scatter_logsumexp(src, index), peer.scatter_logsumexp(src, index))
