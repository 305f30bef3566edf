"""A cookie value that is too long for one cookie, split over several and joined again.

The cookie itself carries the number of parts and the first of them, ``"3.<part>"``; the others are
in ``<name>-1`` and ``<name>-2``. What fits into one cookie is sent as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

LIMIT: Final = 4096
"""Bytes that a browser takes for the name and the value of a cookie together."""

MOST_PARTS: Final = 16
"""No more are written or looked for: 64 kB, of which servers take a fraction. So many headers at
most does a visitor get with a response who makes parts up."""

_PREFIX: Final = re.compile(r"([2-9]|1[0-6])\.", re.ASCII)


def split(name: str, value: str) -> dict[str, str]:
    """The cookies that carry the value, by name, the first one first.

    The value has to consist of characters that stand in a cookie as they are. Raises
    ``ValueError`` where `MOST_PARTS` cannot hold it.
    """
    if len(value) <= capacity(name, 1):
        return {name: value}
    for most in range(2, MOST_PARTS + 1):
        if len(value) <= capacity(name, most):
            break
    else:
        raise ValueError(f"A value of {len(value)} characters takes too many cookies.")
    cookies, rest = {}, f"{most}.{value}"
    for each in _names(name, most):
        size = LIMIT - len(each)
        cookies[each], rest = rest[:size], rest[size:]
    return cookies


def join(name: str, cookies: Mapping[str, str]) -> str:
    """The value that the cookies carry, of which one has to have this name.

    A part that is missing is left out: what was split must be able to tell that it is incomplete.
    """
    value = cookies[name]
    if (prefix := _PREFIX.match(value)) is None:
        return value
    return value[prefix.end() :] + "".join(cookies[part] for part in parts(name, cookies))


def parts(name: str, cookies: Mapping[str, str]) -> list[str]:
    """The names of those cookies that hold parts after the first, in order.

    Only the first part tells which they are. Where it does not, a cookie with such a name may be
    the project's own, and `join` would not read it.
    """
    if (prefix := _PREFIX.match(cookies.get(name, ""))) is None:
        return []
    return [part for part in _names(name, int(prefix[1]))[1:] if part in cookies]


def capacity(name: str, most: int) -> int:
    """The length of the longest value that `split` puts into at most this many cookies."""
    if most <= 1:
        return LIMIT - len(name)
    return sum(LIMIT - len(each) for each in _names(name, most)) - len(f"{most}.")


def _names(name: str, number: int) -> list[str]:
    # After the name, not before it: a prefix such as __Host- holds for the parts as well.
    return [name, *(f"{name}-{i}" for i in range(1, number))]
