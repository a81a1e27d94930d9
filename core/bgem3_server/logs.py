"""One JSON object a line on standard error: what was asked and how it ended, never a text or a key."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal


def log(event: str, *, level: Literal["info", "warning", "error"] = "info", **facts: Any) -> None:
    """Write one line, or none where a full disk or a terminal that is gone takes none: requests go on."""
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level, "event": event, **facts}
    # a path may hold half of a surrogate pair, which orjson refuses
    with suppress(OSError):
        sys.stderr.write(json.dumps(line, default=str) + "\n")


_LEVELS: dict[str, Literal["info", "warning", "error"]] = {
    "WARNING": "warning",
    "ERROR": "error",
    "CRITICAL": "error",
}


class JSONLines(logging.Handler):
    """Writes the records of a library as such lines: the message and an exception's class, without its traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        kind = record.exc_info[0] if record.exc_info else None
        # the first line: uvicorn writes a whole traceback as a message when the start fails
        message = record.getMessage().strip().partition("\n")[0]
        log(message, level=_LEVELS.get(record.levelname, "info"), logger=record.name, error=kind and kind.__name__)
