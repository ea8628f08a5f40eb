"""Units and identifiers that events, ledgers and calls share.

Money is an integer of micro-USD, tokens are integers, ratios are basis points. Bounds are part of the
contract: a reader may rely on them (they keep every sum of nine million facts inside 64 bits).
"""

from datetime import UTC, datetime
from typing import Annotated, Final, Literal, NewType

import msgspec
from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

MicroUsd = NewType("MicroUsd", int)
"""An amount of money: 1 USD is 1_000_000."""

PicoUsd = NewType("PicoUsd", int)
"""A price of one token: 1 pico-USD per token is 1 micro-USD per million tokens."""

BasisPoints = NewType("BasisPoints", int)
"""A ratio: 10_000 is the whole."""

TokenCount = NewType("TokenCount", int)
"""A number of model tokens."""

SubjectId = NewType("SubjectId", str)
"""A person's or a service's pseudonymous id, or `alias:<hex>` where a tool knows only an alias."""

PersonId = NewType("PersonId", str)
ServiceId = NewType("ServiceId", str)
TeamId = NewType("TeamId", str)
ProjectId = NewType("ProjectId", str)
CostCentreId = NewType("CostCentreId", str)
GroupId = NewType("GroupId", str)
DelegationId = NewType("DelegationId", str)
UseCaseId = NewType("UseCaseId", str)
HoldId = NewType("HoldId", str)
DecisionId = NewType("DecisionId", str)
RequestId = NewType("RequestId", str)
"""Of a request for an approval, and of what came of it."""

Role = NewType("Role", str)

AccountId = NewType("AccountId", str)
"""`<kind>/<owner_id>/<purpose>/<period>`, for example `team/team-07/all/2026-11`."""

PeriodId = NewType("PeriodId", str)
"""A calendar month in the policy's time zone, `YYYY-MM`."""

AccountKind = Literal["subject", "project", "team", "cost_centre", "unattributed"]
Purpose = Literal["operational", "experiment"]
AccountPurpose = Literal["operational", "experiment", "all"]
Band = Literal["normal", "nudge", "justify", "approve"]
DecisionName = Literal["ALLOW", "ALLOW_WITH_NUDGE", "JUSTIFICATION_REQUIRED", "APPROVAL_REQUIRED", "DENIED"]
ServiceTier = Literal["standard", "batch", "priority"]
Cohort = Literal["pilot", "comparison"]
RuleName = Literal["allowances", "budgets", "models", "use_cases", "spikes"]
"""`allowances`: the bands of the caller's own account. `budgets`: shared accounts at their limit. Prohibited
data isn't among them: it is refused from the first day, everywhere."""


UNATTRIBUTED: Final = "unattributed"
"""Owner id of the account that takes the usage of unknown subjects."""

MAX_TOKENS: Final = 10**9
"""Upper bound of each token count of one event."""

MAX_COST_MICRO_USD: Final = 10**12
"""Upper bound of one event's cost (a million USD), reported or priced: a book can't make it dearer."""

MAX_LIMIT_MICRO_USD: Final = 10**15
"""Upper bound of a limit and of a budget (a billion USD)."""

MAX_TOTAL_MICRO_USD: Final = 2**63 - 1
"""Upper bound of a sum: what a ledger's 64 bits hold, as nothing else bounds how much is summed."""

MAX_VERSION: Final = 2**31 - 1
"""Upper bound of a policy's version."""

MAX_OFFSET: Final = 2**63 - 1
"""Upper bound of a position in the log."""

MAX_SEQUENCE_NUMBER: Final = 2**63 - 1
"""Upper bound of a number that a ledger counts with."""

MAX_EVENT_NAME_LENGTH: Final = 256
"""Longest CloudEvents `id` and `source`, in characters."""

EARLIEST_TIME: Final = datetime(2000, 1, 1, tzinfo=UTC)
LATEST_TIME: Final = datetime(2200, 1, 1, tzinfo=UTC)
"""Times outside these are mistakes of unit or clock; refusing them keeps period arithmetic total."""

_EARLIEST_YEAR: Final = EARLIEST_TIME.year
_LATEST_YEAR: Final = LATEST_TIME.year

IDENTIFIER_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9:._-]{0,127}$"
"""No `@` (an e-mail is never an id), no `/` (it separates the parts of an account id), no space."""

LABEL_PATTERN: Final = r"^[!-~]{1,128}$"
"""Names that vendors chose (provider, model, tool): printable ASCII without spaces."""

SLUG_PATTERN: Final = r"^[a-z0-9][a-z0-9_.-]{0,63}$"
"""Codes and classes: never prose."""

CALLER_PATTERN: Final = r"^[!-~]{1,256}$"
"""Names of workloads, as their tokens say them."""

ALIAS_PATTERN: Final = r"^alias:[0-9a-f]{32,128}$"
"""A keyed hash of an e-mail address, an SSO id or an API key, written as tools send it as subject."""

ACCOUNT_ID_PATTERN: Final = (
    r"^(subject|project|team|cost_centre|unattributed)/[A-Za-z0-9][A-Za-z0-9:._-]{0,127}"
    r"/(operational|experiment|all)/[0-9]{4}-(0[1-9]|1[0-2])$"
)
DIGEST_PATTERN: Final = r"^[0-9a-f]{32}$"
"""16 bytes in hexadecimal."""

PAYLOAD_DIGEST_PATTERN: Final = r"^[0-9a-f]{32,256}$"
"""16 bytes in hexadecimal over a request, then what tells its fields apart."""

POSITION_PATTERN: Final = r"^[a-z0-9._-]{1,249}/[0-9]{1,6}$"
"""`topic/partition`, the keys of a freshness token."""

_RFC3339: Final[msgspec.json.Decoder[datetime]] = msgspec.json.Decoder(
    Annotated[datetime, msgspec.Meta(tz=True)]
)


def parse_time(text: str) -> datetime:
    """Read an RFC 3339 time that names its offset.

    Returns
    -------
    datetime
        In UTC, rounded to microseconds.

    Raises
    ------
    ValueError
        The text is no such time, or it lies outside `EARLIEST_TIME` .. `LATEST_TIME`.
    """
    try:
        moment = _RFC3339.decode(f'"{text}"')
        if moment.tzinfo is not UTC:
            moment = moment.astimezone(UTC)
    except (msgspec.MsgspecError, OverflowError, UnicodeEncodeError):
        raise ValueError("should be an RFC 3339 time with its offset, e.g. 2026-11-01T08:30:00Z") from None
    if not _EARLIEST_YEAR <= moment.year < _LATEST_YEAR or "\\" in text:
        raise ValueError("should be a time between the years 2000 and 2199")
    return moment


def format_time(moment: datetime) -> str:
    """Write a time in the one form that all Tokenomics producers use: UTC with a final `Z`.

    Raises
    ------
    ValueError
        The time is naive.
    """
    if moment.tzinfo is None:
        raise ValueError("should have a time zone")
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _utc(value: object) -> datetime:
    if isinstance(value, datetime):
        value = format_time(value)
    if not isinstance(value, str):
        raise ValueError("should be an RFC 3339 time in text")  # noqa: TRY004 - pydantic reports ValueError
    return parse_time(value)


def is_event_name(text: str) -> bool:
    """Whether a text may be a CloudEvents `id` or `source`: 1 to 256 printable characters."""
    return 0 < len(text) <= MAX_EVENT_NAME_LENGTH and text.isprintable()


def _event_name(text: str) -> str:
    if not is_event_name(text):
        raise ValueError("should have printable characters only")
    return text


def split_account_id(account: AccountId) -> tuple[AccountKind, str, AccountPurpose, PeriodId]:
    """Take an account's name apart.

    Raises
    ------
    ValueError
        It doesn't have four parts. The parts themselves aren't judged.
    """
    kind, owner_id, purpose, period = account.split("/")
    return kind, owner_id, purpose, PeriodId(period)  # type: ignore[return-value]


# Field types: what a model writes instead of repeating the constraint. Strict: text is never a number.
UtcTime = Annotated[datetime, BeforeValidator(_utc, json_schema_input_type=datetime)]
Tokens = Annotated[TokenCount, Field(strict=True, ge=0, le=MAX_TOKENS)]
Cost = Annotated[MicroUsd, Field(strict=True, ge=0, le=MAX_COST_MICRO_USD)]
Limit = Annotated[MicroUsd, Field(strict=True, ge=0, le=MAX_LIMIT_MICRO_USD)]
Total = Annotated[MicroUsd, Field(strict=True, ge=0, le=MAX_TOTAL_MICRO_USD)]
Ratio = Annotated[BasisPoints, Field(strict=True, ge=0, le=1_000_000)]
Version = Annotated[int, Field(strict=True, ge=1, le=MAX_VERSION)]
Count = Annotated[int, Field(strict=True, ge=1, le=MAX_SEQUENCE_NUMBER)]
Offset = Annotated[int, Field(strict=True, ge=0, le=MAX_OFFSET)]
PartitionNumber = Annotated[int, Field(strict=True, ge=0, le=999_999)]
SequenceNumber = Annotated[int, Field(strict=True, ge=1, le=MAX_SEQUENCE_NUMBER)]
Seconds = Annotated[int, Field(strict=True, ge=0, le=MAX_SEQUENCE_NUMBER)]
Milliseconds = Annotated[int, Field(strict=True, ge=0, le=86_400_000)]

_IDENTIFIER: Final = StringConstraints(pattern=IDENTIFIER_PATTERN)
Identifier = Annotated[str, _IDENTIFIER]
Subject = Annotated[SubjectId, _IDENTIFIER]
Person = Annotated[PersonId, _IDENTIFIER]
Service = Annotated[ServiceId, _IDENTIFIER]
Team = Annotated[TeamId, _IDENTIFIER]
Project = Annotated[ProjectId, _IDENTIFIER]
CostCentre = Annotated[CostCentreId, _IDENTIFIER]
Group = Annotated[GroupId, _IDENTIFIER]
Delegation = Annotated[DelegationId, _IDENTIFIER]
UseCase = Annotated[UseCaseId, _IDENTIFIER]
Hold = Annotated[HoldId, _IDENTIFIER]
Decision = Annotated[DecisionId, _IDENTIFIER]
Request = Annotated[RequestId, _IDENTIFIER]
RoleName = Annotated[Role, _IDENTIFIER]
Alias = Annotated[SubjectId, StringConstraints(pattern=ALIAS_PATTERN)]
Account = Annotated[AccountId, StringConstraints(pattern=ACCOUNT_ID_PATTERN)]
Day = Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$")]
Period = Annotated[PeriodId, StringConstraints(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])$")]
Label = Annotated[str, StringConstraints(pattern=LABEL_PATTERN)]
Slug = Annotated[str, StringConstraints(pattern=SLUG_PATTERN)]
Digest = Annotated[str, StringConstraints(pattern=DIGEST_PATTERN)]
PayloadDigest = Annotated[str, StringConstraints(pattern=PAYLOAD_DIGEST_PATTERN)]
OpaqueBytes = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]*={0,2}$", max_length=65_536)]
"""Base64 that only its writer reads."""

Caller = Annotated[str, StringConstraints(pattern=CALLER_PATTERN)]
EventName = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_EVENT_NAME_LENGTH), AfterValidator(_event_name)
]
Measurement = Annotated[str, StringConstraints(pattern=r"^-?[0-9]{1,15}(\.[0-9]{1,6})?$")]
"""A decimal in text: no float stands for a measurement that is later compared."""
