"""Servers whose clock is a file, asked at instants of our choosing and held against the recomputation."""

import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tests.proofs.events import MODELS, PROVIDER
from tests.proofs.lab import INPUTS, Arena, Lab
from tests.proofs.recompute import QUOTA, RawRecord, Recomputation, recompute
from tests.proofs.serving import bearer, serving
from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics.quota.v1.quota_pb2_grpc import QuotaServiceStub
from tokenomics_tools.stack import GATEWAY, PORTAL

LEVEL_SECONDS = 60
BANDS: Final = {
    "normal": pb.BAND_NORMAL,
    "nudge": pb.BAND_NUDGE,
    "justify": pb.BAND_JUSTIFY,
    "approve": pb.BAND_APPROVE,
}
DECISIONS: Final = {
    "normal": pb.DECISION_ALLOW,
    "nudge": pb.DECISION_ALLOW_WITH_NUDGE,
    "justify": pb.DECISION_JUSTIFICATION_REQUIRED,
    "approve": pb.DECISION_APPROVAL_REQUIRED,
}


class Clocked:
    """Asks servers for what they say of some people at an instant.

    Parameters
    ----------
    project
        Every second person's calls are for it.
    """

    def __init__(self, lab: Lab, arena: Arena, people: Sequence[str], project: str) -> None:
        self._lab, self._arena, self._people, self._project = lab, arena, people, project
        self._clock: Path = arena.stack.folder / "clock"
        self._may_check = bearer(arena.stack.issuer.token(GATEWAY))
        self._may_see = bearer(arena.stack.issuer.token(PORTAL))
        self.rng = random.Random(lab.seed)
        self.figures: Counter[str] = Counter()
        self.failures: list[str] = []

    @asynccontextmanager
    async def server(self, arena: Arena) -> AsyncIterator[Any]:
        """Run a server that takes the time from our file, and yield a stub of it."""
        self._set(self._lab.anchor)
        variant = "+".join(filter(None, (self._lab.variant, "set-clock")))
        async with serving(arena.as_variant(variant), PROOF_CLOCK=str(self._clock)) as channel:
            self.figures["servers"] += 1
            yield QuotaServiceStub(channel)

    def _set(self, now: datetime) -> None:
        fresh = self._clock.with_suffix(".new")
        fresh.write_text(now.isoformat())
        fresh.replace(self._clock)

    async def truth(self, stub: Any) -> tuple[list[RawRecord], Recomputation]:
        """Wait until a server has all that is in the log, and work that out."""
        level = pb.CheckQuotaRequest(
            subject=self._people[0], provider=PROVIDER, model=MODELS[0], fully_consistent=True
        )
        await stub.CheckQuota(level, metadata=self._may_check, timeout=LEVEL_SECONDS)
        records = await self._arena.read(*INPUTS, QUOTA)
        return records, recompute(records)

    async def ask(self, stub: Any, truth: Recomputation, at: datetime) -> None:
        """Compare what checks and a listing say at an instant."""
        self._set(at)
        checks = pb.BatchCheckQuotaRequest(
            checks=[
                pb.CheckQuotaRequest(
                    subject=person,
                    provider=PROVIDER,
                    model=MODELS[0],
                    project=self._project if number % 2 else "",
                )
                for number, person in enumerate(self._people)
            ]
        )
        batch = await stub.BatchCheckQuota(checks, metadata=self._may_check, timeout=10)
        period = truth.period_of(at)
        for person, result in zip(self._people, batch.results, strict=True):
            named = {account.account_id for account in result.answer.accounts}
            if not named or any(not each.endswith(f"/all/{period}") for each in named):
                self.failures.append(f"{person} at {at}: {named}, recomputed period {period}")
            self._compare(result.answer.accounts, truth, at)
            self._compare_decision(person, result.answer, truth, at)
        all_touched = pb.ListBalancesRequest(period=period, page_size=1_000)
        listed = await stub.ListBalances(all_touched, metadata=self._may_see, timeout=10)
        self._compare(listed.accounts, truth, at)
        self.figures["answers"] += len(batch.results) + len(listed.accounts)

    def _compare(self, accounts: Iterable[pb.AccountBalance], truth: Recomputation, at: datetime) -> None:
        for account in accounts:
            account_id = account.account_id
            limit, base = truth.limit_micro_usd(account_id, at), truth.base_limit_micro_usd(account_id, at)
            grants = truth.grants(account_id, at) if base is not None else []
            expected = (
                limit or 0,
                base or 0,
                sum(each["amount_micro_usd"] for each in grants),
                sum(each["amount_micro_usd"] for each in grants if each.get("overdraft")),
                truth.totals.get(account_id, 0),
                BANDS[truth.band(account_id, at)],
                truth.bounds(account.period, at)[1],
            )
            told = (
                account.limit_micro_usd,
                account.base_limit_micro_usd,
                account.grants_micro_usd,
                account.overdraft_micro_usd,
                account.posted_micro_usd,
                account.band,
                account.resets_at.ToDatetime(UTC),
            )
            self.figures["extended"] += bool(grants)
            if told != expected:
                self.failures.append(f"{account_id} at {at}: {told}, recomputed {expected}")

    def _compare_decision(
        self, person: str, answer: pb.CheckQuotaResponse, truth: Recomputation, at: datetime
    ) -> None:
        own, *shared = [truth.band(account.account_id, at) for account in answer.accounts]
        if "approve" in shared:
            return  # whom of its members a shared account asks then is not for this proof
        expected = DECISIONS[own]
        if own == "justify" and truth.is_justified(person, at):
            expected = pb.DECISION_ALLOW_WITH_NUDGE
            self.figures["justified"] += 1
        if answer.decision != expected:
            self.failures.append(f"{person} at {at}: decision {answer.decision}, recomputed {expected}")
