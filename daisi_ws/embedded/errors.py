"""What can go wrong with an embedded server."""

from __future__ import annotations


class EmbeddedServerError(RuntimeError):
    """An embedded server cannot be found, started or reached; the text says the next step.

    :param message: one sentence.
    :param log: the server's last log lines, shown below the sentence; may be empty.
    """

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(f"{message}\n{log}" if log else message)
        self.message = message
        self.log = log
