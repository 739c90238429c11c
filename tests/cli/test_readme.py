"""The example in README.md does what it says, on tiny data."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import meshsim
from meshsim.cli import main
from tests.test_surrogate import case, ellipsoid, recipe

from .conftest import RECIPE, square, wave

README = Path(__file__).parents[2] / "README.md"
SMALLER = {"train.steps=2000": "train.steps=4", "steps=250": "steps=8"}


def blocks(language: str) -> str:
    """All code of one language in the README; "" for what is typed into a shell."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", README.read_text(encoding="utf-8"), re.S | re.M)
    return "\n".join(text for name, text in found if name == language)


@pytest.mark.usefixtures("unchecked")  # torch.export cannot trace the checker
def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    code = blocks("python")
    for full, small in SMALLER.items():
        assert code.count(full) == 1, f"{full!r} is no longer in the example"
        code = code.replace(full, small)
    monkeypatch.chdir(tmp_path)
    meshsim.write(square(), "cylinder.msh")
    for split, speeds in (("train", (0.5, 1.0)), ("test", (0.6,))):
        Path("flows", split).mkdir(parents=True)
        for speed in speeds:
            found = wave(speed)
            fields = {"velocity": found.branch.point_fields["u"]}
            series = meshsim.Series(found.mesh, found.branch.times, fields)
            sample = meshsim.Sample(series, found.parameters)
            meshsim.write(sample, f"flows/{split}/flow_{100 * speed:.0f}.npz")
    recipe = RECIPE.replace("STORE", "flows.zarr").replace("fields.u", "fields.velocity")
    Path("train.toml").write_text(recipe)
    car_run()
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert "quad" in capsys.readouterr().out
    assert {p.name for p in Path().iterdir()} >= {"rollout.pvd", "compare.png", "rollout.gif"}
    assert len(meshsim.read("rollout.pvd")) == 9
    report = names["report"]
    assert isinstance(report, dict) and "velocity" in report["metrics"]
    assert {"persistence", "time_mean"} <= set(report["baselines"])
    assert names["surrogate"].ranges["inflow"] == (25.0, 35.0)  # type: ignore[attr-defined]


def car_run() -> None:
    """A surrogate in car_run and a body for it, both small."""
    store = meshsim.Store.create("bodies.zarr")
    for width, inflow in ((0.5, 25.0), (0.6, 35.0)):
        store.append(case((1.0, width, 0.4), inflow, volume=False))
    store.set_splits({"train": store.names})
    config = recipe("bodies.zarr", steps=2, checkpoint_every=1)
    config["model"]["blocks"] = "ps"
    del config["surrogate"]["branches"]["volume"]
    meshsim.train.train(meshsim.train.Config.from_dict(config), "car_run")
    meshsim.write(ellipsoid((1.0, 0.55, 0.4)).replace(point_fields={}), "body.stl")


def test_every_command_and_option_in_it_exists(capsys: pytest.CaptureFixture) -> None:
    lines = re.findall(r"^meshsim (\w+)(.*)$", blocks(""), re.M)
    assert {name for name, _ in lines} >= {"info", "convert", "train", "predict", "rollout"}
    for name, line in lines:
        assert main([name, "--help"]) == 0
        known = capsys.readouterr().out
        for option in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", line.split("   ")[0]):
            assert option in known, f"{name} has no {option}"
