"""Opens the connections of one client, and sees to it that all get closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from urllib.parse import urlencode

import aiohttp

from daisi_ws.client.credentials import Credentials
from daisi_ws.client.ending import Unreachable
from daisi_ws.client.frames import Frame
from daisi_ws.client.link import Link


class Dialler:
    """What all dials of a client have in common.

    :param heartbeat: seconds between two pings of ours; None for none.
    :param timeout: seconds from dialling to `ready`.
    :param on_early: called with each frame before `ready`.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        credentials: Credentials,
        *,
        heartbeat: float | None,
        timeout: float,
        on_early: Callable[[Frame], None],
    ) -> None:
        self._session = session
        self._url = url
        self._credentials = credentials
        self._heartbeat = heartbeat
        self._timeout = timeout
        self._on_early = on_early
        self._open: set[Link] = set()

    async def dial(self, query: Mapping[str, str]) -> Link:
        """Open a connection.

        :param query: parameters besides those of the URL.
        :raises Ended: refused, or closed, for good.
        :raises Unreachable: no connection, or none that became ready in time; no token.
        """
        try:
            async with asyncio.timeout(self._timeout):
                headers = await self._credentials.headers()
        except TimeoutError:
            raise Unreachable(f"no token within {self._timeout:g} s") from None
        link = await Link.open(
            self._session,
            _with_query(self._url, query),
            headers,
            heartbeat=self._heartbeat,
            timeout=self._timeout,
            on_early=self._on_early,
        )
        self._open.add(link)
        return link

    async def close(self, link: Link) -> None:
        """Close a connection. Idempotent."""
        await link.close()
        self._open.discard(link)

    async def close_all(self) -> None:
        """Close whatever is open."""
        await asyncio.gather(*(self.close(link) for link in list(self._open)))


def _with_query(url: str, query: Mapping[str, str]) -> str:
    if not query:
        return url
    return f"{url}{'&' if '?' in url else '?'}{urlencode(query)}"
