"""Why an event can't be applied."""

from enum import StrEnum


class RejectionCode(StrEnum):
    """Why a projection parked an event."""

    BAD_ENVELOPE = "bad_envelope"
    BAD_JSON = "bad_json"
    INVALID_DATA = "invalid_data"
    UNKNOWN_TYPE = "unknown_type"
    UNKNOWN_VERSION = "unknown_version"
    TOO_LARGE = "too_large"
    TOO_LATE = "too_late"
    IDENTITY_CONFLICT = "identity_conflict"
    POLICY_MISMATCH = "policy_mismatch"
    BEHIND_PARKED = "behind_parked"
    INTERNAL_ERROR = "internal_error"


class EventRejected(Exception):  # noqa: N818 - the domain's word: an event is rejected, then parked
    """An event can't be applied. The message names fields, never values: they may be personal."""

    def __init__(self, code: RejectionCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
