"""What can be refused, and how each refusal is said.

::

    Refusal
    ├── BadRequest            400
    ├── InvalidAPIKey         401   (403 at the token endpoints)
    ├── InvalidToken          403
    ├── SessionConflict       409
    ├── RateLimitExceeded     429
    ├── SubscriptionFailure   500
    └── InternalServerError   500
"""

from __future__ import annotations

from typing import ClassVar


class Refusal(Exception):
    """A request or message that is not served, with what a client is told.

    :param message: one sentence for the client; holds no secret and no token.
    :param details: what was wrong and what would be right.
    :param reason: label for metrics and logs, from an enumeration, never from client input.
    """

    code: ClassVar[str] = "InternalServerError"
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, *, details: str | None = None, reason: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        self.reason = reason or self.code

    def body(self) -> dict[str, object]:
        """Return the JSON object `{"code","message","details"?}` of the wire contract."""
        body: dict[str, object] = {"code": self.code, "message": self.message}
        if self.details is not None:
            body["details"] = self.details
        return body


class BadRequest(Refusal):
    """Malformed input: path, query, headers, JSON, message type or payload."""

    code = "BadRequest"
    http_status = 400


class InvalidAPIKey(Refusal):
    """The API key is missing or wrong."""

    code = "InvalidAPIKey"
    http_status = 401


class InvalidToken(Refusal):
    """The token is missing, malformed, forged, expired, of the other kind, or for another path."""

    code = "InvalidToken"
    http_status = 403


class SessionConflict(Refusal):
    """The identity has a session elsewhere that is not to be replaced."""

    code = "SessionConflict"
    http_status = 409


class RateLimitExceeded(Refusal):
    """More connections or messages than the configured limits allow."""

    code = "RateLimitExceeded"
    http_status = 429


class SubscriptionFailure(Refusal):
    """The connection's interests could not be registered in time."""

    code = "SubscriptionFailure"
    http_status = 500


class InternalServerError(Refusal):
    """Something of ours is away (Redis, say); the client may try again."""


class Unavailable(Exception):
    """A dependency did not answer in time or refused; the state of what was asked is unknown.

    Ports raise it instead of their technology's own exceptions.
    """
