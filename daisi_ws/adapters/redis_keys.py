"""Every Redis key and channel, in one place.

The first group is the wire contract's, shared with older pods. The second is the project's own.
A fence shares its lock's cluster slot by a hash tag; identifiers hold no braces, so nothing else
can. On a Redis Cluster the reader's two keys share one as well: `reader:{<stream>}`. Route keys are
made by :func:`daisi_ws.domain.subjects.route_key`.

| key | value |
|---|---|
| `session:{company}:{agent}:{user}`, `session:admin:{admin}` | lock: `{pod}#{connection}` |
| `route:{company}:{agent}:chats`, `route:…:messages:{chat}` | SET of pod IDs |
| `token_cache:{sha256}`, `token_cache:admin_{sha256}` | a token's content with its `mac` |
| `session_kill:…` (channel) | `{"new_pod_id", "holder"}` |
| `admin_route:{company}:{agent}` | SET of pod IDs; each part exact or `*` |
| `fence:{<lock key>}` | number and lock value of the newest owner, no lock value once it gave up |
| `leaving:{<lock key>}` | lock value of a holder that was asked to connect elsewhere |
| `pod:{id}` | a pod's record (JSON), with its lease as TTL |
| `pods` | SET of the IDs of all pods that were not removed |
| `reader:{stream}` | the newest reader's record (JSON), without TTL |
| `reader_epoch:{stream}` | number of the newest reader |
| `incarnation` | identity of the data: made anew after Redis came back empty |
| `host:{name}` | which supervisor has this host name, with a lease as TTL |
"""

from __future__ import annotations

from typing import Final

KILL_PATTERN: Final = "session_kill:*"
PODS: Final = "pods"
INCARNATION: Final = "incarnation"


def token_cache(kind: str, digest: str) -> str:
    """Return the key of a cached token; `digest` is the SHA-256 of the raw token in hex."""
    return f"token_cache:admin_{digest}" if kind == "admin" else f"token_cache:{digest}"


def fence(lock_key: str) -> str:
    """Return the key of a lock's fencing number."""
    return f"fence:{{{lock_key}}}"


def leaving(lock_key: str) -> str:
    """Return the key that marks the holder of a lock as leaving."""
    return f"leaving:{{{lock_key}}}"


def pod(pod_id: str) -> str:
    """Return the key of a pod's record and lease."""
    return f"pod:{pod_id}"


def reader(stream_name: str, one_slot: bool = False) -> str:
    """Return the key of the record of a stream's reader; `one_slot`: beside its number."""
    return f"reader:{{{stream_name}}}" if one_slot else f"reader:{stream_name}"


def reader_epoch(stream_name: str, one_slot: bool = False) -> str:
    """Return the key of the number of a stream's newest reader; `one_slot`: beside its record."""
    return f"reader_epoch:{{{stream_name}}}" if one_slot else f"reader_epoch:{stream_name}"


def host(name: str) -> str:
    """Return the key that claims a host name."""
    return f"host:{name}"
