"""Made-up events that look like real ones, for `publish` and `dev`."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Final

import msgspec

from daisi_ws.domain import subjects

KINDS: Final = ("chats", "messages", "agents")

_TEXTS: Final = (
    "Hi, is my order on its way?",
    "Yes, it left our warehouse this morning.",
    "Great, thank you!",
    "Can I still change the delivery address?",
    "Of course. Which one should it be?",
    "Könnten Sie mir die Rechnung noch einmal schicken? 🙂",
)
_NAMES: Final = ("Ana Souza", "Bruno Lima", "Chidi Okafor", "Dana Weiss", "Emi Tanaka")


def subject_of(kind: str, company_id: str, agent_id: str, chat_id: str | None) -> str:
    """Return the subject that an event of a kind is published to.

    :param kind: one of `KINDS`; `messages` need a chat.
    :raises ValueError: they have none.
    """
    if kind == "messages":
        if chat_id is None:
            raise ValueError("a message belongs to a chat")
        return subjects.thread(company_id, agent_id, chat_id)
    return f"{subjects.PREFIX}.{company_id}.{agent_id}.{kind}"


def made_up(
    kind: str, company_id: str, agent_id: str, chat_id: str | None, number: int
) -> dict[str, object]:
    """Return the `number`-th made-up event of a kind (EnrichedEventPayload)."""
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    row_id = secrets.token_hex(8)
    event: dict[str, object] = {
        "event_id": f"{row_id}:{kind}:{number}",
        "company_id": company_id,
        "agent_id": agent_id,
        "event_time": now,
    }
    row: dict[str, object]
    text, name = _TEXTS[number % len(_TEXTS)], _NAMES[number % len(_NAMES)]
    if kind == "messages":
        event |= {"message_id": f"msg-{row_id}", "chat_id": chat_id}
        row = {"id": f"msg-{row_id}", "chat_id": chat_id, "text": text, "from_me": number % 2 == 1}
    elif kind == "chats":
        chat = chat_id or f"chat-{number % 20}"
        event |= {"chat_id": chat}
        row = {"id": chat, "name": name, "last_message": text, "unread_count": number % 7}
    else:
        status = ("online", "busy", "away", "offline")[number % 4]
        row = {"id": agent_id, "name": name, "status": status, "open_chats": number % 12}
    return {**event, "row_data": {**row, "updated_at": now}}


def encode(event: dict[str, object]) -> bytes:
    """Return an event as JSON."""
    return msgspec.json.encode(event)
