"""Having the service judge policies: it alone knows the rules that their examples promise."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics.quota.v1.quota_pb2_grpc import QuotaServiceStub
from tokenomics_chassis.rpc.structs import to_struct
from tokenomics_cli.failures import CommandError, Exit, Problem
from tokenomics_cli.policy_files import Written, as_written
from tokenomics_cli.rpc import Service


class Tried(NamedTuple):
    """An example and what became of it."""

    kind: str
    name: str
    expected: str
    actual: str
    reason_codes: list[str]

    @property
    def holds(self) -> bool:
        """Whether the rules give what it promises."""
        return self.expected == self.actual


class Trial(NamedTuple):
    """The service's verdict on some policies."""

    problems: list[Problem]
    examples: list[Tried]

    @property
    def failing(self) -> list[Tried]:
        """The examples that don't hold."""
        return [each for each in self.examples if not each.holds]

    def require_ok(self) -> None:
        """Go on only if nothing is wrong and every example holds.

        Raises
        ------
        CommandError
            ``BAD_DATA`` for problems, ``REFUSED`` for examples.
        """
        if self.problems:
            raise CommandError(
                "the service finds something wrong that this command doesn't",
                Exit.BAD_DATA,
                problems=self.problems,
                hint="nothing was published: mend what is wrong, or bring command and service to one version",
            )
        if self.failing:
            raise CommandError(
                "; ".join(
                    f"{each.kind}, example {each.name!r}: should be {each.expected}, is {each.actual}"
                    for each in self.failing
                ),
                Exit.REFUSED,
                hint="nothing was published: mend the rules or the example",
            )


def try_policies(quota: Service, written: Iterable[Written], beside: Sequence[Written]) -> Trial:
    """Have policies judged, each with the others of the same files and, of other kinds, those in force."""
    trial, stub = Trial([], []), QuotaServiceStub(quota.channel)
    for each in written:
        others = {other.policy.kind: other for other in beside if other.policy.kind != each.policy.kind}
        answer = quota.call(
            stub.TestPolicy,
            pb.TestPolicyRequest(
                kind=each.policy.kind,
                document=to_struct(as_written(each.policy)),
                beside={kind: to_struct(as_written(other.policy)) for kind, other in others.items()},
            ),
        )
        trial.problems.extend(each.problem(one.path, one.message) for one in answer.problems)
        trial.examples.extend(_tried(each.policy.kind, one) for one in answer.examples)
    return trial


def _tried(kind: str, result: pb.PolicyExampleResult) -> Tried:
    return Tried(kind, result.name, _name(result.expected), _name(result.actual), list(result.reason_codes))


def _name(decision: pb.Decision.ValueType) -> str:
    return pb.Decision.Name(decision).removeprefix("DECISION_")
