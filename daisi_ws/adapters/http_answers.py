"""What HTTP clients are told: JSON answers, and one log line for each refusal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import msgspec
import structlog
from aiohttp import web

from daisi_ws.domain.bucket import Bucket, Verdict
from daisi_ws.domain.errors import BadRequest, RateLimitExceeded, Refusal
from daisi_ws.metrics import LIMITS

log = structlog.get_logger()

LOG_LINES_PER_SECOND = 10.0
LOG_LINES_AT_ONCE = 50
SERVER_NAME = "daisi-ws"


class Rejection(Exception):
    """A refusal whose HTTP status is not the one of its code.

    :param close: the TCP connection ends after the answer.
    """

    def __init__(
        self,
        refusal: Refusal,
        status: int,
        *,
        headers: Mapping[str, str] | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal
        self.status = status
        self.headers = headers or {}
        self.close = close


def not_found() -> Rejection:
    """Return the rejection of an unknown path."""
    return Rejection(BadRequest("there is nothing at this path", reason="unknown_path"), 404)


def wrong_method(allowed: str) -> Rejection:
    """Return the rejection of a method the path does not have.

    :param allowed: value of the `Allow` header (RFC 9110 section 10.2.1).
    """
    refusal = BadRequest(
        "wrong method for this path", details=f"use {allowed}", reason="wrong_method"
    )
    return Rejection(refusal, 405, headers={"Allow": allowed})


def json_answer(
    status: int, body: Mapping[str, object], headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return a JSON response that no cache keeps."""
    response = web.Response(
        status=status, body=msgspec.json.encode(body), content_type="application/json"
    )
    response.headers["Cache-Control"] = "no-store"
    response.headers.update(headers or {})
    return response


class Refusals:
    """Turns refusals into answers, with a log line for each unless there are too many.

    :param clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._bucket = Bucket(LOG_LINES_AT_ONCE, clock())
        self._suppressed = 0

    def answer(self, rejection: Rejection, remote: str | None, **context: object) -> web.Response:
        """Return the `{"code","message","details"?}` answer and log the refusal."""
        refusal = rejection.refusal
        headers = dict(rejection.headers)
        if isinstance(refusal, RateLimitExceeded):
            headers.setdefault("Retry-After", "1")
        response = json_answer(rejection.status, refusal.body(), headers)
        if rejection.close:
            response.force_close()
        self._log(rejection, remote, context)
        return response

    def _log(self, rejection: Rejection, remote: str | None, context: dict[str, object]) -> None:
        if rejection.refusal.reason in LIMITS:
            return  # its limit has a line of its own
        verdict = self._bucket.take(self._clock(), LOG_LINES_PER_SECOND, LOG_LINES_AT_ONCE)
        if verdict is not Verdict.ACCEPT:
            self._suppressed += 1
            return
        if self._suppressed:
            context["suppressed"] = self._suppressed
            self._suppressed = 0
        refusal = rejection.refusal
        log.info(
            "request refused",
            status=rejection.status,
            code=refusal.code,
            reason=refusal.reason,
            remote=remote,
            **context,
        )
