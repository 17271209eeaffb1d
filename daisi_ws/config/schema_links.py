"""Configuration of the connections to NATS and Redis, and of TLS."""

from __future__ import annotations

from typing import Annotated, Literal

from daisi_ws.config.keys import Key, Section, count, milliseconds, seconds

_TOKENS = r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*"
_NAME = r"[A-Za-z0-9_-]{1,128}"


_VERSION = Key("Oldest version of TLS that is spoken.", expects="1.2 or 1.3, in quotes")


class ClientTls(Section, frozen=True, kw_only=True):
    """TLS toward a server that we are a client of."""

    enabled: Annotated[bool, Key("Encrypt the connection and verify the server.")] = False
    ca_file: Annotated[
        str,
        Key(
            "PEM file of the authorities the server's certificate is verified with; "
            "the system's when empty.",
            expects="the path of a readable PEM file",
            example="/etc/daisi-ws/ca.pem",
        ),
    ] = ""
    cert_file: Annotated[
        str,
        Key(
            "PEM file of our own certificate, where the server asks for one.",
            expects="the path of a readable PEM file, together with key_file",
        ),
    ] = ""
    key_file: Annotated[
        str,
        Key(
            "PEM file of the private key of cert_file, without passphrase.",
            expects="the path of a readable PEM file, together with cert_file",
        ),
    ] = ""
    min_version: Annotated[Literal["1.2", "1.3"], _VERSION] = "1.2"


class HttpTls(Section, frozen=True, kw_only=True):
    """TLS toward clients: wss:// and https:// without a proxy."""

    enabled: Annotated[bool, Key("Speak TLS, and nothing else, on server.http_port.")] = False
    cert_file: Annotated[
        str,
        Key(
            "PEM file of the certificate that clients see, chain included. A new one is taken for "
            "new connections within seconds.",
            expects="the path of a readable PEM file",
            example="/etc/daisi-ws/tls.pem",
        ),
    ] = ""
    key_file: Annotated[
        str,
        Key(
            "PEM file of the private key of cert_file, without passphrase.",
            expects="the path of a readable PEM file",
            example="/etc/daisi-ws/tls-key.pem",
        ),
    ] = ""
    min_version: Annotated[Literal["1.2", "1.3"], _VERSION] = "1.2"


class PeerTls(Section, frozen=True, kw_only=True):
    """TLS between pods, used as server and as client."""

    enabled: Annotated[bool, Key("Encrypt the connections between pods.")] = False
    cert_file: Annotated[
        str,
        Key(
            "PEM file of this pod's certificate, chain included.",
            expects="the path of a readable PEM file",
            example="/etc/daisi-ws/pod.pem",
        ),
    ] = ""
    key_file: Annotated[
        str,
        Key(
            "PEM file of the private key of cert_file, without passphrase.",
            expects="the path of a readable PEM file",
            example="/etc/daisi-ws/pod-key.pem",
        ),
    ] = ""
    ca_file: Annotated[
        str,
        Key(
            "PEM file of the authorities that the other pods' certificates are verified with.",
            expects="the path of a readable PEM file",
            example="/etc/daisi-ws/ca.pem",
        ),
    ] = ""
    mutual: Annotated[
        bool, Key("Demand a certificate from the connecting pod too (mTLS); needs ca_file.")
    ] = True


class Nats(Section, frozen=True, kw_only=True):
    """The connection to NATS JetStream, where the events come from."""

    url: Annotated[
        str,
        Key(
            "Servers to connect to; several are separated by commas.",
            expects="nats://host:port or tls://host:port, several separated by commas",
        ),
    ] = "nats://127.0.0.1:4222"
    username: Annotated[str, Key("User name, where the server asks for one.")] = ""
    password: Annotated[str, Key("Password of username.", secret=True)] = ""
    token: Annotated[
        str, Key("Authentication token, instead of username and password.", secret=True)
    ] = ""
    credentials_file: Annotated[
        str,
        Key(
            "Credentials file (.creds) with user JWT and seed, instead of the others.",
            expects="the path of a readable .creds file",
        ),
    ] = ""
    nkey_seed_file: Annotated[
        str,
        Key(
            "File with the seed of a user NKey (SU…), instead of the others.",
            expects="the path of a readable file with one user seed",
        ),
    ] = ""
    tls: ClientTls = ClientTls()
    stream_name: Annotated[
        str,
        Key(
            "JetStream stream that carries the events.",
            pattern=_NAME,
            expects="1 to 128 letters, digits, _ or -",
        ),
    ] = "wa_stream"
    create_stream: Annotated[
        bool | None,
        Key(
            "Make the stream when it is missing. null lets the command decide: yes for "
            "`daisi-ws dev` and `--embedded`, otherwise no."
        ),
    ] = None
    stream_replicas: Annotated[
        int,
        Key(
            "Servers of a NATS cluster that have a copy of the stream, where we make it.",
            unit="servers",
            low=1,
            high=5,
        ),
    ] = 1
    consumer_name: Annotated[
        str,
        Key(
            "Durable consumer that all pods share.",
            pattern=_NAME,
            expects="1 to 128 letters, digits, _ or -",
        ),
    ] = "ws_fanout"
    consumer_mode: Annotated[
        Literal["ordered", "shared"],
        Key(
            "ordered: one pod at a time reads the stream, every client sees stream order (needs "
            "NATS 2.11 or newer). shared: every pod reads a part; order is not promised."
        ),
    ] = "ordered"
    priority_timeout_seconds: Annotated[
        float,
        seconds(
            "In ordered mode: silence of the reading pod after which another takes over.",
            0.5,
            60,
            hot=False,
        ),
    ] = 2
    ping_interval_seconds: Annotated[
        float,
        seconds(
            "Between two pings to the server; a frozen server is noticed after about three.",
            0.1,
            120,
            hot=False,
        ),
    ] = 5
    max_outstanding: Annotated[
        int,
        count(
            "Messages asked for at once and not yet received, for each reading pod.",
            "messages",
            1,
            100_000,
            hot=False,
        ),
    ] = 2000
    forward_queue_events: Annotated[
        int,
        count(
            "Events that may wait for one other pod; reading stops while a queue is full.",
            "events",
            100,
            10_000_000,
            hot=False,
        ),
    ] = 20_000
    dead_letter_subject: Annotated[
        str,
        Key(
            "Messages that are not events are published under this subject with the reason.",
            pattern=_TOKENS,
            expects="a subject without wildcards that does not begin with websocket.",
        ),
    ] = "dead_letter.websocket"
    retry_on_failed_connect: Annotated[
        bool,
        Key("Wait for NATS and Redis when they are away at the start; false: end with an error."),
    ] = True


class Redis(Section, frozen=True, kw_only=True):
    """The connection to Redis, which knows who is where."""

    address: Annotated[
        str,
        Key(
            "Where Redis listens: one server, Sentinels and what they call it, or nodes of a Redis "
            "Cluster. With rediss instead of redis: TLS, to Sentinels too.",
            expects="host:port, redis://host:port/db, redis+sentinel://host:port,host:port/name/db "
            "or redis+cluster://host:port,host:port",
        ),
    ] = "127.0.0.1:6379"
    username: Annotated[str, Key("ACL user; empty for the default user.")] = ""
    password: Annotated[str, Key("Password of the user.", secret=True)] = ""
    sentinel_username: Annotated[str, Key("ACL user at the Sentinels, if they ask for one.")] = ""
    sentinel_password: Annotated[
        str, Key("Password at the Sentinels; redis.password is the server's.", secret=True)
    ] = ""
    db: Annotated[int, Key("Number of the database.", low=0, high=65_535)] = 0
    tls: ClientTls = ClientTls()
    timeout_ms: Annotated[
        int,
        milliseconds(
            "Longest time one command may take before Redis counts as away.", 10, 60_000, hot=False
        ),
    ] = 500
