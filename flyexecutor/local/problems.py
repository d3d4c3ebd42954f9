"""What the API refuses, as status and text; the server turns it into an error body."""


class Refused(Exception):
    """An answer that is not a success."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
