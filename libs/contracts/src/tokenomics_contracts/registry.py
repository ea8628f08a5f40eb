"""From an envelope to a typed event."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from pydantic import ValidationError

from tokenomics_contracts import audit
from tokenomics_contracts.cloudevents import Envelope
from tokenomics_contracts.events import approvals, directory, nominations, policy, quota, usage
from tokenomics_contracts.events.base import Event
from tokenomics_contracts.events.policy import problems_of
from tokenomics_contracts.json_data import load_json
from tokenomics_contracts.rejection import EventRejected, RejectionCode
from tokenomics_contracts.upcast import UPCASTS, Upcast

_VERSION: Final = re.compile(r"\.v[0-9]+$")


class Registry:
    """Event types and how their old versions are read."""

    def __init__(self, models: Iterable[type[Event]], upcasts: Mapping[str, Upcast]) -> None:
        self.models: Final = {model.type_name: model for model in models}
        self._upcasts = upcasts
        self._known_names = {_VERSION.sub("", name) for name in (*self.models, *upcasts)}

    def parse(self, envelope: Envelope) -> Event:
        """Read an envelope's data, in the newest version of its type.

        Raises
        ------
        EventRejected
            `unknown_type`, `unknown_version`, `bad_json` or `invalid_data`. Nothing else, whatever the bytes.
        """
        type_name = envelope.type
        if type_name not in self.models and type_name not in self._upcasts:
            known = _VERSION.sub("", type_name) in self._known_names
            code = RejectionCode.UNKNOWN_VERSION if known else RejectionCode.UNKNOWN_TYPE
            raise EventRejected(code, f"no reader for {type_name[:128]!r}")
        data = load_json(envelope.data)
        while isinstance(data, dict) and (step := self._upcasts.get(type_name)) is not None:
            type_name, data = step.to, step.apply(data)
        if not isinstance(data, dict):
            raise EventRejected(RejectionCode.INVALID_DATA, "data should be an object")
        try:
            return self.models[type_name].model_validate(data)
        except ValidationError as error:
            message = "; ".join(map(str, problems_of(error)))
            raise EventRejected(RejectionCode.INVALID_DATA, message) from None


EVENT_MODELS: Final[tuple[type[Event], ...]] = (
    usage.UsageRecorded,
    usage.UsageCorrected,
    usage.OutcomeRecorded,
    usage.ViolationDetected,
    usage.DetectionDisputed,
    usage.AssetReused,
    usage.SourceTested,
    directory.PersonUpserted,
    directory.PersonLeft,
    directory.PersonErased,
    directory.ServiceUpserted,
    directory.TeamUpserted,
    directory.ProjectUpserted,
    directory.CostCentreUpserted,
    directory.GroupUpserted,
    directory.DelegationUpserted,
    directory.DelegationEnded,
    policy.PolicyPublished,
    approvals.ApprovalApproved,
    approvals.ApprovalRevoked,
    approvals.ApprovalLapsed,
    quota.DecisionRecorded,
    nominations.AssetPublished,
    quota.ThresholdCrossed,
    quota.ForecastExceeded,
    quota.PeriodClosed,
    quota.SourceSilent,
    quota.SpikeDetected,
    quota.FrictionExceeded,
    quota.HoldPlaced,
    quota.HoldExtended,
    quota.HoldSettled,
    quota.HoldReleased,
    quota.HoldExpired,
    quota.LeaseAcquired,
    quota.LeaseRenewed,
    quota.LeaseSettled,
    quota.LeaseReturned,
    quota.LeaseExpired,
    quota.AccountFrozen,
    quota.AccountUnfrozen,
    quota.AccountClosed,
    quota.BypassStarted,
    quota.BypassEnded,
    quota.BypassExpired,
    quota.ParkedSkipped,
    audit.AuditRecorded,
    audit.AuditAnchored,
)

REGISTRY: Final = Registry(EVENT_MODELS, UPCASTS)

parse = REGISTRY.parse
"""Read an envelope's data; see `Registry.parse`."""
