"""glTF, binary (.glb) and not, through trimesh: the triangles of a scene where it puts them."""

from __future__ import annotations

import os

import numpy as np

from meshsim.io.raw import Tree, expect
from meshsim.io.raw.merge import merge


def read(path: str, options: Tree) -> Tree:
    """A scene as a tree; each of its meshes becomes a region."""
    import trimesh

    with open(path, "rb") as file:
        head = file.read(12)
    if head.startswith(b"glTF"):
        length, have = int.from_bytes(head[8:12], "little"), os.path.getsize(path)
        expect(have >= length, f"ends early (expected {length} bytes, got {have})")
    try:
        # without a resolver no other file is opened, whatever the scene names
        with open(path, "rb") as file:
            kind = "glb" if head.startswith(b"glTF") else "gltf"
            scene = trimesh.load(file, file_type=kind, force="scene", process=False)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError("is damaged, or keeps its data in other files") from error
    parts, names = [], []
    for node in scene.graph.nodes_geometry:
        matrix, name = scene.graph[node]
        found = scene.geometry[name]
        if not hasattr(found, "faces") or not len(found.faces):
            continue
        points = np.asarray(found.vertices, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
        faces = np.asarray(found.faces, np.int64)
        faces = faces if np.linalg.det(matrix[:3, :3]) > 0 else faces[:, ::-1]
        blocks = [{"type": "triangle", "nodes": faces, "rows": np.arange(len(faces))}]
        parts.append({"points": points, "blocks": blocks, "notes": []})
        names.append(str(node))
    expect(parts, "holds no triangles")
    return merge(parts, names)
