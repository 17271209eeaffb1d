"""TLS toward clients, with a certificate that can be replaced while connections are open."""

from __future__ import annotations

import ssl

from daisi_ws.adapters.client_tls import no_passphrase, set_minimum
from daisi_ws.config import HttpTls


class ServedTls:
    """The TLS of a listening socket.

    :ivar context: what the server listens with.
    :raises OSError: a file cannot be read, or holds no certificate or key.
    """

    def __init__(self, section: HttpTls) -> None:
        self._section = section
        self.context = _context(section)
        # Each handshake asks for the newest one. The context itself is never changed: one whose
        # files are replaced just then would have the new certificate with the old key.
        self.context.sni_callback = self._choose
        self._newest = self.context

    def renew(self) -> None:
        """Read the files again, for connections from now on.

        :raises OSError: see above; what was served goes on to be.
        """
        self._newest = _context(self._section)

    def _choose(self, connection: ssl.SSLObject, name: str, _: ssl.SSLContext) -> None:
        connection.context = self._newest


def _context(section: HttpTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    set_minimum(context, section)
    context.load_cert_chain(section.cert_file, section.key_file, password=no_passphrase)
    context.set_alpn_protocols(["http/1.1"])
    return context
