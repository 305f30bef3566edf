"""The setups of the exhaustive run: what has happened before, and which operations to try then."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

_VISITOR: Final = ("s1:x.put.base", "s1*", ">s1")
_USER: Final = (*_VISITOR, "s2:x.login.1", "s2*", ">s2")
_OTHER: Final = ("t1:y.put.base", "t1*", ">t1", "t2:y.login.1", "t2*", ">t2")
_WATCH: Final = ("s3:x.watch", "s3*", ">s3")
WAIT: Final = "+1001"


class Setup(NamedTuple):
    """What the steps before the two operations do, these steps, the options of the site, and the
    operations to try."""

    meaning: str
    steps: tuple[str, ...]
    options: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    second: tuple[str, ...] = ()


_WRITES: Final = ("x.put.a", "x.nested", "x.drop.base", "x.put.a+save", "x.save", "x.replace")
_ENDS: Final = ("x.logout", "x.flush", "x.delete")
_OWN: Final = (
    *("x.read", "x.poll", "x.dismiss.a", *_WRITES, "x.put.a+save+error", "x.load", "x.clear"),
    *("x.login.1", "x.login.1.first", "x.login.2", "x.login.1+save", "x.cycle", *_ENDS),
)
_SIGNED_IN: Final = ("x.password", "x.others", "y.password", "y.others", "y.put.a")
OPERATOR: Final = ("o.end.x", "o.delete_key.x", "o.end_all.1", "o.deactivate.1", "o.purge")
_ATOMIC: Final = (
    *("x.put.a+save@rollback", "x.put.a+save+404@atomic", "x.put.a+save@savepoint"),
    *("x.login.1+save+404@atomic", "x.login.1+save@rollback", "x.cycle+save+404@atomic"),
    *("x.put.a@atomic", "x.login.1@atomic", "x.logout@rollback", "x.password+404@atomic"),
    *("x.read@rollback", "x.password@atomic", "x.put.a+save@manual", "x.put.a+save@undone"),
    *("x.put.a+save@again", "x.login.1+save@again"),
)

SETUPS: Final = {
    "visitor": Setup(
        "Browser ``x`` has an anonymous session.",
        _VISITOR,
        first=_OWN,
        second=("x.put.b", *_OWN, "o.purge"),
    ),
    "user": Setup(
        "Browsers ``x`` and ``y`` are signed in as user 1.",
        (*_OTHER, *_USER),
        first=(*_OWN, *_SIGNED_IN),
        second=("x.put.b", *_OWN, *_SIGNED_IN, *OPERATOR),
    ),
    "due": Setup(
        "The same, and the keys are old enough to be rotated.",
        (*_OTHER, *_USER, WAIT),
        first=(*_OWN, *_SIGNED_IN),
        second=("x.put.b", *_OWN, *_SIGNED_IN, *OPERATOR),
    ),
    "watched": Setup(
        "As before, with a connection of browser ``x`` that is open. Its session is looked after "
        "beside each operation.",
        (*_OTHER, *_USER, *_WATCH, WAIT),
        first=(*_OWN, *_SIGNED_IN, *OPERATOR),
        second=("o.recheck",),
    ),
    "looked after": Setup(
        "The same, with each operation beside the look.",
        (*_OTHER, *_USER, *_WATCH, WAIT),
        first=("o.recheck",),
        second=(*_OWN, *_SIGNED_IN, *OPERATOR),
    ),
    "atomic": Setup(
        "Browser ``x`` is signed in. The views run in transactions.",
        _USER,
        first=_ATOMIC,
        second=("o.purge", "x.put.b", "x.poll", "x.login.1", *_ENDS, *_ATOMIC),
    ),
    "atomic visitor": Setup(
        "Browser ``x`` has an anonymous session. The views run in transactions.",
        _VISITOR,
        first=_ATOMIC,
        second=("o.purge", "x.put.b", "x.poll", "x.login.1", "x.flush"),
    ),
    "merge": Setup(
        "Browser ``x`` is signed in, and the merge function of the site fails at times.",
        _USER,
        ("merge",),
        ("x.retry.a",),
        ("x.put.b.m", "x.put.m", "x.logout"),
    ),
    "idle": Setup(
        "Browser ``x`` is signed in, and the site has an ``IDLE_TIMEOUT``.",
        _USER,
        ("idle",),
        ("x.load", "x.read", "x.put.a"),
        ("x.put.b", "x.logout"),
    ),
    "idle for long": Setup(
        "The same, and the user has been idle for most of that time.",
        (*_USER, "+60000"),
        ("idle",),
        ("x.load", "x.read", "x.poll", "x.put.a"),
        ("o.wait.60000",),
    ),
    "moved": Setup(
        "Browser ``x`` has a session in a previous backend.",
        ("previous.x.1",),
        ("memory",),
        ("x.read", "x.put.a", *_ENDS, "x.poll@rollback"),
        ("x.read", "x.put.b", "x.login.1", *_ENDS, "o.end_all.1", "o.purge"),
    ),
    "moved from cookie": Setup(
        "The same, with the session in the cookie.",
        ("previous.x.1",),
        ("cookie",),
        ("x.read", "x.put.a", *_ENDS, "x.read@rollback"),
        ("x.read", "x.put.b", "x.login.1", *_ENDS, "o.end_all.1", "o.purge"),
    ),
    "limit": Setup(
        "Browsers ``x`` and ``y`` are signed in, and a user may have two sessions.",
        (*_OTHER, *_USER, WAIT),
        ("limit",),
        ("x.poll", "z.login.1", "x.put.a", "x.cycle"),
        ("z.login.1", "w.login.1", "y.logout", "x.put.b"),
    ),
    "refuse": Setup(
        "Browser ``x`` is signed in, and a login beyond two sessions is refused.",
        (*_USER, WAIT),
        ("refuse",),
        ("x.poll", "z.login.1", "x.put.a", "x.cycle"),
        ("z.login.1", "w.login.1", "x.put.b"),
    ),
}


def check_setups(names: Iterable[str]) -> None:
    """Raise ``ValueError`` if a name is not in `SETUPS`; the text names the setups."""
    for name in names:
        if name not in SETUPS:
            raise ValueError(f"{name!r} is not a setup. The setups are: {', '.join(SETUPS)}.")
