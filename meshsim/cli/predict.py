"""`meshsim predict`: a steady prediction on a mesh, in the same format or another."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshsim.check import InputError

if TYPE_CHECKING:
    from meshsim.committee import Committee
    from meshsim.mesh import Mesh
    from meshsim.sample import Sample
    from meshsim.simulator import Simulator
    from meshsim.surrogate import Surrogate

SPREAD_DRAWS = 4  # of anchors, whose disagreement counts among a neural field's


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A trained simulator.")],
    mesh: Annotated[Path, typer.Argument(metavar="MESH", help="A mesh file or case folder.")],
    out: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="OUT", help="Mesh file to write; a folder for several meshes."
        ),
    ],
    options: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[key=value]... [[BRANCH=]MESH]...",
            help="Parameters; meshes of a neural field's other branches.",
        ),
    ] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Read in this process.")] = False,
    spread: Annotated[
        bool,
        typer.Option("--spread", help="Add how far an ensemble's members, or draws, disagree."),
    ] = False,
    fill: Annotated[
        bool, typer.Option(help="Let a volume without a mesh take part, as in training.")
    ] = True,
) -> None:
    """Predict the targets on a mesh and write it with them; key=value are its parameters.

    A simulator without targets goes one step on from the state in the file.
    """
    from meshsim.cli.arguments import load, numbers, ready
    from meshsim.cli.arguments import trained as trained_in
    from meshsim.committee import Committee
    from meshsim.io import check_free, write
    from meshsim.sample import Sample
    from meshsim.surrogate import Surrogate

    trained = trained_in(run)
    check_free(out, _predicted(trained))
    if isinstance(trained, Surrogate):
        files, texts = _files(trained, mesh, options or [])
        if len(files) > 1:
            held = {name: load(path, trust) for name, path in files.items()}
            known = {k: v for d in held.values() if isinstance(d, Sample)
                     for k, v in d.parameters.items()}  # fmt: skip
            given = Sample({name: _mesh(d) for name, d in held.items()}, known)
            targets = _targets(
                given, {k: v for k, v in files.items() if k in trained.branches}, out
            )
        else:
            data = load(mesh, trust)
            given = data if isinstance(data, Sample) else Sample(data)
            targets = {"": out}
            ready(_mesh(data), out)
        _say_notes(trained.meshes(given)[0], mesh)
        draws = SPREAD_DRAWS if spread else 1
        found = trained.predict(given, numbers(texts), draws=draws, spread=spread, fill=fill)
        assert isinstance(found, Sample)
        made = {name: found.branches[name] if name else found.mesh for name in targets}
        fields = {
            name: [f for b in ([name] if name else trained.meshes(given)[1])
                   for f in trained.branches[b].fields]
            for name in targets
        }  # fmt: skip
    else:
        data = load(mesh, trust)
        ready(_mesh(data), out)
        if isinstance(trained, Committee) or not trained.schema.states:
            _say_notes(_mesh(data), mesh)
        made = {"": trained.predict(data, numbers(options or []), spread=spread)}  # type: ignore[arg-type]
        targets = {"": out}
        fields = {"": _predicted(trained)}
    if spread:
        fields = {k: [*names, *(f"{n}_spread" for n in names)] for k, names in fields.items()}
    for name, target in targets.items():
        for sentence in write(made[name], target):
            print(f"note: {sentence}", file=sys.stderr)
        print(f"{target}: {', '.join(fields[name])}", file=sys.stderr)


def _predicted(trained: Simulator | Surrogate | Committee) -> list[str]:
    """Names of the fields that come out, of all branches."""
    from meshsim.committee import Committee
    from meshsim.surrogate import Surrogate

    if isinstance(trained, Committee):
        return trained.fields
    if isinstance(trained, Surrogate):
        return [name for branch in trained.branches.values() for name in branch.fields]
    return [f.name for f in trained.schema.targets or trained.schema.states]


def _mesh(data: object) -> Mesh:
    """The mesh of what a file holds."""
    from meshsim.mesh import Mesh
    from meshsim.sample import Sample
    from meshsim.series import Series

    branch = data.branch if isinstance(data, Sample) else data
    found = branch.frame(0) if isinstance(branch, Series) else branch
    assert isinstance(found, Mesh)
    return found


def _files(
    trained: Surrogate, mesh: Path, texts: Sequence[str]
) -> tuple[dict[str, Path], list[str]]:
    """{branch: file}, the body's first; and the texts that are parameters."""
    from meshsim.cli.arguments import expect

    files, bare, rest = {trained.geometry: mesh}, [], []
    for text in texts:
        key, equals, value = text.partition("=")
        if equals and key in trained.branches and key not in trained.asked:
            if key in files:
                raise InputError(f"{text!r}: branch {key!r} has {files[key]} already")
            files[key] = Path(value)
        elif equals:
            rest.append(text)
        else:
            bare.append(text)
    free = [name for name in trained.branches if name not in files]
    for text in bare:
        if not Path(text).exists():
            raise InputError(f"{text!r}: expected key=value, or a mesh; there is no such file")
        if len(free) != 1 or len(bare) > 1:
            kinds = ", ".join(trained.branches)
            raise InputError(
                f"{text}: of which branch is it? expected BRANCH={text} (branches: {kinds})"
            )
        files[free[0]] = Path(text)
    for path in files.values():
        expect(path, "file")
    return files, rest


def _targets(given: Sample, files: Mapping[str, Path], out: Path) -> dict[str, Path]:
    """{branch: file to write}, named and formatted as the file it came from where that can be."""
    from meshsim.cli.arguments import folder, ready
    from meshsim.io import losses

    if len(files) == 1:
        name = next(iter(files))
        ready(_mesh(given.branches[name]), out)
        return {name: out}
    if _is_file(out, _mesh(given.branches[next(iter(files))])) and not out.is_dir():
        raise InputError(f"{out}: expected a folder, which {len(files)} meshes are written to")
    folder(out).mkdir(parents=True, exist_ok=True)
    found: dict[str, Path] = {}
    for name, path in files.items():
        mesh = _mesh(given.branches[name])
        same = [p for p in files.values() if p.stem == path.stem]
        stem = path.resolve().stem if len(same) == 1 else name
        probe = mesh.with_fields(point={"probe": mesh.points[:, 0]})
        try:
            lost = path.is_dir() or any(
                "probe" in text for text in losses(probe, f"a{path.suffix}")
            )
        except InputError:  # a format that is read only
            lost = True
        suffix = path.suffix
        if lost:
            suffix = ".vtp" if mesh.cell_dim < mesh.dim else ".vtu"
            print(f"note: {path} cannot be written with fields: {suffix} is", file=sys.stderr)
        found[name] = out / f"{stem}{suffix}"
        if found[name] in (p for n, p in found.items() if n != name):
            found[name] = out / f"{name}{suffix}"
        beside = any(out.samefile(p.resolve().parent) for p in files.values())
        if found[name].exists() and beside:  # with the inputs: who knows what it is
            raise InputError(f"{found[name]} would be written over (expected another folder)")
        ready(mesh, found[name])
    return found


def _is_file(out: Path, mesh: Mesh) -> bool:
    """Whether a name is one that a mesh is written under."""
    from meshsim.io import losses

    try:
        losses(mesh, out)
    except InputError:
        return False
    return bool(out.suffix)


def _say_notes(body: Mesh, file: Path) -> None:
    """Print what is odd about the body's surface; an error where it cannot be used."""
    from meshsim.body import body_of

    if body.cell_dim != body.dim - 1:
        return
    try:
        notes = body_of(body).notes
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    for sentence in notes:
        print(f"note: {sentence}", file=sys.stderr)
