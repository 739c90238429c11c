"""What the demos of `meshsim demo` have in common: their stages before anything is judged."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshsim.train import Config


@dataclass(frozen=True)
class Job:
    """One run of a demo.

    Arguments:
        recipe: the name of the folder in datasets/.
        out: where everything is written.
        settings: what the recipe's demo.toml says.
        training: its train.toml, with what the command line says.
        overwrite: train once more.
    """

    recipe: str
    out: Path
    settings: Mapping[str, Any]
    training: Config
    overwrite: bool

    @property
    def run(self) -> Path:
        """The training's folder."""
        return self.out / "run"


def stage(stages: Sequence[str], number: int, what: str) -> None:
    """Say on standard error what begins; numbers count from 1."""
    print(f"[{number}/{len(stages)}] {stages[number - 1]}: {what}", file=sys.stderr, flush=True)


def keep(job: Job, sources: Path, store: Path) -> None:
    """The generated files into a store; the first that cannot be used is an error."""
    from meshsim.check import InputError
    from meshsim.cli.progress import bar
    from meshsim.data import preprocess

    config = job.settings["preprocess"]
    with bar("preprocess", lines=True) as progress:
        report = preprocess([sources], store, config=config, progress=progress)
    if report.failed:
        raise InputError(report.failed[0][1])


def learn(job: Job) -> None:
    """Train, or carry on with it."""
    from meshsim.cli.progress import bar
    from meshsim.train import train

    with bar("train", lines=True) as progress:
        train(job.training, job.run, overwrite=job.overwrite, progress=progress)


def side_by_side(
    solve: Callable[..., Any],
    folder: Path,
    parts: Mapping[str, Mapping[str, Any]],
    *,
    total: int,
    workers: int,
    progress: Callable[..., None],
) -> None:
    """Run a recipe's generator for several parts, each into its folder, in processes.

    Arguments:
        solve: the recipe's `generate`.
        folder: where the parts' folders are.
        parts: {name: the generator's arguments}.
        total: how many files there will be.
        workers: processes.
        progress: called with (files there, total).
    """
    from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
    from multiprocessing import get_context

    from meshsim.data.workers import start_worker

    def there() -> int:
        return sum(len(list((folder / name).glob("[!.]*"))) for name in parts)

    found = there()
    progress(found, total)
    if workers <= 1 or found == total:
        for name, options in parts.items():  # what is there is only looked at
            solve(folder / name, **options)
            if found < total:
                progress(there(), total)
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=start_worker)
    try:
        jobs = {pool.submit(solve, folder / name, **options) for name, options in parts.items()}
        left = jobs
        while left:
            done, left = wait(left, timeout=1.0, return_when=FIRST_EXCEPTION)
            for job in done:
                job.result()
            if left:
                progress(there(), total)
        progress(total, total)
    except KeyboardInterrupt:  # it need not wait for what is being solved
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
