"""What is asked of keys that are replaced while clients still come with the ones before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet

from daisi_ws.config.problems import Problem, origin_of
from daisi_ws.config.schema import FIELDS, Config, value_of
from daisi_ws.domain import rfc3339

API_KEYS = ("auth.secret_token", "auth.admin_secret_token")
TOKEN_KEYS = ("auth.token_aes_key", "auth.admin_token_aes_key")

LONGEST_DAYS = 90
"""A previous key that is accepted for longer is worth a word."""


def previous_of(config: Config, key: str) -> tuple[str, float] | None:
    """The previous value of a key, and until when it is accepted (Unix time in seconds).

    :param key: dotted name of an API key or token key.
    """
    previous = str(value_of(config, f"{key}_previous"))
    if not previous:
        return None
    return previous, rfc3339.parse(str(value_of(config, f"{key}_previous_until")))


def key_problems(
    config: Config, origins: Mapping[str, str], refused: AbstractSet[str]
) -> Iterator[Problem]:
    """Every previous key without a date or of no use, and every key that users and admins share."""
    for key in (*API_KEYS, *TOKEN_KEYS):
        names = (f"{key}_previous", f"{key}_previous_until", key)
        if refused.isdisjoint(names):
            yield from _of_one(config, origins, *names)
    for user, admin in (API_KEYS, TOKEN_KEYS):
        yield from _shared(config, origins, refused, user, admin)


def cautions(config: Config, origins: Mapping[str, str], now: float) -> Iterator[Problem]:
    """What can be used, and should be looked at: previous keys that are over, or far from it.

    :param now: Unix time in seconds.
    """
    for key in (*API_KEYS, *TOKEN_KEYS):
        if (previous := previous_of(config, key)) is None:
            continue
        name = f"{key}_previous_until"
        days = (previous[1] - now) / 86_400
        if days <= 0:
            wrong, right = "is over: the previous key is refused", f"remove {key}_previous and this"
            yield Problem(name, origins[name], wrong, right)
        elif days > LONGEST_DAYS:
            wrong = f"is {days:.0f} days away, and so long a previous key opens the door"
            right = f"at most {LONGEST_DAYS} days, or as long as the longest token lives"
            yield Problem(name, origins[name], wrong, right)


def _of_one(
    config: Config, origins: Mapping[str, str], previous: str, until: str, key: str
) -> Iterator[Problem]:
    old, end = str(value_of(config, previous)), str(value_of(config, until))
    if bool(old) != bool(end):
        missing, given = (until, previous) if old else (previous, until)
        yield Problem(missing, origins[given], f"is missing beside {given}", "both, or none")
        return
    if old and old.lower() == str(value_of(config, key)).lower():
        wrong = f"is the same as {key}, which is accepted anyway"
        yield Problem(previous, origin_of((previous, key), origins), wrong, "another key, or none")
    try:
        rfc3339.parse(end or "2000-01-01T00:00:00Z")
    except ValueError as error:
        yield Problem(until, origins[until], str(error), f"{FIELDS[until].right}, with its offset")


def _shared(
    config: Config, origins: Mapping[str, str], refused: AbstractSet[str], user: str, admin: str
) -> Iterator[Problem]:
    for theirs in (admin, f"{admin}_previous"):
        for ours in (user, f"{user}_previous"):
            value = str(value_of(config, theirs)).lower()
            if not value or not refused.isdisjoint((theirs, ours)):
                continue
            if value == str(value_of(config, ours)).lower():
                wrong = f"is the same as {ours}: users could act as admins"
                where = origin_of((theirs, ours), origins)
                yield Problem(theirs, where, wrong, "different secrets")
