"""Run the proofs: all of them, or those named as arguments.

PROVE_SEED and PROVE_SCALE (1 is full size) shape the histories, PROVE_JSON names a file for the same as JSON.
"""

import asyncio
import json
import logging
import os
import sys
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

from tests.proofs import (
    abandoned_holds,
    exactly_once,
    grants_expire,
    holds_never_overshoot,
    holds_survive_lost_database,
    late_usage_adjusts,
    leases_return,
    lost_database,
    period_turn,
    poison_is_parked,
    rebuild_under_traffic,
    replay_equals_live,
    reprice_is_visible,
    restart_storm,
    restored_backup,
    shared_budget_fairness,
    slow_and_full,
    stale_view,
    thresholds_once,
    wrong_identity_refused,
)
from tests.proofs.lab import Lab, Prove, Verdict
from tokenomics_tools.stack import keep_logs

PROOFS: dict[str, Prove] = {
    "exactly-once": exactly_once.prove,
    "replay-equals-live": replay_equals_live.prove,
    "thresholds-once": thresholds_once.prove,
    "poison-is-parked": poison_is_parked.prove,
    "stale-view": stale_view.prove,
    "holds-never-overshoot": holds_never_overshoot.prove,
    "holds-survive-lost-database": holds_survive_lost_database.prove,
    "abandoned-holds": abandoned_holds.prove,
    "leases-return": leases_return.prove,
    "wrong-identity-refused": wrong_identity_refused.prove,
    "rebuild-under-traffic": rebuild_under_traffic.prove,
    "lost-database": lost_database.prove,
    "restored-backup": restored_backup.prove,
    "restart-storm": restart_storm.prove,
    "slow-and-full": slow_and_full.prove,
    "grants-expire-on-the-instant": grants_expire.prove,
    "shared-budget-fairness": shared_budget_fairness.prove,
    "period-turn": period_turn.prove,
    "late-usage-adjusts": late_usage_adjusts.prove,
    "reprice-is-visible": reprice_is_visible.prove,
}


async def run(names: list[str], seed: int, scale: float) -> list[dict[str, object]]:
    """Run proofs one after another; one that breaks down has failed, the others still run."""
    rows: list[dict[str, object]] = []
    async with AsyncExitStack() as resources:
        lab = Lab(seed=seed, scale=scale, anchor=datetime.now(UTC), resources=resources)
        for name in names:
            begun = time.monotonic()
            try:
                verdict = await PROOFS[name](lab)
            except Exception as error:  # noqa: BLE001 - a proof that breaks down is a proof that failed
                verdict = Verdict({}, [f"{type(error).__name__}: {error}"])
            seconds = round(time.monotonic() - begun, 1)
            row = {
                "name": name,
                "ok": verdict.ok,
                "seed": seed,
                "seconds": seconds,
                "figures": verdict.figures,
            }
            rows.append(row if verdict.ok else {**row, "failures": verdict.failures})
            figures = ", ".join(f"{key} {value:,}" for key, value in verdict.figures.items())
            outcome = "ok" if verdict.ok else "FAILED"
            sys.stdout.write(f"{name:<28} seed {seed}  {seconds:6.1f} s  {figures}  {outcome}\n")
            sys.stdout.flush()
            sys.stderr.write("".join(f"    {failure}\n" for failure in verdict.failures))
    return rows


def main() -> int:
    """Read arguments and environment; exit code 0 only if every proof held."""
    names = sys.argv[1:] or list(PROOFS)
    unknown = sorted(set(names) - set(PROOFS))
    if unknown:
        sys.stderr.write(f"no such proof: {', '.join(unknown)}; there are {', '.join(PROOFS)}\n")
        return 2
    try:
        seed, scale = int(os.environ.get("PROVE_SEED", "1")), float(os.environ.get("PROVE_SCALE", "1"))
    except ValueError as error:
        sys.stderr.write(f"PROVE_SEED should be an integer, PROVE_SCALE a number: {error}\n")
        return 2
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a broker that dies is what we came for
    rows = asyncio.run(run(names, seed, scale))
    if report := os.environ.get("PROVE_JSON"):
        Path(report).write_text(json.dumps(rows, indent=2) + "\n")
    if all(row["ok"] for row in rows):
        return 0
    sys.stderr.write("".join(f"    the logs are kept in {folder}\n" for folder in keep_logs()))
    return 1


if __name__ == "__main__":
    sys.exit(main())
