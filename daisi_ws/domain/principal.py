"""Who is connected: users and admins are one `Principal` with a scope."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from daisi_ws.domain import subjects
from daisi_ws.domain.ids import ANY

Kind = Literal["user", "admin"]


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated identity and what it may see.

    :param kind: which endpoint, key and token kind it came through.
    :param identity: the unique name of its session: `{company}:{agent}:{user}` or
        `admin:{admin_id}`.
    :param subject: the interest it has from the start: the chat list of a user, the admin
        pattern of an admin; empty if its scope is empty (a restriction that contradicts the
        subscription), so that nothing is ever delivered.
    :param expires_at: when its token ends, Unix time in seconds.
    """

    kind: Kind
    identity: str
    company_id: str
    agent_id: str
    principal_id: str
    subject: str
    expires_at: float

    @property
    def session_key(self) -> str:
        """Return the Redis key of the session lock."""
        return f"session:{self.identity}"

    @property
    def kill_channel(self) -> str:
        """Return the pub/sub channel on which this identity's sessions are told to go."""
        return f"session_kill:{self.identity}"

    def thread(self, chat_id: str) -> str | None:
        """Return the subject of a chat of this principal, None for who has no threads."""
        if self.kind != "user":
            return None
        return subjects.thread(self.company_id, self.agent_id, chat_id)


def user(company_id: str, agent_id: str, user_id: str, expires_at: float) -> Principal:
    """Make the principal of a user token; ids are checked by the caller."""
    return Principal(
        kind="user",
        identity=f"{company_id}:{agent_id}:{user_id}",
        company_id=company_id,
        agent_id=agent_id,
        principal_id=user_id,
        subject=subjects.chats(company_id, agent_id),
        expires_at=expires_at,
    )


def admin(
    admin_id: str,
    expires_at: float,
    subscribed_company: str = ANY,
    subscribed_agent: str = ANY,
    company_restriction: str = ANY,
) -> Principal:
    """Make the principal of an admin token.

    The restriction narrows the subscription: what is seen is their intersection.
    """
    company = subscribed_company if company_restriction == ANY else company_restriction
    contradiction = ANY not in (subscribed_company, company_restriction) and (
        subscribed_company != company_restriction
    )
    return Principal(
        kind="admin",
        identity=f"admin:{admin_id}",
        company_id=company,
        agent_id=subscribed_agent,
        principal_id=admin_id,
        subject="" if contradiction else subjects.admin_pattern(company, subscribed_agent),
        expires_at=expires_at,
    )
