"""Who looked at whose data: recorded before it is shown, and shown to the person."""

from collections.abc import Iterable
from typing import Any, Final

import grpc

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_chassis.clock import Clock
from tokenomics_chassis.rpc.errors import InvalidRequestError, PermissionDeniedError
from tokenomics_chassis.rpc.identity import current_identity
from tokenomics_chassis.rpc.paging import page_size, wrong_page_size
from tokenomics_contracts.units import SubjectId
from tokenomics_quota.domain.accounts import Account
from tokenomics_quota.domain.looks import Basis, Look, RecordedLook
from tokenomics_quota.ports import LookLog
from tokenomics_quota.rpc.convert import IDENTIFIER, is_identifier, timestamp_to_pb
from tokenomics_quota.rpc.views import Views
from tokenomics_quota.usecases.looking import Looking
from tokenomics_quota.usecases.seeing import PersonSight, Sight

_SERVICE: Final = "/tokenomics.quota.v1.QuotaService/"
_LONGEST_TOKEN: Final = 18

Context = grpc.aio.ServicerContext[Any, Any]


class Looks:
    """Records looks, and tells of them.

    What a workload asks for itself is no look: no person sees it. A tool that shows somebody another's data
    says for whom it asks.
    """

    def __init__(self, views: Views, log: LookLog, clock: Clock) -> None:
        self._views = views
        self._log = log
        self._looking = Looking(log)
        self._clock = clock

    async def record(self, sees: Sight, accounts: Iterable[Account], method: str) -> None:
        """Record that these accounts are about to be shown in the answer of a method.

        Raises
        ------
        UnavailableError
            It can't be recorded now: nothing may be shown.
        """
        if isinstance(sees, PersonSight):
            looks = sees.looks(accounts, current_identity().caller, _SERVICE + method)
            if looks:
                await self._looking.record(looks, self._clock.steady())

    async def record_at(self, subject: str, basis: Basis, method: str) -> None:
        """Record that who asks is about to be shown a subject's data in a method's answer; see `record`."""
        identity = current_identity()
        assert identity.on_behalf_of is not None
        look = Look(
            SubjectId(identity.on_behalf_of), identity.caller, SubjectId(subject), _SERVICE + method, basis
        )
        await self._looking.record([look], self._clock.steady())

    async def ListLooks(  # noqa: N802 - the contract's name
        self, request: pb.ListLooksRequest, _context: Context
    ) -> pb.ListLooksResponse:
        """Return a page of looks at a subject's data, newest first, to the subject and to auditors."""
        rules = {
            "subject": (is_identifier(request.subject), IDENTIFIER),
            "page_token": (_is_token(request.page_token), "is not of this call"),
        }
        violations = {field: message for field, (holds, message) in rules.items() if not holds}
        violations |= wrong_page_size(request.page_size)
        if violations:
            raise InvalidRequestError(violations)
        view, now = self._views.at_hand()
        person = current_identity().on_behalf_of
        if person is None:
            raise PermissionDeniedError("looks are told to a person: say for whom you ask")
        if person != request.subject:
            if not view.governance.directory.has_privilege(person, now, "auditor"):
                raise PermissionDeniedError("looks at a person's data are for that person and for auditors")
            await self.record_at(request.subject, Basis.AUDITOR, "ListLooks")
        size = page_size(request.page_size)
        before = int(request.page_token) if request.page_token else None
        found = await self._log.looks_at(request.subject, before=before, limit=size + 1)
        return pb.ListLooksResponse(
            looks=map(_look_to_pb, found[:size]),
            next_page_token=str(found[size - 1].number) if len(found) > size else "",
        )


def _is_token(text: str) -> bool:
    return not text or (text.isascii() and text.isdecimal() and len(text) <= _LONGEST_TOKEN)


def _look_to_pb(recorded: RecordedLook) -> pb.Look:
    look = recorded.look
    return pb.Look(
        at=timestamp_to_pb(recorded.at),
        person_id=look.person_id,
        caller=look.caller,
        method=look.method,
        basis=look.basis,
    )
