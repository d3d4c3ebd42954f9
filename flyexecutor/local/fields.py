"""The fields of a machine's configuration and their kinds, as the API's official document has them. Owns nothing.

A field that Fly doesn't know is dropped, as is one that says null; a value of another kind is refused. UNREAD is what
nobody looks at here, and is kept as it is told.
"""

from collections.abc import Callable
from typing import Any

from flyexecutor.local.durations import read_duration, write_duration
from flyexecutor.local.problems import Refused

Read = Callable[[str, Any], Any]  # of a field's path and what it says: what it means

UNREAD = ("cache_drive", "checks", "containers", "disable_machine_autostart", "dns", "metrics", "processes", "rootfs",
          "services", "spot", "standbys", "statics")  # fmt: skip


def _kind(words: str, fits: Callable[[Any], bool]) -> Read:
    def read(path: str, value: Any) -> Any:
        if not fits(value):
            raise Refused(400, f"invalid_argument: {path} must be {words}")
        return value

    return read


_anything: Read = _kind("", lambda _: True)
_text = _kind("a string", lambda value: isinstance(value, str))
_count = _kind("a whole number", lambda value: type(value) is int)
_flag = _kind("true or false", lambda value: isinstance(value, bool))
_texts = _kind("a list of strings", lambda value: isinstance(value, list) and {*map(type, value)} <= {str})
_dict = _kind("an object", lambda value: isinstance(value, dict))
_dicts = _kind("a list of objects", lambda value: {*map(type, value)} <= {dict})
_list = _kind("a list", lambda value: isinstance(value, list))


def _object(**fields: Read) -> Read:
    def read(path: str, given: Any) -> dict[str, Any]:
        known = {name: value for name, value in _dict(path, given).items() if name in fields and value is not None}
        return {name: fields[name](f"{path}.{name}", value) for name, value in known.items()}

    return read


def _objects(**fields: Read) -> Read:
    def read(path: str, given: Any) -> list[dict[str, Any]]:
        return [_object(**fields)(path, element) for element in _dicts(path, _list(path, given))]

    return read


def _texts_by_name(path: str, given: Any) -> dict[str, str]:
    return {name: _text(f"{path}.{name}", value) for name, value in _dict(path, given).items()}


def _duration(_path: str, given: Any) -> str:
    return write_duration(read_duration(given))


read_config = _object(
    image=_text,
    env=_texts_by_name,
    metadata=_texts_by_name,
    auto_destroy=_flag,
    schedule=_text,
    size=_text,
    guest=_object(
        **dict.fromkeys(("cpus", "memory_mb", "max_memory_mb", "gpus"), _count),
        **dict.fromkeys(("cpu_kind", "gpu_kind", "host_dedication_id", "persist_rootfs"), _text),
        kernel_args=_texts,
    ),
    init=_object(**dict.fromkeys(("exec", "entrypoint", "cmd", "kernel_args"), _texts), tty=_flag, swap_size_mb=_count),
    restart=_object(policy=_text, max_retries=_count, gpu_bid_price=_anything),
    stop_config=_object(signal=_text, timeout=_duration),
    mounts=_objects(
        **dict.fromkeys(("volume", "path", "name"), _text),
        **dict.fromkeys(("size_gb", "size_gb_limit", "add_size_gb", "extend_threshold_percent"), _count),
        encrypted=_flag,
    ),
    files=_objects(**dict.fromkeys(("guest_path", "raw_value", "secret_name", "image_config"), _text), mode=_count),
    **dict.fromkeys(UNREAD, _anything),
)
