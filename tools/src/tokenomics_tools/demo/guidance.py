"""Guidance instead of hard stops: holds on the last dollar, a lease, a grant that lifts a block and ends."""

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import yaml

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics.quota.v1.quota_pb2_grpc import QuotaServiceStub
from tokenomics_chassis.clock import SystemClock
from tokenomics_cli.output import usd
from tokenomics_client import Lease, steady
from tokenomics_tools.demo.claims import Claims
from tokenomics_tools.demo.commands import Commands
from tokenomics_tools.demo.expected import Expected, Standing
from tokenomics_tools.demo.reader import wait_for
from tokenomics_tools.simulator import Simulation
from tokenomics_tools.stack import GATEWAY, Issuer

CALLERS = 64
DOLLAR = 1_000_000
HOLD_MICRO_USD = 50_000
DRAWS = 300_000
GRANT_SECONDS = 15

_TIMEOUT_SECONDS = 20
_SETTLE_SECONDS = 30
_PROVIDER, _MODEL = "openai", "gpt-4o-mini"


class Guidance:
    """What callers and people are given beside an answer, each step leaving claims.

    Parameters
    ----------
    address
        ``host:port`` of quota's gRPC server.
    folder
        Gets the policy that makes a team's budget hard.
    """

    def __init__(
        self,
        *,
        address: str,
        issuer: Issuer,
        commands: Commands,
        claims: Claims,
        simulation: Simulation,
        expected: Expected,
        folder: Path,
    ) -> None:
        self._address = address
        self._metadata = (("authorization", f"Bearer {issuer.token(GATEWAY)}"),)
        self._commands = commands
        self._claims = claims
        self._simulation = simulation
        self._expected = expected
        self._policy = folder / "hard.yaml"

    def lift_a_block(self, person: Standing) -> None:
        """Grant more to a person who has used everything, for some seconds."""
        account = self._check(person.subject)["accounts"][0]
        until = SystemClock().now() + timedelta(seconds=GRANT_SECONDS)
        twice = int(account["limit_micro_usd"]) * 2 / DOLLAR
        self._commands.run(
            *("approvals", "grant", "demo-grant", "--to", f"subject/{person.subject}"),
            *("--amount-usd", f"{twice:.2f}", "--until", until.isoformat()),
            *("--reason", "launch_week", "--decided-by", self._somebody_else(person.subject)),
        )
        lifted: dict[str, Any] = {}

        def is_lifted() -> bool:
            lifted.update(self._check(person.subject))
            return bool(lifted["decision"] == "DECISION_ALLOW")

        held = wait_for(is_lifted, timeout_seconds=GRANT_SECONDS)
        own = lifted["accounts"][0]
        self._claims.check(
            "a grant lifts a block",
            held=held and int(own["grants_micro_usd"]) > 0,
            figures=f"{person.subject} may go on: {usd(int(own['base_limit_micro_usd']))} and "
            f"{usd(int(own['grants_micro_usd']))} granted for {GRANT_SECONDS} s",
        )
        time.sleep(max(0.0, (until - SystemClock().now()).total_seconds()))
        again = self._check(person.subject)
        late_ms = (SystemClock().now() - until) / timedelta(milliseconds=1)
        self._claims.check(
            "it ends at its instant, with no event",
            held=again["decision"] == "DECISION_APPROVAL_REQUIRED",
            figures=f"the first check after its end ({late_ms:.0f} ms) answers "
            f"{again['decision'].removeprefix('DECISION_')}",
        )

    def spend_the_last_dollar(self, person: Standing) -> None:
        """Let 64 callers at once hold parts of the last dollar of a team's hard budget."""
        member = next(one for one in self._simulation.company.members if one.subject == person.subject)
        self._leave_a_dollar(member.team_id)
        with self._stub() as stub, ThreadPoolExecutor(CALLERS) as pool:
            called = pool.map(lambda number: self._hold(stub, person.subject, number), range(CALLERS))
            outcomes = Counter(called)
        placed = outcomes[grpc.StatusCode.OK]
        self._claims.check(
            "64 callers on a team's last dollar never overshoot",
            held=placed * HOLD_MICRO_USD == DOLLAR
            and outcomes[grpc.StatusCode.RESOURCE_EXHAUSTED] == CALLERS - placed,
            figures=f"{placed} holds of {usd(HOLD_MICRO_USD)} placed, {CALLERS - placed} refused: "
            f"{usd(placed * HOLD_MICRO_USD)} of {usd(DOLLAR)}",
        )

    def draw_from_a_lease(self, person: Standing) -> None:
        """Decide 300,000 calls in this process from an amount that quota holds."""
        request = pb.AcquireLeaseRequest(
            lease_id="demo-lease",
            typical_call=_call_of(person.subject),
            amount_micro_usd=DOLLAR,
        )
        with self._stub() as stub:
            asked_at = steady()
            answer = stub.AcquireLease(request, metadata=self._metadata, timeout=_TIMEOUT_SECONDS)
            lease = Lease(answer.lease, asked_at)
            began = time.perf_counter()
            granted = sum(bool(lease.draw(input_tokens=20, output_tokens=0)) for _ in range(DRAWS))
            seconds = time.perf_counter() - began
            returned = stub.ReturnLease(lease.end(), metadata=self._metadata, timeout=_TIMEOUT_SECONDS)
        kept = returned.lease.hold.amount_micro_usd
        self._claims.check(
            "a lease decides 300,000 calls in the caller",
            held=granted == DRAWS and kept == lease.drawn_micro_usd < DOLLAR,
            figures=f"{granted:,} in {seconds:.2f} s, {usd(kept)} drawn, {usd(DOLLAR - kept)} given back",
        )

    def _check(self, subject: str) -> dict[str, Any]:
        call = ("--provider", _PROVIDER, "--model", _MODEL, "--input-tokens", "20")
        _, answer = self._commands.run("quota", "check", subject, *call, accepted=(0, 1, 10, 11))
        assert isinstance(answer, dict)
        return answer

    def _somebody_else(self, subject: str) -> str:
        return next(one.subject for one in self._simulation.company.members if one.subject != subject)

    def _leave_a_dollar(self, team_id: str) -> None:
        """Make a team's budget hard, a dollar above what is used, and wait until checks go by it."""
        account = next(each for each in self._expected.posted if each.startswith(f"team/{team_id}/"))
        balance = self._balance(account)
        limit = int(balance["posted_micro_usd"]) + int(balance.get("pending_micro_usd", 0)) + DOLLAR
        policy = deepcopy(next(each for each in self._simulation.policies if each["kind"] == "quota"))
        policy |= {"version": policy["version"] + 1, "replaces": policy["version"]}
        for budget in policy["document"]["budgets"]:
            if budget["owner_id"] == team_id:
                budget |= {"limit_micro_usd": limit, "enforcement": "hard"}
        self._policy.write_text(yaml.safe_dump(policy, sort_keys=False), encoding="utf-8")
        self._commands.run("policy", "apply", str(self._policy))

        def in_force() -> bool:
            return int(self._balance(account)["limit_micro_usd"]) == limit

        wait_for(in_force, timeout_seconds=_SETTLE_SECONDS)

    def _balance(self, account: str) -> dict[str, Any]:
        _, answer = self._commands.run("quota", "balance", account)
        balance = answer["accounts"][0]
        assert isinstance(balance, dict)
        return balance

    def _hold(self, stub: Any, subject: str, number: int) -> grpc.StatusCode:
        request = pb.PlaceHoldRequest(
            hold_id=f"demo-{number}",
            call=_call_of(subject),
            amount_micro_usd=HOLD_MICRO_USD,
        )
        try:
            stub.PlaceHold(request, metadata=self._metadata, timeout=_TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
        return grpc.StatusCode.OK

    @contextmanager
    def _stub(self) -> Iterator[Any]:
        with grpc.insecure_channel(self._address) as channel:
            yield QuotaServiceStub(channel)


def _call_of(subject: str) -> pb.CheckQuotaRequest:
    return pb.CheckQuotaRequest(subject=subject, provider=_PROVIDER, model=_MODEL, estimated_input_tokens=20)
