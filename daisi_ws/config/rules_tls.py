"""Whether the files that the configuration names are there and are what they should be."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from daisi_ws.config.addresses import nats_tls, redis_tls
from daisi_ws.config.problems import Problem, quoted
from daisi_ws.config.schema import FIELDS, ClientTls, Config, HttpTls, PeerTls

if TYPE_CHECKING:
    from cryptography import x509

TlsSection: TypeAlias = HttpTls | PeerTls | ClientTls


def tls_problems(
    config: Config, origins: Mapping[str, str], refused: AbstractSet[str]
) -> Iterator[Problem]:
    """Every file that is missing, unreadable, or not what its key is for.

    Files of a section that is off are not looked at; an address may have switched it on.
    """
    sections: dict[str, TlsSection] = {
        "server.http_tls": config.server.http_tls,
        "server.grpc_tls": config.server.grpc_tls,
        "nats.tls": nats_tls(config.nats),
    }
    with suppress(ValueError):  # no address of Redis: that is another rule's problem
        sections["redis.tls"] = redis_tls(config.redis)
    for name, tls in sections.items():
        if tls.enabled and not any(key.startswith(f"{name}.") for key in refused):
            for leaf, wrong in wrong_files(tls).items():
                yield _problem(f"{name}.{leaf}", wrong, origins)
    for leaf in ("credentials_file", "nkey_seed_file"):
        path = getattr(config.nats, leaf)
        if path and (reason := _unreadable(path)):
            yield _problem(f"nats.{leaf}", reason, origins)


def wrong_files(tls: TlsSection) -> dict[str, str]:
    """What is wrong with the files of a section now, by the last part of the key."""
    wrong: dict[str, str] = {}
    if not isinstance(tls, ClientTls):
        mutual = isinstance(tls, PeerTls) and tls.mutual
        for leaf in ("cert_file", "key_file") + (("ca_file",) if mutual else ()):
            if not getattr(tls, leaf):
                wrong[leaf] = "is needed because TLS is enabled, and not set"
    elif bool(tls.cert_file) != bool(tls.key_file):
        wrong["key_file" if tls.cert_file else "cert_file"] = "is missing beside the other"
    for leaf in ("ca_file", "cert_file", "key_file"):
        path = getattr(tls, leaf, "")
        if path and (reason := _unreadable(path)):
            wrong[leaf] = reason
    return wrong or _not_pem(tls) or _not_valid_now(tls)


def ends_at(tls: TlsSection) -> float | None:
    """When our certificate of a section ends, as Unix time; None without one.

    The earliest end of its chain: with that the rest is worth nothing.

    :raises OSError: it cannot be read.
    :raises ValueError: it is no PEM certificate.
    """
    if not tls.cert_file:
        return None
    return min(c.not_valid_after_utc.timestamp() for c in _certificates(tls.cert_file))


def _problem(key: str, wrong: str, origins: Mapping[str, str]) -> Problem:
    return Problem(key, origins[key], wrong, FIELDS[key].right)


def _unreadable(path: str) -> str | None:
    if not Path(path).is_file():
        return f"{quoted(path, 200)} is not there, or not a file"
    if not os.access(path, os.R_OK):
        return f"{quoted(path, 200)} cannot be read by this user"
    return None


def _not_pem(tls: TlsSection) -> dict[str, str]:
    import ssl  # noqa: PLC0415 - most configurations do without, and loading is to be quick

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    wrong: dict[str, str] = {}
    if ca_file := getattr(tls, "ca_file", ""):
        try:
            context.load_verify_locations(ca_file)
        except (ssl.SSLError, OSError):
            wrong["ca_file"] = f"{quoted(ca_file, 200)} holds no PEM certificate"
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


def _not_valid_now(tls: TlsSection) -> dict[str, str]:
    """A certificate out of its time: every peer would refuse it, and say less."""
    if not tls.cert_file:
        return {}
    now = datetime.now(UTC)
    for certificate in _certificates(tls.cert_file):
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        name = f"{quoted(tls.cert_file, 200)} ({certificate.subject.rfc4514_string()})"
        if now > end:
            return {"cert_file": f"{name} has expired on {end:%Y-%m-%dT%H:%M:%SZ}: renew it"}
        if now < begin:
            why = "wait, or set the clock right"
            return {"cert_file": f"{name} is not valid before {begin:%Y-%m-%dT%H:%M:%SZ}: {why}"}
    return {}


def _certificates(path: str) -> list[x509.Certificate]:
    from cryptography import x509  # noqa: PLC0415 - as above

    return x509.load_pem_x509_certificates(Path(path).read_bytes())
