"""Training: a recipe and a store become a simulator; a run that was stopped carries on."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from meshsim.check import InputError, WorkError
from meshsim.data.files import Lock, writing_to
from meshsim.data.store import Store
from meshsim.simulator import Simulator
from meshsim.surrogate import Surrogate
from meshsim.surrogate_files import field_models
from meshsim.train import checkpoint, threads
from meshsim.train.clouds import CloudTask
from meshsim.train.config import Config
from meshsim.train.graphs import GraphTask
from meshsim.train.interrupt import interruptible
from meshsim.train.log import Log
from meshsim.train.memory import keep_freed_memory
from meshsim.train.optimise import average, optimisers, rate_factor
from meshsim.train.plan import Plan, Stage, stages
from meshsim.train.run import CHECKPOINT, LOCK, claim, open_run, write_record
from meshsim.train.shard import Shards, hollow
from meshsim.train.warm_start import weights_hash
from meshsim.train.world import World


def train(
    config: Config,
    out: Path | str,
    *,
    warm_start: Path | str | None = None,
    overwrite: bool = False,
    progress: Callable[..., None] | None = None,
) -> Simulator | Surrogate:
    """Train a simulator, or a surrogate where the recipe's model is a neural field.

    A run that was stopped at any moment and is started again with the same arguments, on the
    same machine, ends with the same weights bit for bit as one that was never stopped, unless
    the clock drives it (`minutes` without `calibrate`).

    Arguments:
        config: the recipe; see `read_config`.
        out: folder of the run: log, checkpoint, and at the end the simulator itself.
        warm_start: another run, whose weights (and, for the quantities it knows, statistics) to
            start from.
        overwrite: replace a run that is there.
        progress: called as `progress(done, total, note)`.

    Returns:
        It with averaged weights; `meshsim.load(out)` gives the same (with several processes: as
        the first of them; only that one validates, so only it knows the best).

    Raises:
        InputError: a recipe, store or run that does not fit.
        WorkError: the loss is no longer finite; another process is training into `out`.
    """
    out = Path(out)
    store = Store(config.data.store)
    task = task_of(config, store)
    recipe = config.to_dict()
    del recipe["data"]["store"]  # wherever it lies, what is in it decides
    del recipe["train"]["shard"]  # who keeps what decides nothing
    asked = {
        "recipe": recipe,
        "schema": task.asked(),
        "data": store.fingerprint(),
        "warm_start": weights_hash(warm_start),
    }
    world = task.world

    def opened() -> dict[str, Any] | None:
        record = open_run(out, asked, overwrite)
        for torn in out.glob(".*.tmp"):  # of a run that was killed while it wrote
            torn.unlink(missing_ok=True)
        return record

    world.by_first(lambda: claim(out))
    with Lock(out / LOCK, "this run") if world.first else nullcontext():
        record = world.by_first(opened)
        run = Run(task, out, record, warm_start, progress if world.first else None)
        if record is None:
            run.begin(asked)
        run.carry_on()
    return run.averaged.eval()


def task_of(config: Config, store: Store) -> GraphTask | CloudTask:
    """What the loop asks for batches and losses: graphs, or clouds of a field model."""
    fields = config.model.name in field_models()
    world = World.joined(config.train.device)
    return CloudTask(config, store, world) if fields else GraphTask(config, store, world)


class Run:
    """One training run: everything that changes while it goes on.

    Arguments:
        task: what to train, and on what.
        out: the run's folder.
        record: of the run to carry on; None for a new one.
        warm_start: see `train`.
        progress: see `train`.
    """

    def __init__(
        self,
        task: GraphTask | CloudTask,
        out: Path,
        record: dict[str, Any] | None,
        warm_start: Path | str | None,
        progress: Callable[..., None] | None,
    ):
        self.task, self.config, self.store, self.out = task, task.config, task.store, out
        self.world = task.world
        self.progress = progress or (lambda done, total, note="": None)
        train = self.config.train
        if train.device in ("auto", "cpu"):
            keep_freed_memory()
        if record:
            task.take(record["facts"])
        else:
            task.gather(progress)
        self.simulator = task.build(warm_start, record is None)
        self.device = _device(train.device)
        self.shards: Shards | None = None
        if train.shard and self.world.size > 1:
            self.averaged = self._second(self.simulator)
            hollow(self.averaged.model)
            self.shards = Shards(self.simulator.model, self.world, self.device)
            self.held: dict[str, nn.Parameter] = self.shards.held
            self.means: list[Tensor] = list(self.held.values())
            if train.ema:
                self.means = [p.detach().clone() for p in self.means]
        else:
            self.simulator.to(self.device)
            self.averaged = self._second(self.simulator) if train.ema else self.simulator
            self.held = dict(self.simulator.model.named_parameters())
            self.means = list(self.averaged.model.parameters())
        self.weights = list(self.held.values())
        self.simulator.precision = train.precision
        self.optimisers = optimisers(self.simulator.model, train, self.shards)
        self.peaks = [o.param_groups[0]["lr"] for o in self.optimisers]
        self.stages = stages(train)
        self.world.check([stage.batch for stage in self.stages])
        self.plan: Plan | None = None
        self.threads = 1
        if record:
            self.plan = Plan.from_dict(record["plan"]) if record["plan"] else None
            self.threads = int(record["threads"])
            torch.set_num_threads(self.threads)
        self.stage = -1
        # what a checkpoint holds beside tensors
        self.step, self.position, self.seconds, self.skipped = 0, 0, 0.0, 0
        self.done = False
        self.best: dict[str, Tensor] = {}
        self.best_score = math.inf

    def _second(self, simulator: Any) -> Any:
        """The same with weights of its own, all else shared."""
        twin = copy.copy(simulator)
        twin._modules = dict(simulator._modules)
        twin.model = copy.deepcopy(simulator.model).requires_grad_(False)
        return twin

    # --- the start: threads, time a step takes, plan ---

    def begin(self, asked: dict[str, Any]) -> None:
        """Choose threads, make the plan, and write both down before the first step."""
        self.threads, self.plan = self.world.by_first(lambda: self._begun(asked))
        torch.set_num_threads(self.threads)

    def _begun(self, asked: dict[str, Any]) -> tuple[int, Plan | None]:
        train = self.config.train
        if train.threads == "auto":
            if self.device.type == "cpu" and self.shards is None:  # which all would have to time
                self.progress(0, 1, "timing threads")
                self._enter(0)
                self.threads = threads.fastest(lambda: self._trial(0))
            else:
                self.threads = torch.get_num_threads()
        else:
            self.threads = int(train.threads)
        torch.set_num_threads(self.threads)
        if train.steps:
            self.plan = Plan.of_steps(self.stages, train.steps)
        elif train.calibrate:
            self.plan = Plan.of_seconds(self.stages, 60.0 * train.minutes, self._times())
        plan = self.plan.to_dict() if self.plan else None
        write_record(self.out, asked, plan, self.threads, self.task.facts.to_dict())
        return self.threads, self.plan

    def _times(self) -> list[float]:
        """Seconds that a step of each stage takes: the median of up to five."""
        times = []
        for k in range(len(self.stages)):
            self.progress(k, len(self.stages), "timing steps")
            self._enter(k)
            taken: list[float] = []
            while len(taken) < 6 and (len(taken) < 2 or sum(taken) < 5.0):
                began = time.perf_counter()
                self._trial(len(taken))
                taken.append(time.perf_counter() - began)
            counted = sorted(taken[1:])
            times.append(1.03 * counted[len(counted) // 2])  # updating and logging add a little
        return times

    def _trial(self, i: int) -> None:
        """Gradients of a batch, thrown away."""
        stage = self.stages[self.stage]
        self._loss(stage, i * stage.batch, i, 0.0).backward()
        self.simulator.zero_grad(set_to_none=True)
        if self.simulator.device.type != "cpu":
            torch.accelerator.synchronize(self.simulator.device)  # it is timed

    # --- going on ---

    def carry_on(self) -> None:
        """From the last checkpoint, or from nothing, to the end."""
        path = self.out / CHECKPOINT
        if self.world.by_first(path.exists):
            self._restore(path)
        if self.done and not self.world.first:
            return
        if self.done:
            self.averaged.precision = "fp32"
            self.averaged.save(self.out)  # a kill may have come between checkpoint and this
            return
        log = Log(self.out, self.step) if self.world.first else None
        try:
            # parts that processes hold after different steps make no checkpoint
            save = self._save if self.shards is None else lambda: None
            with interruptible(save) as updating:
                self._steps(log, updating)
            self._finish(log)
        finally:
            if log is not None:
                log.close()

    def _steps(self, log: Log | None, updating: Callable[[], Any]) -> None:
        train = self.config.train
        began, before = time.perf_counter(), self.seconds
        losses: list[float] = []
        while True:
            share = self._share()
            if share >= 1:
                return
            k = self._stage_at(share)
            if k != self.stage:
                self.position = 0
                self._enter(k)
            stage = self.stages[k]
            loss = self._loss(stage, self.position, self.step, share)
            loss.backward()
            if self.shards is None:
                loss = self.world.average(loss, self.weights)
            else:
                loss = self.shards.reduced(loss)
            with updating():
                norm, rate = self._update(share)
                self.step += 1
                self.position += stage.batch
                self.seconds = before + time.perf_counter() - began
            losses.append(float(loss.detach()))
            self._check(losses[-1], norm)
            if self.step % train.log_every == 0:
                mean = math.fsum(losses) / len(losses)
                note = f"step {self.step}" + (f"/{self.plan.steps}" if self.plan else "")
                self.progress(self._share(), 1.0, f"{note} loss {mean:.4g}")
                values = {"seconds": self.seconds, "share": share, "loss": mean}
                values |= {"gradient": norm, "lr": rate, "unroll": stage.unroll}
                if log is not None:
                    log.train(self.step, values | {"batch": stage.batch})
                losses = []
            if train.validate_every and self.step % train.validate_every == 0:
                self._validate(log)
            if self.step % train.checkpoint_every == 0:
                self._save()

    def _share(self) -> float:
        if self.plan is None:
            return self.seconds / (60.0 * self.config.train.minutes)
        return self.plan.share(self.step) if self.step < self.plan.steps else 1.0

    def _stage_at(self, share: float) -> int:
        if self.plan is not None:
            return self.plan.stage(self.step)
        return max(i for i, s in enumerate(self.stages) if s.start <= share)

    def _enter(self, k: int) -> None:
        """Make ready for a stage."""
        self.task.enter(self.stages[k])
        self.stage = k

    def _loss(self, stage: Stage, position: int, step: int, share: float) -> Tensor:
        return self.task.loss(self.stage, stage, position, step, share)

    def _update(self, share: float) -> tuple[float, float]:
        """One step of the optimisers and of the average; the gradient's norm and the rate."""
        train = self.config.train
        if self.shards is None:
            size = nn.utils.get_total_norm([p.grad for p in self.weights if p.grad is not None])
        else:
            size = self.shards.norm()
        nn.utils.clip_grads_with_norm_(self.weights, train.clip or math.inf, size)
        norm = float(size)
        factor = rate_factor(train, self.step, share)
        if math.isfinite(norm):
            for optimiser, peak in zip(self.optimisers, self.peaks, strict=True):
                optimiser.param_groups[0]["lr"] = peak * factor
                optimiser.step()
            if train.ema:
                average(self.means, self.weights, train.ema, self.step)
            self.skipped = 0
        else:
            self.skipped += 1
        for p in self.weights:
            p.grad = None
        return norm, self.peaks[0] * factor

    def _check(self, loss: float, norm: float) -> None:
        if self.skipped >= 20:
            raise WorkError(
                f"training blew up: for {self.skipped} steps up to {self.step} loss or gradient"
                f" is not finite (loss {loss:g}); try a smaller train.lr or train.unroll"
            )

    # --- validation, checkpoints, the end ---

    @contextmanager
    def _averaged(self) -> Iterator[Any]:
        """`averaged` as it is to be asked or saved; made of shards, it is whole only in here."""
        model, twin = self.simulator.model, self.averaged.model
        if self.shards is not None and not self.done:
            self._fill(self.shards.state(self.means, self.world.first))
        elif self.averaged is not self.simulator and not self.done:
            for mean, buffer in zip(twin.buffers(), model.buffers(), strict=True):
                mean.copy_(buffer)
        yield self.averaged
        if self.shards is not None and not self.done:
            hollow(twin)

    def _fill(self, state: dict[str, Tensor]) -> None:
        if state:
            self.averaged.model.load_state_dict(state, assign=True)
            self.averaged.to(self.device)

    def _validate(self, log: Log | None) -> None:
        train = self.config.train
        names = self._valid_names()[: train.validate_samples]
        if not names or (log is None and self.shards is None):
            return
        self.progress(self._share(), 1.0, "validating")
        with self._averaged() as averaged:
            if log is not None:
                self._judge(log, averaged, names)

    def _judge(self, log: Log, averaged: Any, names: Sequence[str]) -> None:
        train = self.config.train
        try:
            report = self.task.evaluate(averaged, names)
        except WorkError:  # a rollout that blows up early in training
            report = {"metrics": {}, "baselines": {}}
        who = {"model": report["metrics"], **report["baselines"]}
        row = {
            f"{field}.{metric}.{name}": value
            for name, table in who.items()
            for field, errors in table.items()
            for metric, value in errors.items()
        }
        score = sum(e["relative_l2"] for e in report["metrics"].values()) or math.inf
        if row:
            log.validate(self.step, row | {"score": score})
        if train.select == "best" and score < self.best_score:
            self.best_score = score
            state = averaged.model.state_dict()
            self.best = {name: t.detach().clone() for name, t in state.items()}

    def _valid_names(self) -> list[str]:
        valid = self.config.data.valid
        if valid == "valid" and valid not in self.store.splits:
            return []
        return self.store.members(valid)

    def _save(self) -> None:
        if self.step == 0 or not (self.world.first or self.shards is not None):
            return
        with self._averaged() as averaged:
            self._write(averaged.model.state_dict())

    def _write(self, mean: dict[str, Tensor]) -> None:
        """The checkpoint, the same file whoever keeps what."""
        parts = {"model": mean, "best": self.best}
        if self.config.train.ema:
            model = self.simulator.model.state_dict()
            if self.shards is not None:
                model = self.shards.state(self.weights, self.world.first)
            parts |= {"model": model, "mean": mean}
        parts["optimiser"] = checkpoint.optimiser_tensors(self.optimisers, self.held, self.shards)
        if not self.world.first:
            return
        tensors = {f"{part}/{n}": t for part, held in parts.items() for n, t in held.items()}
        names = ("step", "position", "seconds", "skipped", "done")
        meta = {name: getattr(self, name) for name in names} | {"stage": self.stage}
        meta["best_score"] = self.best_score if math.isfinite(self.best_score) else None
        with writing_to(self.out):
            checkpoint.write(self.out / CHECKPOINT, tensors, meta)

    def _restore(self, path: Path) -> None:
        tensors, meta = checkpoint.read(path)

        def part(name: str) -> dict[str, Tensor]:
            return {k.split("/", 1)[1]: t for k, t in tensors.items() if k.startswith(name + "/")}

        ema, given = self.config.train.ema, (self.optimisers, self.held, part("optimiser"))
        try:
            if self.shards is not None:
                self.shards.restore(self.weights, part("model"))
                if ema:
                    self.shards.restore(self.means, part("mean"))
                if meta["done"]:
                    self._fill(part("mean" if ema else "model"))
            else:
                self.simulator.model.load_state_dict(part("model"))
                if ema:
                    self.averaged.model.load_state_dict(part("mean"))
            checkpoint.restore_optimisers(*given, self.shards)
            for name in ("step", "position", "seconds", "skipped", "done"):
                setattr(self, name, meta[name])
            stage = int(meta["stage"])
        except (RuntimeError, KeyError) as error:
            raise InputError(f"{path}: does not fit this run: {error}") from error
        self.best = part("best")
        self.best_score = math.inf if meta["best_score"] is None else meta["best_score"]
        if not self.done and stage >= 0:
            self._enter(stage)

    def _finish(self, log: Log | None) -> None:
        self._save()
        every = self.config.train.validate_every
        if not every or self.step % every:
            self._validate(log)
        if self.shards is not None:
            self._fill(self.shards.state(self.means, True))
        if self.best:
            self.averaged.model.load_state_dict(self.best)
        self.averaged.precision = "fp32"
        self.done = True
        self._save()
        if self.world.first:
            self.averaged.save(self.out)
        self.progress(1.0, 1.0, f"step {self.step}")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"train.device: {name!r} cannot be used here") from error
