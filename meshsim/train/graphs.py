"""Training on graphs: what the loop asks of a `Simulator` and its windows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from meshsim.check import InputError
from meshsim.data.store import Store
from meshsim.simulator import Simulator
from meshsim.train.batches import Batches
from meshsim.train.config import Config
from meshsim.train.evaluate import evaluate
from meshsim.train.plan import Stage
from meshsim.train.setup import Facts, build, gather, schema_of, windows_of
from meshsim.train.step import batch_loss
from meshsim.train.warm_start import copy_weights, keep_statistics
from meshsim.train.world import World


class GraphTask:
    """Windows of a store's samples as batched graphs.

    Arguments:
        config: the recipe.
        store: where the samples are.
        world: who else trains; graphs are trained by one process.
    """

    def __init__(self, config: Config, store: Store, world: World | None = None):
        self.world = world or World()
        if self.world.size > 1:
            raise InputError("only neural fields are trained by several processes")
        self.config, self.store = config, store
        self.schema = schema_of(config, store)
        self.batches: Batches | None = None

    def asked(self) -> dict[str, Any]:
        """What of the data decides the result, beside the store's content."""
        return self.schema.to_dict()

    def gather(self, progress: Callable[..., None] | None) -> None:
        """Read the training samples once, for statistics."""
        self.facts = gather(self.config, self.store, self.schema, progress)

    def take(self, facts: Mapping[str, Any]) -> None:
        """Statistics that a run's record holds, instead of `gather`."""
        self.facts = Facts.from_dict(facts)

    def build(self, other: Path | str | None, new: bool) -> Simulator:
        """The simulator that is to be trained, with the weights of `other` if there is one.

        A new run also keeps the statistics of `other`.
        """
        known = None if other is None else Simulator.load(other)
        if new and known is not None:
            keep_statistics(self.facts, known)
        self.simulator = build(self.config, self.schema, self.facts)
        if known is not None and other is not None:
            copy_weights(self.simulator, known, other)
        return self.simulator

    def enter(self, stage: Stage) -> None:
        """Windows long enough for a stage."""
        length = 1 + (stage.pushforward + stage.unroll) * self.simulator.bundle
        if self.batches is None or self.batches.windows.length != length:
            windows = windows_of(self.config, self.store, self.schema, length)
            if self.batches is None:
                self.batches = Batches(
                    self.simulator,
                    windows,
                    power=self.config.train.measure_power,
                    memory=self.config.data.memory * 1e9,
                    raw=self.facts.raw,
                )
            self.batches = self.batches.with_windows(windows)

    def loss(self, number: int, stage: Stage, position: int, step: int, share: float) -> Tensor:
        """The loss of a step; `number` is the stage's, the rest as for `batch_loss`."""
        assert self.batches is not None
        train = self.config.train
        chosen = self.batches.indices(train.seed, number, position, stage.batch)
        batch = self.batches.make(chosen)
        return batch_loss(self.simulator, batch, train, stage, step, share)

    def evaluate(self, simulator: Any, names: Sequence[str]) -> dict[str, Any]:
        """Validation errors; see `evaluate`."""
        steps = self.config.train.validate_steps
        return evaluate(simulator, self.store, split=names, steps=steps, one_step=0)
