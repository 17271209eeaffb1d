"""Certificates of tests: an authority, and what pods get from it."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from daisi_ws.adapters.grpc_tls import TlsFiles
from daisi_ws.embedded import authority


class Authority(authority.Authority):
    """A certificate authority whose files lie in one folder."""

    @property
    def ca_file(self) -> str:
        """What trusts everything that it signs."""
        return str(self.pair.cert_file)

    def pod(self, name: str, address: str = "127.0.0.1", *, mutual: bool = True) -> TlsFiles:
        """Return the files of a pod whose certificate is good for an address."""
        pair = self.issue(name, [address])
        return TlsFiles(str(pair.cert_file), str(pair.key_file), self.ca_file, mutual)


def encrypted_key(path: Path) -> str:
    """Write a private key that is protected by a passphrase."""
    path.write_bytes(authority.key_pem(ec.generate_private_key(ec.SECP256R1()), b"secret"))
    return str(path)
