"""Bytes that may be unpickled: made, sealed, verified and opened here.

Knows pickles and keys; never where the bytes travel.
"""
