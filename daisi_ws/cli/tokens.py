"""Tokens from the configured keys, for commands that act as a client."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Final

import msgspec

from daisi_ws.adapters.token_codec_aesgcm import AesGcmTokenCodec
from daisi_ws.cli.options import refuse
from daisi_ws.config import Config, previous_of, value_of
from daisi_ws.domain.errors import BadRequest
from daisi_ws.domain.ids import ANY
from daisi_ws.domain.principal import Kind
from daisi_ws.domain.token import requested

KEYS: Final[Mapping[Kind, str]] = {
    "user": "auth.token_aes_key",
    "admin": "auth.admin_token_aes_key",
}

_STANDARD_INPUT: Final = "-"
_MOST_INPUT: Final = 16 * 1024


def codec_of(config: Config, kind: Kind) -> AesGcmTokenCodec:
    """Return the codec with the key that makes this kind of token."""
    return AesGcmTokenCodec(str(value_of(config, KEYS[kind])))


def openers_of(config: Config, kind: Kind) -> list[tuple[AesGcmTokenCodec, str, float]]:
    """Return the codecs that open this kind of token.

    :return: of each also the configuration key, and the Unix time in seconds until which it counts.
    """
    openers = [(codec_of(config, kind), KEYS[kind], inf)]
    if (previous := previous_of(config, KEYS[kind])) is not None:
        key, until = previous
        openers.append((AesGcmTokenCodec(key), f"{KEYS[kind]}_previous", until))
    return openers


def given_token(text: str) -> str:
    """Return a token as it was given on the command line; `-` stands for standard input."""
    if text == _STANDARD_INPUT:
        text = sys.stdin.buffer.read(_MOST_INPUT).decode(errors="replace")
    return text.strip()


def user_token(
    config: Config, company_id: str, agent_id: str, user_id: str, expires_in_seconds: float
) -> str:
    """Return a token of a user, or end the command (code 2) where the service would refuse it.

    :param expires_in_seconds: from now; rounded to whole seconds, one at least.
    """
    ids = {"company_id": company_id, "agent_id": agent_id, "user_id": user_id}
    return _token(config, "user", ids, expires_in_seconds)


@dataclass(frozen=True, slots=True)
class AdminScope:
    """What an admin may see; `*` means all."""

    subscribed_company: str = ANY
    subscribed_agent: str = ANY
    company_restriction: str = ANY


def admin_token(config: Config, admin_id: str, scope: AdminScope, expires_in_seconds: float) -> str:
    """Return a token of an admin; otherwise as :func:`user_token`."""
    ids = {
        "admin_id": admin_id,
        "subscribed_company_id": scope.subscribed_company,
        "subscribed_agent_id": scope.subscribed_agent,
        "company_id_restriction": scope.company_restriction,
    }
    return _token(config, "admin", ids, expires_in_seconds)


def _token(config: Config, kind: Kind, ids: dict[str, str], expires_in_seconds: float) -> str:
    life = max(round(expires_in_seconds), 1)
    request = msgspec.json.encode({**ids, "expires_in_seconds": life})
    try:
        content = requested(kind, request, time.time())
    except BadRequest as refusal:
        refuse(refusal.details or refusal.message)
    codec = codec_of(config, kind)
    token = codec.encode(content)
    while token.startswith("-"):  # a command line would take it for an option
        token = codec.encode(content)
    return token
