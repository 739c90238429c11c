"""Surface files as other programs write them: obj, off, ply, stl."""

import numpy as np
import pytest
import torch

from meshsim.check import InputError
from meshsim.io import read


def written(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def kinds(mesh):
    return {block.type: len(block) for block in mesh.cells}


def test_obj_keeps_polygons_groups_colours_and_negative_indices(tmp_path):
    text = """# comment
v 0 0 0 1 0 0
v 1 0 0 0 1 0
v 1 1 0 0 0 1
v 0 1 0 1 1 1
v 0.5 2 0 0 0 0
vt 0 0
vn 0 0 1
vn 0 0 1
g base plate
f 1/1/1 2/1/1 3//2 4
g roof
f -3 -1 -2
f 1 2 3 \\
 5 4
l 1 2 3
"""
    mesh = read(written(tmp_path, "a.obj", text))
    assert kinds(mesh) == {"quad": 1, "triangle": 1, "polygon": 1}
    assert mesh.cells[1].nodes.tolist() == [[2, 4, 3]]
    assert mesh.cells[2].nodes.tolist() == [0, 1, 2, 4, 3]
    assert {name: rows.tolist() for name, rows in mesh.regions.items()} == {
        "base plate": [0],
        "roof": [1, 2],
    }
    assert mesh.point_fields["colour"].shape == (5, 3)
    # two line segments, of which only one is an edge of a face at the boundary … both are edges
    assert len(mesh.boundaries["boundary"].faces) == 2
    assert any("2 normals were left out" in note for note in mesh.notes)


def test_obj_with_indices_outside_or_no_faces(tmp_path):
    def refused(text, match):
        with pytest.raises(InputError, match=match):
            read(written(tmp_path, "a.obj", text))

    refused("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 4\n", "index 3 at row 0 is outside 0..2")
    refused("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 -4\n", "outside the points")
    refused("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 0\n", "outside")
    refused("v 0 0\nv 1 0\nv 0 1\nf 1 2 3\n", "fewer than 3 coordinates")
    refused("v 0 0 0\nv 1 0 0\n", "no cells")
    refused("v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "not finite")
    refused("v 0 0 x\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "no number")
    refused("# nothing\n", "no points")


@pytest.mark.parametrize(
    "head, row",
    [
        ("OFF\n4 2 0\n", "{x} {y} 0"),
        ("OFF 4 2 0\n", "{x} {y} 0"),
        ("OFF\n# a comment\n\n4 2\n", "{x} {y} 0 # note"),
        ("COFF\n4 2 0\n", "{x} {y} 0 255 0 0 255"),
        ("NOFF\n4 2 0\n", "{x} {y} 0 0 0 1"),
    ],
)
def test_off_in_its_dialects(tmp_path, head, row):
    points = "\n".join(row.format(x=x, y=y) for x, y in ((0, 0), (1, 0), (1, 1), (0, 1)))
    mesh = read(written(tmp_path, "a.off", f"{head}{points}\n4 0 1 2 3 0.5 0.5 0.5\n3 0 1 2\n"))
    assert kinds(mesh) == {"quad": 1, "triangle": 1}
    assert mesh.points.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
    if head.startswith("N"):
        assert mesh.point_fields["normal"][0].tolist() == [0, 0, 1]
    if head.startswith("C"):
        assert mesh.point_fields["colour"].shape == (4, 4)


def test_off_that_asks_for_terabytes_is_refused(tmp_path):
    for head in ("OFF\n999999999999 1 0\n", "OFF\n3 999999999999 0\n", "OFF\n-3 1 0\n"):
        with pytest.raises(InputError):
            read(written(tmp_path, "a.off", head + "0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"))


PLY_HEAD = """ply
format {form} 1.0
comment made by hand
element vertex 4
property float x
property float y
property float z
property uchar red
property uchar green
property uchar blue
element face 2
property list uchar {index} vertex_indices
property double quality
end_header
"""


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize("mixed", [False, True])
def test_ply_in_every_encoding(tmp_path, form, mixed):
    order = ">" if "big" in form else "<"
    places = [(0, 0), (1, 0), (1, 1), (0, 1)]
    rings = [[0, 1, 2, 3], [0, 1, 2]] if mixed else [[0, 1, 2], [0, 2, 3]]
    data = PLY_HEAD.format(form=form, index="uint").encode()
    if form == "ascii":
        data += b"".join(b"%d %d 0.5 %d 2 3\n" % (*p, i) for i, p in enumerate(places))
        for i, ring in enumerate(rings):
            data += f"{len(ring)} {' '.join(map(str, ring))} {i + 0.25}\n".encode()
    else:
        for i, p in enumerate(places):
            data += np.array([*p, 0.5], order + "f4").tobytes() + bytes([i, 2, 3])
        for i, ring in enumerate(rings):
            data += bytes([len(ring)]) + np.array(ring, order + "u4").tobytes()
            data += np.array([i + 0.25], order + "f8").tobytes()
    mesh = read(written(tmp_path, "a.ply", data))
    assert kinds(mesh) == ({"quad": 1, "triangle": 1} if mixed else {"triangle": 2})
    assert mesh.points.dtype == torch.float32
    assert mesh.points.tolist() == [[x, y, 0.5] for x, y in places]
    colour = mesh.point_fields["colour"]
    assert colour.dtype == torch.uint8 and colour[:, 0].tolist() == [0, 1, 2, 3]
    assert mesh.cell_fields["quality"].tolist() == [0.25, 1.25]
    for cut in (len(data) - 5, len(data) // 2):
        with pytest.raises(InputError):
            read(written(tmp_path, "b.ply", data[:cut]))


SOLID = """solid {name}
  facet normal 0 0 1
    outer loop
      vertex {z} 0 0
      vertex 1 0 0
      vertex 0 1 {z}
    endloop
  endfacet
endsolid {name}
"""


def test_stl_text_with_two_solids(tmp_path):
    text = SOLID.format(name="one", z="0") + SOLID.format(name="two", z="1e-3")
    mesh = read(written(tmp_path, "a.stl", text))
    assert kinds(mesh) == {"triangle": 2}
    assert mesh.n_points == 5  # one corner is shared
    assert {k: v.tolist() for k, v in mesh.regions.items()} == {"one": [0], "two": [1]}
    for cut in (len(text) - 12, 150, 60):
        with pytest.raises(InputError):
            read(written(tmp_path, "b.stl", text[:cut]))


def test_binary_stl_whose_header_says_solid(tmp_path):
    facet = np.zeros(12, "<f4")
    facet[3:] = [0, 0, 0, 1, 0, 0, 0, 1, 0]
    data = b"solid exported by a careless program".ljust(80) + (2).to_bytes(4, "little")
    other = facet.copy()
    other[9:] = [1, 1, 0]
    data += facet.tobytes() + b"\0\0" + other.tobytes() + b"\0\0"
    mesh = read(written(tmp_path, "a.stl", data))
    assert kinds(mesh) == {"triangle": 2} and mesh.n_points == 4
    with pytest.raises(InputError, match="expected 2 triangles, got 1"):
        read(written(tmp_path, "b.stl", data[:-3]))


def test_signs_of_exponents_before_the_e(tmp_path):
    (tmp_path / "a.obj").write_text("v 3.1+e2 1e+2 -2.e-1\nv 3.1-e2 1E2 0\nv 0 1 0\nf 1 2 3\n")
    points = read(tmp_path / "a.obj").points
    assert points[0].tolist() == [310, 100, -0.2] and points[1].tolist() == [0.031, 100, 0]


def test_ply_with_wrapped_lines_and_without_its_face_element(tmp_path):
    head = "ply\nformat ascii 1.0\nelement vertex 4\n" + "".join(
        f"property float {a}\n" for a in ("x", "y", "z", "nx", "ny", "nz")
    )
    face = "element face 2\nproperty list uchar int vertex_indices\nend_header\n"
    rows = ["0 0 0 0 0 1", "1 0 0 0 0 1", "1 1 0 0 0 1", "0 1 0 0 0 1"]
    body = "".join(row[:6] + "\n" + row[6:] + "\n" for row in rows)
    (tmp_path / "a.ply").write_text(head + face + body + "3 0\n1 2\n3 0 2 3\n")
    mesh = read(tmp_path / "a.ply")
    assert mesh.cells[0].nodes.tolist() == [[0, 1, 2], [0, 2, 3]]
    assert mesh.points.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
    (tmp_path / "a.ply").write_text(head + face + body + "3 0\n1 2\n3 0 2\n")
    with pytest.raises(InputError, match="ends early"):
        read(tmp_path / "a.ply")
    lost = face.replace("element face 2\n", "")
    (tmp_path / "a.ply").write_text(head + lost + "\n".join(rows) + "\n3 0 1 2\n3 0 2 3\n")
    mesh = read(tmp_path / "a.ply")
    assert mesh.cells[0].nodes.tolist() == [[0, 1, 2], [0, 2, 3]]
    assert any("lacks 'element face'" in note for note in mesh.notes)
