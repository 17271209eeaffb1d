"""Who is connected here, and who wants what: the index of a pod's connections."""

from __future__ import annotations

from collections.abc import Iterable

from daisi_ws.app.connection import Connection
from daisi_ws.domain.subjects import Address


class Hub:
    """Connections by interest, by identity and by ID. `add`/`remove` tell whether the pod's
    interests changed; gauges are read from the index.

    :ivar moment: grows with each subscription.
    """

    def __init__(self) -> None:
        self._wanting: dict[str, dict[Connection, int]] = {}
        self._sessions: dict[str, Connection] = {}
        self._all: dict[str, Connection] = {}
        self._admins: set[str] = set()
        self.behind: set[Connection] = set()
        self.moment = 0

    def __len__(self) -> int:
        return len(self._all)

    def join(self, connection: Connection) -> None:
        """Add a connection (without interests)."""
        self._all[connection.connection_id] = connection
        if connection.principal.kind == "admin":
            self._admins.add(connection.connection_id)

    def leave(self, connection: Connection) -> list[str]:
        """Remove a connection; return the interests that nobody here has any more."""
        self._all.pop(connection.connection_id, None)
        self._admins.discard(connection.connection_id)
        self.behind.discard(connection)
        if self._sessions.get(connection.principal.identity) is connection:
            del self._sessions[connection.principal.identity]
        return [i for i in list(connection.interests) if self.remove(connection, i)]

    def own_session(self, connection: Connection) -> None:
        """Make this the connection of its identity here."""
        self._sessions[connection.principal.identity] = connection

    def session(self, identity: str) -> Connection | None:
        """Return the connection of an identity here."""
        return self._sessions.get(identity)

    def add(self, connection: Connection, interest: str) -> bool:
        """Subscribe a connection; True if it is the first here to want this."""
        wanting = self._wanting.setdefault(interest, {})
        first = not wanting
        self.moment += 1
        wanting.setdefault(connection, self.moment)
        connection.interests.add(interest)
        return first

    def remove(self, connection: Connection, interest: str) -> bool:
        """Unsubscribe a connection; True if it was the last here to want this."""
        connection.interests.discard(interest)
        wanting = self._wanting.get(interest)
        if wanting is None or connection not in wanting:
            return False
        del wanting[connection]
        if wanting:
            return False
        del self._wanting[interest]
        return True

    def wanted(self, interest: str) -> bool:
        """Tell whether any connection here wants this."""
        return interest in self._wanting

    def interests(self) -> list[str]:
        """Return everything wanted here."""
        return list(self._wanting)

    def match(self, address: Address) -> Iterable[Connection]:
        """Return the connections that want an event: the one predicate of delivery."""
        if len(address.interests) == 1:
            return self._wanting.get(address.subject, ())
        matched: dict[Connection, int] = {}
        for interest in address.interests:
            wanting = self._wanting.get(interest)
            if wanting:
                matched.update(wanting)
        return matched

    def match_since(self, address: Address, moment: int) -> list[Connection]:
        """Return those that want an event, and did not at this moment."""
        since: dict[Connection, int] = {}
        for interest in address.interests:
            since.update(self._wanting.get(interest, {}))
        return [connection for connection, began in since.items() if began > moment]

    def connections(self) -> list[Connection]:
        """Return all connections."""
        return list(self._all.values())

    def sessions(self) -> list[Connection]:
        """Return the connections that own their identity's session here."""
        return list(self._sessions.values())

    def counts(self) -> dict[str, int]:
        """Return how many connections there are of each kind."""
        admins = len(self._admins)
        return {"user": len(self._all) - admins, "admin": admins}
