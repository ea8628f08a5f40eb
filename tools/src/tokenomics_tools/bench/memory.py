"""What a serving process keeps in memory for each subject that is active.

The view of a large company is made in this process from what the database would give: the governing events in
force, the totals of this period and of the one before, and what is kept of a caller that asks and, after all
totals have moved, asks again. Rows and times are made while it is counted, as they are when the view is fed.
"""

import gc
import tracemalloc
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from tokenomics_chassis.clock import SystemClock
from tokenomics_cli.directory import read_directory
from tokenomics_cli.policy_files import read_policies
from tokenomics_contracts.catalogue import topic_of
from tokenomics_contracts.events.base import Event
from tokenomics_contracts.units import AccountId, MicroUsd
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.projections.governance import Governance
from tokenomics_quota.storage.default_price_book import DefaultPriceBook
from tokenomics_quota.storage.mapping import governing_event_from_row
from tokenomics_tools.bench.plant import Scale
from tokenomics_tools.bench.rows import Bar, Row
from tokenomics_tools.simulator import Simulation, simulate, write_simulation

_PEOPLE = 9_500
"""No more callers, bots among them, than the view keeps at a time: beyond, it lets go of all of them."""
_PEOPLE_OF_A_TEAM = 12
_KIBIBYTE = 1_024
_APPENDED_MS = 1_700_000_000_000
_BETWEEN_CALLS = timedelta(microseconds=1)


def measure(scale: Scale) -> list[Row]:
    """Count what is allocated while the view is filled, over those active in it."""
    people = int(scale.of(_PEOPLE, at_least=500))
    now = SystemClock().now()
    simulation = simulate(now=now, people=people, teams=people // _PEOPLE_OF_A_TEAM, events=people)
    events = _governing_events(simulation)
    subjects = [member.subject for member in simulation.company.members]
    view = QuotaView(Governance(DefaultPriceBook()))
    gc.collect()
    tracemalloc.start()
    view.governance = view.governance.with_events(map(governing_event_from_row, _rows(events)), 1)
    calendar = view.governance.calendars.at(now)
    this_period = calendar.period_of(now)
    start, _ = calendar.bounds(this_period)
    earlier_period = calendar.period_of(start - timedelta(days=1))
    for period, posted in ((earlier_period, 1_000_000), (this_period, 2_000_000), (this_period, 3_000_000)):
        view.put_totals(
            {
                AccountId(f"{account.kind}/{account.owner_id}/operational/{period}"): MicroUsd(
                    posted + number
                )
                for number, subject in enumerate(subjects)
                for account in view.accounts_of(subject, None, now)
            }
        )
        for number, subject in enumerate(subjects):
            view.touched_by(subject, None, now + number * _BETWEEN_CALLS)
    gc.collect()
    allocated, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return [
        Row("memory, active subject", allocated / len(subjects), "B", bar=Bar("value", "<=", 1.5 * _KIBIBYTE))
    ]


def _governing_events(simulation: Simulation) -> list[tuple[str, bytes]]:
    """Return types and data of directory and policies."""
    with TemporaryDirectory() as folder:
        files = write_simulation(simulation, Path(folder))
        events: list[Event] = [
            *(each.policy for each in read_policies(files.policies)),
            *(entry.event for entry in read_directory(files.directory)),
        ]
    return [
        (event.type_name, event.model_dump_json(by_alias=True, exclude_none=True).encode())
        for event in events
    ]


def _rows(events: Iterable[tuple[str, bytes]]) -> Iterator[dict[str, object]]:
    """Give the database's rows of governing events, each with values of its own."""
    for number, (event_type, data) in enumerate(events):
        yield {
            "topic": topic_of(event_type).name,
            "identity": number.to_bytes(16),
            "digest": number.to_bytes(32),
            "append_ms": _APPENDED_MS + number,
            "partition": 0,
            "record_offset": number,
            "event_type": event_type,
            "data": data,
        }
