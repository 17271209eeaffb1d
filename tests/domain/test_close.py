"""The table of reasons to end a connection."""

from __future__ import annotations

import pytest

from daisi_ws.domain.close import CloseReason


@pytest.mark.parametrize("reason", CloseReason)
def test_codes_may_be_sent_and_texts_fit(reason: CloseReason) -> None:
    """Codes are those an endpoint may send, but for the one that means "none came"."""
    # RFC 6455 section 7.4: 1005, 1006 and 1015 never travel; 4000-4999 are private.
    assert reason.code in {1000, 1001, 1002, 1007, 1009, 1011, 1013, *range(4400, 4430)} or (
        reason is CloseReason.ABNORMAL
    )
    assert reason.text.isascii()
    assert 0 < len(reason.text) <= 123
    assert reason.label == reason.name.lower()


def test_labels_are_distinct() -> None:
    """Reasons that share a code are still told apart."""
    assert len({reason.label for reason in CloseReason}) == len(list(CloseReason))
