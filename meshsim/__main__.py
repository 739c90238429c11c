"""`python -m meshsim`, and the console script: the command line."""

from __future__ import annotations

import sys


def run() -> None:
    """Run the command line; Ctrl-C may come while torch is still being loaded."""
    try:
        from meshsim.cli import main

        code = main()
    except KeyboardInterrupt:
        print("error: interrupted; the same command started again carries on", file=sys.stderr)
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    run()
