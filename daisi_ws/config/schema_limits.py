"""Configuration of limits for clients nobody knows: how many may come, and how often."""

from __future__ import annotations

from typing import Annotated

from daisi_ws.config.keys import Key, Section, count

_MOST = 10_000_000


def _rate(about: str, unit: str) -> Key:
    return count(f"{about} in the long run; 0 for no limit.", f"{unit} each second", 0, 100_000)


def _burst(about: str, unit: str) -> Key:
    return count(f"{about} at once before that limit applies.", unit, 1, 1_000_000)


class Limits(Section, frozen=True, kw_only=True):
    """Limits for the open internet. Over them clients get `RateLimitExceeded`.

    Rates are counted by each worker for itself.
    """

    connections_per_host: Annotated[
        int,
        count(
            "WebSocket connections of this host, all workers together; 0 for no limit.",
            "connections",
            0,
            _MOST,
        ),
    ] = 0
    connections_per_worker: Annotated[
        int,
        count("WebSocket connections of one worker; 0 for no limit.", "connections", 0, _MOST),
    ] = 0
    accepts_per_second: Annotated[
        float, _rate("TCP connections that one worker serves,", "connections")
    ] = 0
    accept_burst: Annotated[int, _burst("TCP connections that it serves", "connections")] = 200
    address_handshakes_per_second: Annotated[
        float,
        _rate(
            "WebSocket handshakes from one address (of IPv6: one /64) that one worker serves,",
            "handshakes",
        ),
    ] = 0
    address_handshake_burst: Annotated[
        int, _burst("Handshakes from one address that it serves", "handshakes")
    ] = 50
    identity_handshakes_per_second: Annotated[
        float,
        _rate("WebSocket handshakes of one user or admin that one worker serves,", "handshakes"),
    ] = 0
    identity_handshake_burst: Annotated[
        int, _burst("Handshakes of one user or admin that it serves", "handshakes")
    ] = 10
    chats_per_second: Annotated[float, _rate("Chats that one client may select,", "chats")] = 0
    chat_burst: Annotated[int, _burst("Chats that one client may select", "chats")] = 20
