"""What can't be applied is parked with its bytes, hinders nobody, and can be mended, retried or skipped."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from tests.proofs.chaos import Feeder
from tests.proofs.compare import compare
from tests.proofs.events import Draft, Message, directory_event, policy_event, price_book, usage_event
from tests.proofs.lab import INPUTS, Arena, Lab, Verdict
from tests.proofs.poison import POISONS, Brew
from tests.proofs.recompute import QUOTA, Place, recompute
from tests.proofs.serving import bearer, serving
from tokenomics.operations.v1 import operations_pb2, operations_pb2_grpc
from tokenomics_tools.stack.issuer import OPERATOR

PEOPLE = 40
CATCH_UP_SECONDS = 60
MENDED = {"tokenomics.usage.recorded": {"1", "99"}}


async def prove(lab: Lab) -> Verdict:
    """Prove it step by step; after each step the state is compared with a recomputation."""
    rng = random.Random(lab.seed)
    each_kind = max(3, round(30 * lab.scale))
    messages, mended = _history(lab, rng, each_kind)
    failures: list[str] = []
    async with Arena.open(lab.variant) as arena, Feeder(arena.stack.kafka.bootstrap) as feeder:
        projectors = [arena.spawn(f"project-{number}", "project") for number in range(2)]
        relay = arena.spawn("relay", "relay")
        await feeder.send(messages)
        await arena.projected(feeder.ends, within_seconds=CATCH_UP_SECONDS)
        figures, found = await _check(arena, "parked")
        if found:
            return Verdict(figures, found)

        late = Counter((await _parked(arena)).values())["too_late"]
        await feeder.send([mended.binary()])
        await arena.projected(feeder.ends, within_seconds=CATCH_UP_SECONDS)
        await _until_none_is_parked_as(arena, "too_late")
        figures["mended_by_a_policy"] = late
        failures += _expect("a policy lets the source back-fill", late, each_kind)
        failures += (await _check(arena, "mended by a policy"))[1]

        # From here on the reader knows the version that nobody knew.
        for process in projectors:
            process.kill()
        reader = arena.as_variant(lab.variant or "mended-reader")
        async with _operating(reader) as operator:
            retried = await operator.retry("unknown_version")
            figures["retried_after_a_new_reader"] = retried
            failures += _expect("a new reader knows the version", retried, each_kind)
            failures += (await _check(arena, "retried after a new reader", MENDED))[1]
            skips = [place for place, code in (await _parked(arena)).items() if code == "bad_json"][:4]
            skips += [place for place, code in (await _parked(arena)).items() if code == "policy_mismatch"]
            for place in skips:
                await operator.skip(place)
        figures["skipped"] = len(skips)
        await arena.sent(within_seconds=CATCH_UP_SECONDS)
        failures += (await _check(arena, "skipped", MENDED))[1]
        relay.terminate()

        again = reader.on_another_database()
        await again.migrate()
        again.spawn("replay", "project")
        await again.projected(await arena.positions(), within_seconds=CATCH_UP_SECONDS)
        await _until_none_is_parked_as(again, "too_late")
        failures += (await _check(again, "replayed", MENDED))[1]
        remembered = await again.fetch("SELECT topic, partition, record_offset FROM skipped")
        if {tuple(row) for row in remembered} != set(skips):
            failures.append(f"the replay skips {len(remembered)} records, not {len(skips)}")
    return Verdict(figures, failures)


def _history(lab: Lab, rng: random.Random, each_kind: int) -> tuple[list[Message], Draft]:
    """Return poison of every kind among good events, and the policy that mends what came too late."""
    now, long_ago = lab.anchor, lab.anchor - timedelta(days=380)
    people = [f"p{rng.getrandbits(40):010x}" for _ in range(PEOPLE)]
    founding = [policy_event("price_book", 1, long_ago, now, price_book(1))]
    founding += [
        directory_event(each, "person.upserted", long_ago, each, now, role="analyst", team_id="team-1")
        for each in people
    ]
    originals = [
        usage_event("/tool", f"u{number}", now, subject=rng.choice(people), input_tokens=number)
        for number in range(20 * len(POISONS) * each_kind)
    ]
    poison = [
        make(Brew(rng, rng.choice(originals), serial * each_kind + number, now))
        for serial, (_, make) in enumerate(POISONS.values())
        for number in range(each_kind)
    ]
    usage = [draft.binary() for draft in originals] + poison
    rng.shuffle(usage)
    chain = [
        policy_event("price_book", 2, long_ago, now, price_book(2)),
        # Written against a version that never was: nobody waits for it.
        policy_event("price_book", 9, long_ago, now, price_book(9), replaces=8),
    ]
    later = policy_event("price_book", 3, long_ago, now, price_book(3))
    # Nobody can say what it replaces: what follows of its kind queues behind it.
    unreadable = later.binary()._replace(value=b"{")
    # Other keys of the topic are no neighbours of the chain.
    elsewhere = [
        unreadable._replace(key=b"notifier"),
        directory_event("p-nobody", "person.upserted", long_ago, "damaged", now, role="analyst").binary(),
    ]
    permission: dict[str, object] = {"source": "/poison", "owner_id": "hr"}
    permission |= {"may_backfill": True, "backfill_counts_in_balances": True}
    mended = policy_event("sources", 1, long_ago, now, {"sources": [permission]})
    return [
        *(draft.binary() for draft in founding),
        *elsewhere,
        *usage,
        *(draft.binary() for draft in chain),
        unreadable,
        later.binary(),
    ], mended


async def _check(
    arena: Arena, step: str, versions: Mapping[str, set[str]] | None = None
) -> tuple[dict[str, int], list[str]]:
    """Compare with a recomputation of what the topics hold now."""
    records = await arena.read(*INPUTS, QUOTA)
    truth = recompute(records, versions)
    figures, failures = await compare(arena, truth, records)
    return {**figures, **Counter(truth.parked.values())}, [f"{step}: {failure}" for failure in failures]


async def _until_none_is_parked_as(arena: Arena, code: str) -> None:
    async with asyncio.timeout(CATCH_UP_SECONDS):
        while code in (await _parked(arena)).values():  # noqa: ASYNC110 - another process's work
            await asyncio.sleep(0.2)


async def _parked(arena: Arena) -> dict[Place, str]:
    rows = await arena.fetch(
        "SELECT topic, partition, record_offset, error_code FROM parked ORDER BY 1, 2, 3"
    )
    return {(row[0], row[1], row[2]): row[3] for row in rows}


def _expect(what: str, mended: int, expected: int) -> list[str]:
    return [] if mended == expected else [f"{what}: {mended} of {expected} records were mended"]


class _Operator:
    """An operator at the RPCs."""

    def __init__(self, channel: Any, token: str) -> None:
        self._stub: Any = operations_pb2_grpc.OperationsServiceStub(channel)
        self._metadata = bearer(token)

    async def retry(self, error_code: str) -> int:
        """Retry what is parked under a code; return how many records that applied."""
        request = operations_pb2.RetryParkedEventsRequest(
            error_code=error_code, reason_code="mended", ticket_id="PROOF-1"
        )
        return int((await self._stub.RetryParkedEvents(request, metadata=self._metadata)).applied)

    async def skip(self, place: Place) -> None:
        """Give a record up."""
        topic, partition, offset = place
        request = operations_pb2.SkipParkedEventRequest(
            topic=topic, partition=partition, offset=offset, reason_code="beyond_repair", ticket_id="PROOF-2"
        )
        await self._stub.SkipParkedEvent(request, metadata=self._metadata)


@asynccontextmanager
async def _operating(arena: Arena) -> AsyncIterator[_Operator]:
    async with serving(arena) as channel:
        yield _Operator(channel, arena.stack.issuer.token(OPERATOR))
