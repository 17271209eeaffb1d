"""The verdict: computed from the accounts, as a table, as JSON."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from tests.chaos.account import (
    ENDLESS,
    GENERATION,
    Account,
    Gap,
    Judgement,
    Verdict,
    expected,
    judge,
)
from tests.chaos.faults import CATALOGUE
from tests.chaos.leaks import Remains
from tests.chaos.meter import STOOD_STILL_SECONDS, percentile
from tests.chaos.nemesis import Band
from tests.chaos.stage import Stage
from tests.chaos.traffic import SLOW

_AFTERMATH: Final = 12.0
"""Seconds after a fault in which it still explains that something is late."""
_SHOWN: Final = 12

_STREAM: Final = {"stream_recreated"}
_NATS: Final = {"nats_restarted", "nats_frozen", "nats_cut_from_host", "consumer_deleted"}
_MANY: Final = {
    "clients_cut", "worker_killed", "reader_killed", "host_gone", "supervisor_killed",
    "rolling_restart", "worker_stopped", "reader_stopped",
}  # fmt: skip
_STOPPED: Final = {"worker_stopped", "reader_stopped"}
_MAX_EVENTS: Final = 1000
_MAX_AGE: Final = 300.0


@dataclass
class Outcome:
    """Everything that a run showed."""

    seed: int
    minutes: float
    verdict: Verdict = field(default_factory=Verdict)
    wanted: int = 0
    delivered: int = 0
    dropped_told: int = 0
    gaps: dict[str, int] = field(default_factory=dict)
    gaps_filled: int = 0
    unexplained: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    late: int = 0
    late_unexplained: int = 0
    stood_still: int = 0
    latency: dict[str, float] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)
    faults: list[Band] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    remains: Remains = field(default_factory=Remains)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Tell whether nothing is wrong."""
        return (
            self.verdict == Verdict()
            and not self.unexplained
            and not self.problems
            and not self.remains.problems
            and self.wanted > 0
        )

    def as_json(self) -> dict[str, Any]:
        """Return it for a file."""
        return {"passed": self.passed, **asdict(self)}


def assess(outcome: Outcome, on: Stage, bands: list[Band]) -> None:
    """Judge every client, and explain every gap."""
    outcome.faults = bands
    ledger = on.traffic.ledger
    for watcher in on.crowd.watchers:
        account = watcher.account
        judgement = judge(account, ledger.by_group)
        outcome.verdict += judgement.verdict
        outcome.wanted += judgement.wanted
        outcome.dropped_told += judgement.excused
        outcome.delivered += sum(
            len(s.own) + sum(map(len, s.threads.values())) for s in account.stretches
        )
        if judgement.verdict != Verdict():
            outcome.wrong += _describe(account, judgement, on, bands)
        for gap in account.gaps:
            outcome.gaps[gap.reason] = outcome.gaps.get(gap.reason, 0) + 1
            outcome.gaps_filled += gap.filled
            if not (gap.filled or _explained(account, gap, on, bands)):
                missed = expected(account, ledger.by_group, gap.after, gap.upto)
                at, away = gap.at - on.meter.began, _since(gap)
                outcome.unexplained.append(
                    f"{account.name}: {gap.reason} at {at:.1f} s, {missed} events"
                    f" after {away:.1f} s away; {_near(gap.at, on, bands)}"
                )
    _figures(outcome, on, bands)


def _explained(account: Account, gap: Gap, on: Stage, bands: list[Band]) -> bool:
    """Tell whether the faults justify that a client was told of a gap."""
    at = gap.at - on.meter.began
    missed = expected(account, on.traffic.ledger.by_group, gap.after, gap.upto)
    still = on.meter.stood_still(at - _AFTERMATH, at)
    large = account.scope.company == SLOW[0]
    explanations = {
        "dropped": large or _active(bands, at, _STOPPED | _MANY | _NATS),
        "other_stream": _active(bands, at, _STREAM),
        "future": _active(bands, at, _STREAM),
        "purged": _active(bands, at, _STREAM),
        "too_many": missed > _MAX_EVENTS,
        "too_large": large,
        # A pod whose clock is wrong by more than that takes everything for too old.
        "too_old": _since(gap) > _MAX_AGE or _active(bands, at, {"clock_stepped"}),
        "unavailable": still or _active(bands, at, _NATS),
        "busy": still or large or _active(bands, at, _MANY | _NATS),
    }
    return explanations.get(gap.reason, False)


def _since(gap: Gap) -> float:
    return gap.at - gap.since if gap.since else 0.0


def _active(bands: list[Band], at: float, names: set[str]) -> bool:
    return any(b.name in names and b.began <= at <= b.recovered + _AFTERMATH for b in bands)


def _near(at: float, on: Stage, bands: list[Band]) -> str:
    """Name the faults around a moment (monotonic seconds)."""
    when = at - on.meter.began
    names = [
        f"{b.name} at {b.began:.1f}-{b.ended:.1f} s"
        for b in bands
        if b.began - 1 <= when <= (b.recovered or b.ended) + _AFTERMATH
    ]
    return "near " + ", ".join(names) if names else "near no fault"


def _describe(account: Account, judgement: Judgement, on: Stage, bands: list[Band]) -> list[str]:
    """Return lines about what was wrong with one client."""
    at = on.traffic.ledger.at
    chats = {seq: chat for s in account.stretches for chat, got in s.threads.items() for seq in got}
    of_chats = {*judgement.lost_of, *(chats.get(s, "") for _, s in judgement.foreign)}
    lines = []
    for what, seqs in (
        ("lost", judgement.lost),
        ("doubled", judgement.doubled),
        ("out of order", [seq for _, _, seq in judgement.disordered]),
        ("foreign", [seq for _, seq in judgement.foreign]),
    ):
        if seqs:
            when = at.get(seqs[0], on.meter.began)
            shown = ", ".join(str(seq % GENERATION) for seq in seqs[:5])
            if what == "out of order":
                shown = ", ".join(f"{s} after {t} {c}" for c, t, s in judgement.disordered[:5])
            lines.append(
                f"{account.name} ({'positions' if account.positions else 'plain'}): {what}"
                f" {len(seqs)}: {shown}; first offered at {when - on.meter.began:.2f} s,"
                f" {_near(when, on, bands)}; connections {_lives(account, on)}"
                f" {_chosen(account, of_chats)}"
            )
    return lines


def _chosen(account: Account, chats: set[str]) -> str:
    """Return when these chats were looked at."""
    made = [
        f"{c.chat} on {c.number} after {c.after % GENERATION}"
        f" sure {c.sure if c.sure < ENDLESS else '-'} until {c.until if c.until < ENDLESS else '-'}"
        for c in account.choices[-12:]
    ]
    return f"; of chats {sorted(chats)}: {'; '.join(made)}" if any(chats) else ""


def _lives(account: Account, on: Stage) -> str:
    began = on.meter.began
    return "; ".join(
        f"{s.pod} {s.began - began:.1f}-{s.ended - began if s.ended else 0:.1f} s"
        f" after {s.after % GENERATION} top {s.top % GENERATION}"
        f" {'' if s.recovered is None else 'recovered' if s.recovered else s.reason} {s.code or ''}"
        for s in account.stretches[-4:]
    )


def _figures(outcome: Outcome, on: Stage, bands: list[Band]) -> None:
    meter, crowd, counts = on.meter, on.crowd, on.traffic.counts
    outcome.late = len(meter.slow)
    outcome.late_unexplained = sum(
        not any(b.began - 1 <= offered <= b.recovered + _AFTERMATH for b in bands)
        for offered, _ in meter.slow
    )
    buckets = meter.overall()
    outcome.latency = {f"p{100 * s:g}": percentile(buckets, s) for s in (0.5, 0.9, 0.99, 0.999)}
    outcome.stood_still = sum(s.lag > STOOD_STILL_SECONDS for s in meter.seconds.values())
    outcome.latency["max"] = max((s.slowest for s in meter.seconds.values()), default=0.0)
    outcome.counts = {
        **asdict(counts), "clients": len(crowd.watchers), "cuts": crowd.cuts,
        "choices": crowd.choices,
        "connections": sum(len(w.account.stretches) for w in crowd.watchers),
        "held_back": sum(w.client.position.duplicates for w in crowd.watchers if w.client.position),
    }  # fmt: skip
    outcome.told = {
        k: dict(v) if isinstance(v, Counter) else v for k, v in vars(crowd.told).items()
    }
    outcome.problems += on.problems
    outcome.problems += [f"{b.name} at {b.began:.1f} s: {b.problem}" for b in bands if b.problem]
    if counts.doubled:
        outcome.problems.append(f"the stream stored {counts.doubled} duplicates")
    outcome.problems += [f"sent away for good: {who}" for who in crowd.told.ended]


def table(outcome: Outcome) -> str:
    """Return the outcome as lines for a terminal."""
    lines = ["", f"{'fault':24}{'times':>6}{'ready after, s':>18}   expected"]
    lines.append(f"{'':24}{'':>6}{'median':>10}{'worst':>8}")
    for name in sorted({b.name for b in outcome.faults}):
        made = [b for b in outcome.faults if b.name == name]
        after = [b.recovery for b in made]
        lines.append(
            f"{name:24}{len(made):6}{statistics.median(after):10.1f}{max(after):8.1f}"
            f"   {CATALOGUE[name].expect}"
        )
    lines += [f"{name:24}{'-':>6}{'':18}   skipped: {why}" for name, why in outcome.skipped.items()]
    lines += ["", *_summary(outcome), ""]
    for title, found in (
        ("wrong", outcome.wrong),
        ("gaps without an explanation", outcome.unexplained),
        ("problems", outcome.problems),
        ("left behind", outcome.remains.problems),
        ("tracebacks in logs", outcome.remains.tracebacks),
    ):
        if found:
            lines += [f"{title} ({len(found)}):", *(f"  {x}" for x in found[:_SHOWN]), ""]
    lines.append(f"{'PASSED' if outcome.passed else 'FAILED'}  seed {outcome.seed}")
    return "\n".join(lines)


def _summary(outcome: Outcome) -> list[str]:
    verdict, counts, told, lat = outcome.verdict, outcome.counts, outcome.told, outcome.latency
    left = outcome.remains
    rows = {
        "faults": f"{len(outcome.faults)} in {outcome.minutes:.1f} minutes",
        "events": f"{counts['events']} published, {counts['duplicates']} again under the same ID,"
        f" {counts['poison']} poisonous, {counts['retries']} tries more",
        "clients": f"{counts['clients']}, {counts['connections']} connections,"
        f" {counts['choices']} chats chosen, {counts['cuts']} cut off one by one",
        "deliveries": f"{outcome.delivered}, {outcome.wanted} demanded",
        "verdict": f"{verdict.lost} lost, {verdict.doubled} doubled,"
        f" {verdict.disordered} out of order, {verdict.foreign} foreign",
        "resumed": f"{told['recovered']} times, {told['replayed']} events replayed,"
        f" {counts['held_back']} held back by clients; {told['reconnect_hints']} hints to move",
        "gaps told": f"{outcome.gaps}, {outcome.gaps_filled} given again later,"
        f" {outcome.dropped_told} events not, {len(outcome.unexplained)} without an explanation",
        "latency": f"p50 {1000 * lat['p50']:.1f} ms, p90 {1000 * lat['p90']:.1f} ms,"
        f" p99 {lat['p99']:.2f} s, p99.9 {lat['p99.9']:.2f} s, max {lat['max']:.1f} s;"
        f" {outcome.late} later than 2 s, {outcome.late_unexplained} near no fault;"
        f" the machine itself stood still in {outcome.stood_still} seconds",
        "closes": f"{told['closes']}, dials failed {told['dials_failed']}, errors {told['errors']}",
        "left behind": f"fresh {_sizes(left.fresh)}, at the end {_sizes(left.left)},"
        f" {left.tasks_fresh:g} and {left.tasks_left:g} tasks, keys {left.keys}",
    }
    return [f"{name:13}{said}" for name, said in rows.items()]


def _sizes(processes: list[Any]) -> str:
    if not processes:
        return "not looked at"
    files = [p.descriptors for p in processes]
    weight = [p.megabytes for p in processes]
    return f"{min(files)}-{max(files)} files {min(weight):.0f}-{max(weight):.0f} MB"
