"""How a client's life ends, and what it may try again.

::

    ClientProblem
    ├── Ended           the gateway said: do not come back as you are
    │   └── Refused     … before the upgrade, with an HTTP status
    ├── Unreachable     no connection, or none that became ready; may be tried again
    └── Rejected        one message of the client was answered with an error
"""

from __future__ import annotations

from typing import Final

TOKEN_EXPIRED: Final = 4403

FINAL_CLOSE_CODES: Final = frozenset({1002, 1007, 1009, 4400, 4401, 4402, TOKEN_EXPIRED})
"""Of close frames: protocol error, text that is not UTF-8, message too big; bad request, invalid
API key, session taken over, invalid or expired token."""

ABNORMAL_CLOSURE: Final = 1006
"""No close frame came (RFC 6455 section 7.4.1)."""

_TRANSIENT_STATUS: Final = frozenset({408, 425, 429})


class ClientProblem(Exception):
    """Something that a caller of the client has to deal with."""


class Ended(ClientProblem):
    """The gateway closed the connection with a code after which a client must not redial.

    :param code: WebSocket close code.
    :param reason: the gateway's words.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"closed by the gateway with {code}" + (f": {reason}" if reason else ""))
        self.code = code
        self.reason = reason


class Refused(Ended):
    """The upgrade was refused with an HTTP status after which a client must not redial.

    :param status: HTTP status.
    :param error: `code` of the JSON body, such as `InvalidToken`; may be empty.
    :param message: `message` of the body.
    :param details: `details` of the body; may be empty.
    """

    def __init__(self, status: int, error: str, message: str, details: str = "") -> None:
        Exception.__init__(self, _refusal(status, error, message, details))
        self.code = status
        self.reason = message
        self.status = status
        self.error = error
        self.details = details


class Unreachable(ClientProblem):
    """No connection to the gateway, or one that ended before `ready`. May be tried again.

    :param status: HTTP status of a refusal that is worth another try (429, 5xx), else 0.
    """

    def __init__(self, problem: str, status: int = 0) -> None:
        super().__init__(problem)
        self.status = status


class Rejected(ClientProblem):
    """The gateway answered a message of ours with an `error`.

    :param code: of the error, such as `BadRequest`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


def refusal(status: int, error: str, message: str, details: str = "") -> ClientProblem:
    """Return what an HTTP refusal means to a client: :class:`Refused` or :class:`Unreachable`.

    A request that is wrong (4xx) stays wrong; 408, 425, 429 and 5xx pass.
    """
    if 400 <= status < 500 and status not in _TRANSIENT_STATUS:
        return Refused(status, error, message, details)
    return Unreachable(_refusal(status, error, message, details), status)


def _refusal(status: int, error: str, message: str, details: str) -> str:
    text = f"refused with HTTP {status}"
    if error:
        text += f" {error}"
    if message:
        text += f": {message}"
    return f"{text} ({details})" if details else text
