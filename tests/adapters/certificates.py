"""A certificate authority for tests, and what it signs."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from daisi_ws.adapters.grpc_tls import TlsFiles


class Authority:
    """A certificate authority whose files lie in one folder.

    :param name: of the authority, and of its file.
    """

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = self._sign(name, self._key, self._key, ca=True)
        self.ca_file = self._write(f"{name}.pem", _pem(self._certificate))

    def pod(self, name: str, address: str = "127.0.0.1", *, mutual: bool = True) -> TlsFiles:
        """Return the files of a pod whose certificate is good for an address."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(name, key, self._key, address=address)
        return TlsFiles(
            cert_file=self._write(f"{name}.pem", _pem(certificate)),
            key_file=self._write(f"{name}-key.pem", _key_pem(key)),
            ca_file=self.ca_file,
            mutual=mutual,
        )

    def _sign(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        by: ec.EllipticCurvePrivateKey,
        *,
        ca: bool = False,
        address: str = "",
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(self._name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if address:
            names = [x509.IPAddress(ipaddress.ip_address(address))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(by, hashes.SHA256())

    def _write(self, name: str, pem: bytes) -> str:
        path = self._folder / name
        path.write_bytes(pem)
        return str(path)


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> bytes:
    encryption = (
        serialization.BestAvailableEncryption(passphrase)
        if passphrase
        else serialization.NoEncryption()
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


def encrypted_key(path: Path) -> str:
    """Write a private key that is protected by a passphrase."""
    path.write_bytes(_key_pem(ec.generate_private_key(ec.SECP256R1()), b"secret"))
    return str(path)
