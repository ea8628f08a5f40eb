"""Policies: which there are, whether one would do what it promises, and who would have another."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Generic, NamedTuple, TypeVar

import grpc

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_chassis.rpc.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidRequestError,
)
from tokenomics_chassis.rpc.identity import current_identity
from tokenomics_chassis.rpc.paging import page_size, wrong_page_size
from tokenomics_chassis.rpc.structs import from_struct, to_struct
from tokenomics_contracts.events.policy import (
    DOCUMENT_MODELS,
    PolicyDocument,
    Problem,
    QuotaDocument,
    validate_document,
)
from tokenomics_contracts.units import MAX_VERSION
from tokenomics_quota.domain.policies import ListedVersion, Proposal
from tokenomics_quota.ports import Proposals
from tokenomics_quota.projections.governance import POLICY_KINDS, Governance
from tokenomics_quota.rpc.convert import CHOSEN_ID, instant_from_pb, is_identifier, timestamp_to_pb
from tokenomics_quota.rpc.views import Views, require_governance
from tokenomics_quota.usecases.examples import Judged, judge_examples

_PAGE_BYTES: Final = 1_000_000
"""Documents of one page, as JSON: a client takes 4 MiB of an answer, and as a Struct they are larger."""

_KINDS: Final = sorted(POLICY_KINDS)
_KIND: Final = f"must be one of {', '.join(_KINDS)}"
_FOREIGN_TOKEN: Final = {"page_token": "is not of this call"}
_FEW: Final = 10
_MOST_PROBLEMS: Final = 1_000
_PROBLEM_CHARACTERS: Final = 500

T = TypeVar("T")

Context = grpc.aio.ServicerContext[Any, Any]


class Policies:
    """Tells what policies say from the in-memory view, and keeps proposals for others.

    Parameters
    ----------
    proposals
        Where they are kept: the only part of it that needs the database.
    """

    def __init__(self, views: Views, proposals: Proposals) -> None:
        self._views = views
        self._proposals = proposals

    async def ListPolicies(  # noqa: N802 - the contract's name
        self, request: pb.ListPoliciesRequest, _context: Context
    ) -> pb.ListPoliciesResponse:
        """Return a page of versions, to everybody: by kind, the newest first."""
        view, now = self._views.at_hand()
        wrong, behind = _wrong_page(request.kind, request.page_size), None
        if request.page_token:
            try:
                behind = _place_from_token(request.page_token)
            except ValueError:
                wrong |= _FOREIGN_TOKEN
        if wrong:
            raise InvalidRequestError(wrong)
        page, more = _Page[_Version](request.page_size), False
        for each in _versions(view.governance, request.kind, now):
            left_out = each.listed.superseded and not request.include_superseded
            if left_out or (behind and each.place <= behind):
                continue
            if more := not page.takes(each, len(each.listed.published.document)):
                break
        return pb.ListPoliciesResponse(
            policies=map(_version_to_pb, page.items),
            next_page_token=_token(page.items[-1]) if more else "",
        )

    async def TestPolicy(  # noqa: N802 - the contract's name
        self, request: pb.TestPolicyRequest, _context: Context
    ) -> pb.TestPolicyResponse:
        """Judge a document and its examples."""
        view, now = self._views.at_hand()
        require_governance(view, now)
        beside = _beside(request)
        document = from_struct(request.document)
        problems, judged = await _judged(request.kind, document, beside, view.governance, now)
        return pb.TestPolicyResponse(
            ok=not problems and all(each.holds for each in judged),
            problems=_problems_to_pb(problems),
            examples=map(_judged_to_pb, judged),
        )

    async def ProposePolicy(  # noqa: N802 - the contract's name
        self, request: pb.ProposePolicyRequest, _context: Context
    ) -> pb.ProposePolicyResponse:
        """Keep a document that could be published as it is."""
        view, now = self._views.at_hand()
        require_governance(view, now)
        proposal = _proposal_from_pb(request, now)
        kept = await self._proposals.find(proposal.proposal_id)
        if kept is None:
            view, now = self._views.at_hand()
            await _require_publishable(proposal, view.governance, now)
            kept = await self._proposals.add(proposal)
        if differing := kept.differs_in(proposal):
            raise AlreadyExistsError("another proposal has this id", differing)
        return pb.ProposePolicyResponse(proposal_id=proposal.proposal_id)

    async def ListPolicyProposals(  # noqa: N802 - the contract's name
        self, request: pb.ListPolicyProposalsRequest, _context: Context
    ) -> pb.ListPolicyProposalsResponse:
        """Return a page of proposals, the newest first."""
        view, now = self._views.at_hand()
        require_governance(view, now)
        wrong = _wrong_page(request.kind, request.page_size)
        if request.proposal_id and not is_identifier(request.proposal_id):
            wrong["proposal_id"] = CHOSEN_ID
        if request.page_token and not re.fullmatch(r"[1-9][0-9]{0,17}", request.page_token):
            wrong |= _FOREIGN_TOKEN
        if wrong:
            raise InvalidRequestError(wrong)
        page, more = _Page[tuple[int, Proposal]](request.page_size), False
        async for numbered in self._found(request):
            if more := not page.takes(numbered, len(numbered[1].document)):
                break
        view, _ = self._views.at_hand()
        return pb.ListPolicyProposalsResponse(
            proposals=[_proposal_to_pb(each, view.governance) for _, each in page.items],
            next_page_token=str(page.items[-1][0]) if more else "",
        )

    async def _found(self, request: pb.ListPolicyProposalsRequest) -> AsyncIterator[tuple[int, Proposal]]:
        """Read the proposals that are asked for, a few at a time: a document may be large."""
        before = int(request.page_token) if request.page_token else None
        if request.proposal_id:
            one = await self._proposals.find(request.proposal_id)
            if one and request.kind in {"", one.kind}:
                yield 1, one
            return
        while True:
            few = await self._proposals.newest_first(request.kind or None, before=before, most=_FEW)
            for numbered in few:
                yield numbered
            if len(few) < _FEW:
                return
            before = few[-1][0]


class _Page(Generic[T]):
    """Takes items until it is full: of so many of them, or of so large documents."""

    def __init__(self, size: int) -> None:
        self.items: list[T] = []
        self._room = page_size(size)
        self._bytes_left = _PAGE_BYTES

    def takes(self, item: T, document_bytes: int) -> bool:
        """Take an item, unless the page is full; the first always fits."""
        if len(self.items) == self._room or (self.items and document_bytes > self._bytes_left):
            return False
        self.items.append(item)
        self._bytes_left -= document_bytes
        return True


def _wrong_page(kind: str, size: int) -> dict[str, str]:
    wrong = wrong_page_size(size)
    if kind and kind not in POLICY_KINDS:
        wrong["kind"] = _KIND
    return wrong


_Place = tuple[str, int]
"""Kind and negated version: in the order of a listing."""


class _Version(NamedTuple):
    kind: str
    listed: ListedVersion

    @property
    def place(self) -> _Place:
        return self.kind, -self.listed.published.version


def _versions(governance: Governance, kind: str, now: datetime) -> Iterator[_Version]:
    for each in [kind] if kind else _KINDS:
        for version in governance.published(each, now):
            yield _Version(each, version)


def _place_from_token(token: str) -> _Place:
    kind, _, version = token.partition(":")
    if kind not in POLICY_KINDS or not re.fullmatch(r"[1-9][0-9]{0,9}", version):
        raise ValueError
    return kind, -int(version)


def _token(version: _Version) -> str:
    return f"{version.kind}:{version.listed.published.version}"


def _version_to_pb(version: _Version) -> pb.Policy:
    kind, (published, effective_from, in_force, superseded) = version
    return pb.Policy(
        kind=kind,
        version=published.version,
        replaces=published.replaces or 0,
        effective_from=timestamp_to_pb(effective_from),
        document=to_struct(json.loads(published.document)),
        in_force=in_force,
        superseded=superseded,
    )


async def _judged(
    kind: str, document: object, beside: Mapping[str, PolicyDocument], governance: Governance, now: datetime
) -> tuple[list[Problem], list[Judged]]:
    """Find what is wrong with a document and what becomes of its examples."""
    problems, judged = validate_document(kind, document), list[Judged]()
    if problems or kind != "quota":
        return problems, judged
    in_force = {
        other: DOCUMENT_MODELS[other].model_validate_json(version.published.document)
        for other in POLICY_KINDS - {"quota", *beside}
        for version in governance.published(other, now)
        if version.in_force
    }
    quota = QuotaDocument.model_validate(document)
    for each in judge_examples(quota, in_force | dict(beside), now):
        if isinstance(each, Problem):
            problems.append(each)
        else:
            judged.append(each)
        await asyncio.sleep(0)  # each takes as long as many checks
    return problems, judged


def _beside(request: pb.TestPolicyRequest) -> dict[str, PolicyDocument]:
    documents, wrong = dict[str, PolicyDocument](), dict[str, str]()
    for kind, struct in request.beside.items():
        document = from_struct(struct)
        if kind == request.kind:
            wrong[f"beside[{kind}]"] = "must be of another kind than the document"
        for problem in validate_document(kind, document):
            wrong[f"beside[{kind}].{problem.path}".removesuffix(".")] = problem.message
        if not wrong:
            documents[kind] = DOCUMENT_MODELS[kind].model_validate(document)
    if wrong:
        raise InvalidRequestError(wrong)
    return documents


def _problems_to_pb(problems: Sequence[Problem]) -> Iterator[pb.PolicyProblem]:
    """Tell what is wrong, as far as an answer holds it: there may be more wrong than a client takes."""
    for each in problems[:_MOST_PROBLEMS]:
        yield pb.PolicyProblem(
            path=each.path[:_PROBLEM_CHARACTERS], message=each.message[:_PROBLEM_CHARACTERS]
        )
    if untold := len(problems[_MOST_PROBLEMS:]):
        yield pb.PolicyProblem(path="*", message=f"{untold} more are wrong")


def _judged_to_pb(judged: Judged) -> pb.PolicyExampleResult:
    return pb.PolicyExampleResult(
        name=judged.name,
        expected=pb.Decision.Value(f"DECISION_{judged.expected}"),
        actual=pb.Decision.Value(f"DECISION_{judged.actual}"),
        reason_codes=judged.reasons,
    )


def _proposal_from_pb(request: pb.ProposePolicyRequest, now: datetime) -> Proposal:
    wrong = {}
    if not is_identifier(request.proposal_id):
        wrong["proposal_id"] = CHOSEN_ID
    if request.kind not in POLICY_KINDS:
        wrong["kind"] = _KIND
    if not 0 <= request.replaces < MAX_VERSION:
        wrong["replaces"] = "must be the version it was written against; 0 for the first of its kind"
    effective_from = now
    if not request.HasField("effective_from"):
        wrong["effective_from"] = "must be set"
    else:
        effective_from = instant_from_pb(request.effective_from, "effective_from", wrong)
    if not request.HasField("document"):
        wrong["document"] = "must be set"
    if wrong:
        raise InvalidRequestError(wrong)
    identity = current_identity()
    return Proposal(
        request.proposal_id,
        request.kind,
        request.replaces or None,
        effective_from,
        json.dumps(from_struct(request.document), sort_keys=True),
        identity.on_behalf_of or identity.caller,
        now,
    )


async def objections(
    kind: str,
    document: object,
    beside: Mapping[str, PolicyDocument],
    governance: Governance,
    now: datetime,
) -> dict[str, str]:
    """Return what stands against publishing a document: its problems and broken examples, by path."""
    problems, judged = await _judged(kind, document, beside, governance, now)
    return {each.path: each.message for each in problems} | {
        f"examples[{each.name}]": f"promises {each.expected}, its rules give {each.actual}"
        for each in judged
        if not each.holds
    }


def located(field: str, found: Mapping[str, str]) -> dict[str, str]:
    """Return what was found in a document by the fields of the request that has it."""
    return {f"{field}.{path}".removesuffix("."): message for path, message in found.items()}


async def _require_publishable(proposal: Proposal, governance: Governance, now: datetime) -> None:
    document = json.loads(proposal.document)
    if found := await objections(proposal.kind, document, {}, governance, now):
        raise InvalidRequestError(located("document", found))
    newest = governance.newest(proposal.kind)
    if proposal.replaces != newest:
        is_newest = f"version {newest}" if newest else "no version"
        raise FailedPreconditionError(
            f"{is_newest} of {proposal.kind} is published: write the document against that"
        )


def _proposal_to_pb(proposal: Proposal, governance: Governance) -> pb.PolicyProposal:
    return pb.PolicyProposal(
        proposal_id=proposal.proposal_id,
        kind=proposal.kind,
        replaces=proposal.replaces or 0,
        effective_from=timestamp_to_pb(proposal.effective_from),
        document=to_struct(json.loads(proposal.document)),
        proposed_by=proposal.proposed_by,
        proposed_at=timestamp_to_pb(proposal.proposed_at),
        outdated=proposal.replaces != governance.newest(proposal.kind),
    )
