"""Small meshes of every kind, each with fields, for all tests: `MESHES[name]`, float64."""

import torch

from meshsim.geometry.cells import TYPES, cell_faces
from meshsim.mesh import Cells, Mesh

DTYPES = (torch.float32, torch.float64)
CUBE = ((0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1))


class Points:
    """Numbers points by their place, so that cells are written down by coordinates."""

    def __init__(self) -> None:
        self.number: dict[tuple[float, ...], int] = {}

    def __call__(self, *places: tuple[float, ...]) -> list[int]:
        keys = [tuple(round(float(v), 9) for v in p) for p in places]
        return [self.number.setdefault(key, len(self.number)) for key in keys]

    def tensor(self) -> torch.Tensor:
        return torch.tensor(list(self.number), dtype=torch.float64)


def box(low: tuple[float, ...], size: float = 1.0) -> list[tuple[float, ...]]:
    """Corners of a cube, in VTK's order."""
    return [tuple(a + size * b for a, b in zip(low, c, strict=True)) for c in CUBE]


def polygons(rings: list[list[int]]) -> Cells:
    sizes = torch.tensor([0] + [len(r) for r in rings])
    return Cells("polygon", torch.tensor([i for ring in rings for i in ring]), sizes.cumsum(0))


def polyhedra(cells: list[list[list[int]]]) -> Cells:
    faces = [face for cell in cells for face in cell]
    return Cells(
        "polyhedron",
        torch.tensor([i for face in faces for i in face]),
        torch.tensor([0] + [len(cell) for cell in cells]).cumsum(0),
        torch.tensor([0] + [len(face) for face in faces]).cumsum(0),
    )


def with_fields(mesh: Mesh) -> Mesh:
    """The mesh with a scalar and a vector on points and a scalar on cells, all different."""
    x = mesh.points
    return mesh.with_fields(
        {"p": (x * x).sum(1) + x[:, 0], "u": torch.cos(x + 0.1)},
        {"k": torch.arange(mesh.n_cells, dtype=x.dtype) * 0.5 + 1.0},
    )


def quadratic(mesh: Mesh, types: dict[str, str], bulge: float = 0.0) -> Mesh:
    """The mesh with nodes between corners: `types` maps linear to quadratic cell types."""
    x = mesh.points.tolist()
    known: dict[frozenset, int] = {}

    def between(corners: list[int]) -> int:
        key = frozenset(corners)
        if key not in known:
            known[key] = len(x)
            middle = torch.tensor([x[i] for i in corners], dtype=torch.float64).mean(0)
            x.append((middle + bulge * torch.sin(7 * middle)).tolist())
        return known[key]

    blocks = []
    for block in mesh.cells:
        name = types[block.type]
        k, corners = TYPES[name][1:3]
        local = {k - 1: tuple(range(corners))}  # the last node is the cell's centre, unless …
        for face, mids in cell_faces(name):
            ring = list(zip(face, face[1:] + face[:1], strict=True)) if len(face) > 2 else [face]
            local |= dict(zip(mids, [*ring, face][: len(mids)], strict=True))
        rows = [
            row + [between([row[i] for i in local[m]]) for m in range(corners, k)]
            for row in block.nodes.tolist()
        ]
        blocks.append(Cells(name, torch.tensor(rows)))
    return Mesh(torch.tensor(x, dtype=torch.float64), blocks)


def channel() -> Mesh:
    """4 × 2 channel of five quads and six triangles: boundaries with fields, regions, globals."""
    i = torch.arange(15).reshape(3, 5)  # point (column x, row y) is i[y, x]
    quads = [[i[y, x], i[y, x + 1], i[y + 1, x + 1], i[y + 1, x]] for y in (0, 1) for x in range(4)]
    split = [q for n, q in enumerate(quads) if n in (1, 2, 6)]
    keep = [q for n, q in enumerate(quads) if n not in (1, 2, 6)]
    triangles = [t for a, b, c, d in split for t in ([a, b, c], [a, c, d])]
    points = torch.stack([i % 5, i // 5], 2).reshape(-1, 2).double()
    points[7] += torch.tensor([0.2, -0.1])
    mesh = Mesh(
        points,
        {"triangle": torch.tensor(triangles), "quad": torch.tensor(keep)},
        regions={"left": torch.tensor([0, 1, 6]), "right": torch.tensor([2, 3])},
        global_fields={"time": 0.25},
    )
    lines = {
        "inlet": [[10, 5], [5, 0]],
        "outlet": [[4, 9], [9, 14]],
        "wall": [[n, n + 1] for n in (0, 1, 2, 3, 10, 11, 12, 13)],
    }
    return mesh.with_boundary_cells(
        {name: [Cells("line", torch.tensor(rows))] for name, rows in lines.items()},
        {"inlet": {"flux": [1.5, 2.5]}, "wall": {"shear": torch.arange(16.0).reshape(8, 2)}},
        {"inlet": "patch", "wall": "wall"},
    )


def mixed_solid() -> Mesh:
    """A cube, two wedges beside it, a pyramid on it, tetrahedra on those: conforming, 6 inside."""
    at = Points()
    hexahedron = at(*box((0, 0, 0)))
    wedges = [
        at((0, 1, 0), (1, 1, 0), (0, 2, 0), (0, 1, 1), (1, 1, 1), (0, 2, 1)),
        at((1, 1, 0), (1, 2, 0), (0, 2, 0), (1, 1, 1), (1, 2, 1), (0, 2, 1)),
    ]
    top = (0.5, 0.5, 2)
    pyramid = at((0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1), top)
    tetra = [
        at((0, 0, 1), (0.5, -0.5, 1.8), (1, 0, 1), top),
        at((0, 1, 1), (1, 1, 1), (0, 2, 1), top),
    ]
    quads = [at((0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0))]
    triangles = [at((0, 1, 0), (1, 1, 0), (0, 2, 0)), at((1, 1, 0), (1, 2, 0), (0, 2, 0))]
    cells = {"tetra": tetra, "pyramid": [pyramid], "wedge": wedges, "hexahedron": [hexahedron]}
    mesh = Mesh(
        at.tensor(),
        {name: torch.tensor(rows) for name, rows in cells.items()},
        regions={"core": torch.tensor([5])},
    )
    floor = [Cells("quad", torch.tensor(quads)), Cells("triangle", torch.tensor(triangles))]
    return mesh.with_boundary_cells({"floor": floor}, {"floor": {"q": [1.0, 2.0, 3.0]}})


def hanging_polygons() -> Mesh:
    """A pentagon with a hanging node, two squares, a triangle and an L, all as polygons."""
    at = Points()
    rings = [
        at((0, 0), (1, 0), (1, 0.5), (1, 1), (0, 1)),
        at((1, 0), (1.5, 0), (1.5, 0.5), (1, 0.5)),
        at((1, 0.5), (1.5, 0.5), (1.5, 1), (1, 1)),
        at((0, 1), (1, 1), (0, 2)),
        at((1, 1), (1.5, 1), (1.5, 3), (0, 3), (0, 2), (1, 2)),
    ]
    return Mesh(at.tensor(), [polygons(rings)])


def _cube_faces(at: Points, low: tuple[float, ...], size: float) -> list[list[int]]:
    corners = at(*box(low, size))
    return [[corners[i] for i in face] for face, _ in cell_faces("hexahedron")]


def hanging_polyhedra(careless: bool = False) -> Mesh:
    """A cube with four small ones on one side (nine faces) and a hexagonal prism, as polyhedra.

    With `careless`, every second face is listed the wrong way round.
    """
    at = Points()
    big = [f for i, f in enumerate(_cube_faces(at, (0, 0, 0), 1.0)) if i != 3]
    small = [_cube_faces(at, (1, y, z), 0.5) for y in (0, 0.5) for z in (0, 0.5)]
    big += [cell[5][::-1] for cell in small]  # their side x = 1
    # The big cube's other sides get the hanging nodes too, so that its faces close up.
    for face in big[:5]:
        for a, b in (((1, 0, 0), (1, 1, 0)), ((1, 0, 1), (1, 1, 1))):
            _hang(face, at, a, b)
        for a, b in (((1, 0, 0), (1, 0, 1)), ((1, 1, 0), (1, 1, 1))):
            _hang(face, at, a, b)
    angles = torch.arange(6) * torch.pi / 3
    ring = torch.stack([angles.cos() - 3, angles.sin()], 1).tolist()
    low, high = at(*((*p, 0) for p in ring)), at(*((*p, 1) for p in ring))
    sides = [[low[i], low[(i + 1) % 6], high[(i + 1) % 6], high[i]] for i in range(6)]
    cells = [big, *small, [low[::-1], high, *sides]]
    if careless:
        cells = [[f[::-1] if i % 2 else f for i, f in enumerate(cell)] for cell in cells]
    return Mesh(at.tensor(), [polyhedra(cells)])


def _hang(face: list[int], at: Points, a: tuple[float, ...], b: tuple[float, ...]) -> None:
    """Put the point half-way between a and b into a face that has the edge ab."""
    i, j = at(a, b)
    if i in face and j in face:
        middle = at(tuple((p + q) / 2 for p, q in zip(a, b, strict=True)))[0]
        p, q = sorted((face.index(i), face.index(j)))
        face.insert(q if q == p + 1 else q + 1, middle)


def cube_surface() -> Mesh:
    """The closed surface of a cube: four quads, two sides as triangles."""
    at = Points()
    faces = _cube_faces(at, (0, 0, 0), 1.0)
    triangles = [t for a, b, c, d in faces[:2] for t in ([a, b, c], [a, c, d])]
    return Mesh(at.tensor(), {"triangle": torch.tensor(triangles), "quad": torch.tensor(faces[2:])})


def fins() -> Mesh:
    """Three triangles and a quad on one common edge: no manifold."""
    points = [[0, 0, 0], [0, 0, 1], [1, 0, 0], [-1, 1, 0], [-1, -1, 0], [0, 2, 0], [0, 2, 1]]
    triangles = [[0, 2, 1], [0, 1, 3], [4, 0, 1]]
    return Mesh(torch.tensor(points).double(), {"triangle": triangles, "quad": [[0, 5, 6, 1]]})


def warped() -> Mesh:
    """`mixed_solid` with every point moved, so that no quad stays flat."""
    mesh = mixed_solid()
    shift = 0.08 * torch.sin(torch.arange(mesh.n_points * 3).double() ** 2).reshape(-1, 3)
    return mesh.replace(points=mesh.points + shift)


def carelessly_wound() -> Mesh:
    """`channel` with every second triangle wound clockwise."""
    mesh = channel()
    triangles = mesh.cells[0].nodes.clone()
    triangles[::2] = triangles[::2].flip(1)
    return Mesh(mesh.points, [Cells("triangle", triangles), mesh.cells[1]])


def tangled() -> Mesh:
    """A square of eight triangles, one turned inside out by its moved corner."""
    i = torch.arange(9).reshape(3, 3)
    a, b, c, d = i[:2, :2].flatten(), i[:2, 1:].flatten(), i[1:, 1:].flatten(), i[1:, :2].flatten()
    points = torch.stack([i % 3, i // 3], 2).reshape(-1, 2).double()
    points[4] = torch.tensor([0.4, 2.3])  # beyond the upper side
    cells = torch.cat([torch.stack([a, b, c], 1), torch.stack([a, c, d], 1)])
    return Mesh(points, {"triangle": cells})


def collapsed() -> Mesh:
    """A wedge and a tetrahedron on it, both written as hexahedra with repeated corners."""
    at = Points()
    a, b, c, d, e, f = at((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1))
    top = at((0.2, 0.2, 2))[0]
    rows = [[a, b, c, c, d, e, f, f], [d, e, f, f, top, top, top, top]]
    return Mesh(at.tensor(), {"hexahedron": torch.tensor(rows)})


def isolated() -> Mesh:
    """Two triangles and two points of no cell."""
    points = torch.tensor([[0, 0], [9, 9], [1, 0], [1, 1], [0, 1], [-9, 0]]).double()
    return Mesh(points, {"triangle": [[0, 2, 3], [0, 3, 4]]})


def junction() -> Mesh:
    """Lines in space: three meet in one point, one of no length apart."""
    points = torch.tensor([[0, 0, 0], [1, 0, 0], [2, 0, 0], [1, 2, 0], [1, 0, 3]]).double()
    return Mesh(points, {"line": [[0, 1], [1, 2], [3, 1], [1, 4]]})


def lifted() -> Mesh:
    """`channel` as a surface on a slanting plane in space."""
    mesh = channel()
    frame = torch.linalg.qr(torch.tensor([[1.0, 2.0, 0.5], [0.3, -1.0, 2.0], [1, 1, 1]]).double())
    return Mesh(mesh.points @ frame.Q[:2] + 1.0, mesh.cells)


_SERENDIPITY = {
    "triangle": "triangle6",
    "quad": "quad8",
    "tetra": "tetra10",
    "pyramid": "pyramid13",
    "wedge": "wedge15",
    "hexahedron": "hexahedron20",
}
_FULL = _SERENDIPITY | {
    "triangle": "triangle7",
    "quad": "quad9",
    "pyramid": "pyramid14",
    "wedge": "wedge18",
    "hexahedron": "hexahedron27",
}

MESHES: dict[str, Mesh] = {
    name: with_fields(mesh)
    for name, mesh in {
        "channel": channel(),
        "carelessly_wound": carelessly_wound(),
        "tangled": tangled(),
        "isolated": isolated(),
        "mixed_solid": mixed_solid(),
        "warped": warped(),
        "collapsed": collapsed(),
        "polygons": hanging_polygons(),
        "polyhedra": hanging_polyhedra(),
        "careless_polyhedra": hanging_polyhedra(careless=True),
        "quadratic2d": quadratic(channel(), _SERENDIPITY, bulge=0.05),
        "biquadratic2d": quadratic(channel(), _FULL),
        "quadratic3d": quadratic(mixed_solid(), _SERENDIPITY, bulge=0.02),
        "triquadratic3d": quadratic(mixed_solid(), _FULL),
        "cube_surface": cube_surface(),
        "lifted": lifted(),
        "fins": fins(),
        "junction": junction(),
        "quadratic_lines": Mesh(
            [[0.0, 0.0], [2.0, 0.0], [1.0, 0.2], [3.0, 1.0], [2.5, 0.3]],
            {"line3": [[0, 1, 2], [1, 3, 4]]},
        ),
        "vertices": Mesh([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]], {"vertex": [[0], [2]]}),
    }.items()
}
# Cells as many-dimensional as space: what finite volumes run on.
SOLID = [name for name, mesh in MESHES.items() if mesh.cell_dim == mesh.dim]
