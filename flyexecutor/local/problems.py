"""What the API refuses, as status and text (the server turns it into an error body), and why it can't be started."""


class LocalError(Exception):
    """The local Machines API or its Redis could not be started; the message says what to do."""


class Refused(Exception):
    """An answer that is not a success; `code` is Fly's word for it, where it has one."""

    def __init__(self, status: int, text: str, code: str | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
