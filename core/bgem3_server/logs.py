"""One JSON object a line on standard error: what was asked and how it ended, never a text or a key."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any, Literal

import orjson


def log(event: str, *, level: Literal["info", "warning", "error"] = "info", **facts: Any) -> None:
    """Write one line."""
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level, "event": event, **facts}
    sys.stderr.write(orjson.dumps(line, default=str).decode() + "\n")
