"""TLS between pods: credentials for both sides of a connection, from PEM files."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from daisi_ws.config import PeerTls


class BadCertificate(Exception):
    """A PEM file cannot be read, is no PEM file, or key and certificate do not belong together."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where a pod's certificate, key and authorities are.

    :param ca_file: authorities of the other pods' certificates; gRPC's own list when empty.
    :param mutual: as a server demand a certificate too, as a client present ours.
    """

    cert_file: str
    key_file: str
    ca_file: str
    mutual: bool

    @classmethod
    def from_config(cls, section: PeerTls) -> TlsFiles | None:
        """Return the files of `server.grpc_tls`, None where TLS is off."""
        if not section.enabled:
            return None
        return cls(section.cert_file, section.key_file, section.ca_file, section.mutual)

    def check(self) -> None:
        """Read everything once: gRPC itself would only say that a handshake failed.

        :raises BadCertificate: naming the file.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.cert_file, self.key_file, password=_no_passphrase)
        except (OSError, ValueError) as error:
            raise BadCertificate(f"{self.cert_file} with {self.key_file}: {error}") from error
        try:
            if self.ca_file:
                context.load_verify_locations(self.ca_file)
        except (OSError, ValueError) as error:
            raise BadCertificate(f"{self.ca_file}: {error}") from error


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Return what the gRPC server presents and demands.

    :raises BadCertificate: a file is unusable.
    """
    files.check()
    return grpc.ssl_server_credentials(
        [(_read(files.key_file), _read(files.cert_file))],
        root_certificates=_read(files.ca_file) if files.ca_file else None,
        require_client_auth=files.mutual,
    )


def channel_credentials(files: TlsFiles) -> grpc.ChannelCredentials:
    """Return what a channel to a peer presents and demands; files are read anew each time.

    The peer's certificate must name the host of the address that the peer tells (RFC 6125): the
    value of `server.advertise_host` as a DNS or IP subject alternative name.

    :raises BadCertificate: a file is unusable.
    """
    try:
        return grpc.ssl_channel_credentials(
            root_certificates=_read(files.ca_file) if files.ca_file else None,
            private_key=_read(files.key_file) if files.mutual else None,
            certificate_chain=_read(files.cert_file) if files.mutual else None,
        )
    except OSError as error:
        raise BadCertificate(str(error)) from error


def _read(path: str) -> bytes:
    return Path(path).read_bytes()


def _no_passphrase() -> str:
    # Without it OpenSSL asks on the terminal.
    raise ValueError("the key is protected by a passphrase")
