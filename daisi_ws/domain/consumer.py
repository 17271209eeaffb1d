"""What the durable consumer must look like, and what an acknowledgement subject tells."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from daisi_ws.domain.subjects import FILTER

Mode = Literal["ordered", "shared"]

GROUP: Final = "reader"
_SECOND_NS: Final = 1_000_000_000

_TOLD: Final = r"\.([0-9]{1,19})\.([0-9]{1,19})\.[0-9]{1,19}\.([0-9]{1,19})\.([0-9]{1,19})"
_ACK = re.compile(r"\$JS\.ACK\.[^.]*\.[^.]*" + _TOLD)
_LONG_ACK = re.compile(r"(?s)\$JS\.ACK\.[^.]*\.[^.]*\.[^.]*\.[^.]*" + _TOLD + r"(?:\..*)?")

_SHAPE: Final = (
    "deliver_subject",
    "deliver_group",
    "ack_policy",
    "filter_subject",
    "filter_subjects",
    "priority_policy",
    "priority_groups",
)
"""Fields that make a consumer another kind of thing; the rest can be updated in place."""


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    """The consumer as configured; times in seconds."""

    name: str
    mode: Mode
    ack_wait: float
    max_ack_pending: int
    priority_timeout: float


def wanted_config(settings: ConsumerSettings, start_after: int | None) -> dict[str, object]:
    """Return the consumer's configuration for the JetStream API.

    :param start_after: sequence after which to begin when it is made anew; None: with what comes
        from now on.
    """
    config: dict[str, object] = {
        "durable_name": settings.name,
        "name": settings.name,
        "filter_subject": FILTER,
        "deliver_policy": "new",
        "ack_wait": int(settings.ack_wait * _SECOND_NS),
        "max_ack_pending": settings.max_ack_pending,
        "max_deliver": -1,
        "replay_policy": "instant",
        "max_waiting": 2048,
    }
    if start_after is not None:
        config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": start_after + 1}
    if settings.mode == "shared":
        return config | {"ack_policy": "explicit"}
    return config | {
        "ack_policy": "all",
        "priority_policy": "pinned_client",
        "priority_groups": [GROUP],
        "priority_timeout": int(settings.priority_timeout * _SECOND_NS),
    }


def shape(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a consumer's configuration that make its kind."""
    return {name: config[name] for name in _SHAPE if config.get(name)}


def is_bindable_push(config: Mapping[str, Any], mode: Mode) -> bool:
    """Tell whether it is a push consumer with a group that shared mode joins as it is."""
    return bool(
        mode == "shared"
        and config.get("deliver_subject")
        and config.get("deliver_group")
        and config.get("ack_policy") == "explicit"
    )


def needs_update(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Tell whether something that can be changed in place differs."""
    return any(
        name in wanted and found.get(name) != wanted[name]
        for name in ("ack_wait", "max_ack_pending", "priority_timeout")
    )


class AckSubject(msgspec.Struct, frozen=True, gc=False):
    """What the reply subject of a delivered message tells.

    :param pending: how many more the consumer has to deliver.
    """

    delivered: int
    seq: int
    stored_ns: int
    pending: int


def parse_ack_subject(reply: str) -> AckSubject | None:
    """Parse `$JS.ACK.…`: nine tokens, or eleven and more with domain and account; None if not one.

    Source: https://docs.nats.io/reference/reference-protocols/nats_api_reference, acknowledging.
    """
    told = _ACK.fullmatch(reply) or _LONG_ACK.fullmatch(reply)
    if told is None:
        return None
    delivered, seq, stored_ns, pending = told.groups()
    return AckSubject(int(delivered), int(seq), int(stored_ns), int(pending))
