"""A view that falls behind tells its age and lets through what policy says, no more.

Who asks for more freshness than there is waits, but not past the call's time; when the view is level again,
everyone reads their own writes.
"""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

import grpc
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status

from tests.proofs.chaos import Feeder
from tests.proofs.events import Draft, directory_event, policy_event, price_book, quota_policy, usage_event
from tests.proofs.lab import INPUTS, Arena, Lab, Verdict
from tests.proofs.recompute import USAGE, recompute
from tests.proofs.serving import bearer, serving
from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics.quota.v1.quota_pb2_grpc import QuotaServiceStub
from tokenomics_tools.stack import GATEWAY, PORTAL

STALE_AFTER_SECONDS = 2
CAP_MICRO_USD = 1_000_000
RATE = 1_000_000
"""Micro-USD per million tokens: an estimate is its tokens."""

PEOPLE, TEAMS, SERVERS = 12, 3, 2
LARGEST_CALL = 60_000
IN_FLIGHT = 8
CATCH_UP_SECONDS = 60
SOON_SECONDS = 1.0
"""So much later than the level itself a call that waits for it may return: a refresh, and a busy machine."""


@dataclass
class Tab:
    """What one server has let through, by account, as its answers tell it."""

    sums: Counter[str] = field(default_factory=Counter)
    refused: list[tuple[tuple[str, ...], int]] = field(default_factory=list)
    """Accounts and cost of the calls refused at the cap."""


class Asked(NamedTuple):
    """A check, and what it will cost on which accounts."""

    request: pb.CheckQuotaRequest
    cost: int
    accounts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there was no answer."""

    code: int
    reason: str
    retry: bool

    @property
    def is_polite(self) -> bool:
        """Whether it is the system's fault, and says when to come back."""
        return self.code == grpc.StatusCode.UNAVAILABLE.value[0] and self.retry


async def prove(lab: Lab) -> Verdict:
    """Prove it; at any scale there are enough calls to fill the caps."""
    calls, writes = max(300, round(3_000 * lab.scale)), max(40, round(400 * lab.scale))
    return await endure(lab, calls=calls, writes=writes)


async def endure(lab: Lab, *, calls: int, writes: int) -> Verdict:
    """Stop the projector, ask, start it again: under a policy that is open, then under one that is closed."""
    async with AsyncExitStack() as resources:
        arena = await resources.enter_async_context(Arena.open(lab.variant))
        feeder = await resources.enter_async_context(Feeder(arena.stack.kafka.bootstrap))
        scene = Scene(random.Random(lab.seed), lab, arena, feeder)
        await scene.tell(scene.founding())
        async with scene.projecting():
            servers = [
                QuotaServiceStub(await resources.enter_async_context(serving(arena))) for _ in range(SERVERS)
            ]
            await scene.level(servers)
        for stretch in ("open", "open again"):
            lab.note(f"stale-view: {stretch}, {calls} calls")
            await scene.fall_behind(servers)
            for server in servers:
                await scene.fill_the_caps(server, calls)
            await scene.ask_for_more_than_there_is(servers[0])
            lab.note(f"stale-view: {writes} writes to be read by who wrote them")
            await scene.read_own_writes(servers, writes)
        lab.note("stale-view: closed")
        async with scene.projecting():
            await scene.tell([scene.policy(mode="closed")])
            await scene.level(servers)
        await scene.fall_behind(servers)
        await scene.find_closed(servers)
        async with scene.projecting():
            await scene.level(servers)
        await scene.hold_against_recomputation(servers)
    return Verdict(scene.figures, scene.failures)


class Scene:
    """A few people and teams, two servers, and a projector that comes and goes."""

    def __init__(self, rng: random.Random, lab: Lab, arena: Arena, feeder: Feeder) -> None:
        self._rng, self._lab, self._arena, self._feeder = rng, lab, arena, feeder
        self._now, self._long_ago = lab.anchor, lab.anchor - timedelta(days=100)
        self._people = [f"p{rng.getrandbits(40):010x}" for _ in range(PEOPLE)]
        self._metadata = bearer(arena.stack.issuer.token(GATEWAY))
        self._may_see = bearer(arena.stack.issuer.token(PORTAL))
        self._version = self._written = 0
        self.failures: list[str] = []
        self.figures: Counter[str] = Counter()

    def founding(self) -> list[Draft]:
        """Return directory and policies; without limits, so that nothing but the cap holds a call back."""
        book = price_book(1)
        rates = {"input": RATE, "output": RATE}
        book["prices"] = [{"provider": "proof-ai", "model": "plain", "rates": rates}]
        drafts = [policy_event("price_book", 1, self._long_ago, self._now, book), self.policy()]
        for number, person in enumerate(self._people):
            data = {"role": "engineer", "team_id": f"team-{number % TEAMS}"}
            drafts.append(
                directory_event(person, "person.upserted", self._long_ago, person, self._now, **data)
            )
        return drafts

    def policy(self, **degrade: Any) -> Draft:
        """Return the next quota policy: open with the cap unless said otherwise."""
        self._version += 1
        document = quota_policy("UTC", 10**15, (), ())
        document["degrade"] = {"stale_after_seconds": STALE_AFTER_SECONDS} | (
            degrade or {"mode": "open", "cap_micro_usd": CAP_MICRO_USD}
        )
        return policy_event("quota", self._version, self._long_ago, self._now, document)

    async def tell(self, drafts: Iterable[Draft]) -> None:
        """Write events."""
        await self._feeder.send([draft.binary() for draft in drafts])

    @asynccontextmanager
    async def projecting(self) -> AsyncIterator[None]:
        """Run a projector meanwhile; afterwards it is killed."""
        projector = self._arena.spawn("project", "project")
        try:
            yield
        finally:
            await asyncio.to_thread(projector.kill)

    async def level(self, servers: Sequence[Any]) -> None:
        """Wait until every server answers from all that was written."""
        await self._arena.projected(self._feeder.ends, within_seconds=CATCH_UP_SECONDS)
        async with asyncio.timeout(CATCH_UP_SECONDS):
            for server in servers:
                while True:
                    answer = await self._check(server, self._ask(0).request)
                    if not isinstance(answer, Refusal) and not answer.freshness.stale:
                        break
                    await asyncio.sleep(0.1)
                if answer.HasField("degradation"):
                    self.failures.append("an answer that is not stale is degraded")

    async def fall_behind(self, servers: Sequence[Any]) -> None:
        """Write what nobody projects; see each server tell its age, growing, until it is stale by policy."""
        await self.tell([self._usage(self._people[0], 1)])
        for server in servers:
            told = -1
            async with asyncio.timeout(CATCH_UP_SECONDS):
                while True:
                    answer = await self._check(server, self._ask(0).request)
                    if isinstance(answer, Refusal):
                        break  # closed: it is stale
                    lag_ms = answer.freshness.lag.ToMilliseconds()
                    if answer.freshness.stale != (lag_ms >= STALE_AFTER_SECONDS * 1000):
                        self.failures.append(f"{lag_ms} ms behind, and stale is {answer.freshness.stale}")
                    if answer.freshness.stale != answer.HasField("degradation"):
                        self.failures.append("an open policy's stale answer does not say that it is degraded")
                    if answer.freshness.stale and told >= 0 and lag_ms > told:
                        break
                    told = lag_ms
                    await asyncio.sleep(0.1)
        self.figures["stale_stretches"] += 1

    async def fill_the_caps(self, server: Any, calls: int) -> None:
        """Ask for more than the cap: one by one, then many at once by every way there is."""
        tab = Tab()
        asked = [self._ask(self._rng.randrange(1, LARGEST_CALL)) for _ in range(calls)]
        alone, crowd = asked[: calls // 3], asked[calls // 3 :]
        for each in alone:
            answer = await self._check(server, each.request)
            fits = all(tab.sums[account] + each.cost <= CAP_MICRO_USD for account in each.accounts)
            if fits != (not isinstance(answer, Refusal)):
                self.failures.append(f"{each.cost} on {each.accounts} with {tab.sums}: {answer}")
            self._enter(tab, each, answer)
            if isinstance(answer, pb.CheckQuotaResponse):
                left = min(CAP_MICRO_USD - tab.sums[account] for account in each.accounts)
                if answer.degradation.remaining_micro_usd != left:
                    self.failures.append(
                        f"{answer.degradation.remaining_micro_usd} are said to be left of {left}"
                    )
        shares = [crowd[number::3] for number in range(3)]
        for each, answer in [
            pair
            for pairs in await asyncio.gather(
                self._by_calls(server, shares[0]),
                self._by_batches(server, shares[1]),
                self._by_stream(server, shares[2]),
            )
            for pair in pairs
        ]:
            self._enter(tab, each, answer)
        over = {account: spent for account, spent in tab.sums.items() if spent > CAP_MICRO_USD}
        self.failures += [f"{spent} let through on {account}" for account, spent in over.items()]
        self.failures += [
            f"{cost} on {accounts} was refused though it fitted all along"
            for accounts, cost in tab.refused
            if all(tab.sums[account] + cost <= CAP_MICRO_USD for account in accounts)
        ]
        self.figures["let_through"] += len(asked) - len(tab.refused)
        self.figures["refused_at_the_cap"] += len(tab.refused)
        if not tab.refused or len(tab.refused) == len(asked):
            self.failures.append("the cap was never met, or nothing fitted under it")

    async def ask_for_more_than_there_is(self, server: Any) -> None:
        """Ask for what the view lacks: the answer is a polite no, in time, and not before time."""
        for choice in ({"at_least_as_fresh": self._token()}, {"fully_consistent": True}):
            request = pb.CheckQuotaRequest(
                subject=self._people[0], provider="proof-ai", model="plain", **choice
            )
            loop = asyncio.get_running_loop()
            begun, seconds = loop.time(), 1.5
            answer = await self._check(server, request, seconds=seconds)
            took = loop.time() - begun
            if not isinstance(answer, Refusal) or answer.reason != "NOT_FRESH_YET" or not answer.is_polite:
                self.failures.append(f"{list(choice)}: {answer}")
            elif not seconds / 2 < took < seconds:
                self.failures.append(f"{list(choice)}: told after {took:.2f} s of {seconds} s")
            self.figures["waits_refused"] += 1

    async def read_own_writes(self, servers: Sequence[Any], writes: int) -> None:
        """Let many wait for what they wrote, start the projector, and see each find it once it is there."""
        spent: defaultdict[str, int] = defaultdict(int)
        waiting: list[tuple[str, int, asyncio.Task[Any]]] = []
        before = {person: await self._posted(servers[0], person) for person in self._people}
        for number in range(writes):
            person = self._rng.choice(self._people)
            cost = self._rng.randrange(1, 1_000)
            await self.tell([self._usage(person, cost)])
            spent[person] += cost
            choice: dict[str, Any] = (
                {"fully_consistent": True} if number % 5 == 0 else {"at_least_as_fresh": self._token()}
            )
            request = pb.CheckQuotaRequest(subject=person, provider="proof-ai", model="plain", **choice)
            server = servers[number % len(servers)]
            asking = asyncio.create_task(self._check(server, request, seconds=CATCH_UP_SECONDS))
            waiting.append((person, before[person] + spent[person], asking))
        await asyncio.sleep(0.5)
        if early := sum(asking.done() for _, _, asking in waiting):
            self.failures.append(f"{early} calls returned before the projector was back")
        async with self.projecting():
            await self._arena.projected(self._feeder.ends, within_seconds=CATCH_UP_SECONDS)
            level_at = asyncio.get_running_loop().time()
            await asyncio.wait([asking for _, _, asking in waiting], timeout=CATCH_UP_SECONDS)
            late_ms = round((asyncio.get_running_loop().time() - level_at) * 1000)
            for person, posted, asking in waiting:
                answer = await asking
                if isinstance(answer, Refusal):
                    self.failures.append(f"a waiting call ended with {answer}")
                elif answer.accounts[0].posted_micro_usd < posted:
                    self.failures.append(
                        f"{person} wrote {posted} and read {answer.accounts[0].posted_micro_usd}"
                    )
            await self.level(servers)
        if late_ms > SOON_SECONDS * 1000:
            self.failures.append(f"the last waiting call returned {late_ms} ms after the position")
        self.figures["own_writes_read"] += len(waiting)
        self.figures["last_return_ms"] = max(self.figures["last_return_ms"], late_ms)

    async def find_closed(self, servers: Sequence[Any]) -> None:
        """See every check refused, politely, and every balance still shown."""
        for server in servers:
            asked = [self._ask(0) for _ in range(10)]
            for pairs in (
                await self._by_calls(server, asked),
                await self._by_batches(server, asked),
                await self._by_stream(server, asked),
            ):
                for _, answer in pairs:
                    if (
                        not isinstance(answer, Refusal)
                        or answer.reason != "VIEW_STALE"
                        or not answer.is_polite
                    ):
                        self.failures.append(f"closed, and yet {answer}")
                    self.figures["refused_when_closed"] += 1
            shown = await server.GetBalance(
                pb.GetBalanceRequest(subject=self._people[0]), metadata=self._may_see, timeout=5
            )
            if not shown.freshness.stale:
                self.failures.append("a balance from a stale view does not say so")

    async def hold_against_recomputation(self, servers: Sequence[Any]) -> None:
        """Compare what servers say that each person spent with the recomputation of the log."""
        truth = recompute(await self._arena.read(*INPUTS))
        period = f"{self._now:%Y-%m}"
        for server in servers:
            for person in self._people:
                expected = truth.totals.get(f"subject/{person}/operational/{period}", 0)
                if (posted := await self._posted(server, person)) != expected:
                    self.failures.append(f"{person}: {posted} micro-USD, recomputed {expected}")

    def _enter(self, tab: Tab, asked: Asked, answer: Any) -> None:
        if isinstance(answer, Refusal):
            tab.refused.append((asked.accounts, asked.cost))
            if answer.reason != "STALE_CAP_REACHED" or not answer.is_polite:
                self.failures.append(f"open, and yet {answer}")
            return
        if answer.estimated_cost_micro_usd != asked.cost:
            self.failures.append(f"an estimate of {answer.estimated_cost_micro_usd} for {asked.cost} tokens")
        tab.sums.update(dict.fromkeys(asked.accounts, asked.cost))

    def _ask(self, cost: int) -> Asked:
        number = self._rng.randrange(PEOPLE)
        person = self._people[number]
        request = pb.CheckQuotaRequest(
            subject=person, provider="proof-ai", model="plain", estimated_input_tokens=cost
        )
        return Asked(request, cost, (person, f"team-{number % TEAMS}"))

    def _usage(self, person: str, cost: int) -> Draft:
        self._written += 1
        tokens = {"model": "plain", "input_tokens": cost, "output_tokens": 0}
        return usage_event("/tool", f"u{self._written}", self._now, subject=person, **tokens)

    def _token(self) -> pb.FreshnessToken:
        ends: Mapping[tuple[str, int], int] = self._feeder.ends
        return pb.FreshnessToken(
            next_offsets={f"{topic}/{number}": end for (topic, number), end in ends.items() if topic == USAGE}
        )

    async def _posted(self, server: Any, person: str) -> int:
        request = pb.GetBalanceRequest(subject=person)
        shown = await server.GetBalance(request, metadata=self._may_see, timeout=5)
        return int(shown.accounts[0].posted_micro_usd)

    async def _check(
        self, server: Any, request: pb.CheckQuotaRequest, *, seconds: float = 5
    ) -> pb.CheckQuotaResponse | Refusal:
        try:
            answer: pb.CheckQuotaResponse = await server.CheckQuota(
                request, metadata=self._metadata, timeout=seconds
            )
        except grpc.aio.AioRpcError as error:
            return _refusal(error)
        return answer

    async def _by_calls(self, server: Any, asked: Sequence[Asked]) -> list[tuple[Asked, Any]]:
        room = asyncio.Semaphore(IN_FLIGHT)

        async def one(each: Asked) -> tuple[Asked, Any]:
            async with room:
                return each, await self._check(server, each.request)

        return await asyncio.gather(*map(one, asked))

    async def _by_batches(self, server: Any, asked: Sequence[Asked]) -> list[tuple[Asked, Any]]:
        found: list[tuple[Asked, Any]] = []
        for begin in range(0, len(asked), 50):
            part = asked[begin : begin + 50]
            request = pb.BatchCheckQuotaRequest(checks=[each.request for each in part])
            answer = await server.BatchCheckQuota(request, metadata=self._metadata, timeout=10)
            found += zip(part, map(_outcome, answer.results), strict=True)
        return found

    async def _by_stream(self, server: Any, asked: Sequence[Asked]) -> list[tuple[Asked, Any]]:
        requests = (
            pb.StreamCheckQuotaRequest(sequence=number, check=each.request)
            for number, each in enumerate(asked)
        )
        call = server.StreamCheckQuota(requests, metadata=self._metadata, timeout=30)
        return [(asked[answer.sequence], _outcome(answer.result)) async for answer in call]


def _outcome(result: pb.CheckResult) -> pb.CheckQuotaResponse | Refusal:
    if result.HasField("answer"):
        return result.answer
    failure = result.failure
    return Refusal(
        failure.code, failure.reason, any(each.Is(RetryInfo.DESCRIPTOR) for each in failure.details)
    )


def _refusal(error: grpc.aio.AioRpcError) -> Refusal:
    status = rpc_status.from_call(error)  # type: ignore[arg-type] # an AioRpcError is a call, too
    if status is None:
        return Refusal(error.code().value[0], "", retry=False)
    info = ErrorInfo()
    status.details[0].Unpack(info)
    return Refusal(
        error.code().value[0], info.reason, any(each.Is(RetryInfo.DESCRIPTOR) for each in status.details)
    )
