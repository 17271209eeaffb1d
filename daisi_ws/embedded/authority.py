"""A certificate authority for trying TLS out and for tests, not for production.

::

    python -m daisi_ws.embedded.authority FOLDER --host gateway.example --host 10.0.3.17

makes `ca.pem`, and of it `server.pem` and `client.pem`, each with its `…-key.pem`. Run again, it
keeps the authority and renews the two others: what runs takes them without a restart.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOCAL: Final = ("localhost", "127.0.0.1", "::1")
_EARLY: Final = timedelta(minutes=5)
_CA_DAYS: Final = 3650


@dataclass(frozen=True, slots=True)
class Pair:
    """Paths of a certificate and of its key."""

    cert_file: Path
    key_file: Path


class Authority:
    """An authority whose files lie in one folder: found there, or made.

    :param name: of the authority, and of its files.
    """

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._name = name
        self.pair = Pair(folder / f"{name}.pem", folder / f"{name}-key.pem")
        if self.pair.key_file.exists():
            key = serialization.load_pem_private_key(self.pair.key_file.read_bytes(), None)
            assert isinstance(key, ec.EllipticCurvePrivateKey), f"{self.pair.key_file}: not ours"
            self._key = key
            self._certificate = x509.load_pem_x509_certificate(self.pair.cert_file.read_bytes())
        else:
            folder.mkdir(parents=True, exist_ok=True)
            self._key = ec.generate_private_key(ec.SECP256R1())
            subject = _name(name)
            builder = _builder(subject, subject, self._key, timedelta(days=_CA_DAYS))
            usage = _usage(ca=True)
            builder = builder.add_extension(usage, critical=True).add_extension(
                x509.BasicConstraints(ca=True, path_length=0), critical=True
            )
            self._certificate = builder.sign(self._key, hashes.SHA256())
            _write(self.pair, self._certificate, self._key)

    def issue(
        self,
        name: str,
        hosts: Sequence[str] = LOCAL,
        *,
        lasts: timedelta = timedelta(days=30),
        begins: datetime | None = None,
    ) -> Pair:
        """Make a certificate, good as a server's and as a client's; one of that name is replaced.

        :param hosts: host names and IP addresses that it names.
        :param begins: None: a few minutes ago.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = (
            _builder(_name(name), self._certificate.subject, key, lasts, begins)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(both), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if hosts:
            names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}-key.pem")
        _write(pair, builder.sign(self._key, hashes.SHA256()), key)
        return pair


def key_pem(key: ec.EllipticCurvePrivateKey, passphrase: bytes = b"") -> bytes:
    """Return a private key as PEM, protected if there is a passphrase."""
    encryption = (
        serialization.BestAvailableEncryption(passphrase)
        if passphrase
        else serialization.NoEncryption()
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


def main(arguments: Sequence[str]) -> None:
    """Make the files, and say what they are called."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--host", action="append", default=[], help="a name the server has too")
    parser.add_argument("--days", type=float, default=30.0, help="how long they are good (30)")
    given = parser.parse_args(arguments)
    authority = Authority(given.folder)
    said = [f"authority {authority.pair.cert_file}"]
    for name in ("server", "client"):
        hosts = (*LOCAL, *given.host)
        pair = authority.issue(name, hosts, lasts=timedelta(days=given.days))
        said.append(f"{name:9} {pair.cert_file} {pair.key_file}")
    sys.stdout.write("\n".join(said) + "\n")


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    lasts: timedelta,
    begins: datetime | None = None,
) -> x509.CertificateBuilder:
    begins = begins or datetime.now(UTC) - _EARLY
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + _EARLY + lasts)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(pair: Pair, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    """Put both in place whole; for a moment the new certificate has the old key beside it."""
    new_key, new_cert = pair.key_file.with_suffix(".new"), pair.cert_file.with_suffix(".new")
    with os.fdopen(os.open(new_key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(key_pem(key))
    new_cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    new_cert.replace(pair.cert_file)
    new_key.replace(pair.key_file)


if __name__ == "__main__":
    main(sys.argv[1:])
