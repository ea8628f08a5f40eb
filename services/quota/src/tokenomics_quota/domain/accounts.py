"""Accounts: one ledger line per (kind, owner, purpose, period)."""

from enum import StrEnum
from typing import NamedTuple

from tokenomics_contracts.units import AccountId, PeriodId, split_account_id


class AccountKind(StrEnum):
    """Whose spend an account adds up."""

    SUBJECT = "subject"
    PROJECT = "project"
    TEAM = "team"
    COST_CENTRE = "cost_centre"
    UNATTRIBUTED = "unattributed"


class Purpose(StrEnum):
    """What the spend is for; ``ALL`` is operational and experiment together."""

    OPERATIONAL = "operational"
    EXPERIMENT = "experiment"
    ALL = "all"


SINGLE_PURPOSES = (Purpose.OPERATIONAL, Purpose.EXPERIMENT)
"""Those that something is posted for."""


class Account(NamedTuple):
    """The parts of an account id."""

    kind: AccountKind
    owner_id: str
    purpose: Purpose
    period: PeriodId

    @property
    def account_id(self) -> AccountId:
        """Text form, ``<kind>/<owner_id>/<purpose>/<period>``, used in events, tables and answers."""
        return AccountId(f"{self.kind}/{self.owner_id}/{self.purpose}/{self.period}")

    @property
    def owner(self) -> str:
        """Whose it is, ``<kind>/<owner_id>``, whatever purpose and period."""
        return f"{self.kind}/{self.owner_id}"

    def for_purpose(self, purpose: Purpose) -> "Account":
        """Return the same line for another purpose."""
        return self._replace(purpose=purpose)


def parse_account_id(text: str) -> Account:
    """Take an account id apart.

    Raises
    ------
    ValueError
        When the text is not ``<kind>/<owner_id>/<purpose>/<period>`` with a known kind and purpose.
    """
    try:
        kind, owner_id, purpose, period = split_account_id(AccountId(text))
        return Account(AccountKind(kind), owner_id, Purpose(purpose), period)
    except ValueError as error:
        raise ValueError(f"account id {text!r} is not <kind>/<owner_id>/<purpose>/<period>") from error
