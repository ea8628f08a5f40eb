"""The main job on real input, from an empty stack to checked claims."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import IO, Any
from zoneinfo import ZoneInfo

import asyncpg
from rich.console import Console

from tokenomics_chassis.clock import SystemClock
from tokenomics_chassis.postgres import Schemas, session
from tokenomics_chassis.state_hash import state_hash
from tokenomics_cli.kafka import read_events
from tokenomics_cli.output import usd
from tokenomics_contracts.events.quota import ThresholdCrossed
from tokenomics_quota.storage.state import DERIVED_TABLES, NOT_DERIVED
from tokenomics_tools.demo.claims import Claims
from tokenomics_tools.demo.commands import Commands, finish
from tokenomics_tools.demo.expected import Expected, add_up, answer_at, person_near
from tokenomics_tools.demo.guidance import Guidance
from tokenomics_tools.demo.reader import QuotaReader, wait_for
from tokenomics_tools.simulator import (
    ATTRIBUTION,
    LEGACY_SOURCE,
    SOURCE,
    Simulation,
    SimulationFiles,
    cost_micro_usd,
    simulate,
    write_simulation,
)
from tokenomics_tools.stack import Issuer, Stack, StackError
from tokenomics_tools.stack.probes import run_async
from tokenomics_tools.stack.services import QuotaProcesses, quota_processes

DIRECTORY_TOPIC = "tokenomics.directory.v1"
POLICY_TOPIC = "tokenomics.policy.v1"
QUOTA_TOPIC = "tokenomics.quota.v1"
USAGE_TOPIC = "tokenomics.usage.v1"

_CATCH_UP_SECONDS = 60
_SETTLE_SECONDS = 20
_WHOLE_SECONDS = 180
_SLICES = 200
_SLICE_SECONDS = 0.1
_POISON_AGE = timedelta(days=90)
_SHARES_BASIS_POINTS = (5_000, 7_500, 9_500, 10_500)
_NEAR_BASIS_POINTS = 1_000
_TICKET = ("--ticket", "DEMO-1")
_WHY = ("--reason", "demo", *_TICKET)
_REBUILD = "demo"


@dataclass(frozen=True)
class Size:
    """How much the demo does."""

    people: int = 500
    teams: int = 40
    bots: int = 5
    events: int = 40_000
    seed: int = 1


def run_demo(stack: Stack, size: Size, console: Console) -> bool:
    """Run quota on a simulated month on an empty stack, print each claim, and say whether every one held.

    Raises
    ------
    StackError
        A process or a command failed outright; the message says which, and why.
    """
    claims = Claims(console, SystemClock())
    console.print(f"stack: Kafka {stack.kafka.bootstrap}, logs and data in {stack.folder}")
    folder = stack.folder / "demo"
    simulation = simulate(
        now=SystemClock().now(),
        seed=size.seed,
        people=size.people,
        teams=size.teams,
        bots=size.bots,
        events=size.events,
    )
    files = write_simulation(simulation, folder)
    console.print(
        f"input: {len(simulation.usage):,} calls, sizes and arrivals from {simulation.trace.path.name} "
        f"({len(simulation.trace.requests):,} real requests)\n       {ATTRIBUTION}"
    )
    database_url = stack.new_database("quota")
    with (
        quota_processes(stack, database_url) as quota,
        QuotaReader(quota.address, stack.issuer) as reader,
    ):
        console.print(f"quota: server {quota.address}, projector, announcer and relay")
        demo = Demo(
            quota=quota,
            commands=Commands(stack, quota.address, folder),
            reader=reader,
            claims=claims,
            simulation=simulation,
            files=files,
            issuer=stack.issuer,
        )
        demo.run(stack.kafka.bootstrap, database_url)
    claims.check_time("the demo ends by itself within 3 minutes after set-up", within_seconds=_WHOLE_SECONDS)
    console.print(claims.summary())
    return claims.all_held


class Demo:
    """The steps of the demo, each leaving claims."""

    def __init__(
        self,
        *,
        quota: QuotaProcesses,
        commands: Commands,
        reader: QuotaReader,
        claims: Claims,
        simulation: Simulation,
        files: SimulationFiles,
        issuer: Issuer,
    ) -> None:
        self._quota = quota
        self._commands = commands
        self._reader = reader
        self._claims = claims
        self._simulation = simulation
        self._files = files
        self._zone = ZoneInfo(simulation.time_zone)
        self._period = self._period_of(datetime.fromisoformat(simulation.usage[-1]["time"]))
        self._expected: Expected = add_up(simulation, self._period)
        self._guidance = Guidance(
            address=quota.address,
            issuer=issuer,
            commands=commands,
            claims=claims,
            simulation=simulation,
            expected=self._expected,
            folder=files.usage.parent,
        )

    def run(self, bootstrap: str, database_url: str) -> None:
        """Run every step."""
        self._publish()
        self._stream()
        self._compare_totals("every account equals an independent sum")
        self._rebuild_under_traffic(database_url)
        self._ask_for_people()
        self._count_thresholds(bootstrap)
        self._mend_a_poisoned_event(database_url)
        self._guide()

    def _guide(self) -> None:
        """Hold, lease and grant: the person who has used everything, and one who has not."""
        blocked, free = (
            person_near(self._simulation, self._expected, self._period, share) for share in (10_500, 5_000)
        )
        self._guidance.lift_a_block(blocked)
        self._guidance.draw_from_a_lease(free)
        self._guidance.spend_the_last_dollar(free)

    def _rebuild_under_traffic(self, database_url: str) -> None:
        """Send the month again while the state is filled anew; exchange the two versions and back."""
        self._claims.announce("sending the same month again while a rebuild fills the next version beside it")
        sending = self._commands.start("emit", str(self._files.usage), "--source", SOURCE, "--from-start")
        _, rebuilt = self._commands.run("ops", "rebuild", "start", "--id", _REBUILD, "--watch", *_WHY)
        finish(sending)
        self._catch_up({USAGE_TOPIC: 2 * len(self._simulation.usage)})
        self._compare_totals("the same month sent again counts once")
        hashes: set[str] = set()

        def equal() -> bool:
            hashes.clear()
            hashes.update(run_async(_state_hash(database_url, version)) for version in (1, 2))
            return len(hashes) == 1

        held = wait_for(equal, timeout_seconds=_SETTLE_SECONDS)
        self._claims.check(
            "a rebuild under traffic has the very state of what serves",
            held=held and rebuilt["state"] == "REBUILD_STATE_CAUGHT_UP",
            figures=f"{int(rebuilt['applied_records']):,} records applied, "
            f"{len(hashes)} hash{'' if held else 'es'}: {', '.join(each[:12] for each in sorted(hashes))}",
        )
        _, promoted = self._exchange("promote")
        self._compare_totals("promoted, it answers the same")
        _, back = self._exchange("rollback")
        self._claims.check(
            "it was promoted and rolled back",
            held=(promoted["derived_version"], back["derived_version"]) == (2, 1),
            figures=f"version {promoted['derived_version']} served, version {back['derived_version']} serves",
        )
        self._exchange("retire")

    def _exchange(self, what: str) -> tuple[int, Any]:
        """Change which version serves; refused while a server still loads it, it is asked for again."""
        answer: tuple[int, Any] = (1, None)

        def done() -> bool:
            nonlocal answer
            answer = self._commands.run("ops", "rebuild", what, _REBUILD, *_WHY, accepted=(0, 1))
            return answer[0] == 0

        if not wait_for(done, timeout_seconds=_SETTLE_SECONDS):
            raise StackError(f"`ops rebuild {what}` was refused for {_SETTLE_SECONDS} s")
        return answer

    def _period_of(self, moment: datetime) -> str:
        return f"{moment.astimezone(self._zone):%Y-%m}"

    def _publish(self) -> None:
        _, policies = self._commands.run("policy", "apply", str(self._files.policies))
        _, entries = self._commands.run("directory", "apply", str(self._files.directory))
        due = len(self._simulation.company.directory)
        caught_up = self._catch_up({POLICY_TOPIC: len(policies), DIRECTORY_TOPIC: due})
        self._claims.check(
            "policies and directory are published by command and applied",
            held=caught_up and all(one["published"] for one in policies) and sum(entries.values()) == due,
            figures=f"{len(policies)} policies, {due} entries",
        )

    def _stream(self) -> None:
        """Pipe the month into `emit`, and kill the projector while there is more to send and to project."""
        lines = self._files.usage.read_text(encoding="utf-8").splitlines(keepends=True)
        self._claims.announce(f"sending {len(lines):,} events while the projector is killed")
        victim, killed = self._quota.projectors[0], threading.Event()
        sending = self._commands.start("emit", "-", "--source", SOURCE)
        assert sending.stdin is not None
        with ThreadPoolExecutor(1) as pool:
            feeding = pool.submit(_feed, sending.stdin, lines, killed)
            try:
                struck = wait_for(
                    lambda: self._reader.progress().applied[USAGE_TOPIC] >= len(lines) // 10,
                    timeout_seconds=_CATCH_UP_SECONDS,
                )
                victim.kill()
                # Nobody projects: what is behind now stays behind until the victim is replaced.
                struck &= wait_for(lambda: self._reader.progress().lag > 0, timeout_seconds=_SETTLE_SECONDS)
                at = self._reader.progress()
                struck &= not feeding.done()
            finally:
                killed.set()
        _, sent = finish(sending)
        applied = self._reader.progress().applied[USAGE_TOPIC]
        self._quota.replace(victim)
        caught_up = self._catch_up({USAGE_TOPIC: len(lines)})
        done = self._reader.progress().applied[USAGE_TOPIC]
        self._claims.check(
            "the month is streamed and projected",
            held=caught_up and done == sent["sent"] == len(lines),
            figures=f"{sent['sent']:,} events sent, {done:,} applied",
        )
        self._claims.check(
            "the projector was killed (kill -9) in mid-stream",
            held=struck and 0 < applied == at.applied[USAGE_TOPIC] and victim.returncode == -9,
            figures=f"at {applied:,} events applied of {applied + at.lag:,} sent so far; "
            "replaced; what it lost shows next",
        )

    def _catch_up(self, applied: dict[str, int]) -> bool:
        """Wait until so many records of each topic, and everything on the log, are applied."""

        def caught_up() -> bool:
            progress = self._reader.progress()
            return progress.applied >= Counter(applied) and progress.lag == 0

        return wait_for(caught_up, timeout_seconds=_CATCH_UP_SECONDS)

    def _compare_totals(self, claim: str) -> None:
        posted = self._expected.posted
        found: dict[str, int] = {}

        def equal() -> bool:
            found.clear()
            found.update(self._reader.posted(self._period))
            return found == posted

        held = wait_for(equal, timeout_seconds=_SETTLE_SECONDS)
        wrong = sorted({account for account, _ in posted.items() ^ found.items()})
        shown = f"{len(posted):,} accounts, {usd(self._expected.total)} spent"
        self._claims.check(
            claim, held=held, figures=shown if held else f"{shown}; {len(wrong)} differ, e.g. {wrong[:3]}"
        )

    def _ask_for_people(self) -> None:
        for share in _SHARES_BASIS_POINTS:
            person = person_near(self._simulation, self._expected, self._period, share)
            call = ("--provider", "openai", "--model", "gpt-4o-mini", "--input-tokens", "20")
            code, answer = self._commands.run(
                "quota", "check", person.subject, *call, accepted=(0, 1, 10, 11)
            )
            decision = str(answer["decision"]).removeprefix("DECISION_")
            account = answer["accounts"][0]
            amounts = [usd(int(account[name])) for name in ("posted_micro_usd", "limit_micro_usd")]
            advice = answer.get("nudge", {}).get("text", "")
            self._claims.check(
                f"a person near {share // 100} %",
                held=abs(person.used_basis_points - share) <= _NEAR_BASIS_POINTS
                and decision == answer_at(person.used_basis_points)
                and bool(advice) == (decision != "ALLOW"),
                figures=f"{person.subject} spent {amounts[0]} of {amounts[1]}, "
                f"{person.used_basis_points / 100:.1f} %: {decision} (exit code {code}). {advice}".rstrip(),
            )

    def _count_thresholds(self, bootstrap: str) -> None:
        due = self._expected.thresholds()
        found: list[tuple[str, tuple[str, int]]] = []

        def all_there() -> bool:
            events = asyncio.run(read_events(bootstrap, QUOTA_TOPIC, ThresholdCrossed))
            found[:] = [
                (envelope.id, (event.account_id, int(event.threshold_basis_points)))
                for envelope, event in events
            ]
            return {crossed for _, crossed in found} >= due

        wait_for(all_there, timeout_seconds=_SETTLE_SECONDS)
        ids_by_threshold = Counter(crossed for _, crossed in set(found))
        self._claims.check(
            "each threshold that was reached is announced once",
            held=set(ids_by_threshold) == due and set(ids_by_threshold.values()) <= {1},
            figures=f"{len(ids_by_threshold)} announced, {len(due)} reached by "
            f"{len({account for account, _ in due})} accounts",
        )

    def _mend_a_poisoned_event(self, database_url: str) -> None:
        """Send an event that is too old, let policy allow its source to back-fill, and retry it."""
        old = SystemClock().now() - _POISON_AGE
        call = {**self._simulation.usage[0], "time": old.isoformat()}
        poison = self._files.usage.with_name("legacy.jsonl")
        poison.write_text(json.dumps(call) + "\n", encoding="utf-8")
        self._commands.run("emit", str(poison), "--source", LEGACY_SOURCE)
        caught_up = self._catch_up({USAGE_TOPIC: 2 * len(self._simulation.usage) + 1})
        parked = self._parked()
        self._claims.check(
            "an event that is 90 days late is parked, its neighbours are not held up",
            held=caught_up and [event["error_code"] for event in parked] == ["too_late"],
            figures="; ".join(f"{_place(event)}: {event['error_message']}" for event in parked) or "none",
        )
        self._commands.run("policy", "apply", str(self._files.backfill))
        self._catch_up({POLICY_TOPIC: len(self._simulation.policies) + 1})
        _, retried = self._commands.run(
            "ops", "retry", "--code", "too_late", "--reason", "source_permitted", *_TICKET, accepted=(0, 1)
        )
        posted = run_async(_posted_to_subjects(database_url, self._period_of(old)))
        by_whom = "by `ops retry`" if retried["applied"] else "by the service itself, as the policy came in"
        self._claims.check(
            "policy mended, the event is retried and counts in its own month",
            held=not self._parked() and posted == cost_micro_usd(call),
            figures=f"applied {by_whom}; {usd(posted)} posted to {self._period_of(old)}",
        )

    def _parked(self) -> Any:
        return self._commands.run("ops", "parked")[1]


def _feed(pipe: IO[str], lines: Sequence[str], at_full_speed: threading.Event) -> None:
    """Write lines to a pipe, slowly at first."""
    step = -(-len(lines) // _SLICES)
    with suppress(BrokenPipeError):  # who should read it has ended, and will have said why
        for start in range(0, len(lines), step):
            pipe.writelines(lines[start : start + step])
            pipe.flush()
            at_full_speed.wait(_SLICE_SECONDS)


async def _state_hash(database_url: str, version: int) -> str:
    schemas = Schemas("quota", version)
    async with session(database_url, schemas, application_name="demo") as connection:
        return await state_hash(connection, schemas.derived, DERIVED_TABLES, NOT_DERIVED)


async def _posted_to_subjects(database_url: str, period: str) -> int:
    """Look into the ledger itself: the service answers only for this month and the one before."""
    connection = await asyncpg.connect(database_url)
    try:
        return int(
            await connection.fetchval(
                "SELECT coalesce(sum(posted_micro_usd), 0) FROM quota_v1.posted"
                " WHERE period = $1 AND account_id LIKE 'subject/%'",
                period,
            )
        )
    finally:
        await connection.close()


def _place(event: Any) -> str:
    place = event["place"]
    return f"{place['topic']}/{place['partition']}/{place['offset']}"
