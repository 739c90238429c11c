"""Boundaries and regions: every name in the legend, its colour in the picture."""

import numpy as np
import pytest
import torch

from meshsim import render
from meshsim.check import InputError
from meshsim.render.cells import MOST, REST, named, patches
from tests.render.drawing import grid, panel, pixels, texts
from tests.render.test_section import cube


def sided(mesh):
    """Boundaries for the six sides of a cube (or four of a rectangle)."""
    centre = mesh.faces.centre
    low, high = mesh.points.aminmax(dim=0)
    sides = {}
    for k in range(mesh.dim):
        for name, at in (("low", low[k]), ("high", high[k])):
            rows = ((centre[:, k] - at).abs() < 1e-9).nonzero().squeeze(1)
            sides[f"{'xyz'[k]} {name}"] = rows
    return mesh.replace(boundaries=sides)


def has(image, colour, tolerance=4):
    """How many pixels have a colour, whatever the light makes of it."""
    flat = image.reshape(-1, 3).astype(float)
    flat = flat[flat.sum(1) > 30]
    wanted = np.array(colour) / np.linalg.norm(colour)
    return int((np.linalg.norm(flat / np.linalg.norm(flat, axis=1, keepdims=True) - wanted, axis=1)
                < tolerance / 255).sum())  # fmt: skip


@pytest.mark.parametrize("mesh", [grid(), cube(2)], ids=["plane", "cube"])
def test_every_boundary_is_named_and_coloured(tmp_path, boards, mesh):
    mesh = sided(mesh)
    found = named(mesh)
    assert list(found.boundaries) == list(mesh.boundaries)
    assert [text for _, text in found.legend] == list(mesh.boundaries)
    assert len(set(found.boundaries.values())) == len(mesh.boundaries)
    image = pixels(render.cells(mesh, tmp_path / "c.png", show=["boundaries"], width=500))
    assert set(mesh.boundaries) <= set(texts(boards[0]))
    seen = [has(panel(image, boards[0], 0), c) > 100 for c in found.boundaries.values()]
    assert sum(seen) == (4 if mesh.dim == 2 else 3)  # a cube shows three sides


def test_some_boundaries_of_a_volume_stand_alone(tmp_path, boards):
    mesh = sided(cube(2))
    only = ["x low", "z low"]
    alone = patches(mesh, only)
    assert float(alone.cell_measures.sum()) == pytest.approx(2.0) and list(alone.regions) == only
    image = pixels(
        render.cells(mesh, tmp_path / "c.png", show=["boundaries"], only=only, width=500)
    )
    assert [text for _, text in named(mesh, ["boundaries"], only).legend] == only
    for colour in named(mesh, ["boundaries"], only).boundaries.values():
        assert has(panel(image, boards[0], 0), colour) > 100


def test_many_and_long_names():
    mesh = grid(40, 1)
    mesh = mesh.replace(boundaries={f"b{i}": torch.tensor([i]) for i in range(40)})
    found = named(mesh)
    assert len(found.legend) == MOST + 1 and found.legend[-1] == (REST, f"and {40 - MOST} more")
    assert len({colour for colour, _ in found.legend}) == MOST + 1
    assert found.boundaries["b39"] == REST
    long = "inlet_of_the_second_intake_manifold_left_side_0001"
    ((_, text),) = named(grid().replace(boundaries={long: torch.tensor([0])})).legend
    assert len(text) == 34 and text.startswith("inlet_of_the") and text.endswith("side_0001")


def test_regions_alone_have_full_colours(tmp_path, boards):
    mesh = grid(8, 4)
    left = (mesh.cell_centres[:, 0] < 1).nonzero().squeeze(1)
    right = (mesh.cell_centres[:, 0] > 1).nonzero().squeeze(1)
    mesh = mesh.replace(regions={"steel": left, "copper": right})
    found = named(mesh, ["regions"])
    assert [text for _, text in found.legend] == ["steel", "copper"]
    image = pixels(render.cells(mesh, tmp_path / "r.png", show=["regions"], width=400))
    for colour in found.regions.values():
        assert has(panel(image, boards[0], 0), colour, 8) > 2000
    with pytest.raises(InputError, match=r"unknown region 'stel'.*steel"):
        named(mesh, ["regions"], ["stel"])
    with pytest.raises(InputError, match="unknown boundary"):
        render.cells(sided(grid()), tmp_path / "b.png", show=["boundaries"], only=["wall"])
