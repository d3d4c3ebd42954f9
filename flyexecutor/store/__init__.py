"""Redis: where calls, outcomes and lanes lie, and the scripts that change them. Nobody else speaks to it.

Knows keys and bytes; never opens a payload, and never speaks HTTP.
"""
