"""What errors and logs may show of an address."""

from __future__ import annotations

import re

_USER = re.compile(r"(?<=//)[^/@]*@")


def without_user(address: str) -> str:
    """Return an address without a name and password in it."""
    return _USER.sub("", address)
