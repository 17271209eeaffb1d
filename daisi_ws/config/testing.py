"""A configuration for tests and examples, without file or environment."""

from __future__ import annotations

from daisi_ws.config.environment import read_flags
from daisi_ws.config.load import build
from daisi_ws.config.schema import Config

_SECRETS: dict[str, object] = {
    "auth.secret_token": "user-api-key-for-tests",
    "auth.token_aes_key": "01" * 32,
    "auth.admin_secret_token": "admin-api-key-for-tests",
    "auth.admin_token_aes_key": "02" * 32,
}


def testing_config(**overrides: object) -> Config:
    """The defaults with fixed secrets and the given values.

    :param overrides: values by key, the dots written as two underscores:
        ``testing_config(server__http_port=0, app__session_ttl_seconds=1.5)``.
    :raises ConfigError: the values do not go together.
    :raises KeyError: there is no such key.
    """
    values = {name.replace("__", "."): value for name, value in overrides.items()}
    return build([read_flags(_SECRETS), read_flags(values)]).config


# Pytest collects functions whose name begins with "test".
testing_config.__test__ = False  # type: ignore[attr-defined]
