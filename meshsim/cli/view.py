"""`meshsim view`: a picture, a movie, an offline page or a window of a file, a store or a run."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshsim.check import InputError, check_known

if TYPE_CHECKING:
    from meshsim.data import Store
    from meshsim.mesh import Mesh
    from meshsim.sample import Sample
    from meshsim.series import Series


@dataclass(frozen=True)
class Look:
    """How something is to be drawn, as it was asked for."""

    field: str | None
    component: int | str | None
    up: str | None
    edges: bool
    view: str = "auto"


def view(
    path: Annotated[Path, typer.Argument(metavar="FILE|STORE|RUN", help="What to look at.")],
    field: Annotated[str | None, typer.Option("--field", help="Default: the first.")] = None,
    out: Annotated[
        Path | None, typer.Option("--output", "-o", help=".png, .gif, .mp4 or .html.")
    ] = None,
    component: Annotated[
        str | None, typer.Option("--component", help="Of a vector: 0, 1, … or x, y, z.")
    ] = None,
    time: Annotated[
        str | None, typer.Option("--time", metavar="T", help="One time: a number, first or last.")
    ] = None,
    slices: Annotated[
        list[str] | None,
        typer.Option("--slice", metavar="AXIS[=X]", help="Planes alone: z=0.1, or z: the middle."),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option("--clip", metavar="AXIS[=X]", help="Cut half of a volume away, by cells."),
    ] = None,
    boundaries: Annotated[
        bool, typer.Option("--boundaries", help="Colour the boundaries; a legend names them.")
    ] = False,
    boundary: Annotated[
        list[str] | None,
        typer.Option("--boundary", metavar="NAME", help="This alone (several: again)."),
    ] = None,
    regions: Annotated[
        bool, typer.Option("--regions", help="Colour the regions; a legend names them.")
    ] = False,
    quality: Annotated[
        bool,
        typer.Option(
            "--quality",
            help="Histograms of the cells' quality; --field: 'aspect ratio', skewness (the"
            " default), non-orthogonality, area or volume colours the mesh.",
        ),
    ] = False,
    sample: Annotated[
        str | None, typer.Option("--sample", metavar="NAME", help="Of a store, this one.")
    ] = None,
    branch: Annotated[
        str | None, typer.Option("--branch", metavar="NAME", help="Of a sample: surface, …")
    ] = None,
    up: Annotated[str | None, typer.Option("--up", help="Axis that points up: x, y or z.")] = None,
    edges: Annotated[bool, typer.Option("--edges", help="Draw the cells' edges.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Open a window (needs a display).")] = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="Show it in a browser of this machine until Ctrl-C.")
    ] = False,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Of --serve; 0: a free one.")
    ] = 0,
    trust: Annotated[bool, typer.Option("--trust", help="Read in this process.")] = False,
) -> None:
    """Draw a mesh and its field; without -o into the current folder, under the input's name.

    A series becomes a .gif, or a page (.html) with a slider of its times. Of a store the samples
    are browsed: in a page (the default), or as small pictures (.png); --sample draws one. Of a
    run the curves of its training are drawn.
    """
    from meshsim.cli.arguments import kind, load

    what = kind(path)
    if what == "run":
        _curves(path, out)
        return
    column = int(component) if component and component.isdecimal() else component
    named = boundaries or regions or bool(boundary)
    ways = {
        "--boundaries or --regions": named,
        "--quality": quality,
        "--slice": slices,
        "--clip": clip is not None and not quality,
        "--show": show,
        "--serve": serve,
    }
    given = [name for name, value in ways.items() if value]
    together = [{name, live} for name in ("--slice", "--clip") for live in ("--show", "--serve")]
    if len(given) > 1 and set(given) not in together:
        raise InputError(f"expected one of {' and '.join(given)}")
    drawn = Look(field, column, up, edges)
    if what == "store":
        from meshsim.data import Store

        store = Store(path)
        if not store.names:
            raise InputError(f"{path}: no sample in it to look at")
        if sample is None and not given and time is None and _suffix(out) in ("", ".html", ".png"):
            _browse(store, branch, drawn, out or Path(path.resolve().name).with_suffix(".html"))
            return
        data: Mesh | Series | Sample = _chosen(store, sample, time)
    else:
        if sample is not None:
            raise InputError(f"--sample {sample}: {path} is not a store")
        data = load(path, trust, time)
    shown = _branch(data, branch)
    if show or serve:
        if out is not None:
            raise InputError(f"{out}: --show and --serve write no file")
        _live(*_cut(shown, slices, clip, drawn), serve, port)
        return
    if named or quality:
        target = out or Path(path.resolve().name).with_suffix(".png")
        if _suffix(target) != ".png":
            raise InputError(f"{target}: {given[0]} draws a .png")
        if quality:
            from meshsim import render

            made = render.quality(shown, target, name=field, clipped=clip, up=up)
        else:
            made = _names(shown, target, boundaries, regions, boundary or [], up)
        print(made, file=sys.stderr)
        return
    _draw(*_cut(shown, slices, clip, drawn), path, out)


def _suffix(path: Path | None) -> str:
    return "" if path is None else path.suffix.lower()


def _curves(path: Path, out: Path | None) -> None:
    from meshsim import render
    from meshsim.loading import check_single

    check_single(path)
    target = out or path / "training.png"
    if _suffix(target) != ".png":
        raise InputError(f"{target}: the curves of a run are drawn as .png")
    print(render.curves(path / "log.csv", target), file=sys.stderr)


def _chosen(store: Store, name: str | None, time: str | None) -> Mesh | Series | Sample:
    """One sample of a store, perhaps at one time."""
    from meshsim.io.reading import at

    if name is not None:
        check_known(name, store.names, "sample")
    elif len(store.names) > 1:
        print(f"note: sample {store.names[0]} of {len(store.names)}", file=sys.stderr)
    data = store.sample(name or store.names[0])
    return data if time is None else at(data, time)


def _branch(data: Mesh | Series | Sample, name: str | None) -> Mesh | Series:
    """The branch of a sample that is asked for, or its first one, which is said."""
    from meshsim.sample import Sample

    if not isinstance(data, Sample):
        if name is not None:
            raise InputError(f"--branch {name}: there are no branches")
        return data
    if name is not None:
        check_known(name, data.branches, "branch")
        return data.branches[name]
    first = next(iter(data.branches))
    if len(data.branches) > 1:
        print(f"note: branch {first} of {', '.join(data.branches)}", file=sys.stderr)
    return data.branches[first]


def _browse(store: Store, branch: str | None, how: Look, target: Path) -> None:
    """Many samples in one picture or page; says which are not in it."""
    from contextlib import redirect_stderr
    from io import StringIO

    from meshsim.render import samples

    names = list(store.names)
    _branch(store.sample(names[0]), branch)  # says its choice once

    def load(name: str) -> Mesh | Series:
        with redirect_stderr(StringIO()):
            return _branch(store.sample(name), branch)

    if how.edges:
        raise InputError("--edges: of one sample (--sample NAME)")
    common = {"field": how.field, "component": how.component, "up": how.up}
    if _suffix(target) == ".png":
        made = samples.sheet(names, load, target, **common)  # type: ignore[arg-type]
    else:
        made = samples.browse(names, load, target, title=target.stem, **common)  # type: ignore[arg-type]
    if made.left_out:
        first, last = made.left_out[0], made.left_out[-1]
        span = first if len(made.left_out) == 1 else f"{first} to {last}"
        print(
            f"note: the first {len(made.shown)} of {len(names)} samples; left out: {span}"
            " (--sample NAME draws one)",
            file=sys.stderr,
        )
    print(made.path, file=sys.stderr)


def _cut(
    data: Mesh | Series, slices: list[str] | None, clip: str | None, how: Look
) -> tuple[Mesh | Series, Look]:
    """The sections or the half that were asked for, and from where they are seen."""
    from dataclasses import replace

    from meshsim.render.section import clip as half_of
    from meshsim.render.section import plane, section
    from meshsim.render.view import upright, used_points
    from meshsim.series import Series

    if not slices and clip is None:
        return data, how
    mesh = data.frame(0) if isinstance(data, Series) else data
    up = how.up or (upright(used_points(mesh)) if mesh.dim == 3 else None)
    if clip is not None:
        return half_of(data, *plane(data, clip), up=up), replace(how, up=up)
    planes = [plane(data, text) for text in slices or []]
    found = section(data, planes)
    axis = planes[0][0]
    if mesh.cell_dim == 3 and len(planes) == 1 and how.up != axis:
        up = how.up or (up if up != axis else None)
        return found, replace(how, view=axis, up=up)
    return found, replace(how, up=up)


def _live(data: Mesh | Series, how: Look, serve: bool, port: int) -> None:
    from meshsim.render import live

    if serve:

        def ready(address: str) -> None:
            print(f"{address} (Ctrl-C ends it)", file=sys.stderr, flush=True)

        live.serve(
            data, how.field, component=how.component, up=how.up, edges=how.edges,
            port=port, ready=ready,
        )  # fmt: skip
    else:
        live.show(data, how.field, component=how.component, up=how.up, edges=how.edges)


def _names(
    data: Mesh | Series,
    target: Path,
    boundaries: bool,
    regions: bool,
    only: list[str],
    up: str | None,
) -> Path:
    from meshsim import render
    from meshsim.render.values import frame

    mesh, _ = frame(data)
    kinds = [kind for kind, on in (("boundaries", boundaries or only), ("regions", regions)) if on]
    if not any(getattr(mesh, kind) for kind in kinds):
        raise InputError(f"the mesh has no {' and no '.join(kinds)}")
    return render.cells(data, target, show=kinds, only=only, up=up)


def _draw(data: Mesh | Series, how: Look, path: Path, out: Path | None) -> None:
    """A picture, a movie or a page."""
    from meshsim import render
    from meshsim.series import Series

    moving = isinstance(data, Series) and len(data) > 1
    target = out or Path(path.resolve().name).with_suffix(".gif" if moving else ".png")
    field, component, up, view = how.field, how.component, how.up, how.view
    match _suffix(target):
        case ".gif" | ".mp4":
            if not isinstance(data, Series):
                raise InputError(f"{target}: a movie needs a series, {path} holds one time")
            made = render.movie(
                data, field, target, component=component, up=up, view=view, edges=how.edges
            )
        case ".html":
            made = render.page(data, target, name=field, component=component, up=up, view=view)
        case ".png":
            made = render.field(
                data, field, target, component=component, up=up, view=view, edges=how.edges
            )
        case _:
            raise InputError(f"{target}: expected .png, .gif, .mp4 or .html")
    print(made, file=sys.stderr)
