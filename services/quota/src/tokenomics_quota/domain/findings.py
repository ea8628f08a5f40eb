"""What the rules of a check find about a call."""

from enum import StrEnum
from typing import NamedTuple

from tokenomics_quota.domain.accounts import Account
from tokenomics_quota.domain.friction import Decision


class Rule(StrEnum):
    """What decides a check; named so in policies."""

    ALLOWANCES = "allowances"
    """The bands of the caller's own account."""
    BUDGETS = "budgets"
    """Shared accounts at their limit."""
    MODELS = "models"
    USE_CASES = "use_cases"
    SPIKES = "spikes"
    PROHIBITED_DATA = "prohibited_data"
    SHUT_ACCOUNTS = "shut_accounts"
    """Accounts that somebody froze or closed; no policy rolls that out, and no bypass lifts it."""


class Finding(NamedTuple):
    """What one rule asks of the caller."""

    rule: Rule
    decision: Decision
    code: str
    """Stable; told as the reason's code."""
    message: str
    """A sentence for people."""
    way: str = ""
    """What lets the caller go on, in a sentence; empty where nothing holds the call back."""
    account: Account | None = None
    """Which it is about."""
