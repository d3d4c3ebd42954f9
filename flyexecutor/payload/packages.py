"""The installed packages of this side, and how they differ from those of the other.

Only looked at when something does not fit: listing them takes longer than most calls, and so does the import of what
lists them.
"""

from collections.abc import Mapping

ROWS = 40  # of a table in an error message


def installed() -> dict[str, str]:
    """Python and the packages that can be imported here, with their versions."""
    import importlib.metadata  # noqa: PLC0415 - see above
    import platform  # noqa: PLC0415

    found = {dist.metadata["Name"]: dist.version for dist in importlib.metadata.distributions()}
    return {"Python": platform.python_version(), **dict(sorted(found.items(), key=lambda package: package[0].lower()))}


def differences(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """A table of what differs, a line each; empty if nothing does."""
    names = [name for name in {**here, **there} if here.get(name) != there.get(name)]
    names.sort(key=lambda name: not (name in here and name in there))  # first what both sides have
    if not names:
        return ""
    rows = [
        ("package", "here", "machine"),
        *((name, here.get(name, "-"), there.get(name, "-")) for name in names[:ROWS]),
    ]
    widths = [max(len(row[n]) for row in rows) for n in (0, 1)]
    lines = [f"  {name:<{widths[0]}}  {ours:<{widths[1]}}  {theirs}" for name, ours, theirs in rows]
    if len(names) > ROWS:
        lines.append(f"  and {len(names) - ROWS} more")
    return "\n".join(lines)
