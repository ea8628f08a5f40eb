"""What people share with each other, and for which use cases."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Final, NamedTuple

from tokenomics_quota.domain.checks import ReusableAsset
from tokenomics_quota.domain.effective import LogOrder

_RANK = attrgetter("published_at", "order")


class AssetVersion(NamedTuple):
    """What one event says of an asset."""

    asset_id: str
    nominee: str
    """Who made it."""
    use_cases: frozenset[str]
    published_at: datetime
    order: LogOrder
    identity: bytes
    """Of the event: another that takes its identity takes its place."""


class Assets:
    """Everything that was ever shared. A value: events make another.

    Attributes
    ----------
    nominees
        Who made each asset, by the version that was published last.
    """

    def __init__(self, versions: Iterable[AssetVersion] = ()) -> None:
        self._by_identity = {version.identity: version for version in versions}
        self._of_asset: dict[str, list[AssetVersion]] = {}
        for version in sorted(self._by_identity.values(), key=_RANK):
            self._of_asset.setdefault(version.asset_id, []).append(version)
        self.nominees: Mapping[str, str] = {
            asset_id: versions[-1].nominee for asset_id, versions in self._of_asset.items()
        }
        self._ever_for: dict[str, set[str]] = {}
        for version in self._by_identity.values():
            for use_case in version.use_cases:
                self._ever_for.setdefault(use_case, set()).add(version.asset_id)

    def with_versions(self, versions: Iterable[AssetVersion]) -> "Assets":
        """Return the state after these, one of an identity, were published."""
        return Assets([*self._by_identity.values(), *versions])

    def serving(
        self, use_case: str | None, users: Mapping[str, int], at: datetime
    ) -> Sequence[ReusableAsset]:
        """Return what is offered for a use case, what most have used first.

        Parameters
        ----------
        users
            How many others have used an asset.
        """
        if use_case is None or use_case not in self._ever_for:
            return ()
        offered = [
            ReusableAsset(asset_id, use_case, users.get(asset_id, 0))
            for asset_id in self._ever_for[use_case]
            if (version := self._at(asset_id, at)) is not None and use_case in version.use_cases
        ]
        return sorted(offered, key=lambda asset: (-asset.distinct_users, asset.asset_id))

    def _at(self, asset_id: str, at: datetime) -> AssetVersion | None:
        known = [version for version in self._of_asset[asset_id] if version.published_at <= at]
        return known[-1] if known else None


NO_ASSETS: Final = Assets()
