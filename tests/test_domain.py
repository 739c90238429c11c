"""Domains: places about a body that are like those of the training."""

import pytest
import torch

from meshsim.body import Body
from meshsim.check import InputError
from meshsim.domain import Domain, Places
from meshsim.mesh import Mesh
from tests.test_clouds import circle, sphere


def domain(dim=3, low=1e-3, seed=0):
    """Distances from `low` to 1, as many in each decade: a layer of cells on a wall."""
    share = torch.rand(2000, generator=torch.Generator().manual_seed(seed)).double()
    box = torch.tensor([[-2.5] * dim, [3.0] * dim]).double()
    return Domain.of(
        [Places(torch.tensor([[-1.0] * dim, [1.0] * dim]), box, low ** (1 - share))],
        lambda body: (torch.zeros(dim).double(), 1.0),
    )


def bodies(dim, shift=0.0):
    points = sphere(8).points if dim == 3 else circle(30).points - torch.tensor([3.0, 0.0])
    return Body.of(Mesh(points + shift, (sphere(8) if dim == 3 else circle(30)).cells))


@pytest.mark.parametrize("dim", [2, 3])
def test_places_lie_in_the_box_outside_of_the_body_as_far_as_in_training(dim):
    made, body = domain(dim), bodies(dim)
    x = made.draw(body, torch.zeros(dim).double(), 1.0, 400)
    distance = body.distance(x).distance
    assert x.shape == (400, dim) and float(distance.min()) > 0
    assert float(x.min()) >= -2.5 and float(x.max()) <= 3.0
    levels = torch.tensor(made.distances)
    found = torch.bucketize(distance, levels[1:-1].double()).bincount(minlength=16)
    assert int(found.min()) >= 20 and int(found.max()) <= 30  # 25 of each sixteenth


def test_the_same_seed_gives_the_same_places():
    made, body = domain(), bodies(3)
    origin = torch.zeros(3).double()
    a, b, c = (made.draw(body, origin, 1.0, 50, seed) for seed in (3, 3, 4))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_places_go_with_the_body():
    by = torch.tensor([4.0, -1.0, 2.0]).double()
    here = domain().draw(bodies(3), torch.zeros(3).double(), 1.0, 200)
    there = domain().draw(bodies(3, by), by, 1.0, 200)
    same = ((there - by - here).norm(dim=1) < 1e-9).double().mean()
    assert float(same) > 0.95  # one that changes its part by rounding moves one place, not all


def test_where_there_is_no_room_there_are_no_places():
    giant = Body.of(Mesh(1000 * sphere(8).points, sphere(8).cells))
    assert domain().draw(giant, torch.zeros(3).double(), 1.0, 50).shape == (0, 3)
    assert domain().draw(bodies(3), torch.zeros(3).double(), 1.0, 0).shape == (0, 3)


def test_what_is_measured():
    body = sphere(8)
    x = torch.tensor([[0.0, 0.0, 3.0], [0.5, 0.0, 0.0], [-5.0, 0.0, 0.0]]).double()
    found = Places.of(x, body)
    assert found.box.tolist() == [[-5, 0, 0], [0.5, 0, 3]]
    torch.testing.assert_close(found.distances, torch.tensor([2.0, 4.0]).double())
    none = Places.of(x, body, measured=False)
    assert len(none.distances) == 0
    assert Domain.of([none], lambda b: (torch.zeros(3).double(), 1.0)) is None
    again = Domain(**domain().to_dict())
    assert again == domain()
    with pytest.raises(InputError, match="expected a box and distances"):
        Domain([0.0], [1.0, 1.0], [0.0, 1.0])
