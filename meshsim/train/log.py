"""What a run writes while it goes on: two CSV files, and TensorBoard events when installed."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meshsim.simulator_files import write_atomically


class Table:
    """A CSV file that grows row by row; its columns are those of the first row.

    Arguments:
        path: the file; rows beyond `step` are dropped when a run is resumed.
        step: the step that the run stands at.
    """

    def __init__(self, path: Path, step: int):
        self.path = path
        self.columns: list[str] = []
        if not path.exists():
            return
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = [r for r in reader if (r.get("step") or "").isdigit() and int(r["step"]) <= step]
            self.columns = list(reader.fieldnames or [])
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(path, text.getvalue().encode())

    def row(self, values: Mapping[str, Any]) -> None:
        """Append a row and flush it."""
        new = not self.columns
        self.columns = self.columns or list(values)
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(
                file, self.columns, lineterminator="\n", extrasaction="ignore", restval=""
            )
            if new:
                writer.writeheader()
            writer.writerow(
                {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in values.items()}
            )


class Log:
    """The logs of a run: `log.csv`, `validation.csv`, `tensorboard/`.

    Arguments:
        folder: of the run.
        step: the step that the run stands at; later rows are dropped.
    """

    def __init__(self, folder: Path, step: int):
        self.training = Table(folder / "log.csv", step)
        self.validation = Table(folder / "validation.csv", step)
        self.events: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self.events = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def train(self, step: int, values: Mapping[str, Any]) -> None:
        """A row of `log.csv`."""
        self.training.row({"step": step, **values})
        self._events("train", step, values)

    def validate(self, step: int, values: Mapping[str, Any]) -> None:
        """A row of `validation.csv`."""
        self.validation.row({"step": step, **values})
        self._events("validation", step, values)

    def _events(self, group: str, step: int, values: Mapping[str, Any]) -> None:
        if self.events is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self.events.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        """Flush what is left."""
        if self.events is not None:
            self.events.close()
