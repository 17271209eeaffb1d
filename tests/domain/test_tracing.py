"""Request IDs with a W3C trace context behind them."""

from __future__ import annotations

import pytest

from daisi_ws.domain.tracing import parted, traceparent_of, with_traceparent

GOOD = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        (GOOD, GOOD),
        ("cc" + GOOD[2:], "cc" + GOOD[2:]),
        ("cc" + GOOD[2:] + "-more", "cc" + GOOD[2:]),
        (GOOD + "-more", ""),
        ("cc" + GOOD[2:] + "more", ""),
        ("ff" + GOOD[2:], ""),
        (GOOD.upper(), ""),
        ("00-" + "0" * 32 + "-00f067aa0ba902b7-01", ""),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01", ""),
        (GOOD[:-1], ""),
        (GOOD + "\n", ""),
        ("", ""),
    ],
)
def test_a_traceparent_is_taken_as_the_standard_says(text: str, taken: str) -> None:
    """Invalid ones are as good as none; of later versions the known fields are kept."""
    assert traceparent_of(text) == taken
    assert parted(with_traceparent("r1", text)) == ("r1", taken)


@pytest.mark.parametrize("request_id", ["r1", "wa_stream-7", "two words", "", f"{GOOD} r1", "é "])
def test_a_request_id_comes_back_as_it_was(request_id: str) -> None:
    """Alone, or with a trace context."""
    assert parted(request_id) == (request_id, "")
    assert parted(with_traceparent(request_id, GOOD)) == (request_id, GOOD)
