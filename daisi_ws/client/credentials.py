"""What a client shows at the handshake: API key and token."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from daisi_ws.client.ending import ClientProblem, Unreachable

TokenSource = str | Callable[[], Awaitable[str]]
"""A token, or what fetches a fresh one."""


class Credentials:
    """API key, and a token that may be renewed.

    :param token: used as it is; what fetches one is asked before each dial.
    :param headers: sent besides.
    """

    def __init__(self, api_key: str, token: TokenSource, headers: Mapping[str, str] | None) -> None:
        self.token = token if isinstance(token, str) else ""
        self._fetch = None if isinstance(token, str) else token
        self._headers = {**(headers or {}), "X-API-Key": api_key}

    @property
    def renewable(self) -> bool:
        """Tell whether the end of a token is not the end of the client."""
        return self._fetch is not None

    async def renew(self) -> str:
        """Fetch a fresh token if there is a way to, and return the one to use.

        :raises Unreachable: it could not be fetched.
        """
        if self._fetch is not None:
            try:
                self.token = await self._fetch()
            except ClientProblem:
                raise
            except Exception as problem:  # whatever a backend's client raises
                raise Unreachable(f"no token: {problem or type(problem).__name__}") from problem
        return self.token

    async def headers(self) -> dict[str, str]:
        """Return the headers of a handshake.

        :raises Unreachable: there is no token now.
        """
        token = await self.renew()
        if not token.isprintable():
            raise Unreachable("no token: it holds a line break or another control character")
        # In a header it is in nobody's access log.
        return {**self._headers, "Authorization": f"Bearer {token}"}
