"""`python -m meshsim`: the command line."""

from meshsim.cli import run

run()
