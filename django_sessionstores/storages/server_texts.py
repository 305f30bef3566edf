"""The texts of servers and their clients, as messages quote them."""

from __future__ import annotations

from typing import Final

_MOST: Final = 300
"""Characters. Some clients list all that they have tried."""


def quoted(text: object) -> str:
    """Return a text in one line of limited length, without the dot at its end."""
    line = " ".join(str(text).split())
    return line.rstrip(".") if len(line) <= _MOST else f"{line[:_MOST]}…"
