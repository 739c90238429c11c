"""`meshsim predict`: a steady prediction on a mesh, in the same format or another."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from meshsim.mesh import Mesh


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A trained simulator.")],
    mesh: Annotated[Path, typer.Argument(metavar="MESH", help="A mesh file or case folder.")],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Mesh file to write.")],
    options: Annotated[list[str] | None, typer.Argument(metavar="[key=value]...")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Read in this process.")] = False,
) -> None:
    """Predict the targets on a mesh and write it with them; key=value are its parameters.

    A simulator without targets goes one step on from the state in the file.
    """
    from meshsim.cli.arguments import load, numbers, ready
    from meshsim.cli.arguments import trained as trained_in
    from meshsim.io import write
    from meshsim.sample import Sample
    from meshsim.series import Series
    from meshsim.surrogate import Surrogate

    trained = trained_in(run)
    data = load(mesh, trust)
    branch = data.branch if isinstance(data, Sample) else data
    ready(branch.mesh if isinstance(branch, Series) else branch, out)
    answer: Mesh
    if isinstance(trained, Surrogate):
        given = data if isinstance(data, Sample) else Sample(branch)
        for sentence in _notes(trained.meshes(given)[0]):
            print(f"note: {sentence}", file=sys.stderr)
        found = trained.predict(given, numbers(options or []))
        answer = found.mesh if isinstance(found, Sample) else found
        names = [name for want in trained.branches.values() for name in want.fields]
    else:
        answer = trained.predict(data, numbers(options or []))
        made = trained.schema.targets or trained.schema.states
        names = [f.name for f in made]
    for sentence in write(answer, out):
        print(f"note: {sentence}", file=sys.stderr)
    print(f"{out}: {', '.join(names)}", file=sys.stderr)


def _notes(body: Mesh) -> tuple[str, ...]:
    """What is odd about a body's surface; an error where it cannot be used."""
    from meshsim.body import Body

    return tuple(Body.of(body).notes) if (body.cell_dim, body.dim) == (2, 3) else ()
