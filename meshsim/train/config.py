"""The training recipe: TOML into checked dataclasses, with `key=value` overrides."""

from __future__ import annotations

import math
import tomllib
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from meshsim.check import InputError, check_known, nearest, one_line
from meshsim.potential import Potential

# A number, or [[share of the run from which it holds, number], …] beginning at 0.
Steps: TypeAlias = int | list[list[float]]
Ramp: TypeAlias = float | list[list[float]]


@dataclass(frozen=True)
class DataConfig:
    """Where the samples are.

    Arguments:
        store: path of the store; relative to the working directory.
        train, valid: a split of the store, or names of samples.
        branch: which branch of the samples; "" for the only one.
        stride: frames from one state to the next.
        frames: [first, last + 1] of each series to use; empty for all.
        memory: gigabytes of frames to keep in memory.
    """

    store: str
    train: str | list[str] = "train"
    valid: str | list[str] = "valid"
    branch: str = ""
    stride: int = 1
    frames: list[int] = field(default_factory=list)
    memory: float = 4.0

    def __post_init__(self) -> None:
        _at_least("data.stride", self.stride, 1)
        if self.frames and not (len(self.frames) == 2 and 0 <= self.frames[0] < self.frames[1]):
            raise InputError(f"data.frames: expected [first, end], got {self.frames}")


@dataclass(frozen=True)
class ModelConfig:
    """The architecture and its constructor's arguments (widths of inputs and outputs excepted).

    Arguments:
        name: of the architecture.
        members: how many networks are trained side by side, each from weights of its own.
        arguments: the constructor's.
    """

    name: str = "meshgraphnet"
    members: int = 1
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _at_least("model.members", self.members, 1)


@dataclass(frozen=True)
class PotentialConfig:
    """The flow of the features "potential_…": see `meshsim.potential.Potential`."""

    direction: list[float] = field(default_factory=list)
    ground: list[Any] = field(default_factory=list)
    panels: int = 3000

    def flow(self) -> Potential | None:
        """The flow; None without a direction."""
        return Potential(self.direction, self.ground, self.panels) if self.direction else None


@dataclass(frozen=True)
class SimulatorConfig:
    """What stands around the network: see `meshsim.simulator.Simulator`.

    Arguments:
        integrator: "euler", "heun", "rk4", or "direct" (the network gives the next state).
        bundle: how many frames one pass predicts.
        features: geometry features of each node, names of `graph.features`.
        fixed: {field: node types on which its values are given}; missing: the default rule.
        node_types: {boundary: node type}; missing: guessed from the boundaries' names.
        periodic: pairs of boundaries to join.
        potential: the flow of the features "potential_cp" and "potential_velocity".
        symmetry: axes over whose mirror image every prediction is averaged.
    """

    integrator: Literal["euler", "heun", "rk4", "direct"] = "euler"
    bundle: int = 1
    features: list[str] = field(default_factory=list)
    fixed: dict[str, list[str]] | None = None
    node_types: dict[str, str] | None = None
    periodic: list[list[str]] = field(default_factory=list)
    potential: PotentialConfig = field(default_factory=PotentialConfig)
    symmetry: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        _axes("simulator.symmetry", self.symmetry)
        _at_least("simulator.bundle", self.bundle, 1)
        if any(len(pair) != 2 for pair in self.periodic):
            raise InputError("simulator.periodic: expected pairs of boundaries")


@dataclass(frozen=True)
class BranchConfig:
    """What a surrogate predicts on one branch of the samples.

    Arguments:
        fields: their names; location and components are those of the data.
        features: of the branch's places, names of `meshsim.clouds`.
        anchors: places of the branch that a pass looks at, drawn anew each step.
        curl: fields that are made free of divergence.
        no_slip: whether those are also made zero on the body.
        scales: {field: {parameter: power}}: fields that are learned over a product of powers of
            the samples' parameters, as pressure = {density = 1, inflow = 2}; predictions are
            multiplied by it.
    """

    fields: list[str]
    features: list[str] = field(default_factory=list)
    anchors: int = 512
    curl: list[str] = field(default_factory=list)
    no_slip: bool = False
    scales: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _at_least("anchors", self.anchors, 1)
        for name in self.scales:
            check_known(name, self.fields, "field of scales:")
        if self.no_slip and not self.curl:
            raise InputError("no_slip: expected the fields it is for in curl, got none")


@dataclass(frozen=True)
class SurrogateConfig:
    """What stands around a neural field: see `meshsim.surrogate.Surrogate`.

    Arguments:
        geometry: the branch that is the body's surface; "" for the only one.
        points: how many of its points a pass looks at.
        features: of those points.
        parameters: names of the samples' parameters that are inputs.
        centred: axes along which coordinates count from the middle of the body's box.
        scaled: whether lengths count in units of the body's own.
        potential: the flow of the features "potential_…".
        symmetry: axes over whose mirror image every prediction is averaged.
        absent: share of the steps on which a branch (never the body's) is left out, each by
            itself, so that predictions on the others alone are as good.
        branches: {name of a branch: what is predicted there}.
    """

    geometry: str = ""
    points: int = 2048
    features: list[str] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)
    centred: list[str] = field(default_factory=lambda: ["x", "y", "z"])
    scaled: bool = False
    potential: PotentialConfig = field(default_factory=PotentialConfig)
    symmetry: list[str] = field(default_factory=list)
    absent: float = 0.0
    branches: dict[str, BranchConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _axes("surrogate.centred", self.centred)
        _axes("surrogate.symmetry", self.symmetry)
        _at_least("surrogate.points", self.points, 1)
        if not 0 <= self.absent < 1:
            raise InputError(f"surrogate.absent: expected 0 to 1, got {self.absent:g}")


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Arguments:
        steps: updates of the weights; or
        minutes: time to train. With `calibrate` a few steps are timed at the start and turned
            into a number of steps, which is recorded: such a run resumes exactly. Without it
            the clock drives the schedule, and two runs never give the same weights.
        batch, unroll, pushforward: windows a step, passes through time that are differentiated,
            passes before them that are not; numbers, or [[share, number], …] where the share is
            of the run's work (passes × windows).
        lr, lr_end, warmup, schedule: peak rate, the end's share of it, steps up to the peak,
            "cosine", "linear" or "constant".
        optimiser: "adamw", "lion", or "muon" for the square weights inside the model, with
            `muon_lr`, and AdamW for the rest.
        weight_decay, beta1, beta2: of AdamW and Lion. clip: largest gradient norm; 0 for none.
        ema: decay of the averaged weights, which become the simulator; 0 for none.
        noise: factor on the noise of the fields; a number or [[share, number], …].
        loss: "mse", "l1" or "relative_l2" of normalised errors.
        measure_power: errors are weighted by (nodes' share of the measure) to this power.
        mirror: axes over which samples are mirrored at random. jitter: standard deviation of a
            random shift of the feature "position", in its normalised units.
        precision: "fp32", or "bf16" for the matrix products: of neural fields those that their
            models name, on any device; of graphs on a CPU only where it has AMX. Weights,
            optimiser, loss and all predictions are float32.
        shard: whether several processes (torchrun) divide weights, gradients and optimiser state
            among them instead of each keeping all; needs `steps`. Result and checkpoint are the
            same up to rounding, and a run goes on with any number of processes. Ctrl-C then
            falls back to the last checkpoint.
        seed: of everything random; step by step, so that a resumed run draws the same.
        threads: "auto" times a step on 1, 2, … threads and takes the fastest.
        device: "auto", "cpu", "cuda", …
        validate_every: steps between validations; 0 for the end only. validate_steps: length
            of the rollouts, validate_samples: how many samples.
        select: "last", or "best" for the weights with the lowest validation error.
        checkpoint_every, log_every: steps.
    """

    steps: int = 0
    minutes: float = 0.0
    calibrate: bool = True
    batch: Steps = 1
    unroll: Steps = 1
    pushforward: Steps = 0
    lr: float = 1e-3
    lr_end: float = 1e-3
    warmup: int = 100
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    optimiser: Literal["adamw", "muon", "lion"] = "adamw"
    muon_lr: float = 0.02
    weight_decay: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.99
    clip: float = 1.0
    ema: float = 0.995
    noise: Ramp = 1.0
    loss: Literal["mse", "l1", "relative_l2"] = "mse"
    measure_power: float = 0.0
    mirror: list[str] = field(default_factory=list)
    jitter: float = 0.0
    precision: Literal["fp32", "bf16"] = "fp32"
    shard: bool = False
    seed: int = 0
    threads: int | Literal["auto"] = "auto"
    device: str = "auto"
    validate_every: int = 0
    validate_steps: int = 50
    validate_samples: int = 4
    select: Literal["last", "best"] = "last"
    checkpoint_every: int = 100
    log_every: int = 10

    def __post_init__(self) -> None:
        if (self.steps > 0) == (self.minutes > 0):
            raise InputError(
                "train: expected either steps or minutes above 0,"
                f" got steps = {self.steps} and minutes = {self.minutes:g}"
            )
        for name in ("steps", "warmup", "pushforward", "validate_every", "seed"):
            _at_least(f"train.{name}", getattr(self, name), 0)
        for name in ("batch", "unroll", "checkpoint_every", "log_every"):
            _at_least(f"train.{name}", getattr(self, name), 1)
        for name in ("validate_steps", "validate_samples"):
            _at_least(f"train.{name}", getattr(self, name), 1)
        for name in ("minutes", "lr", "lr_end", "muon_lr", "weight_decay", "clip", "noise"):
            _at_least(f"train.{name}", getattr(self, name), 0)
        _at_least("train.jitter", self.jitter, 0)
        for name in ("ema", "beta1", "beta2"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise InputError(f"train.{name}: expected at least 0 and below 1, got {value:g}")
        for name in ("batch", "unroll", "pushforward"):
            _whole(f"train.{name}", getattr(self, name))
        if self.shard and not self.steps:
            raise InputError("train.shard: expected train.steps, got minutes")
        if self.threads != "auto":
            _at_least("train.threads", self.threads, 1)
        _axes("train.mirror", self.mirror)


@dataclass(frozen=True)
class Config:
    """A whole recipe.

    Arguments:
        data, train, model, simulator, surrogate: see there; `surrogate` is for neural fields,
            `simulator` and `fields` for models on graphs.
        fields: {name: entry of a schema}. Entries with a role choose the fields to train on,
            and take what they do not say from the store's schema; if none has a role, they
            change entries of the store's.
    """

    data: DataConfig
    train: TrainConfig
    fields: dict[str, dict[str, Any]] = field(default_factory=dict)
    model: ModelConfig = field(default_factory=ModelConfig)
    simulator: SimulatorConfig = field(default_factory=SimulatorConfig)
    surrogate: SurrogateConfig = field(default_factory=SurrogateConfig)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Config:
        """Check and build; unknown keys name the nearest known one."""
        raw = dict(raw)
        _finite(raw, "")
        model = raw.get("model", {})
        if isinstance(model, Mapping) and "arguments" not in model:
            own = ("name", "members")
            rest = {k: v for k, v in model.items() if k not in own}
            raw["model"] = {k: model[k] for k in own if k in model} | {"arguments": rest}
        return _build(cls, raw, "")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, every default written out; `from_dict` takes it back."""
        return asdict(self)


def read_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML recipe.

    Arguments:
        path: the file.
        overrides: "section.key=value", the value in TOML (or bare text).

    Raises:
        InputError: no such file, no TOML, an unknown key (the nearest is named), a wrong type.
    """
    path = Path(path)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML: {one_line(error)}") from error
    for text in overrides:
        _override(raw, text)
    try:
        return Config.from_dict(raw)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def at(ramp: Any, share: float) -> Any:
    """The value that holds at a share of the run.

    >>> at([[0.0, 1], [0.3, 4]], 0.29), at([[0.0, 1], [0.3, 4]], 0.3), at(2, 0.5)
    (1, 4, 2)
    """
    if not isinstance(ramp, list):
        return ramp
    return [value for start, value in ramp if start <= share][-1]


def _override(raw: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    parts = [p.strip() for p in key.split(".")]
    if not equals or not all(parts) or len(parts) < 2:
        raise InputError(f"{text!r}: expected section.key=value, as in train.steps=100")
    at_key: Any = raw
    for part in parts[:-1]:
        at_key = at_key.setdefault(part, {})
        if not isinstance(at_key, dict):
            raise InputError(f"{text!r}: {part!r} is a value, not a section")
    try:
        at_key[parts[-1]] = tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        at_key[parts[-1]] = value.strip()


def _build(cls: Any, raw: Any, where: str) -> Any:
    if not isinstance(raw, Mapping):
        raise InputError(f"{where}: expected a section, got {raw!r}")
    known = {f.name: f for f in fields(cls)}
    for key in raw:
        if key not in known:
            kind = f"key {where}.{key}" if where else f"section [{key}]"
            raise InputError(f"unknown {kind}: {nearest(key, known)}")
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, f in known.items():
        place = f"{where}.{name}" if where else name
        if name in raw:
            hint = hints[name]
            section, inner = hasattr(hint, "__dataclass_fields__"), get_args(hint)[-1:]
            if section:
                values[name] = _build(hint, raw[name], place)
            elif inner and hasattr(inner[0], "__dataclass_fields__"):
                table = _typed(raw[name], dict[str, Any], place)
                values[name] = {k: _build(inner[0], v, f"{place}.{k}") for k, v in table.items()}
            else:
                values[name] = _typed(raw[name], hint, place)
        elif f.default is MISSING and f.default_factory is MISSING:
            if hasattr(hints[name], "__dataclass_fields__"):
                values[name] = _build(hints[name], {}, place)
            else:
                raise InputError(f"{place} is missing")
    return cls(**values)


def _typed(value: Any, hint: Any, where: str) -> Any:
    """`value` as the annotation wants it, integers widened to floats."""
    try:
        return _cast(value, hint)
    except TypeError:
        wanted = str(hint) if get_origin(hint) else hint.__name__
        wanted = wanted.replace("typing.", "").replace("Literal", "one of ")
        raise InputError(f"{where}: expected {wanted}, got {value!r}") from None


def _cast(value: Any, hint: Any) -> Any:
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        for part in parts:
            try:
                return _cast(value, part)
            except TypeError:
                continue
        raise TypeError
    if origin is Literal:
        if value in parts:
            return value
    elif origin is list and isinstance(value, list | tuple):
        return [_cast(v, parts[0]) for v in value]
    elif origin is dict and isinstance(value, Mapping):
        return {str(k): _cast(v, parts[1]) for k, v in value.items()}
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif isinstance(hint, type) and type(value) is hint:
        return value
    elif hint is types.NoneType and value is None:
        return None
    raise TypeError


def _at_least(where: str, value: Any, low: int) -> None:
    """Check a number, or every value of a ramp and its shares."""
    if not isinstance(value, list):
        if not value >= low:
            raise InputError(f"{where}: expected {low} or more, got {value:g}")
        return
    shares = [pair[0] for pair in value if len(pair) == 2]
    if len(shares) != len(value) or not shares or shares[0] != 0 or shares != sorted(set(shares)):
        raise InputError(
            f"{where}: expected [[0.0, value], [share, value], …] with rising shares, got {value}"
        )
    if shares[-1] >= 1:
        raise InputError(f"{where}: expected shares below 1, got {shares[-1]:g}")
    for _, v in value:
        _at_least(where, v, low)


def _whole(where: str, value: Any) -> None:
    """Check that the values of a ramp are whole numbers."""
    for _, v in value if isinstance(value, list) else ():
        if v != int(v):
            raise InputError(f"{where}: expected whole numbers, got {v:g}")


def _finite(raw: Any, where: str) -> None:
    """Refuse infinities and NaN anywhere: JSON, and with it the simulator's file, has none."""
    if isinstance(raw, float) and not math.isfinite(raw):
        raise InputError(f"{where}: expected a finite number, got {raw}")
    if isinstance(raw, Mapping):
        for key, value in raw.items():
            _finite(value, f"{where}.{key}" if where else str(key))
    elif isinstance(raw, list | tuple):
        for value in raw:
            _finite(value, where)


def _axes(where: str, axes: Sequence[str]) -> None:
    for axis in axes:
        if axis not in ("x", "y", "z"):
            raise InputError(f"{where}: expected axes x, y or z, got {axis!r}")
