"""Structured logs on stderr over the standard library, each line joined to its trace.

Log with ``logging.getLogger(__name__)`` and put values into ``extra``, never into the message: the message
stays countable. No personal data: ids in logs are pseudonymous, event payloads and tokens are never logged.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from opentelemetry import trace

from tokenomics_chassis.settings import LogFormat, LogLevel
from tokenomics_chassis.telemetry import current_span_context

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def configure_logging(service_name: str, level: LogLevel, log_format: LogFormat | None) -> None:
    """Send every logger of the process to stderr in one format; calling it again replaces the first."""
    if log_format is None:
        log_format = LogFormat.TEXT if sys.stderr.isatty() else LogFormat.JSON
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(service_name) if log_format is LogFormat.JSON else _Text())
    logging.basicConfig(level=level.value, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    for chatty in ("aiokafka", "faststream", "grpc", "opentelemetry"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))


def _context(record: logging.LogRecord) -> dict[str, Any]:
    """Everything a line carries beside its message: the values of ``extra``, and where it belongs."""
    values = {name: value for name, value in vars(record).items() if name not in _OWN}
    if (span := current_span_context()) is not None:
        values["trace_id"] = trace.format_trace_id(span.trace_id)
        values["span_id"] = trace.format_span_id(span.span_id)
    return values


class _Json(logging.Formatter):
    def __init__(self, service_name: str) -> None:
        super().__init__()
        self._service_name = service_name

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "service": self._service_name,
            "logger": record.name,
            "message": record.getMessage(),
            **_context(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class _Text(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-8s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        values = " ".join(f"{name}={value}" for name, value in _context(record).items())
        return f"{super().formatMessage(record)}  {values}".rstrip()
