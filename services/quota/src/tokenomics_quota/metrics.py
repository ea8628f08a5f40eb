"""Metrics of quota alone; those that every service has are in the chassis."""

from typing import Final

from opentelemetry import metrics

_meter: Final = metrics.get_meter("tokenomics.quota")

HOLDS_LIVE = _meter.create_gauge(
    "tokenomics.holds.live", unit="{hold}", description="Holds whose end has not come and that nothing ended."
)

HOLDS_UNSWEPT = _meter.create_gauge(
    "tokenomics.holds.unswept",
    unit="{hold}",
    description="Holds whose end has come, and is not written down yet. Their amounts are free.",
)

HOLDS_ENDED = _meter.create_counter(
    "tokenomics.holds.ended",
    unit="{hold}",
    description="Holds that ended without their caller. Attributes: by (usage, time).",
)

HOLDS_UNCOVERED = _meter.create_counter(
    "tokenomics.holds.uncovered",
    unit="{micro-USD}",
    description=(
        "What usage that names a hold cost beyond what the hold covers. Attributes: cause (above: more than"
        " was left of it; ended: after its end; again: it was settled)."
    ),
)

SETTLING_BACKLOG = _meter.create_gauge(
    "tokenomics.holds.settling_backlog",
    unit="{record}",
    description="Records that are projected, and in which nobody has looked yet for holds to settle.",
)

LEDGER_SHUT = _meter.create_gauge(
    "tokenomics.ledger.shut",
    unit="1",
    description="1 while the hold ledger may lack something after a restart or a loss, and refuses; else 0.",
)

FRICTION_INTERRUPTIONS = _meter.create_counter(
    "tokenomics.friction.interruptions",
    unit="{interruption}",
    description=(
        "Subjects that a rule with a friction budget held back, once an hour each, on whichever servers."
        " Attributes: rule."
    ),
)
