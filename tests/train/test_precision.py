"""Products in bfloat16: gradients near those of float32, everything that lasts in float32."""

import pytest
import torch

import meshsim
from meshsim.models.field import Points
from meshsim.nn.fourier import GaussianFourier, SineCosine
from meshsim.train import Config, loop, train
from meshsim.train.loop import task_of
from meshsim.train.plan import stages
from tests.test_surrogate import case, recipe

MODELS = {
    "anchored": {"width": 32, "heads": 2, "blocks": "psc", "supernodes": 16, "local": True},
    "point_mlp": {"width": 32},
    "mario": {"width": 32, "shape_width": 32, "points": 32, "normals": 3, "stage": 0.0},
    "enf2enf": {"width": 32, "tokens": 4, "points": 32, "normals": 3, "stage": 0.0},
    "coral": {"width": 32, "points": 32, "normals": 3},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = meshsim.Store.create(tmp_path_factory.mktemp("precision") / "bodies.zarr")
    for i in range(4):
        made.append(case((1.0, 0.5 + 0.05 * i, 0.4), 1.0 + 0.25 * i))
    made.set_splits({"train": made.names})
    return made


def config(store, name, precision, **options):
    raw = recipe(store.path, **{"steps": 20, "warmup": 2, "batch": 2, **options})
    raw["train"]["precision"] = precision
    raw["model"] = {"name": name, **MODELS[name]}
    return Config.from_dict(raw)


def first_step(store, name, precision, curl=False):
    """The loss of step 0, and its gradient."""
    settings = config(store, name, precision)
    if curl:
        volume = settings.surrogate.branches["volume"]
        volume.curl.append("velocity")
        volume.features.clear()
    task = task_of(settings, store)
    task.gather(None)
    model = task.build(None, True).model
    loss = task.loss(0, stages(settings.train)[0], 0, 0, 0.0)
    loss.backward()
    grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    assert {p.dtype for p in model.parameters()} | {g.dtype for g in grads} == {torch.float32}
    assert loss.dtype == torch.float32
    return float(loss.detach()), torch.cat(grads)


@pytest.mark.parametrize("name", [*MODELS, "curl"])
def test_the_gradient_is_that_of_float32_to_two_percent(store, name):
    curl, name = name == "curl", "anchored" if name == "curl" else name
    (loss, whole), (near, low) = (first_step(store, name, p, curl) for p in ("fp32", "bf16"))
    far = float((whole - low).norm() / whole.norm())
    assert far < 0.02 and near == pytest.approx(loss, rel=0.01)
    assert (far == 0.0) == (name == "coral")  # which rounds nothing


def test_coordinates_are_not_rounded():
    x = torch.rand(1, 5, 3)
    for waves in (SineCosine(3, 4), GaussianFourier(3, 8, scale=4.0)):
        plain = waves(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(waves(x), plain)


def test_rows_between_blocks_are_not_rounded_and_products_are(store):
    settings = config(store, "anchored", "bf16")
    task = task_of(settings, store)
    task.gather(None)
    model = task.build(None, True).model
    seen = {}
    for name in ("blocks.0.q", "blocks.0.mlp.inner", "blocks.0.modulate", "blocks.1.before_mlp"):
        model.get_submodule(name).register_forward_hook(
            lambda _, given, y, name=name: seen.update({name: (given[0].dtype, y.dtype)})
        )
    task.loss(0, stages(settings.train)[0], 0, 0, 0.0)
    high, low = torch.float32, torch.bfloat16
    assert seen == {
        "blocks.0.q": (high, low),
        "blocks.0.mlp.inner": (high, low),
        "blocks.0.modulate": (high, high),
        "blocks.1.before_mlp": (high, high),
    }


def test_it_learns_as_in_float32_and_answers_in_it(store, tmp_path):
    runs = {
        p: train(config(store, "anchored", p, steps=30, batch=1), tmp_path / p)
        for p in ("fp32", "bf16")
    }
    losses = {}
    for name in runs:
        rows = (tmp_path / name / "log.csv").read_text().splitlines()
        column = rows[0].split(",").index("loss")
        losses[name] = [float(row.split(",")[column]) for row in rows[1:]]
    assert losses["bf16"][-1] < 0.8 * losses["bf16"][0]
    assert losses["bf16"][-1] == pytest.approx(losses["fp32"][-1], rel=0.1)
    given = case((1.0, 0.62, 0.4), 1.5)
    a, b = (s.predict(given).branches for s in (runs["bf16"], meshsim.load(tmp_path / "bf16")))
    field = a["surface"].point_fields["pressure"]
    assert torch.equal(field, b["surface"].point_fields["pressure"])
    latent = runs["bf16"]._latent(runs["bf16"].prepare(given), 0)
    assert {k.k.dtype for k in latent.keys["surface"]} == {torch.float32}
    pos, x = torch.rand(1, 3, 3), torch.zeros(1, 3, len(latent.geometry.x[0, 0]))
    assert (
        runs["bf16"].model.decode(latent, "surface", Points(pos, x))["pressure"].dtype == pos.dtype
    )


def test_a_run_that_was_stopped_ends_with_the_same_bits(store, tmp_path):
    settings = config(store, "anchored", "bf16", steps=4, checkpoint_every=2)

    def check(run, loss, norm):
        if run.step == 3:
            raise EOFError

    with pytest.MonkeyPatch.context() as patch, pytest.raises(EOFError):
        patch.setattr(loop.Run, "_check", check)
        train(settings, tmp_path / "stopped")
    runs = [train(settings, tmp_path / name) for name in ("whole", "stopped")]
    for a, b in zip(*(run.model.parameters() for run in runs), strict=True):
        assert torch.equal(a, b)
