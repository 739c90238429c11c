"""`meshsim doctor`: versions, ops, threads, devices, rendering."""

from __future__ import annotations

from typing import Annotated, Any

import typer

PACKAGES = (
    *("torch", "torch-geometric", "numpy", "scipy", "meshio", "pyvista", "vtk", "trimesh", "h5py"),
    *("zarr", "safetensors", "scikit-fem", "gmsh", "tensorboard", "imageio-ffmpeg"),
    "torch-scatter",
)


def _versions() -> dict[str, str | None]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from meshsim import __version__

    found: dict[str, str | None] = {"meshsim": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def diagnose() -> dict[str, Any]:
    """What `doctor --json` prints: `{"versions", "ops", "threads", "devices", "rendering"}`."""
    import os

    import torch

    import meshsim.ops  # noqa: F401  defines and loads the operators
    from meshsim import native
    from meshsim.render import available

    works, why = available()
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "versions": _versions(),
        "ops": native.active(),
        "threads": {"torch": torch.get_num_threads(), "cores": os.cpu_count()},
        "devices": devices,
        "rendering": {"works": works, "why": why},
    }


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say which versions, ops, devices and rendering are active, and why the others are not."""
    from meshsim.cli.arguments import print_json

    found = diagnose()
    if json:
        print_json(found)
        return
    print("versions")
    for name, number in found["versions"].items():
        print(f"  {name:16} {number or 'not installed'}")
    print("ops")
    for name, op in found["ops"].items():
        print(f"  {name:24} cpu: {op['cpu']}, cuda: {op['cuda']}  ({op['why']})")
    print(f"threads    {found['threads']['torch']} of {found['threads']['cores']} cores")
    print(f"devices    {', '.join(found['devices'])}")
    drawing = found["rendering"]
    print(f"rendering  {'works' if drawing['works'] else 'does not work'}: {drawing['why']}")
