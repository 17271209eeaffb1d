"""Who may connect: API keys, tokens, and the issue of tokens.

A token is looked up in memory, then decrypted; whatever says it is good, its expiry is compared
with the clock each time. The cache that pods share is written for older pods and not asked:
decryption takes microseconds, a question to Redis a turn more of the loop, a write and a read.

Each API key and each token key may have a previous value, good until a date: what came with it by
then is accepted and counted, and nothing that remembers a token outlives the date.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

from daisi_ws.app.token_memory import TokenMemory
from daisi_ws.app.token_ports import TokenKey
from daisi_ws.config import Config, previous_of
from daisi_ws.domain import token as tokens
from daisi_ws.domain.errors import InvalidAPIKey, InvalidToken, Refusal
from daisi_ws.domain.principal import Kind, Principal
from daisi_ws.metrics import Metrics

_API_KEYS: Final[Mapping[Kind, str]] = {"user": "secret_token", "admin": "admin_secret_token"}
_TOKEN_KEYS: Final[Mapping[Kind, str]] = {"user": "token_aes_key", "admin": "admin_token_aes_key"}


@dataclass(frozen=True, slots=True)
class _Opener:
    """A token key with what is remembered of its tokens.

    :param previous: it makes no tokens any more.
    """

    key: TokenKey
    memory: TokenMemory
    previous: bool


class Authenticator:
    """Checks keys and tokens, and issues tokens.

    :param config: getter of the configuration, asked each time.
    :param keys: of each kind of token; the first makes them, all open them.
    :param clock: Unix time in seconds.
    """

    def __init__(
        self,
        *,
        config: Callable[[], Config],
        keys: Mapping[Kind, Sequence[TokenKey]],
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._metrics = metrics
        self._clock = clock
        self._memory_size = config().auth.token_cache_size
        self.rekey(keys)

    def rekey(self, keys: Mapping[Kind, Sequence[TokenKey]]) -> None:
        """Go on with other keys; what is remembered of the old ones' tokens is forgotten."""
        memories = [TokenMemory(self._memory_size) for _ in range(max(map(len, keys.values())))]
        self._openers = {
            kind: [
                _Opener(key, memory, previous=number > 0)
                for number, (key, memory) in enumerate(zip(of_kind, memories, strict=False))
            ]
            for kind, of_kind in keys.items()
        }

    def check_api_key(self, kind: Kind, presented: str | None) -> None:
        """Compare an API key with those of its endpoint, in constant time.

        :param presented: as received, None if there was none.
        :raises InvalidAPIKey: missing or wrong.
        """
        config, name = self._config(), _API_KEYS[kind]
        digest = _digest(presented or "")
        right = hmac.compare_digest(digest, _digest(getattr(config.auth, name)))
        if (previous := previous_of(config, f"auth.{name}")) is not None:
            # Compared whatever came of the first: the time it takes tells nothing.
            was_right = hmac.compare_digest(digest, _digest(previous[0]))
            if was_right and not right and self._clock() < previous[1]:
                self._metrics.previous_keys.labels(name).inc()
                return
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
            principal = self._valid(kind, token)
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
            fresh = self._valid(principal.kind, token)
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
        maker = self._openers[kind][0].key.codec
        return maker.encode(tokens.requested(kind, body, self._clock()))

    def _valid(self, kind: Kind, token: str | None) -> Principal:
        if not token:
            raise InvalidToken("a token is needed", reason="missing")
        digest = _digest(token)
        now = self._clock()
        openers = [opener for opener in self._openers[kind] if now < opener.key.until]
        principal = None
        for opener in openers:
            principal = opener.memory.get(kind, digest, now)
            if principal is not None:
                break
        self._metrics.cache.labels("token_memory", "miss" if principal is None else "hit").inc()
        if principal is None:
            opener, principal = self._open(kind, openers, token, digest)
        if opener.previous:
            self._metrics.previous_keys.labels(_TOKEN_KEYS[kind]).inc()
        return principal

    def _open(
        self, kind: Kind, openers: Sequence[_Opener], token: str, digest: bytes
    ) -> tuple[_Opener, Principal]:
        opener, content = _decode(openers, token)
        principal = tokens.read(kind, content)
        now = self._clock()
        if principal.expires_at <= now:
            raise InvalidToken("the token has expired", reason="expired")
        ttl = min(self._cache_seconds(kind), principal.expires_at - now, opener.key.until - now)
        opener.memory.put(kind, digest, principal, now + ttl)
        opener.key.cache.put(digest, content, ttl)
        return opener, principal

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


def _decode(openers: Sequence[_Opener], token: str) -> tuple[_Opener, bytes]:
    """Return which key opens a token, and its content.

    :raises InvalidToken: none does.
    """
    for opener in openers[:-1]:
        try:
            return opener, opener.key.codec.decode(token)
        except InvalidToken:
            continue
    return openers[-1], openers[-1].key.codec.decode(token)


def _check_path(principal: Principal, path: tuple[str, str] | None) -> None:
    if principal.kind == "user" and path != (principal.company_id, principal.agent_id):
        raise InvalidToken("the token is not for this path", reason="wrong_path")


def _check_same(principal: Principal, fresh: Principal) -> None:
    if replace(fresh, expires_at=principal.expires_at) != principal:
        raise InvalidToken("the token is not for this connection", reason="other_identity")
