"""Amounts that are kept beside what they follow from, and no longer follow from it."""

from enum import StrEnum
from typing import NamedTuple

from tokenomics_contracts.units import MicroUsd


class Kept(StrEnum):
    """What is kept so that nobody has to add it up."""

    POSTED = "posted"
    """A period's total, beside the facts that count on the account."""
    DAY = "day"
    """What an owner used on a day, beside that day's facts."""
    LIVE = "live"
    """What is held on an account, beside the holds that are live."""
    ENDING = "ending"
    """What is held on an account, beside the sums by the instant at which it ends."""
    SETTLING = "settling"
    """What was settled by call and isn't posted yet, beside the holds that were."""


class Drift(NamedTuple):
    """One amount that differs."""

    kept: Kept
    name: str
    """Account id; of a day ``<kind>/<owner_id>/<YYYY-MM-DD>``."""
    kept_micro_usd: MicroUsd
    recomputed_micro_usd: MicroUsd


class Compared(NamedTuple):
    """What one step of a comparison came to."""

    period: str
    """``YYYY-MM``; empty for what is held now."""
    amounts: int
    drifts: tuple[Drift, ...]
    step: int
    """From 1."""
    steps: int
