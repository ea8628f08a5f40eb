"""Looks at somebody's data, and the rights by which they are made."""

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from tokenomics_contracts.units import SubjectId


class Basis(StrEnum):
    """The right by which somebody is shown an account or a person's data."""

    OWN = "own"
    """It is their own."""
    MEMBER = "member"
    """Their calls are counted on it, with those of enough others."""
    MANAGER = "manager"
    """They decide about the person or service, in office or as a delegate."""
    OWNER = "owner"
    """They own the shared account, in office or as a delegate."""
    GOVERNANCE = "governance"
    AUDITOR = "auditor"


class Look(NamedTuple):
    """Somebody is shown data about a person or service."""

    person_id: SubjectId
    """Who looks."""
    caller: str
    """Workload through which."""
    subject: SubjectId
    """Whose data."""
    method: str
    """Full name of the method."""
    basis: Basis


class RecordedLook(NamedTuple):
    """A look as it was recorded."""

    number: int
    """Later ones have larger ones."""
    at: datetime
    look: Look
