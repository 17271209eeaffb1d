"""What is known of a configuration key besides its type and default."""

from __future__ import annotations

import pytest

from daisi_ws.config import FIELDS, Server, without_userinfo

HOT = {
    "server.allowed_origins",
    "log.level",
    "app.session_ttl_seconds",
    "app.ttl_refresh_interval_seconds",
    "app.ping_interval_seconds",
    "app.pong_wait_seconds",
    "app.write_timeout_seconds",
    "app.websocket_message_buffer_size",
    "app.websocket_backpressure_drop_policy",
    "app.websocket_slow_client_latency_ms",
    "app.grpc_circuitbreaker_fail_threshold",
    "auth.secret_token",
    "auth.token_aes_key",
    "auth.token_aes_key_previous_until",
    "auth.token_cache_ttl_seconds",
    "adaptive_ttl.session_lock.min_seconds",
}
RESTART = {
    "server.http_port",
    "server.grpc_host",
    "server.workers",
    "server.grpc_tls.cert_file",
    "nats.url",
    "nats.stream_name",
    "nats.consumer_name",
    "nats.consumer_mode",
    "redis.address",
    "redis.password",
}


def test_reload_marks_are_those_that_operators_count_on() -> None:
    """Times, limits, policies, clients' keys are hot; addresses, names, logins and TLS are not."""
    assert {name for name in HOT | RESTART if FIELDS[name].key.hot} == HOT


def test_exactly_the_secrets_are_marked() -> None:
    """Every key that gives access is masked, and nothing else."""
    assert {name for name, field in FIELDS.items() if field.key.secret} == {
        "auth.secret_token",
        "auth.secret_token_previous",
        "auth.token_aes_key",
        "auth.token_aes_key_previous",
        "auth.admin_secret_token",
        "auth.admin_secret_token_previous",
        "auth.admin_token_aes_key",
        "auth.admin_token_aes_key_previous",
        "nats.password",
        "nats.token",
        "redis.password",
        "redis.sentinel_password",
    }


def test_field_properties_follow_from_the_name() -> None:
    """Section, last part and variable are derived from the dotted name."""
    field = FIELDS["server.grpc_tls.cert_file"]
    assert (field.section, field.leaf) == ("server.grpc_tls", "cert_file")
    assert field.environment == "DAISI_WS_SERVER_GRPC_TLS_CERT_FILE"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("nats://h:1", "nats://h:1"),
        ("nats://u:p@h:1", "nats://********@h:1"),
        ("nats://token@h", "nats://********@h"),
        ("nats://u:p@p@h", "nats://********@h"),
        ("nats://a,nats://u:p@b", "nats://a,nats://********@b"),
        ("u@h", "u@h"),
    ],
)
def test_logins_in_urls_are_masked(text: str, shown: str) -> None:
    """Nothing before the last @ of a URL is shown."""
    assert without_userinfo(text) == shown


def test_sections_compare_by_value() -> None:
    """Equal sections are equal, as a reload needs it."""
    assert Server() == Server()
    assert Server() != Server(http_port=1)
