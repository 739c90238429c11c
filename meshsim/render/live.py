"""A mesh to turn by hand: in a window, or in a browser that asks this machine for it."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from meshsim.check import InputError, MissingExtra
from meshsim.mesh import Mesh
from meshsim.render import colour
from meshsim.render.layout import caption
from meshsim.render.scene import to_pyvista
from meshsim.render.values import branch, quantity
from meshsim.render.view import look, used_points
from meshsim.sample import Sample
from meshsim.series import Series

HOST = "127.0.0.1"  # nobody but this machine
PLAIN = "#ced4de"
SHOWN = "shown"
MOST = 200  # times that are read for the scale


class Stage:
    """A PyVista plotter with a mesh and its field, at any of its times.

    Arguments:
        obj: a mesh, a series or a sample of one branch.
        name: a field; None: the first, or the plain mesh.
        component: see `field`.
        up: see `field`.
        edges: draw the edges of the cells.
        off_screen: no window.
    """

    def __init__(
        self,
        obj: Mesh | Series | Sample,
        name: str | None = None,
        *,
        component: int | str | None = None,
        up: str | None = None,
        edges: bool = False,
        off_screen: bool = False,
    ):
        import pyvista

        data = branch(obj)
        self.frames: list[tuple[Mesh | Series, int]] = (
            [(part, t) for part in data.segments for t in range(len(part))]
            if isinstance(data, Series)
            else [(data, 0)]
        )
        self.times = [
            float(part.times[t]) if isinstance(part, Series) else None for part, t in self.frames
        ]
        last = self.mesh(len(self.frames) - 1)
        plain = name is None and not last.point_fields and not last.cell_fields
        self.what = None if plain else quantity(last, name, component)
        self.grid = self._grid(last)
        self.plotter = pyvista.Plotter(off_screen=off_screen, title="meshsim")
        self.plotter.set_background("white")
        style: dict[str, Any] = {"color": PLAIN}
        if self.what is not None:
            step = -(-len(self.frames) // MOST)
            some = range(len(self.frames) - 1, -1, -step)
            scale = colour.scale(colour.span(self.what.values(self.mesh(t)) for t in some))
            style = {
                "scalars": SHOWN,
                "cmap": [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in scale.colours.tolist()],
                "clim": (scale.low, scale.high),
                "scalar_bar_args": {
                    "title": " ".join(t for t in (self.what.label, caption(scale)) if t),
                    "color": "black",
                    "vertical": True,
                },
            }
        self.plotter.add_mesh(self.grid, show_edges=edges, **style)
        if last.dim == 3 and not off_screen:  # vtk.js draws them wrong
            self.plotter.add_axes(color="black")
        self._look(last, up)

    def mesh(self, i: int) -> Mesh:
        """The mesh at one of the times."""
        part, t = self.frames[i]
        return part.frame(t) if isinstance(part, Series) else part

    def _grid(self, mesh: Mesh) -> Any:
        grid = to_pyvista(mesh.replace(point_fields={}, cell_fields={}))
        if self.what is not None:
            of = grid.point_data if self.what.location == "point" else grid.cell_data
            of[SHOWN] = self.what.values(mesh)
        return grid

    def _look(self, mesh: Mesh, up: str | None) -> None:
        points = used_points(mesh)
        eye = look(points, up=up)
        axes, centre = np.eye(3), np.zeros(3)
        axes[: len(eye.axes), : len(eye.axes)] = eye.axes
        centre[: mesh.dim] = (points.min(0) + points.max(0)) / 2
        size = float((eye.high - eye.low).max())
        camera = self.plotter.camera
        camera.focal_point = tuple(centre)
        camera.position = tuple(centre + 3 * size * axes[2])
        camera.up = tuple(axes[1])
        self.plotter.enable_parallel_projection()
        # with room for the colours on the right
        camera.parallel_scale = 0.55 * float(max(eye.high[1] - eye.low[1], size / 1.15))
        self.plotter.reset_camera_clipping_range()

    def go(self, i: int) -> None:
        """Show one of the times."""
        self.grid.shallow_copy(self._grid(self.mesh(i)))
        if self.what is not None:
            self.grid.set_active_scalars(SHOWN)
        self.grid.Modified()


def has_display() -> bool:
    """Whether a window can be opened; only X and Wayland tell."""
    if sys.platform in ("win32", "darwin"):
        return True
    if not os.environ.get("DISPLAY"):
        return bool(os.environ.get("WAYLAND_DISPLAY"))
    try:
        x = ctypes.CDLL("libX11.so.6")
    except OSError:
        return True
    x.XOpenDisplay.restype, x.XCloseDisplay.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    display = x.XOpenDisplay(None)
    if display:
        x.XCloseDisplay(display)
    return bool(display)  # VTK would go on without a window


def show(
    obj: Mesh | Series | Sample,
    name: str | None = None,
    *,
    component: int | str | None = None,
    up: str | None = None,
    edges: bool = False,
) -> None:
    """Open a window with the mesh and wait until it is closed; a series has a slider of times.

    Arguments:
        obj: see `Stage`, like every other argument.

    Raises:
        InputError: there is no display; an unknown field or component.
    """
    if not has_display():
        raise InputError(
            "no display to open a window on (-o FILE writes a picture, --serve shows it in a"
            " browser)"
        )
    stage = Stage(obj, name, component=component, up=up, edges=edges)
    if len(stage.times) > 1:
        last = len(stage.times) - 1

        def slid(value: Any) -> None:
            stage.go(min(max(round(float(value)), 0), last))

        stage.plotter.add_slider_widget(
            slid, (0, last), value=last, title="time step", fmt="%.0f", color="black"
        )
    stage.plotter.show()


def serve(
    obj: Mesh | Series | Sample,
    name: str | None = None,
    *,
    component: int | str | None = None,
    up: str | None = None,
    edges: bool = False,
    port: int = 0,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Show the mesh in browsers on this machine until Ctrl-C; a series has a slider of times.

    The page is drawn by the browser (vtk.js); it comes from this process alone, at 127.0.0.1.

    Arguments:
        obj: see `Stage`, like every other argument that is not named here.
        port: where to listen; 0: a free one.
        ready: called with the page's address once it can be opened.

    Raises:
        MissingExtra: trame is not installed.
        InputError: the port is taken; an unknown field or component.
        KeyboardInterrupt: Ctrl-C.
    """
    try:
        from trame.app import get_server
        from trame.ui.vuetify3 import SinglePageLayout
        from trame.widgets import vtk as views
        from trame.widgets import vuetify3 as widgets
    except ImportError as missing:
        raise MissingExtra(str(missing.name).partition(".")[0], "viz") from missing
    from vtkmodules.vtkCommonCore import vtkLogger

    port = _free(port)
    # VTK tells that it found no X server before it goes on without one
    vtkLogger.SetStderrVerbosity(vtkLogger.VERBOSITY_OFF)
    stage = Stage(obj, name, component=component, up=up, edges=edges, off_screen=True)
    server = get_server("meshsim", client_type="vue3")
    title = stage.what.label if stage.what is not None else "mesh"
    texts = ["" if t is None else f"t = {t:.6g}" for t in stage.times]
    state = server.state
    last = len(texts) - 1
    state.time, state.stamp, state.trame__title = last, texts[last], f"{title} – meshsim"
    with SinglePageLayout(server) as layout:
        layout.title.set_text(title)
        layout.icon.hide()
        layout.footer.hide()
        with layout.toolbar:
            widgets.VSpacer()
            if last:
                widgets.VSlider(
                    v_model=("time", last), min=0, max=last, step=1, hide_details=True,
                    density="compact", style="max-width: 420px",
                )  # fmt: skip
            widgets.VLabel("{{ stamp }}", classes="mx-4")
        with layout.content:
            view = views.VtkLocalView(stage.plotter.render_window)

    @state.change("time")
    def moved(time: int, **_: Any) -> None:
        stage.go(int(time))
        state.stamp = texts[int(time)]
        view.update()

    if ready is not None:
        server.controller.on_server_ready.add(lambda **_: ready(f"http://{HOST}:{server.port}/"))
    server.start(port=port, host=HOST, open_browser=False, show_connection_info=False, timeout=0)
    raise KeyboardInterrupt  # which trame takes for itself; nothing else ends it


def _free(port: int) -> int:
    """The port, or a free one for 0."""
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise InputError(f"port {port}: cannot be listened on ({error})") from error
        return int(probe.getsockname()[1])
