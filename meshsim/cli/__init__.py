"""The command line: one file a subcommand; errors are one line and an exit code.

Exit codes: 0 done, 1 the work failed, 2 bad usage or bad input, 130 Ctrl-C.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import typer

from meshsim.check import MeshsimError, one_line

INTERRUPTED = "interrupted; the same command started again carries on"
BAD_INPUT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
# a function under torch.no_grad is called from there, so that its warnings seem to come from it
OURS = r"meshsim\b|torch\.utils\._contextlib"


def _app() -> typer.Typer:
    from meshsim.cli.bench import bench
    from meshsim.cli.check import check
    from meshsim.cli.combine import combine
    from meshsim.cli.convert import convert
    from meshsim.cli.demo import demo
    from meshsim.cli.doctor import doctor
    from meshsim.cli.evaluate import evaluate
    from meshsim.cli.generate import generate
    from meshsim.cli.info import info
    from meshsim.cli.move import move
    from meshsim.cli.predict import predict
    from meshsim.cli.preprocess import preprocess
    from meshsim.cli.rollout import rollout
    from meshsim.cli.sample import sample
    from meshsim.cli.train import train
    from meshsim.cli.view import view

    app = typer.Typer(
        help="Learned simulation on meshes: any mesh in, a prediction on the same mesh out.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    commands: list[Callable[..., None]] = [info, check, convert, preprocess, generate, train]
    commands += [evaluate, combine, predict, rollout, move, sample, view, doctor, bench, demo]
    for command in commands:
        app.command()(command)

    @app.callback(invoke_without_command=True)
    def root(version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
        if version:
            from meshsim import __version__

            print(__version__)
            raise typer.Exit()

    return app


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Our own warnings become lines on standard error; those of libraries are not the user's."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"warning: {one_line(message, 600)}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore")
        warnings.filterwarnings("default", module=OURS)
        warnings.showwarning = show
        yield


def _fail(text: str, code: int) -> int:
    print(f"error: {one_line(text, 600)}", file=sys.stderr)
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `--debug` anywhere shows tracebacks."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    try:
        with nullcontext() if debug else _warnings_in_one_line():
            code = _app()(args=arguments, prog_name="meshsim", standalone_mode=False)
        sys.stdout.flush()
        return _fail(INTERRUPTED, 130) if code == 130 else int(code or 0)
    except (KeyboardInterrupt, typer.Abort):
        if debug:
            raise
        return _fail(INTERRUPTED, 130)
    except MeshsimError as error:
        if debug:
            raise
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:  # the reader of our output (head, less) has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", 2 if error.errno in BAD_INPUT else 1)
    except MemoryError:
        return _fail("out of memory", 1)
    except Exception as error:
        usage = getattr(error, "format_message", None)  # what Typer raises for bad usage
        if usage is not None:
            return _fail(f"{usage()} (see 'meshsim --help')", 2)
        if debug:
            raise
        return _fail(f"{type(error).__name__}: {error} (a defect; --debug shows where)", 1)
