"""Level 5: the program inside a machine, `python -m flyexecutor.worker`."""
