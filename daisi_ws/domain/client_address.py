"""Which address a client has, when it comes through proxies: only those we trust are believed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network


def network(text: str) -> Network:
    """Return a network (`10.0.0.0/8`, `fd00::/8`) or a single address as one.

    :raises ValueError: it is neither, or has bits set behind its prefix.
    """
    return ip_network(text)


class TrustedProxies:
    """The networks that proxies are in whose word on a client's address counts.

    :param networks: checked ones.
    """

    __slots__ = ("_known", "_networks")

    _MOST_KNOWN = 1024

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks = [network(text) for text in networks]
        self._known: dict[str, bool] = {}

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __contains__(self, address: str) -> bool:
        known = self._known.get(address)
        if known is None:
            if len(self._known) >= self._MOST_KNOWN:
                self._known.clear()
            known = self._known[address] = self._holds(address)
        return known

    def client(self, peer: str, forwarded_for: Sequence[str]) -> str:
        """Return the client's address: the last hop that is not a trusted proxy.

        Each proxy appends who it was called by. So the list is read from its end, and as far as
        the hop before was trusted: what stands before that anybody may have written.

        :param peer: who the connection comes from.
        :param forwarded_for: values of the header `X-Forwarded-For`, in order.
        """
        if not self._networks or not forwarded_for or peer not in self:
            return peer
        client = peer
        for hop in reversed(",".join(forwarded_for).split(",")):
            address = _of_hop(hop.strip())
            if address is None:
                break
            client = address
            if address not in self:
                break
        return client

    def _holds(self, text: str) -> bool:
        address = _parsed(text)
        return address is not None and any(
            address in net for net in self._networks if net.version == address.version
        )


def plain_address(text: str) -> str:
    """Return an address as it is shown: an IPv4 one in IPv6 (`::ffff:…`) as what it is."""
    if ":" not in text:
        return text
    address = _parsed(text)
    return text if address is None else str(address)


def subscriber(address: str) -> str:
    """Return what stands for whoever has an address: of IPv6 the /64, which one customer has."""
    if ":" not in address:
        return address
    parsed = _parsed(address)
    if not isinstance(parsed, IPv6Address):
        return address
    return f"{int(parsed) >> 64:x}::/64"


def _of_hop(hop: str) -> str | None:
    """Return the address of `1.2.3.4`, `1.2.3.4:567`, `::1` or `[::1]:567`, None for others."""
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        hop = hop.partition(":")[0]
    address = _parsed(hop)
    return None if address is None else str(address)


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or address
    return address
