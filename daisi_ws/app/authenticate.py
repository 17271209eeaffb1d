"""Who may connect: API keys, tokens, and the issue of tokens.

A token is looked up in memory, then in the cache that pods share, then decrypted; whatever says
it is good, its expiry is compared with the clock each time. Without the shared cache all of it
works.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256

from daisi_ws.app.token_memory import TokenMemory
from daisi_ws.app.token_ports import TokenCache, TokenCodec, UntrustedEntry
from daisi_ws.config import Config
from daisi_ws.domain import token as tokens
from daisi_ws.domain.errors import InvalidAPIKey, InvalidToken, Refusal, Unavailable
from daisi_ws.domain.principal import Kind, Principal
from daisi_ws.metrics import Metrics


class Authenticator:
    """Checks keys and tokens, and issues tokens.

    :param config: getter of the configuration, asked each time.
    :param codecs: of each kind of token.
    :param caches: the shared cache of each kind.
    :param clock: Unix time in seconds.
    """

    def __init__(
        self,
        *,
        config: Callable[[], Config],
        codecs: Mapping[Kind, TokenCodec],
        caches: Mapping[Kind, TokenCache],
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._codecs = codecs
        self._caches = caches
        self._metrics = metrics
        self._clock = clock
        self._memory = TokenMemory(config().auth.token_cache_size)

    def check_api_key(self, kind: Kind, presented: str | None) -> None:
        """Compare an API key with that of its endpoint, in constant time.

        :param presented: as received, None if there was none.
        :raises InvalidAPIKey: missing or wrong.
        """
        auth = self._config().auth
        expected = auth.secret_token if kind == "user" else auth.admin_secret_token
        right = hmac.compare_digest(_digest(presented or ""), _digest(expected))
        if not right:
            reason = "wrong_key" if presented else "missing_key"
            raise self._failed(kind, InvalidAPIKey("the API key is not valid", reason=reason))

    async def principal(
        self, kind: Kind, token: str | None, path: tuple[str, str] | None
    ) -> Principal:
        """Return who a token names.

        :param token: as received, None if there was none.
        :param path: company and agent of a user's request, which must be the token's.
        :raises InvalidToken: missing, malformed, forged, of the other kind, expired, or of
            another path; `reason` says which.
        """
        try:
            principal = await self._valid(kind, token)
            _check_path(principal, path)
        except InvalidToken as error:
            raise self._failed(kind, error) from None
        self._metrics.auth_success.labels(kind).inc()
        return principal

    async def refresh(self, principal: Principal, token: str | None) -> Principal:
        """Return the principal of a fresh token for a connection that is open.

        :raises InvalidToken: as :meth:`principal`, or of another identity or scope.
        """
        try:
            fresh = await self._valid(principal.kind, token)
            _check_same(principal, fresh)
        except InvalidToken as error:
            raise self._failed(principal.kind, error) from None
        self._metrics.auth_success.labels(principal.kind).inc()
        return fresh

    def issue_user(self, body: bytes) -> str:
        """Return a user token for a request `{company_id, agent_id, user_id, expires_in_seconds}`.

        :raises BadRequest: naming every wrong field.
        """
        return self._issue("user", body)

    def issue_admin(self, body: bytes) -> str:
        """Return an admin token for a request `{admin_id, expires_in_seconds,
        subscribed_company_id?, subscribed_agent_id?, company_id_restriction?}`.

        :raises BadRequest: naming every wrong field.
        """
        return self._issue("admin", body)

    def _issue(self, kind: Kind, body: bytes) -> str:
        return self._codecs[kind].encode(tokens.requested(kind, body, self._clock()))

    async def _valid(self, kind: Kind, token: str | None) -> Principal:
        if not token:
            raise InvalidToken("a token is needed", reason="missing")
        digest = _digest(token)
        now = self._clock()
        principal = self._memory.get(kind, digest, now)
        self._metrics.cache.labels("token_memory", "miss" if principal is None else "hit").inc()
        if principal is not None:
            return principal
        codec = self._codecs[kind]
        codec.check_form(token)
        principal = await self._shared(kind, digest)
        content = b""
        if principal is None:
            content = codec.decode(token)
            principal = tokens.read(kind, content)
        now = self._clock()
        if principal.expires_at <= now:
            raise InvalidToken("the token has expired", reason="expired")
        ttl = min(self._cache_seconds(kind), principal.expires_at - now)
        self._memory.put(kind, digest, principal, now + ttl)
        if content:
            self._caches[kind].put(digest, content, ttl)
        return principal

    async def _shared(self, kind: Kind, digest: bytes) -> Principal | None:
        principal, outcome = None, "miss"
        try:
            content = await self._caches[kind].get(digest)
            if content is not None:
                principal, outcome = tokens.read(kind, content), "hit"
        except (Unavailable, UntrustedEntry, InvalidToken):
            outcome = "error"
        self._metrics.cache.labels("token_redis", outcome).inc()
        return principal

    def _cache_seconds(self, kind: Kind) -> float:
        auth = self._config().auth
        return (
            auth.token_cache_ttl_seconds if kind == "user" else auth.admin_token_cache_ttl_seconds
        )

    def _failed(self, kind: Kind, error: Refusal) -> Refusal:
        self._metrics.auth_failure.labels(kind, error.reason).inc()
        return error


def _digest(text: str) -> bytes:
    # What a client sends may hold surrogates (bytes that were not UTF-8): no reason to fail.
    return sha256(text.encode("utf-8", "surrogatepass")).digest()


def _check_path(principal: Principal, path: tuple[str, str] | None) -> None:
    if principal.kind == "user" and path != (principal.company_id, principal.agent_id):
        raise InvalidToken("the token is not for this path", reason="wrong_path")


def _check_same(principal: Principal, fresh: Principal) -> None:
    if replace(fresh, expires_at=principal.expires_at) != principal:
        raise InvalidToken("the token is not for this connection", reason="other_identity")
