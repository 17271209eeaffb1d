"""Addresses as the configuration writes them, taken apart."""

from __future__ import annotations

import pytest

from daisi_ws.config import RedisTarget, redis_target, testing_config


@pytest.mark.parametrize(
    ("values", "target"),
    [
        ({}, RedisTarget("127.0.0.1", 6379, 0, "", "", tls=False)),
        (
            {"redis__address": "cache:7000", "redis__db": 3, "redis__password": "p"},
            RedisTarget("cache", 7000, 3, "", "p", tls=False),
        ),
        (
            {"redis__address": "rediss://u%40x:p%2Fq@cache/5"},
            RedisTarget("cache", 6379, 5, "u@x", "p/q", tls=True),
        ),
        (
            {"redis__address": "redis://[::1]:7000", "redis__tls__enabled": True},
            RedisTarget("::1", 7000, 0, "", "", tls=True),
        ),
        (
            {"redis__address": "redis+sentinel://u:p@h1:1,[::1]/main/2"},
            RedisTarget(
                "h1",
                1,
                2,
                "u",
                "p",
                tls=False,
                kind="sentinel",
                others=(("::1", 26379),),
                service="main",
            ),
        ),
        (
            {"redis__address": "rediss+cluster://h1:1,h2"},
            RedisTarget("h1", 1, 0, "", "", tls=True, kind="cluster", others=(("h2", 6379),)),
        ),
    ],
)
def test_redis_is_found_from_address_and_keys(
    values: dict[str, object], target: RedisTarget
) -> None:
    """The URL wins over the other keys of the section; the defaults are Redis' own."""
    assert redis_target(testing_config(**values).redis) == target


def test_a_target_shows_no_password() -> None:
    """The repr is fit for a log line."""
    assert "pw123" not in repr(RedisTarget("h", 1, 0, "u", "pw123", tls=False))
