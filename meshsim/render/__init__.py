"""Looking at meshes, fields and predictions.

Triangles become pixels in NumPy and text in Matplotlib: no display, no OpenGL, the same pixels
on every machine. VTK finds the surfaces.
"""

from __future__ import annotations

from meshsim.render.carry import carry, probe
from meshsim.render.cells import cells
from meshsim.render.compare import compare
from meshsim.render.conserve import carry_conserved
from meshsim.render.curves import curves
from meshsim.render.field import field
from meshsim.render.movie import movie
from meshsim.render.overview import overview
from meshsim.render.page import page
from meshsim.render.parity import parity
from meshsim.render.quality import quality
from meshsim.render.report import report
from meshsim.render.scene import to_pyvista
from meshsim.render.section import clip, section
from meshsim.render.streamlines import streamlines

__all__ = [
    "available",
    "carry",
    "carry_conserved",
    "cells",
    "clip",
    "compare",
    "curves",
    "field",
    "movie",
    "overview",
    "page",
    "parity",
    "probe",
    "quality",
    "report",
    "section",
    "streamlines",
    "to_pyvista",
]


def available() -> tuple[bool, str]:
    """Whether pictures can be made here, and what is missing.

    Returns:
        True when a picture was drawn; and one line that also says whether .mp4 can be written.
    """
    from importlib.util import find_spec
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from meshsim.check import one_line
    from meshsim.mesh import Mesh

    try:
        mesh = Mesh([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], {"triangle": [[0, 1, 2]]})
        with TemporaryDirectory() as folder:
            field(mesh.with_fields({"p": [0.0, 1.0, 2.0]}), "p", Path(folder) / "p.png", width=300)
    except Exception as error:
        return False, one_line(f"{type(error).__name__}: {error}")
    movies = all(find_spec(name) for name in ("imageio", "imageio_ffmpeg"))
    return True, (
        ".png, .gif and .html in software, no display needed; "
        + (".mp4 by ffmpeg" if movies else "no .mp4 (pip install 'meshsim[viz]')")
    )
