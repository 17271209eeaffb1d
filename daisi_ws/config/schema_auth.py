"""Configuration of API keys, token keys and token caches."""

from __future__ import annotations

from typing import Annotated

from daisi_ws.config.keys import Key, Section, count, seconds

_API_KEY = r"[!-~]{16,}"
_PRINTABLE = "at least 16 printable characters without blanks"
_AES_KEY = r"[0-9A-Fa-f]{64}"
_RANDOM = "64 hex characters (32 random bytes)"
_SUFFIX = "_previous"


def _api_key(about: str) -> Key:
    return Key(about, hot=True, secret=True, pattern=_API_KEY, expects=_PRINTABLE)


def _token_key(about: str) -> Key:
    return Key(about, hot=True, secret=True, pattern=_AES_KEY, expects=_RANDOM)


def _previous(key: str, pattern: str, expects: str) -> Key:
    about = f"Another value of {key}, accepted as well until {key}{_SUFFIX}_until."
    return Key(about, hot=True, secret=True, pattern=f"({pattern})?", expects=expects)


def _until(key: str) -> Key:
    return Key(
        f"When {key}{_SUFFIX} ends to be accepted.",
        hot=True,
        expects="a time of RFC 3339",
        example="2027-01-31T12:00:00Z",
    )


class Auth(Section, frozen=True, kw_only=True):
    """API keys, token keys and token caches. The four secrets must be given and must differ."""

    secret_token: Annotated[
        str, _api_key("API key (X-API-Key) of user connections and POST /generate-token.")
    ]
    secret_token_previous: Annotated[str, _previous("secret_token", _API_KEY, _PRINTABLE)] = ""
    secret_token_previous_until: Annotated[str, _until("secret_token")] = ""
    token_aes_key: Annotated[str, _token_key("AES-256 key of users' tokens.")]
    token_aes_key_previous: Annotated[str, _previous("token_aes_key", _AES_KEY, _RANDOM)] = ""
    token_aes_key_previous_until: Annotated[str, _until("token_aes_key")] = ""
    admin_secret_token: Annotated[
        str, _api_key("API key (X-API-Key) of admin connections and POST /admin/generate-token.")
    ]
    admin_secret_token_previous: Annotated[
        str, _previous("admin_secret_token", _API_KEY, _PRINTABLE)
    ] = ""
    admin_secret_token_previous_until: Annotated[str, _until("admin_secret_token")] = ""
    admin_token_aes_key: Annotated[str, _token_key("AES-256 key of admins' tokens.")]
    admin_token_aes_key_previous: Annotated[
        str, _previous("admin_token_aes_key", _AES_KEY, _RANDOM)
    ] = ""
    admin_token_aes_key_previous_until: Annotated[str, _until("admin_token_aes_key")] = ""
    token_cache_ttl_seconds: Annotated[
        float,
        seconds("How long a decrypted user token is remembered, never past its expiry.", 1, 3600),
    ] = 30
    admin_token_cache_ttl_seconds: Annotated[
        float,
        seconds("How long a decrypted admin token is remembered, never past its expiry.", 1, 3600),
    ] = 60
    token_cache_size: Annotated[
        int,
        count("Tokens remembered in each worker's memory.", "tokens", 1, 10_000_000, hot=False),
    ] = 10_000
