"""What of a new configuration applies at once, key by key."""

from __future__ import annotations

import pytest

from daisi_ws.config import FIELDS, kept_by, restored, settle, testing_config, value_of, values_of
from tests.config.examples import another

KEYS = [name for name, field in FIELDS.items() if another(field) is not None]


@pytest.mark.parametrize("key", KEYS)
def test_every_key_is_hot_or_waits_for_a_restart(key: str) -> None:
    """A hot key has its new value at once, any other keeps the old one and is named."""
    running = testing_config()
    new = another(FIELDS[key])
    settled = settle(running, restored({**values_of(running), key: new}))
    if FIELDS[key].key.hot:
        assert (settled.hot, settled.waits) == ([key], [])
        assert value_of(settled.config, key) == new
    else:
        assert (settled.hot, settled.waits) == ([], [key])
        assert settled.config == running


def test_what_waits_is_named_as_long_as_it_waits() -> None:
    """Also by a later reload that changes something else; not once the file has the old value."""
    running = testing_config()
    first = settle(running, testing_config(redis__db=3))
    second = settle(first.config, testing_config(redis__db=3, app__ping_interval_seconds=7))
    third = settle(second.config, testing_config(app__ping_interval_seconds=7))
    assert [s.waits for s in (first, second, third)] == [["redis.db"], ["redis.db"], []]
    assert [s.hot for s in (first, second, third)] == [[], ["app.ping_interval_seconds"], []]


def test_a_hot_key_waits_with_one_that_it_would_contradict() -> None:
    """What runs keeps all rules: a deadline does not pass one that only a restart moves."""
    wanted = testing_config(
        app__nats_ack_wait_seconds=100,
        app__grpc_client_forward_timeout_seconds=50,
        app__ping_interval_seconds=7,
    )
    settled = settle(testing_config(), wanted)
    assert settled.hot == ["app.ping_interval_seconds"]
    assert settled.waits == [
        "app.nats_ack_wait_seconds",
        "app.grpc_client_forward_timeout_seconds",
    ]
    assert settled.config.app.grpc_client_forward_timeout_seconds == 5
    after_restart = settle(wanted, wanted)
    assert (after_restart.hot, after_restart.waits) == ([], [])


def test_what_the_supervisor_runs_with_outlives_a_rolling_restart() -> None:
    """A worker that is born after the change has new values, but not of those keys."""
    started = values_of(testing_config(server__http_port=81, server__max_header_bytes=2000))
    changed = testing_config(server__http_port=82, server__max_header_bytes=3000)
    kept = kept_by(changed, started)
    assert (kept.server.http_port, kept.server.max_header_bytes) == (81, 3000)
    assert settle(kept, changed).waits == ["server.http_port"]
    assert {field.reload for name, field in FIELDS.items() if name in ("server.http_port",)} == {
        "full restart"
    }


def test_a_configuration_is_restored_from_plain_values() -> None:
    """Also by code that knows a key more than the one that made them."""
    config = testing_config(server__allowed_origins=("https://a.b",), redis__db=3)
    values = values_of(config)
    assert restored(values) == config
    del values["redis.db"]
    assert restored(values).redis.db == 0
