"""What `doctor` runs on a machine. It travels with its call, since the image may have another flyexecutor, and
none of what the command needs: so it imports at the last moment, and nothing but what every worker has.
"""


def look() -> dict[str, str | float]:
    """What a machine knows of itself."""
    import importlib  # noqa: PLC0415 - see above
    import platform  # noqa: PLC0415
    import time  # noqa: PLC0415

    version = importlib.import_module("flyexecutor").__version__
    return {"python": platform.python_version(), "flyexecutor": version, "time": time.time()}
