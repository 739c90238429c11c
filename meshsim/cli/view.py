"""`meshsim view`: a picture, a movie or an offline page of a file, a store or a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def view(
    path: Annotated[Path, typer.Argument(metavar="FILE|STORE|RUN", help="What to look at.")],
    field: Annotated[str | None, typer.Option("--field", help="Default: the first.")] = None,
    out: Annotated[
        Path | None, typer.Option("--output", "-o", help=".png, .gif, .mp4 or .html.")
    ] = None,
    sample: Annotated[str | None, typer.Option("--sample", help="Of a store.")] = None,
    component: Annotated[
        str | None, typer.Option("--component", help="Of a vector: 0, 1, … or x, y, z.")
    ] = None,
    up: Annotated[str | None, typer.Option("--up", help="Axis that points up: x, y or z.")] = None,
    time: Annotated[
        str | None, typer.Option("--time", metavar="T", help="One time: a number, first or last.")
    ] = None,
    edges: Annotated[bool, typer.Option("--edges", help="Draw the cells' edges.")] = False,
    trust: Annotated[bool, typer.Option("--trust", help="Read in this process.")] = False,
) -> None:
    """Draw a mesh and its field; without -o into the current folder, under the input's name."""
    from meshsim import render
    from meshsim.check import InputError, check_known
    from meshsim.cli.arguments import kind, load
    from meshsim.loading import check_single
    from meshsim.mesh import Mesh
    from meshsim.sample import Sample
    from meshsim.series import Series

    what = kind(path)
    if what == "run":
        target = out or path / "training.png"
        check_single(path)
        if target.suffix.lower() != ".png":
            raise InputError(f"{target}: the curves of a run are drawn as .png")
        print(render.curves(path / "log.csv", target), file=sys.stderr)
        return
    if what == "store":
        from meshsim.data import Store
        from meshsim.io.reading import at

        store = Store(path)
        if not store.names:
            raise InputError(f"{path}: no sample in it to look at")
        if sample is not None:
            check_known(sample, store.names, "sample")
        data: Mesh | Series | Sample = store.sample(sample or store.names[0])
        data = data if time is None else at(data, time)
    else:
        data = load(path, trust, time)
    shown = data.branch if isinstance(data, Sample) else data
    target = out or Path(path.resolve().name).with_suffix(
        ".gif" if isinstance(shown, Series) and len(shown) > 1 else ".png"
    )
    column = int(component) if component and component.isdecimal() else component
    suffix = target.suffix.lower()
    if suffix in (".gif", ".mp4"):
        if not isinstance(shown, Series):
            raise InputError(f"{target}: a movie needs a series, {path} holds one time")
        made = render.movie(shown, field, target, component=column, up=up, edges=edges)
    elif suffix == ".html":
        made = render.page(shown, target, name=field, component=column, up=up)
    elif suffix == ".png":
        made = render.field(shown, field, target, component=column, up=up, edges=edges)
    else:
        raise InputError(f"{target}: expected .png, .gif, .mp4 or .html")
    print(made, file=sys.stderr)
