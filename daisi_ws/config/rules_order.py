"""Which of two keys must be the smaller one, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet

import msgspec

from daisi_ws.config.keys import number_text
from daisi_ws.config.problems import Problem, origin_of
from daisi_ws.config.schema import FIELDS, Config, value_of


class Order(msgspec.Struct, frozen=True):
    """``low * factor`` must be below ``high`` (or equal to it, with ``equal``)."""

    low: str
    high: str
    why: str
    factor: float = 1
    equal: bool = False
    only_if: Callable[[Config], bool] = lambda _: True


ORDERS = (
    Order(
        "app.ttl_refresh_interval_seconds",
        "app.session_ttl_seconds",
        "a session lock must be renewed before it expires",
        only_if=lambda c: not c.adaptive_ttl.session_lock.enabled,
    ),
    Order(
        "app.ttl_refresh_interval_seconds",
        "adaptive_ttl.session_lock.min_seconds",
        "a session lock must be renewed before it expires",
        only_if=lambda c: c.adaptive_ttl.session_lock.enabled,
    ),
    Order(
        "app.ttl_refresh_interval_seconds",
        "app.route_ttl_seconds",
        "a route must be renewed before it expires",
    ),
    Order(
        "app.ttl_refresh_interval_seconds",
        "adaptive_ttl.message_route.min_seconds",
        "a route must be renewed before it expires",
        only_if=lambda c: c.adaptive_ttl.message_route.enabled,
    ),
    Order(
        "adaptive_ttl.session_lock.min_seconds",
        "adaptive_ttl.session_lock.max_seconds",
        "the range would be empty",
        equal=True,
    ),
    Order(
        "adaptive_ttl.message_route.min_seconds",
        "adaptive_ttl.message_route.max_seconds",
        "the range would be empty",
        equal=True,
    ),
    Order(
        "app.pod_lease_refresh_seconds",
        "app.pod_lease_seconds",
        "one lost renewal must not end the lease",
        factor=2,
        equal=True,
    ),
    Order(
        "app.ping_interval_seconds",
        "app.pong_wait_seconds",
        "a client must be pinged before its silence counts as death",
    ),
    Order(
        "app.write_timeout_seconds",
        "app.shutdown_timeout_seconds",
        "a drain must outlast the last write",
        equal=True,
    ),
    Order(
        "app.write_timeout_seconds",
        "app.nats_ack_wait_seconds",
        "NATS would deliver again what waits for room in a client's buffer",
        equal=True,
        only_if=lambda c: c.app.websocket_backpressure_drop_policy == "block",
    ),
    Order(
        "app.grpc_client_forward_timeout_seconds",
        "app.nats_ack_wait_seconds",
        "NATS would deliver again what is still being forwarded",
    ),
    Order(
        "app.websocket_slow_client_latency_ms",
        "app.websocket_slow_client_disconnect_threshold_ms",
        "a client must be slow before it is closed for it",
    ),
    Order(
        "app.session_lock_retry_delay_ms",
        "app.session_takeover_seconds",
        "a lock must be tried more than once before it is taken by force",
        factor=0.001,
    ),
    Order(
        "app.barrier_timeout_seconds",
        "app.connect_timeout_seconds",
        "the barrier is a part of connecting",
    ),
    Order(
        "app.session_takeover_seconds",
        "app.connect_timeout_seconds",
        "the takeover of a session is a part of connecting",
    ),
    Order(
        "nats.max_outstanding",
        "app.nats_max_ack_pending",
        "NATS delivers no more than may be unacknowledged",
        equal=True,
    ),
    Order(
        "nats.priority_timeout_seconds",
        "app.nats_ack_wait_seconds",
        "the next reading pod must be found before events are delivered again",
        only_if=lambda c: c.nats.consumer_mode == "ordered",
    ),
)


def out_of_order(
    config: Config, origins: Mapping[str, str], refused: AbstractSet[str]
) -> Iterator[Problem]:
    """Every pair of keys whose values are the wrong way round.

    :param origins: where the value of each dotted key comes from.
    :param refused: keys already found wrong; pairs with one of them are left out.
    """
    for order in ORDERS:
        if not refused.isdisjoint((order.low, order.high)) or not order.only_if(config):
            continue
        if _is_broken(config, order):
            low, high = _number(config, order.low), _number(config, order.high)
            yield _problem(order, low, high, origins)


def entangled(config: Config) -> set[str]:
    """The keys of all pairs that are the wrong way round."""
    broken = (order for order in ORDERS if order.only_if(config) and _is_broken(config, order))
    return {key for order in broken for key in (order.low, order.high)}


def _is_broken(config: Config, order: Order) -> bool:
    low, high = _number(config, order.low) * order.factor, _number(config, order.high)
    return low > high or (low == high and not order.equal)


def _problem(order: Order, low: float, high: float, origins: Mapping[str, str]) -> Problem:
    fewer, more = ("at most", "at least") if order.equal else ("less than", "more than")
    wrong = (
        f"{_amount(order.low, low)} with {order.high} = {_amount(order.high, high)}: {order.why}"
    )
    right = (
        f"{fewer} {_amount(order.low, high / order.factor)}, "
        f"or {order.high} {more} {_amount(order.high, low * order.factor)}"
    )
    return Problem(order.low, origin_of((order.low, order.high), origins), wrong, right)


def _amount(key: str, number: float) -> str:
    unit = {"seconds": " s", "milliseconds": " ms"}.get(FIELDS[key].key.unit, "")
    return f"{number_text(round(number, 6))}{unit}"


def _number(config: Config, key: str) -> float:
    value = value_of(config, key)
    if not isinstance(value, (int, float)):
        raise TypeError(f"{key} is no number")
    return value
