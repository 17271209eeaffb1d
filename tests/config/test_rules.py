"""What the values of several keys must be to one another, and to this machine."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from daisi_ws.config import FIELDS, ConfigError, Problem, cautions, testing_config
from daisi_ws.config.rules import CHECKS
from daisi_ws.config.rules_order import ORDERS
from daisi_ws.embedded.authority import Authority


def problems(**values: object) -> list[Problem]:
    """What is wrong with the defaults and these values."""
    try:
        testing_config(**values)
    except ConfigError as error:
        return error.problems
    return []


@pytest.mark.parametrize(
    ("values", "key", "right"),
    [
        (
            {"app__ttl_refresh_interval_seconds": 30},
            "app.ttl_refresh_interval_seconds",
            "less than 30 s, or app.session_ttl_seconds more than 30 s",
        ),
        (
            {"app__ttl_refresh_interval_seconds": 20, "app__route_ttl_seconds": 20},
            "app.ttl_refresh_interval_seconds",
            "less than 20 s, or app.route_ttl_seconds more than 20 s",
        ),
        (
            {
                "adaptive_ttl__session_lock__enabled": True,
                "adaptive_ttl__session_lock__min_seconds": 5,
            },
            "app.ttl_refresh_interval_seconds",
            "less than 5 s, or adaptive_ttl.session_lock.min_seconds more than 10 s",
        ),
        (
            {"adaptive_ttl__message_route__min_seconds": 901},
            "adaptive_ttl.message_route.min_seconds",
            "at most 900 s, or adaptive_ttl.message_route.max_seconds at least 901 s",
        ),
        (
            {"app__pod_lease_refresh_seconds": 3.5},
            "app.pod_lease_refresh_seconds",
            "at most 3 s, or app.pod_lease_seconds at least 7 s",
        ),
        (
            {"app__ping_interval_seconds": 60},
            "app.ping_interval_seconds",
            "less than 60 s, or app.pong_wait_seconds more than 60 s",
        ),
        (
            {"app__shutdown_timeout_seconds": 10},
            "app.write_timeout_seconds",
            "at most 10 s, or app.shutdown_timeout_seconds at least 30 s",
        ),
        (
            {
                "app__websocket_backpressure_drop_policy": "block",
                "app__nats_ack_wait_seconds": 20,
            },
            "app.write_timeout_seconds",
            "at most 20 s, or app.nats_ack_wait_seconds at least 30 s",
        ),
        (
            {"app__session_lock_retry_delay_ms": 2500},
            "app.session_lock_retry_delay_ms",
            "less than 1500 ms, or app.session_takeover_seconds more than 2.5 s",
        ),
        (
            {"nats__max_outstanding": 5001},
            "nats.max_outstanding",
            "at most 5000, or app.nats_max_ack_pending at least 5001",
        ),
    ],
)
def test_values_in_the_wrong_order_say_what_would_be_right(
    values: dict[str, object], key: str, right: str
) -> None:
    """The problem names both keys and the bound of each."""
    assert [(problem.key, problem.right) for problem in problems(**values)] == [(key, right)]


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: f"{order.low}, {order.high}")
def test_every_order_is_about_keys_that_there_are(order: object) -> None:
    """A renamed key would silently switch its rule off."""
    assert getattr(order, "low") in FIELDS  # noqa: B009
    assert getattr(order, "high") in FIELDS  # noqa: B009


def test_every_check_is_about_keys_that_there_are() -> None:
    """A renamed key would silently switch its rule off."""
    assert all(key in FIELDS for keys, _ in CHECKS for key in keys)


def test_an_order_that_does_not_apply_is_left_out() -> None:
    """The session TTL does not matter while the adaptive one takes its place."""
    values: dict[str, object] = {"app__session_ttl_seconds": 9}
    assert problems(**values) != []
    assert problems(**values, adaptive_ttl__session_lock__enabled=True) == []


def test_one_mistake_is_one_problem() -> None:
    """A key that was refused already causes no contradiction on top."""
    found = problems(app__pong_wait_seconds=-1, auth__secret_token="short")
    assert [problem.key for problem in found] == ["auth.secret_token", "app.pong_wait_seconds"]


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"server__grpc_port": 8079, "server__workers": 2}, "server.grpc_port"),
        ({"server__grpc_port": 65_533, "server__workers": 2}, "server.grpc_port"),
        ({"server__metrics_port": 8080}, "server.metrics_port"),
        ({"server__metrics_port": 50_052, "server__workers": 1}, "server.metrics_port"),
        ({"server__advertise_host": "0.0.0.0"}, "server.advertise_host"),
        (
            {
                "app__websocket_compression_mode": "no_context_takeover",
                "server__max_message_bytes": 0,
            },
            "server.max_message_bytes",
        ),
        ({"nats__url": "http://h"}, "nats.url"),
        ({"nats__url": "nats://a:1,nope"}, "nats.url"),
        ({"nats__url": "nats://a:99999"}, "nats.url"),
        ({"nats__url": ""}, "nats.url"),
        ({"nats__url": "nats://a:1,ws://b:2"}, "nats.url"),
        ({"nats__token": "t", "nats__username": "u", "nats__password": "p"}, "nats.username"),
        ({"nats__username": "u"}, "nats.username"),
        ({"nats__url": "nats://a,nats://u:p@b", "nats__token": "t"}, "nats.url"),
        ({"nats__url": "nats://t@a", "nats__nkey_seed_file": __file__}, "nats.url"),
        ({"nats__dead_letter_subject": "websocket.dead"}, "nats.dead_letter_subject"),
        ({"nats__dead_letter_subject": "websocket"}, "nats.dead_letter_subject"),
        ({"nats__dead_letter_subject": "dead.*"}, "nats.dead_letter_subject"),
        ({"nats__credentials_file": "/nope.creds"}, "nats.credentials_file"),
        ({"redis__address": "h"}, "redis.address"),
        ({"redis__address": "h:x"}, "redis.address"),
        ({"redis__address": "h:0"}, "redis.address"),
        ({"redis__address": "http://h:1"}, "redis.address"),
        ({"redis__address": "redis://h:1/x"}, "redis.address"),
        ({"redis__address": "redis://h/1", "redis__db": 2}, "redis.address"),
        ({"redis__address": "redis://:p@h", "redis__password": "p"}, "redis.address"),
        ({"redis__address": "redis+cluster://h:1/2"}, "redis.address"),
        ({"redis__address": "redis+cluster://h:1", "redis__db": 2}, "redis.address"),
        ({"redis__address": "redis+sentinel://h:1"}, "redis.address"),
        ({"redis__address": "redis://h:1,i:1"}, "redis.address"),
        ({"auth__admin_secret_token": "user-api-key-for-tests"}, "auth.admin_secret_token"),
        ({"auth__admin_token_aes_key": "01" * 32}, "auth.admin_token_aes_key"),
    ],
)
def test_contradictions_are_found(values: dict[str, object], key: str) -> None:
    """Each is one problem, under the key that is most likely meant."""
    assert [problem.key for problem in problems(**values)] == [key]


@pytest.mark.parametrize(
    "values",
    [
        {"server__grpc_port": 8076, "server__workers": 2},
        {"server__grpc_port": 65_532, "server__workers": 2},
        {"server__grpc_port": 0, "server__http_port": 0},
        {"server__grpc_port": 0, "server__metrics_port": 7, "server__workers": 4},
        {"server__metrics_port": 50_053, "server__workers": 1},
        {"nats__url": "tls://u:p@a.b:4222, nats://[::1]:4222"},
        {"nats__url": "ws://a:1,wss://b:2"},
        {"nats__dead_letter_subject": "websocket_dead.letters"},
        {"nats__username": "u", "nats__password": "p"},
        {"redis__address": "rediss://u:p@h:1/3"},
        {"redis__address": "[::1]:6379"},
        {"redis__address": "redis+cluster://h:1,i", "nats__nkey_seed_file": __file__},
        {"redis__address": "rediss+sentinel://u:p@h:1,[::1]:2/main/3", "redis__db": 3},
        {"redis__address": "redis://h/2", "redis__db": 2},
        {"app__websocket_backpressure_drop_policy": "block"},
        {"app__websocket_compression_mode": "no_context_takeover"},
        {"server__max_message_bytes": 0},
    ],
)
def test_what_goes_together_is_let_through(values: dict[str, object]) -> None:
    """The rules refuse nothing that works."""
    assert problems(**values) == []


def test_equal_keys_are_found_whatever_their_case() -> None:
    """The same hexadecimal key in capitals is the same key."""
    values = {"auth__token_aes_key": "ab" * 32, "auth__admin_token_aes_key": "AB" * 32}
    assert [problem.key for problem in problems(**values)] == ["auth.admin_token_aes_key"]


@pytest.mark.parametrize(
    "origin",
    ["*", "https://app.example.com", "http://localhost:3000", "http://[::1]:80", "app+x://host"],
)
def test_good_origins_are_let_through(origin: str) -> None:
    """Scheme, host and maybe port, as browsers send them."""
    assert problems(server__allowed_origins=[origin]) == []


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "example.com",
        "https://a.b/",
        "https://a.b/x",
        "https://*.a.b",
        "https://u@a.b",
        "x:",
    ],
)
def test_bad_origins_are_named(origin: str) -> None:
    """What no browser sends, or would match too much, is refused."""
    (problem,) = problems(server__allowed_origins=["https://good.example", origin])
    assert repr(origin) in problem.wrong
    assert "good.example" not in problem.wrong


@pytest.mark.parametrize("network", ["10.0.0.0/8", "192.0.2.7", "fd00::/8", "::1", "0.0.0.0/0"])
def test_good_networks_are_let_through(network: str) -> None:
    """Networks and single addresses of both families."""
    assert problems(server__trusted_proxies=[network], server__proxy_protocol=True) == []


@pytest.mark.parametrize("network", ["", "10.0.0.1/8", "10.0.0.0/33", "proxy.example", "10.0.0"])
def test_bad_networks_are_named(network: str) -> None:
    """What is no network, or has bits set behind its prefix, is refused with the reason."""
    (problem,) = problems(server__trusted_proxies=["192.0.2.7", network])
    assert repr(network) in problem.wrong


def test_headers_of_proxies_need_somebody_to_believe() -> None:
    """The PROXY protocol without a trusted proxy would be of no use to anybody."""
    (problem,) = problems(server__proxy_protocol=True)
    assert problem.key == "server.trusted_proxies"


def test_a_header_before_tls_is_refused(tmp_path: Path) -> None:
    """Who ends TLS here cannot read what a proxy says before it."""
    certificate_file, key_file = certificate(tmp_path, "gateway")
    found = problems(
        server__trusted_proxies=["192.0.2.7"],
        server__proxy_protocol=True,
        server__http_tls__enabled=True,
        server__http_tls__cert_file=str(certificate_file),
        server__http_tls__key_file=str(key_file),
    )
    assert [problem.key for problem in found] == ["server.proxy_protocol"]


def certificate(folder: Path, name: str, password: bytes | None = None) -> tuple[Path, Path]:
    """A self-signed certificate and its key as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password)
    cert_file, key_file = folder / f"{name}.pem", folder / f"{name}-key.pem"
    cert_file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )
    return cert_file, key_file


def test_tls_between_pods_needs_its_files(tmp_path: Path) -> None:
    """Enabled TLS lists every file that is missing, and is content with a matching pair."""
    found = problems(server__grpc_tls__enabled=True)
    keys = ["server.grpc_tls.cert_file", "server.grpc_tls.key_file", "server.grpc_tls.ca_file"]
    assert [problem.key for problem in found] == keys
    found = problems(server__grpc_tls__enabled=True, server__grpc_tls__mutual=False)
    assert [problem.key for problem in found] == keys[:2]
    cert_file, key_file = certificate(tmp_path, "pod")
    good: dict[str, object] = {
        "server__grpc_tls__cert_file": str(cert_file),
        "server__grpc_tls__key_file": str(key_file),
        "server__grpc_tls__ca_file": str(cert_file),
    }
    assert problems(**good, server__grpc_tls__enabled=True) == []


def test_files_of_disabled_tls_are_not_looked_at() -> None:
    """Paths may be prepared before TLS is switched on."""
    assert problems(server__grpc_tls__cert_file="/nope") == []


@pytest.mark.parametrize(
    ("key", "address", "file"),
    [
        ("redis__address", "rediss://h", "redis.tls.ca_file"),
        ("redis__address", "rediss+sentinel://h/main", "redis.tls.ca_file"),
        ("nats__url", "nats://a,tls://b", "nats.tls.ca_file"),
        ("nats__url", "TLS://a", "nats.tls.ca_file"),
    ],
)
def test_files_of_tls_that_an_address_switches_on_are_looked_at(
    key: str, address: str, file: str
) -> None:
    """Else the worker would find out, and say no more than that there is no such file."""
    values: dict[str, object] = {file.replace(".", "__"): "/nope.pem"}
    assert problems(**values) == []
    assert [problem.key for problem in problems(**values, **{key: address})] == [file]


def test_files_that_do_not_belong_together_are_found(tmp_path: Path) -> None:
    """A foreign key, a key with passphrase, and a file that is no PEM each say so."""
    cert_file, _ = certificate(tmp_path, "one")
    _, foreign = certificate(tmp_path, "two")
    locked_cert, locked_key = certificate(tmp_path, "locked", b"passphrase")
    text = tmp_path / "text"
    text.write_text("no certificate")
    for cert, key in ((cert_file, foreign), (locked_cert, locked_key), (text, text)):
        found = problems(
            redis__tls__enabled=True, redis__tls__cert_file=str(cert), redis__tls__key_file=str(key)
        )
        assert [problem.key for problem in found] == ["redis.tls.cert_file"]
    found = problems(nats__tls__enabled=True, nats__tls__ca_file=str(text))
    assert [problem.key for problem in found] == ["nats.tls.ca_file"]
    found = problems(nats__tls__enabled=True, nats__tls__cert_file=str(cert_file))
    assert [problem.key for problem in found] == ["nats.tls.key_file"]
    found = problems(nats__tls__enabled=True, nats__tls__ca_file=str(tmp_path))
    assert "is not there, or not a file" in found[0].wrong


def test_certificates_out_of_their_time_are_problems(tmp_path: Path) -> None:
    """One line says which file, since or until when, and what to do."""
    authority, now = Authority(tmp_path), datetime.now(UTC)
    expired = authority.issue("expired", begins=now - timedelta(days=3), lasts=timedelta(days=1))
    early = authority.issue("early", begins=now + timedelta(days=3))
    for pair, said in ((expired, "has expired on"), (early, "is not valid before")):
        found = problems(
            server__http_tls__enabled=True,
            server__http_tls__cert_file=str(pair.cert_file),
            server__http_tls__key_file=str(pair.key_file),
        )
        assert [problem.key for problem in found] == ["server.http_tls.cert_file"]
        assert f"{pair.cert_file}" in found[0].wrong
        assert said in found[0].wrong


UNTIL = "2027-01-31T12:00:00+01:00"
OLD: dict[str, object] = {
    "auth__secret_token_previous": "the-key-before-this",
    "auth__secret_token_previous_until": UNTIL,
}


@pytest.mark.parametrize(
    ("values", "key", "wrong"),
    [
        (
            {"auth__secret_token_previous": "the-key-before-this"},
            "auth.secret_token_previous_until",
            "is missing beside auth.secret_token_previous",
        ),
        (
            {"auth__admin_token_aes_key_previous_until": UNTIL},
            "auth.admin_token_aes_key_previous",
            "is missing beside auth.admin_token_aes_key_previous_until",
        ),
        (
            {**OLD, "auth__secret_token_previous_until": "2027-01-31"},
            "auth.secret_token_previous_until",
            "not an RFC 3339 timestamp",
        ),
        (
            {**OLD, "auth__secret_token": "the-key-before-this"},
            "auth.secret_token_previous",
            "is the same as auth.secret_token",
        ),
        (
            {**OLD, "auth__admin_secret_token": "the-key-before-this"},
            "auth.admin_secret_token",
            "is the same as auth.secret_token_previous: users could act as admins",
        ),
        (
            {
                "auth__admin_token_aes_key_previous": "AB" * 32,
                "auth__admin_token_aes_key_previous_until": UNTIL,
                "auth__token_aes_key": "ab" * 32,
            },
            "auth.admin_token_aes_key_previous",
            "is the same as auth.token_aes_key: users could act as admins",
        ),
    ],
)
def test_a_previous_key_has_a_date_and_is_another(
    values: dict[str, object], key: str, wrong: str
) -> None:
    """The problem names the key and what it goes with, and shows none of them."""
    (problem,) = problems(**values)
    assert problem.key == key
    assert wrong in problem.wrong
    assert "the-key-before" not in str(problem)


@pytest.mark.parametrize(
    ("days", "wrong"), [(-0.1, "is over"), (0.1, None), (89, None), (100, "100 days away")]
)
def test_a_date_that_is_over_or_far_away_is_worth_a_word(days: float, wrong: str | None) -> None:
    """It can be used: a host starts after the date, too."""
    config = testing_config(**OLD)
    now = datetime.fromisoformat(UNTIL).timestamp() - days * 86_400
    found = list(cautions(config, dict.fromkeys(FIELDS, "default"), now))
    assert [problem.key for problem in found] == (
        ["auth.secret_token_previous_until"] if wrong else []
    )
    assert all(wrong and wrong in problem.wrong for problem in found)
    assert not list(cautions(testing_config(), {}, now))
