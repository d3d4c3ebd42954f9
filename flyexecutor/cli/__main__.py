"""`python -m flyexecutor.cli`: the same as the command `flyexecutor`."""

from flyexecutor.cli import main

main(prog_name="flyexecutor")
