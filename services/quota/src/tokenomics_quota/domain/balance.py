"""An account against its limit."""

from datetime import datetime
from typing import NamedTuple

from tokenomics_contracts.units import MicroUsd
from tokenomics_quota.domain.accounts import Account, AccountKind
from tokenomics_quota.domain.friction import Band, Standing, Thresholds


class Balance(NamedTuple):
    """One account against its limit at an instant; amounts in micro-USD."""

    account: Account
    limit_micro_usd: MicroUsd | None
    """``None`` is unlimited."""
    posted_micro_usd: MicroUsd
    pending_micro_usd: MicroUsd
    resets_at: datetime
    """End of the period, exclusive, in UTC."""
    thresholds: Thresholds

    @property
    def used_micro_usd(self) -> MicroUsd:
        """Posted and pending."""
        return MicroUsd(self.posted_micro_usd + self.pending_micro_usd)

    @property
    def band(self) -> Band:
        """Where it stands now."""
        return self.thresholds.band(self.used_micro_usd, self.limit_micro_usd)

    @property
    def shared(self) -> bool:
        """Whether it belongs to more than the subject itself."""
        return self.account.kind is not AccountKind.SUBJECT

    def standing_with(self, amount_micro_usd: MicroUsd) -> Standing:
        """Return where it would stand with an amount more."""
        used = MicroUsd(self.used_micro_usd + amount_micro_usd)
        return Standing(self.shared, self.thresholds.band(used, self.limit_micro_usd))
