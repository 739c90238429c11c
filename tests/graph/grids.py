"""Regular grids with named sides, for graph tests."""

import torch

from meshsim.mesh import Cells, Mesh


def grid(nx: int, ny: int, kind: str = "quad", dtype: torch.dtype = torch.float64) -> Mesh:
    """[0, nx] × [0, ny] in unit squares, or each in two triangles; left, right, bottom, top."""
    i = torch.arange((nx + 1) * (ny + 1)).reshape(ny + 1, nx + 1)
    points = torch.stack([i % (nx + 1), i // (nx + 1)], 2).reshape(-1, 2).to(dtype)
    a, b, c, d = i[:-1, :-1], i[:-1, 1:], i[1:, 1:], i[1:, :-1]
    quads = torch.stack([a, b, c, d], 2).reshape(-1, 4)
    cells = {"quad": quads}
    if kind == "triangle":
        cells = {"triangle": torch.cat([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])}
    sides = {"left": i[:, 0], "right": i[:, -1], "bottom": i[0], "top": i[-1]}
    return Mesh(points, cells).with_boundary_cells(
        {k: [Cells("line", torch.stack([v[:-1], v[1:]], 1))] for k, v in sides.items()}
    )


def brick(nx: int, ny: int, nz: int) -> Mesh:
    """[0, nx] × [0, ny] × [0, nz] in unit cubes; sides left, right, front, back, bottom, top."""
    shape = (nz + 1, ny + 1, nx + 1)
    i = torch.arange(shape[0] * shape[1] * shape[2]).reshape(shape)
    z, y, x = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
    points = torch.stack([x, y, z], 3).reshape(-1, 3).double()
    low, high = i[:-1], i[1:]

    def ring(a: torch.Tensor) -> list[torch.Tensor]:
        return [a[..., :-1, :-1], a[..., :-1, 1:], a[..., 1:, 1:], a[..., 1:, :-1]]

    cells = torch.stack([*ring(low), *ring(high)], -1).reshape(-1, 8)
    sides = {
        "bottom": i[0],
        "top": i[-1],
        "front": i[:, 0],
        "back": i[:, -1],
        "left": i[:, :, 0],
        "right": i[:, :, -1],
    }
    return Mesh(points, {"hexahedron": cells}).with_boundary_cells(
        {k: [Cells("quad", torch.stack(ring(v), -1).reshape(-1, 4))] for k, v in sides.items()}
    )
