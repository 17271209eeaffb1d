"""Whether the files that the configuration names are there and are what they should be."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

from daisi_ws.config.problems import Problem, quoted
from daisi_ws.config.schema import FIELDS, ClientTls, Config, PeerTls


def tls_problems(
    config: Config, origins: Mapping[str, str], refused: AbstractSet[str]
) -> Iterator[Problem]:
    """Every file that is missing, unreadable, or not what its key is for.

    Files of a section whose ``enabled`` is false are not looked at.
    """
    sections: dict[str, PeerTls | ClientTls] = {
        "server.grpc_tls": config.server.grpc_tls,
        "nats.tls": config.nats.tls,
        "redis.tls": config.redis.tls,
    }
    for name, tls in sections.items():
        if tls.enabled and not any(key.startswith(f"{name}.") for key in refused):
            for leaf, wrong in _wrong_files(tls).items():
                yield _problem(f"{name}.{leaf}", wrong, origins)
    credentials = config.nats.credentials_file
    reason = _unreadable(credentials) if credentials else None
    if reason:
        yield _problem("nats.credentials_file", reason, origins)


def _problem(key: str, wrong: str, origins: Mapping[str, str]) -> Problem:
    return Problem(key, origins[key], wrong, FIELDS[key].right)


def _wrong_files(tls: PeerTls | ClientTls) -> dict[str, str]:
    """What is wrong by the last part of the key."""
    wrong: dict[str, str] = {}
    if isinstance(tls, PeerTls):
        for leaf in ("cert_file", "key_file") + (("ca_file",) if tls.mutual else ()):
            if not getattr(tls, leaf):
                wrong[leaf] = "is needed because TLS is enabled, and not set"
    elif bool(tls.cert_file) != bool(tls.key_file):
        wrong["key_file" if tls.cert_file else "cert_file"] = "is missing beside the other"
    for leaf in ("ca_file", "cert_file", "key_file"):
        path = getattr(tls, leaf)
        if path and (reason := _unreadable(path)):
            wrong[leaf] = reason
    return wrong or _not_pem(tls)


def _unreadable(path: str) -> str | None:
    if not Path(path).is_file():
        return f"{quoted(path, 200)} is not there, or not a file"
    if not os.access(path, os.R_OK):
        return f"{quoted(path, 200)} cannot be read by this user"
    return None


def _not_pem(tls: PeerTls | ClientTls) -> dict[str, str]:
    import ssl  # noqa: PLC0415 - most configurations do without, and loading is to be quick

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    wrong: dict[str, str] = {}
    if tls.ca_file:
        try:
            context.load_verify_locations(tls.ca_file)
        except (ssl.SSLError, OSError):
            wrong["ca_file"] = f"{quoted(tls.ca_file, 200)} holds no PEM certificate"
    if tls.cert_file:
        try:
            # The password keeps OpenSSL from asking the terminal for one.
            context.load_cert_chain(tls.cert_file, tls.key_file, password="")
        except (ssl.SSLError, OSError, ValueError):
            wrong["cert_file"] = (
                f"{quoted(tls.cert_file, 200)} and key_file are no PEM pair that belongs together, "
                "or the key has a passphrase"
            )
    return wrong
