"""What the HTTP and WebSocket server needs from the use cases, each with its contract."""

from __future__ import annotations

from typing import Protocol

from daisi_ws.app.connection import Connection
from daisi_ws.app.ports import Sink
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.frames import RefreshToken, ResumeFrom, SelectChat
from daisi_ws.domain.principal import Kind, Principal
from daisi_ws.domain.resume import Claim


class Authenticator(Protocol):
    """Judges API keys and tokens, and issues tokens."""

    def check_api_key(self, kind: Kind, presented: str | None) -> None:
        """Compare an API key in constant time.

        :param presented: printable ASCII, None if none was sent.
        :raises InvalidAPIKey: missing, wrong, or of the other kind.
        """

    async def principal(
        self, kind: Kind, token: str | None, path: tuple[str, str] | None
    ) -> Principal:
        """Return who a token names.

        :param path: company and agent of the request's path, which must be the token's; None
            where the path names none.
        :raises InvalidToken: for every fault of the token.
        """

    def issue_user(self, body: bytes) -> str:
        """Return a token for a user, as the request body asks.

        :raises BadRequest: not JSON, a field missing, of the wrong type or out of range.
        """

    def issue_admin(self, body: bytes) -> str:
        """Return a token for an admin, as the request body asks.

        :raises BadRequest: as :meth:`issue_user`.
        """


class Gateway(Protocol):
    """A connection's way through the pod: admission, its messages, its end."""

    def accepting(self) -> bool:
        """Tell whether new connections are taken; False while the pod drains."""

    async def admit(
        self, principal: Principal, request_id: str, claim: Claim | None = None
    ) -> Connection:
        """Take the session and register the interests; the connection is `JOINING`.

        :param claim: the position that the client came with; None: it wants to know of none.
        :raises SessionConflict: the identity has a session that is not to be replaced.
        :raises SubscriptionFailure: the interests could not be registered in time.
        :raises InternalServerError: a dependency is away.
        :raises RateLimitExceeded: more connections than the limits allow.
        """

    def open(self, connection: Connection, sink: Sink) -> None:
        """Send `ready` and begin to deliver; one displaced meanwhile is closed instead."""

    async def select_chat(self, connection: Connection, message: SelectChat) -> None:
        """Leave the chat looked at and look at another.

        :raises Refusal: it cannot be done; the connection stays.
        """

    async def resume(self, connection: Connection, message: ResumeFrom) -> None:
        """Give an open connection again what came after a position, or tell why not."""

    async def refresh_token(self, connection: Connection, message: RefreshToken) -> None:
        """Go on with a fresh token of the same identity and scope.

        :raises Refusal: the token is no good; the connection stays.
        """

    async def leave(self, connection: Connection, reason: CloseReason) -> None:
        """Give back session and interests. Called exactly once for what `admit` returned."""


class Probes(Protocol):
    """Answers for whoever watches the process: HTTP status and a JSON object."""

    def health(self) -> tuple[int, dict[str, object]]:
        """Tell whether the process's loop runs."""

    def ready(self) -> tuple[int, dict[str, object]]:
        """Tell whether events reach sockets here."""
