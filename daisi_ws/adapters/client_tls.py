"""TLS toward the servers that we are clients of."""

from __future__ import annotations

import ssl
from typing import Final

from daisi_ws.config import ClientTls, HttpTls

_WHY: Final = {
    9: "its certificate is not valid yet: look at its clock and ours",
    10: "its certificate has expired: renew it there",
    18: "its certificate is signed by itself: name it, or its authority, in {section}.ca_file",
    19: "its authority is not in {section}.ca_file",
    20: "its authority is not in {section}.ca_file",
    62: "its certificate does not name the host that we connect to: use a name that it has",
    64: "its certificate does not name the address that we connect to: use a name that it has",
}
"""By OpenSSL's code (openssl-verification-options(1), X509_V_ERR_*): what it means here."""


def client_context(tls: ClientTls) -> ssl.SSLContext | None:
    """Return what verifies the server and shows our certificate; None without TLS.

    :raises OSError: a file cannot be read, or holds no certificate or key.
    """
    if not tls.enabled:
        return None
    context = ssl.create_default_context(cafile=tls.ca_file or None)
    set_minimum(context, tls)
    if tls.cert_file:
        context.load_cert_chain(tls.cert_file, tls.key_file, password=no_passphrase)
    return context


def set_minimum(context: ssl.SSLContext, tls: ClientTls | HttpTls) -> None:
    """Refuse versions of TLS below the configured one."""
    versions = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
    context.minimum_version = versions[tls.min_version]


def no_passphrase() -> str:
    """Be the passphrase of a key: without this OpenSSL asks on the terminal.

    :raises ValueError: always; it is called only for a key that needs one.
    """
    raise ValueError("the key is protected by a passphrase")


def why(error: BaseException, section: str) -> str:
    """Return what a failed handshake means for who runs this, empty if it was something else.

    :param section: of the configuration, such as `redis.tls`.
    """
    seen = set()
    while error.__cause__ or error.__context__:
        if isinstance(error, ssl.SSLError) or id(error) in seen:
            break
        seen.add(id(error))
        error = error.__cause__ or error.__context__ or error
    if isinstance(error, ssl.SSLCertVerificationError):
        meaning = _WHY.get(error.verify_code, error.verify_message)
        return f"the server is not trusted: {meaning.format(section=section)}"
    if isinstance(error, ssl.SSLError):
        if "CERTIFICATE_REQUIRED" in (error.reason or ""):
            return f"the server asks for a certificate: name ours in {section}.cert_file"
        return (
            f"the TLS handshake failed ({error.reason or error}): does the server speak TLS, and "
            f"does it trust {section}.cert_file?"
        )
    return ""
