"""Machines at Fly: which there are, which should be, and what they are told and cost.

Knows the store and the Machines API; never a future, and never what a call is.
"""
