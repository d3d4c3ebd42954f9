"""The program in a machine, `python -m flyexecutor.worker`: it takes calls from the store and runs them.

Knows the store and payloads; never which machines there should be, and never a future.
"""
