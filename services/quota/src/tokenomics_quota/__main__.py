"""``python -m tokenomics_quota serve|project|relay|replay|migrate``."""

import argparse

from tokenomics_chassis.process import exit_with
from tokenomics_quota import bootstrap

_COMMANDS = {
    "serve": (bootstrap.serve, "answer gRPC"),
    "project": (bootstrap.project, "Kafka to PostgreSQL"),
    "relay": (bootstrap.relay, "announce thresholds and send the outbox to Kafka"),
    "replay": (bootstrap.replay, "work off the rebuilds and verifications that were asked for"),
    "migrate": (bootstrap.migrate, "bring schemas and topics up to date"),
}


def main() -> None:
    """Run one of the service's processes."""
    parser = argparse.ArgumentParser(prog="python -m tokenomics_quota", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (_, what) in _COMMANDS.items():
        commands.add_parser(name, help=what)
    exit_with(_COMMANDS[parser.parse_args().command][0])


if __name__ == "__main__":
    main()
