"""TLS between pods: credentials for both sides of a connection, from PEM files.

gRPC speaks TLS 1.2 and 1.3; older versions and choosing between the two its library does not offer.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography import x509

from daisi_ws.adapters.client_tls import no_passphrase
from daisi_ws.config import PeerTls


class BadCertificate(ValueError):
    """A PEM file cannot be read, is no PEM file, or key and certificate do not belong together; or
    the certificate does not name this pod.
    """


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

    def check(self, name: str = "") -> None:
        """Read everything once: gRPC itself would only say that a handshake failed.

        :param name: host name or IP address that peers connect to; empty if there are none.
        :raises BadCertificate: naming the file.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.cert_file, self.key_file, password=no_passphrase)
        except (OSError, ValueError) as error:
            raise BadCertificate(f"{self.cert_file} with {self.key_file}: {error}") from error
        try:
            if self.ca_file:
                context.load_verify_locations(self.ca_file)
        except (OSError, ValueError) as error:
            raise BadCertificate(f"{self.ca_file}: {error}") from error
        names = _names(self.cert_file)
        if name and not any(_matches(pattern, name) for pattern in names):
            raise BadCertificate(
                f"{self.cert_file} does not name {name}, which other pods connect to, but "
                f"{', '.join(names) or 'nobody'}: make one that does, or set server.advertise_host"
            )


def server_credentials(files: TlsFiles, name: str = "") -> grpc.ServerCredentials:
    """Return what the gRPC server presents and demands; new files are used from then on.

    :param name: see :meth:`TlsFiles.check`.
    :raises BadCertificate: a file is unusable.
    """
    return grpc.dynamic_ssl_server_credentials(
        _server_configuration(files, name),
        _Renewed(files, name),  # type: ignore[arg-type] # None is for no change
        require_client_authentication=files.mutual,
    )


class _Renewed:
    """Tells the library before each handshake whether the files are others than before.

    It asks from threads of its own.
    """

    def __init__(self, files: TlsFiles, name: str) -> None:
        self._files = files
        self._name = name
        self._seen = self._stamp()

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        try:
            stamp = self._stamp()
            if stamp == self._seen:
                return None
            renewed = _server_configuration(self._files, self._name)
        except (OSError, BadCertificate):
            return None  # the old ones stay in use; who looks at all certificates says why
        self._seen = stamp
        return renewed

    def _stamp(self) -> tuple[tuple[int, int, int], ...]:
        paths = filter(None, (self._files.cert_file, self._files.key_file, self._files.ca_file))
        found = (Path(path).stat() for path in paths)
        return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in found)


def _server_configuration(files: TlsFiles, name: str) -> grpc.ServerCertificateConfiguration:
    files.check(name)
    try:
        return grpc.ssl_server_certificate_configuration(
            [(_read(files.key_file), _read(files.cert_file))],
            root_certificates=_read(files.ca_file) if files.ca_file else None,
        )
    except OSError as error:
        raise BadCertificate(str(error)) from error


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


def _names(cert_file: str) -> list[str]:
    """Return whom a certificate names (RFC 6125): DNS names and IP addresses."""
    leaf = x509.load_pem_x509_certificates(_read(cert_file))[0]
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    dns = names.get_values_for_type(x509.DNSName)
    return [*dns, *map(str, names.get_values_for_type(x509.IPAddress))]


def _matches(pattern: str, name: str) -> bool:
    try:
        return ipaddress.ip_address(name) == ipaddress.ip_address(pattern)
    except ValueError:
        # A wildcard stands for one label.
        same_depth = pattern.count(".") == name.count(".")
        return same_depth and fnmatch.fnmatchcase(name.lower(), pattern.lower())
