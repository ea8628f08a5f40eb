"""`tokenomics.nominations.v1`: what people contribute. No free text in any."""

from typing import ClassVar

from tokenomics_contracts.events.base import Event
from tokenomics_contracts.units import Identifier, Subject, UseCase, UtcTime


class AssetPublished(Event):
    """Somebody shares something that others can use: a prompt, a template, a workflow.

    Of several of one asset the latest published counts, of equals the latest in the log.
    """

    type_name: ClassVar[str] = "tokenomics.asset.published.v1"
    key_field: ClassVar[str] = "nominee"

    nominee: Subject
    """Who made it."""

    asset_id: Identifier
    use_cases: tuple[UseCase, ...]
    """Which use cases it serves. Empty: it is offered no more."""

    published_at: UtcTime
    """From when on that holds."""
