"""TLS toward the servers that we are clients of."""

from __future__ import annotations

import ssl

from daisi_ws.config import ClientTls


def client_context(tls: ClientTls) -> ssl.SSLContext | None:
    """Return what verifies the server and shows our certificate; None without TLS.

    :raises OSError: a file cannot be read, or holds no certificate or key.
    """
    if not tls.enabled:
        return None
    context = ssl.create_default_context(cafile=tls.ca_file or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.cert_file:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    return context
