"""What a machine's log has of what calls raised: a line with call, function and error, and the traceback.

`future.logs()` does not have it. That shows what the call itself has printed, of which the end is kept: a traceback
would push it out, and whoever asks has the exception, and the traceback with it.
"""

from flyexecutor.names import label, visible
from flyexecutor.payload import error_text
from flyexecutor.worker.context import Channel

LINE_CHARS = 300  # of what was raised
TRACEBACK_CHARS = 8 * 1024  # of one exception: its beginning and its end
ALL_BYTES = 64 * 1024  # of what the items of one call raised; those that follow have a line only


def log(channel: Channel, exc: BaseException, traceback: str, then: str = "") -> None:
    """The current call has raised this. then: what else there is to say in the line."""
    call = channel.current
    if call is None:
        return
    said = error_text.summary(exc).splitlines()[0][:LINE_CHARS]
    text = f"flyexecutor: call {label(call.id, call.name)}, attempt {call.attempt}, raised {said}{then}\n"
    if len(channel.failures) < ALL_BYTES:
        text += _cut(traceback, TRACEBACK_CHARS)
    channel.failures += visible(text).encode(errors="backslashreplace")


def _cut(text: str, most: int) -> str:
    """A text without its middle, if it is too long: the end says what was raised."""
    if len(text) <= most:
        return text
    return f"{text[: most // 4]}\n... {len(text) - most:,} characters ...\n{text[most // 4 - most :]}"
