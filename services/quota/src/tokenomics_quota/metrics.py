"""Metrics of quota alone; those that every service has are in the chassis."""

from typing import Final

from opentelemetry import metrics

from tokenomics_chassis.metrics import Watched

_meter: Final = metrics.get_meter("tokenomics.quota")

HOLDS_LIVE = Watched()
_meter.create_observable_gauge(
    "tokenomics.holds.live",
    [HOLDS_LIVE],
    unit="{hold}",
    description="Holds whose end has not come and that nothing ended.",
)

HOLDS_UNSWEPT = Watched()
_meter.create_observable_gauge(
    "tokenomics.holds.unswept",
    [HOLDS_UNSWEPT],
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

SETTLING_BACKLOG = Watched()
_meter.create_observable_gauge(
    "tokenomics.holds.settling_backlog",
    [SETTLING_BACKLOG],
    unit="{record}",
    description="Records that are projected, and in which nobody has looked yet for holds to settle.",
)

LEDGER_SHUT = Watched()
_meter.create_observable_gauge(
    "tokenomics.ledger.shut",
    [LEDGER_SHUT],
    unit="1",
    description="1 while the hold ledger may lack something after a restart or a loss, and refuses; else 0.",
)

LEDGER_TURN_DURATION = _meter.create_histogram(
    "tokenomics.ledger.turn.duration",
    unit="s",
    description="A committed turn of the ledger, from the wait for a connection to the commit.",
    explicit_bucket_boundaries_advisory=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)

LEDGER_TURN_COMMANDS = _meter.create_histogram(
    "tokenomics.ledger.turn.commands",
    unit="{command}",
    description="Commands that shared a turn of the ledger, of turns that were committed.",
    explicit_bucket_boundaries_advisory=(1, 2, 4, 8, 16, 32, 64, 128, 255),
)

LEDGER_TURNS_FAILED = _meter.create_counter(
    "tokenomics.ledger.turn.failures",
    unit="{turn}",
    description=(
        "Turns of the ledger that were not committed, or of which that isn't known. Attributes: cause (away:"
        " the database was; shut: the ledger was; command: something in the turn broke it, and each of its"
        " commands is tried alone)."
    ),
)

LEDGER_WAITING = Watched()
_meter.create_observable_gauge(
    "tokenomics.ledger.waiting",
    [LEDGER_WAITING],
    unit="{command}",
    description="Commands that wait for a turn of the ledger.",
)

FRICTION_INTERRUPTIONS = _meter.create_counter(
    "tokenomics.friction.interruptions",
    unit="{interruption}",
    description=(
        "Subjects that a rule with a friction budget held back, once an hour each, on whichever servers."
        " Attributes: rule."
    ),
)
