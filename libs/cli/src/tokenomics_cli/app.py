"""Every command group in one application."""

import logging
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import typer

from tokenomics_cli import (
    approvals,
    audit,
    budgets,
    directory,
    drift,
    emit,
    holds,
    interventions,
    ops,
    policy,
    quota,
    trails,
)
from tokenomics_cli.failures import CommandError, Exit
from tokenomics_cli.output import print_failure

app = typer.Typer(
    name="tokenomics",
    rich_markup_mode="markdown",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="AI consumption made visible, fair and worth recognising.",
)
app.command("emit")(emit.command)
app.add_typer(policy.commands, name="policy")
app.add_typer(directory.commands, name="directory")
app.add_typer(approvals.commands, name="approvals")
quota.commands.command("budget")(budgets.budget_command)
quota.commands.command("watch")(budgets.watch_command)
quota.commands.command("drift")(drift.drift_command)
quota.commands.command("hold")(holds.hold_command)
quota.commands.command("settle")(holds.settle_command)
quota.commands.command("release")(holds.release_command)
quota.commands.command("extend")(holds.extend_command)
quota.commands.command("holds")(holds.holds_command)
quota.commands.command("freeze")(interventions.freeze_command)
quota.commands.command("unfreeze")(interventions.unfreeze_command)
quota.commands.command("close")(interventions.close_command)
quota.commands.command("usage")(trails.usage_command)
quota.commands.command("looks")(trails.looks_command)
app.add_typer(quota.commands, name="quota")
ops.commands.add_typer(interventions.bypass_commands, name="bypass")
app.add_typer(ops.commands, name="ops")
app.add_typer(audit.commands, name="audit")


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; what fails is printed, not raised."""
    # Kafka's client logs each retry; what matters of it comes back as an error.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        app(list(arguments))
    except CommandError as error:
        print_failure(error, as_json="--json" in arguments)
        return error.exit_code
    except UnicodeEncodeError as error:
        # What the shell gave isn't text; of a path that would not matter.
        failure = CommandError(f"{error.object!a}: should be text in UTF-8", Exit.USAGE)
        print_failure(failure, as_json="--json" in arguments)
        return failure.exit_code
    except OSError as error:
        print_failure(CommandError(str(error), Exit.LOCAL_FILE), as_json="--json" in arguments)
        return Exit.LOCAL_FILE
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else Exit.INTERNAL
    return Exit.OK


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line of this process."""
    # Python's own handler would be replaced by asyncio's, which waits for a read of standard input to end.
    signal.signal(signal.SIGINT, _interrupt)
    sys.exit(run(sys.argv[1:]))
