"""Valid meshes of every cell type, distorted but convex, for tests that plant defects in them."""

import torch

from meshsim.geometry.cells import cell_faces
from meshsim.mesh import Cells, Mesh
from tests.helpers import _FULL, _SERENDIPITY, polygons, polyhedra, quadratic

N = 3


def _grid(dim: int, shake: float = 0.04) -> tuple[torch.Tensor, torch.Tensor]:
    """Points and the corners of the N^dim squares or cubes, in VTK's order."""
    i = torch.arange((N + 1) ** dim).reshape([N + 1] * dim)

    def corner(*at: int) -> torch.Tensor:
        return i[tuple(slice(a, a + N) for a in at)].reshape(-1)

    ring = ((0, 0), (1, 0), (1, 1), (0, 1))
    corners = ring if dim == 2 else [(*p, z) for z in (0, 1) for p in ring]
    axis = torch.arange(N + 1).double()
    points = torch.stack(torch.meshgrid(*[axis] * dim, indexing="ij"), dim).reshape(-1, dim)
    inside = ((points > 0) & (points < N)).all(1, keepdim=True)
    points = points + inside * shake * torch.sin(37 * points.roll(1, 1) + 11 * points)
    return points, torch.stack([corner(*c) for c in corners], 1)


def _solid(type: str) -> Mesh:
    points, cubes = _grid(3)
    faces = torch.tensor([face for face, _ in cell_faces("hexahedron")])
    match type:
        case "hexahedron":
            cells = [Cells("hexahedron", cubes)]
        case "wedge":
            halves = torch.tensor([[0, 1, 2, 4, 5, 6], [0, 2, 3, 4, 6, 7]])
            cells = [Cells("wedge", cubes[:, halves].reshape(-1, 6))]
        case "tetra":
            sixths = [[0, 1, 2, 6], [0, 2, 3, 6], [0, 3, 7, 6], [0, 7, 4, 6], [0, 4, 5, 6]]
            local = torch.tensor([*sixths, [0, 5, 1, 6]])
            cells = [Cells("tetra", cubes[:, local].reshape(-1, 4))]
        case "pyramid":
            middle = len(points) + torch.arange(len(cubes))
            points = torch.cat([points, points[cubes].mean(1)])
            base = cubes[:, faces.flip(1)]  # (C, 6, 4), normals inwards
            apex = middle[:, None, None].expand(-1, 6, 1)
            cells = [Cells("pyramid", torch.cat([base, apex], 2).reshape(-1, 5))]
        case _:
            cells = [polyhedra(cubes[:, faces].tolist())]
    return Mesh(points, cells)


def _plane(type: str) -> Mesh:
    points, squares = _grid(2)
    if type == "quad":
        return Mesh(points, {"quad": squares})
    if type == "triangle":
        halves = torch.tensor([[0, 1, 2], [0, 2, 3]])
        return Mesh(points, {"triangle": squares[:, halves].reshape(-1, 3)})
    return Mesh(points, [polygons(squares.tolist())])


def _surface(type: str) -> Mesh:
    """The outside of the cubes."""
    solid = _solid("hexahedron")
    faces = solid.faces
    outside = (faces.neighbour < 0).nonzero().squeeze(1)
    rings = faces.nodes[faces.offsets[outside, None] + torch.arange(4)]
    used, rings = rings.unique(return_inverse=True)
    if type == "quad":
        return Mesh(solid.points[used], {"quad": rings})
    if type == "triangle":
        halves = torch.tensor([[0, 1, 2], [0, 2, 3]])
        return Mesh(solid.points[used], {"triangle": rings[:, halves].reshape(-1, 3)})
    return Mesh(solid.points[used], [polygons(rings.tolist())])


def _dressed(mesh: Mesh) -> Mesh:
    """With fields, two boundaries that have fields, and a region."""
    outside = (mesh.faces.neighbour < 0).nonzero().squeeze(1)
    left = mesh.faces.centre[outside, 0] < 1
    named = {"left": outside[left], "rest": outside[~left]} if len(outside) else {}
    x = mesh.points
    mesh = mesh.with_fields(
        {"p": (x**2).sum(1), "u": torch.cos(x)}, {"k": mesh.cell_measures.cumsum(0)}
    )
    from meshsim.mesh import Boundary

    bounds = {k: Boundary(v, {"q": torch.arange(len(v)).double()}) for k, v in named.items()}
    return mesh.replace(boundaries=bounds, regions={"some": torch.arange(mesh.n_cells // 2)})


LINEAR = {
    **{t: _plane(t) for t in ("triangle", "quad", "polygon")},
    **{t: _solid(t) for t in ("tetra", "pyramid", "wedge", "hexahedron", "polyhedron")},
}
SURFACES = {f"surface of {t}": _surface(t) for t in ("triangle", "quad", "polygon")}
QUADRATIC = {
    table[t]: quadratic(LINEAR[t], table, bulge=0.02)
    for table in (_SERENDIPITY, _FULL)
    for t in _SERENDIPITY
    if t in table
}
SOUND = {name: _dressed(mesh) for name, mesh in (LINEAR | SURFACES | QUADRATIC).items()}
