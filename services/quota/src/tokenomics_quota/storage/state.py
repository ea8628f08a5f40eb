"""The derived state of quota, as the canonical hash sees it."""

from tokenomics_chassis.state_hash import PARKED, POSITIONS, SKIPPED, HashedTable

DERIVED_TABLES = (
    POSITIONS,
    PARKED,
    SKIPPED,
    HashedTable("fact", "SELECT * FROM fact WHERE event_kind <> 'awaited'"),
    HashedTable(
        "posted",
        "SELECT account_id, period, sum(posted_micro_usd)::bigint AS posted_micro_usd FROM posted"
        " GROUP BY account_id, period HAVING sum(posted_micro_usd) <> 0",
        {
            "source_id": "which source posted a part depends on the order in which topics were read",
            "change_seq": "counts transactions",
        },
    ),
    HashedTable(
        "governing_event",
        "SELECT topic, identity, digest, append_ms, partition, record_offset, event_type, data"
        " FROM governing_event",
        {"governing_version": "counts transactions"},
    ),
)
"""Everything that follows from the log alone. Bookkeeping of how it was reached stays out."""

NOT_DERIVED = {
    "governing_version": "counts transactions",
    "repeated": "a repetition changes nothing; it is kept for the day its original proves to be in the wrong",
}
"""Tables of the derived schema that the hash leaves out, with the reason."""
