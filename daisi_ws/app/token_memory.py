"""The newest valid tokens of this worker, in memory."""

from __future__ import annotations

from collections import OrderedDict

from daisi_ws.domain.principal import Kind, Principal


class TokenMemory:
    """Principals by kind and digest of their token; the one used longest ago goes first.

    :param size: most entries.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[tuple[Kind, bytes], tuple[Principal, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, kind: Kind, digest: bytes, now: float) -> Principal | None:
        """Return the principal of a token that is good at `now` (Unix time in seconds)."""
        entry = self._entries.get((kind, digest))
        if entry is None:
            return None
        principal, good_until = entry
        if now >= good_until or now >= principal.expires_at:
            del self._entries[(kind, digest)]
            return None
        self._entries.move_to_end((kind, digest))
        return principal

    def put(self, kind: Kind, digest: bytes, principal: Principal, good_until: float) -> None:
        """Remember a principal until `good_until` (Unix time in seconds)."""
        self._entries[(kind, digest)] = (principal, good_until)
        self._entries.move_to_end((kind, digest))
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)
