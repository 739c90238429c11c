"""Conservation restored: exactly, with the least change, and never touching what is certain."""

from types import SimpleNamespace

import pytest
import torch

from meshsim.check import InputError, WorkError
from meshsim.physics import gram
from meshsim.physics.projection import (
    project,
    project_cells,
    project_flux,
    projected_variance,
)
from tests.helpers import MESHES

VARIANCES = ["unit", "given", "some zero"]


def problem(variance, n=40, m=6):
    torch.manual_seed(n + m)
    rows, mean, total = torch.rand(m, n), torch.randn(n), torch.randn(m)
    spread = None
    if variance != "unit":
        spread = torch.rand(n).double() * 3
        if variance == "some zero":
            spread[::4] = 0
    return rows.double(), mean.double(), total.double(), spread


def as_is(rows):
    return rows


LAYOUTS = {"dense": as_is, "coo": torch.Tensor.to_sparse, "csr": torch.Tensor.to_sparse_csr}
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


@pytest.mark.parametrize("variance", VARIANCES)
@layouts
def test_the_law_is_met(variance, layout):
    rows, mean, total, spread = problem(variance)
    out = project(mean, layout(rows), total, spread)
    assert (rows @ out - total).abs().max() < 1e-12
    again = project(out, layout(rows), total, spread)
    assert (again - out).abs().max() < 1e-13  # idempotent
    if spread is not None:
        assert torch.equal(out[spread == 0], mean[spread == 0])


@pytest.mark.parametrize("variance", VARIANCES)
def test_it_is_the_nearest_of_all_that_obey(variance):
    """Optimality: what changes is Σ Gᵀ λ, so any other way to obey costs more."""
    rows, mean, total, spread = problem(variance)
    out = project(mean, rows, total, spread)
    if spread is None:
        spread = torch.ones(40).double()
    free = spread > 0
    change = (out - mean)[free] / spread[free]
    multiplier = torch.linalg.lstsq(rows[:, free].T, change[:, None]).solution
    assert (rows[:, free].T @ multiplier - change[:, None]).abs().max() < 1e-11
    cost = ((out - mean).square()[free] / spread[free]).sum()
    torch.manual_seed(5)
    _, _, v = torch.linalg.svd(rows[:, free])
    for _ in range(5):
        other = out[free] + v[6:].T @ torch.randn(int(free.sum()) - 6).double()
        assert ((other - mean[free]).square() / spread[free]).sum() > cost


def test_with_unit_variance_it_is_the_orthogonal_projection():
    rows, mean, total, _ = problem("unit")
    closest = mean + torch.linalg.pinv(rows) @ (total - rows @ mean)
    assert (project(mean, rows, total) - closest).abs().max() < 1e-12


@layouts
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_variance_never_grows(layout, noise):
    rows, _, _, spread = problem("some zero")
    left = projected_variance(layout(rows), spread, noise)
    assert (left <= spread).all() and (left >= 0).all() and left.sum() < spread.sum()
    gram = rows * spread @ rows.T + noise**2 * torch.eye(6).double()
    full = torch.diag(spread) - spread[:, None] * rows.T @ torch.linalg.inv(gram) @ rows * spread
    assert (left - full.diagonal()).abs().max() < 1e-12
    if noise == 0:  # nothing is uncertain any more along the law
        assert (rows @ full @ rows.T).abs().max() < 1e-12


def test_with_noise_it_is_the_posterior_of_a_gaussian():
    """Against the other form of the same update, with precisions instead of variances."""
    rows, mean, total, spread = problem("given")
    spread = spread + 0.1
    noise = 0.3
    precision = torch.diag(1 / spread) + rows.T @ rows / noise**2
    want = torch.linalg.solve(precision, mean / spread + rows.T @ total / noise**2)
    assert (project(mean, rows, total, spread, noise) - want).abs().max() < 1e-11
    left = projected_variance(rows, spread, noise)
    assert (left - torch.linalg.inv(precision).diagonal()).abs().max() < 1e-11
    exact = project(mean, rows, total, spread)
    assert (project(mean, rows, total, spread, 1e-7) - exact).abs().max() < 1e-9


@pytest.mark.parametrize("variance", VARIANCES)
def test_adding_what_is_conserved_commutes(variance):
    rows, mean, total, spread = problem(variance)
    torch.manual_seed(7)
    more = torch.randn(40).double()
    still = more - torch.linalg.pinv(rows) @ (rows @ more)  # G still = 0
    out = project(mean, rows, total, spread)
    assert (project(mean + still, rows, total, spread) - out - still).abs().max() < 1e-12
    both = project(mean + more, rows, total + rows @ more, spread)
    assert (both - out - more).abs().max() < 1e-12


@layouts
def test_laws_that_repeat_one_another_and_fields_side_by_side(layout):
    rows, mean, _, spread = problem("given")
    fields = torch.stack([mean, mean.flip(0)], 1)
    torch.manual_seed(8)
    total = torch.randn(6, 2).double()
    plain = project(fields, rows, total, spread)
    twice = torch.cat([rows, rows.sum(0, keepdim=True), 1e3 * rows[:2]])
    sums = torch.cat([total, total.sum(0, keepdim=True), 1e3 * total[:2]])
    out = project(fields, layout(twice), sums, spread)
    assert (out - plain).abs().max() < 1e-11
    assert (
        plain[:, 1] - project(fields[:, 1].contiguous(), rows, total[:, 1].contiguous(), spread)
    ).abs().max() < 1e-13
    with pytest.raises(InputError, match=r"law \d cannot be met: expected .* \(it contradicts"):
        project(fields, layout(twice), sums + 1, spread)


def test_mass_on_a_mesh_comes_back_in_single_precision():
    """The lumped mass as the law: the total is kept to the rounding of what is stored."""
    mesh = MESHES["channel"]
    rows = mesh.cell_measures.float()[None]
    before, after = torch.rand(mesh.n_cells) + 300, torch.rand(mesh.n_cells) + 301
    out = project(after, rows, rows @ before)
    assert out.dtype == torch.float32
    assert float((rows.double() @ out.double() - rows.double() @ before.double()).abs()) < 2e-4
    gap = (out - after).double()
    assert (gap / rows.double()).std() < 1e-4  # the change goes with the weights


def test_gradients():
    rows, mean, total, spread = problem("given", 7, 2)
    values = [v.clone().requires_grad_() for v in (mean, rows, total, spread)]
    assert torch.autograd.gradcheck(lambda a, b, c, d: project(a, b, c, d), values)
    assert torch.autograd.gradcheck(
        lambda a, c: project(a, rows.to_sparse(), c, spread), [values[0], values[2]]
    )
    assert torch.autograd.gradcheck(
        lambda b, d: projected_variance(b, d, 0.1), [values[1], values[3]]
    )
    zero = spread.clone()
    zero[3] = 0
    assert torch.autograd.gradcheck(lambda a: project(a, rows, total, zero), values[:1])
    with pytest.raises(InputError, match="`variance`: expected no gradient here"):
        project(mean, rows.to_sparse(), total, values[3])


def test_a_surface_carries_its_flux():
    torch.manual_seed(9)
    u, area = torch.randn(12, 3).double(), torch.randn(12, 3).double()
    weights = torch.rand(12).double()
    weights[::3] = 0
    for w in (None, weights):
        out = project_flux(u, area, 2.5, w)
        assert abs(float((out * area).sum()) - 2.5) < 1e-13
        assert torch.allclose(project_flux(out, area, 2.5, w), out, atol=1e-14)
    assert torch.equal(out[::3], u[::3])
    even = project_flux(u, area, torch.tensor(0.0), 1 / area.norm(dim=1))
    change = even - u  # one normal velocity for all faces
    normal = (change * area).sum(1) / area.norm(dim=1)
    assert (normal - normal[0]).abs().max() < 1e-13
    assert (change - normal[:, None] * area / area.norm(dim=1, keepdim=True)).abs().max() < 1e-13
    assert project_flux(u[:0], area[:0], 0.0).shape == (0, 3)
    with pytest.raises(InputError, match="cannot be met"):
        project_flux(u, area, 2.5, 0 * weights)


SOLIDS = ["channel", "mixed_solid", "polyhedra", "polygons"]


def out_of(flux, faces, n):
    inner = faces.neighbour >= 0
    out = flux.new_zeros(n, *flux.shape[1:]).index_add(0, faces.owner, flux)
    return out.index_add(0, faces.neighbour[inner], -flux[inner])


@pytest.mark.parametrize("name", SOLIDS)
def test_every_cell_of_a_mesh_gives_what_it_should(name):
    mesh = MESHES[name]
    faces, n = mesh.faces, mesh.n_cells
    torch.manual_seed(10)
    flux, target = torch.randn(len(faces)).double(), torch.randn(n).double()
    weights = torch.rand(len(faces)).double() + 0.1
    for w in (None, weights):
        out = project_cells(flux, faces.owner, faces.neighbour, target, w)
        assert (out_of(out, faces, n) - target).abs().max() < 1e-12
        again = project_cells(out, faces.owner, faces.neighbour, target, w)
        assert (again - out).abs().max() < 1e-12
    # The same as the dense update with one law a cell.
    law = out_of(torch.eye(len(faces)).double(), faces, n)
    assert (project(flux, law, target, weights) - out).abs().max() < 1e-11


@pytest.mark.parametrize("name", SOLIDS)
def test_a_uniform_flow_is_left_alone(name):
    mesh = MESHES[name]
    faces = mesh.faces
    u = torch.tensor([1.0, -2.0, 0.5]).double()[: mesh.dim]
    flux = faces.area @ u
    zero = torch.zeros(mesh.n_cells).double()
    out = project_cells(flux, faces.owner, faces.neighbour, zero)
    assert (out - flux).abs().max() < 1e-13
    # Laws hold on each part as well where the walls are held.
    held = (faces.neighbour >= 0).double()
    torch.manual_seed(11)
    noisy = flux + held * torch.randn(len(faces)).double()
    out = project_cells(noisy, faces.owner, faces.neighbour, zero, held)
    assert torch.equal(out[held == 0], flux[held == 0])
    assert out_of(out, faces, mesh.n_cells).abs().max() < 1e-12


def test_what_cannot_be_is_said():
    """A box with its outside held: what goes in must come out."""
    mesh = MESHES["channel"]
    faces = mesh.faces
    held = (faces.neighbour >= 0).double()
    flux, target = torch.zeros(len(faces)).double(), torch.zeros(mesh.n_cells).double()
    target[3] = 1
    with pytest.raises(InputError, match=r"cell \d+ cannot be met: expected \[.*\], got \["):
        project_cells(flux, faces.owner, faces.neighbour, target, held)
    target[5] = -1
    out = project_cells(flux, faces.owner, faces.neighbour, target, held)
    assert (out_of(out, faces, mesh.n_cells) - target).abs().max() < 1e-13
    held[(faces.owner == 3) | (faces.neighbour == 3)] = 0  # a cell by itself
    with pytest.raises(InputError, match=r"cell \d+ cannot be met"):
        project_cells(flux, faces.owner, faces.neighbour, target, held)
    assert not project_cells(flux, faces.owner, faces.neighbour, 0 * target, held).any()


def test_several_species_at_once_and_single_precision():
    mesh = MESHES["channel"]
    faces = mesh.faces
    torch.manual_seed(12)
    flux, target = torch.randn(len(faces), 2).double(), torch.randn(mesh.n_cells, 2).double()
    both = project_cells(flux, faces.owner, faces.neighbour, target)
    alone = project_cells(flux[:, 0], faces.owner, faces.neighbour, target[:, 0])
    assert (alone - both[:, 0]).abs().max() < 1e-13
    single = project_cells(flux.float(), faces.owner, faces.neighbour, target.float())
    assert single.dtype == torch.float32
    assert (out_of(single, faces, mesh.n_cells) - target).abs().max() < 1e-5


def test_gradients_of_cells():
    owner, neighbour = torch.tensor([0, 0, 1, 2]), torch.tensor([-1, 1, 2, -1])
    torch.manual_seed(13)
    inputs = [torch.randn(n).double().requires_grad_() for n in (4, 3)]

    def squares(flux, target):
        return project_cells(flux, owner, neighbour, target).square()

    assert torch.autograd.gradcheck(squares, inputs)
    assert torch.autograd.gradgradcheck(squares, inputs)


@pytest.mark.parametrize("open_", [True, False])
def test_many_cells_are_iterated_to_the_same_fluxes(monkeypatch, open_):
    """A grid in two parts, one of them cut off from outside."""
    n = 12
    ids = torch.arange(n * n).reshape(n, n)
    pairs = [(ids[:, :-1], ids[:, 1:]), (ids[:-1], ids[1:]), (ids[:, 0], torch.full((n,), -1))]
    owner, neighbour = (torch.cat([p[k].reshape(-1) for p in pairs]) for k in (0, 1))
    torch.manual_seed(14)
    weights = 0.1 + torch.rand(len(owner)).double()
    weights[(owner % n == 6) & (neighbour == owner + 1)] = 0
    if not open_:
        weights[neighbour < 0] = 0
    flux = torch.randn(len(owner), 2).double().requires_grad_()
    faces = SimpleNamespace(owner=owner, neighbour=neighbour)
    target = out_of(torch.randn_like(flux) * (weights[:, None] > 0), faces, n * n).detach()
    target = target + out_of(flux * (weights[:, None] == 0), faces, n * n).detach()
    direct = project_cells(flux, owner, neighbour, target, weights)
    monkeypatch.setattr(gram, "_FACTORED", 0)
    iterated = project_cells(flux, owner, neighbour, target, weights)
    assert (iterated - direct).abs().max() < 1e-12
    push = torch.randn_like(direct)
    (a,), (b,) = (torch.autograd.grad((f * push).sum(), flux) for f in (direct, iterated))
    assert (a - b).abs().max() < 1e-12
    monkeypatch.setattr(gram, "_STEPS", 2)
    with pytest.raises(WorkError, match="conjugate gradients: not done in 2 steps"):
        project_cells(flux, owner, neighbour, target, weights)


def test_empty_and_bad_input():
    none = torch.zeros(0, dtype=torch.int64)
    assert project_cells(torch.zeros(0), none, none, torch.zeros(3)).shape == (0,)
    assert project_cells(torch.zeros(0, 2), none, none, torch.zeros(0, 2)).shape == (0, 2)
    assert torch.equal(project(torch.ones(3), torch.zeros(0, 3), torch.zeros(0)), torch.ones(3))
    mean, rows, total = torch.ones(3), torch.ones(2, 3), torch.ones(2)
    with pytest.raises(InputError, match=r"`rows`: expected shape \(\*, 3\), got \(2, 2\)"):
        project(mean, rows[:, :2], total)
    with pytest.raises(InputError, match=r"`total`: expected shape \(2\), got \(1,\)"):
        project(mean, rows, total[:1])
    with pytest.raises(InputError, match=r"`variance`: expected shape \(3\), got \(2,\)"):
        project(mean, rows, total, torch.ones(2))
    with pytest.raises(InputError, match="`variance`: expected none below 0, got -1"):
        project(mean, rows, total, -mean)
    with pytest.raises(InputError, match="`noise`: expected a number not below 0, got -1"):
        project(mean, rows, total, None, -1.0)
    with pytest.raises(InputError, match="`mean`: 3 values are not finite"):
        project(mean * torch.nan, rows, total)
    owner, neighbour = torch.tensor([0, 1]), torch.tensor([1, 2])
    with pytest.raises(
        InputError, match=r"`neighbour`: index 2 at row 1 is outside 0\.\.1 \(2 cells\)"
    ):
        project_cells(torch.ones(2), owner, neighbour, torch.ones(2))
    with pytest.raises(InputError, match=r"`owner`: expected shape \(2\), got \(1,\)"):
        project_cells(torch.ones(2), owner[:1], neighbour, torch.ones(3))
