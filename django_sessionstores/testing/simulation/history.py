"""The memory of the model: requests, sessions, their keys, and the values written to them.

All times are ticks of the scheduler, except names with ``at``, which are milliseconds of the clock.
An effect of a request may occur at any time from the beginning of the request until the effect is
acknowledged. If it is never acknowledged, it may have occurred or not.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple


class _Deleted:
    """The value of a key that was deleted."""

    def __repr__(self) -> str:
        return "DELETED"


DELETED: Final = _Deleted()
FOREVER: Final = 2**62
BEFORE: Final = "before"
"""The label of the request that stands for everything before the first request."""


class Violation(NamedTuple):
    """A broken promise, by its number in the list of promises."""

    promise: int
    text: str

    def __str__(self) -> str:
        return f"promise {self.promise}: {self.text}"


@dataclass(eq=False)
class Request:
    """A request of a browser, or a call of an operator."""

    label: str
    who: str
    operation: str
    key: str | None
    began: int
    began_at: int
    secrets: int = 0
    """How many times the ``SECRET_KEY`` had changed when it began."""
    ended: int | None = None
    arrived: int | None = None
    arrived_at: int = 0
    status: int = 0
    cookie: str | None = None
    """The key that the response sets; empty if it deletes the cookie, None if it does neither."""
    life: Life | None = None
    """The session that its key led to, or the one that it has since saved."""
    presented: Life | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    writes: list[Write] = field(default_factory=list)
    saves: int = 0
    failures: list[BaseException] = field(default_factory=list)
    error: Exception | None = None
    was_killed: bool = False
    is_in_transaction: bool = False
    """Whether other requests must not see yet what it has saved."""
    was_rolled_back: bool = False
    recovered: bool = False
    faults: int = 0
    user: Any = None
    """The signed-in user, as the view saw it."""
    signs_in: int | None = None
    cycles: bool = False
    has_looked: bool = False
    """Whether it has read its session, and therefore knows whether the session exists."""
    ending: Ending | None = None
    tentative: list[tuple[Life, Ending | Superseding]] = field(default_factory=list)
    """The changes to sessions that it is about to make, until they are certain."""

    @property
    def name(self) -> str:
        """Return the name of its operation, without arguments."""
        return self.operation.partition("@")[0].partition("+")[0].partition(".")[0]

    @property
    def is_uncertain(self) -> bool:
        """Return whether its effects may have occurred in part."""
        return self.was_killed or self.faults > 0

    @property
    def acts(self) -> bool:
        """Return whether it has changed its session in any way."""
        return bool(self.changes or self.signs_in is not None or self.cycles)

    def has_superseded_key(self, since: int) -> bool:
        """Return whether its key was superseded after a time although its session has not ended."""
        life = self.presented
        if life is None or life.endings:
            return False
        return life.keys[str(self.key)].was_superseded_after(since)

    @property
    def repeated_login(self) -> Life | None:
        """Return the session that a login has continued under another key, if this request signs in
        the same user with the key before, and only that login has superseded it."""
        life = self.presented
        if life is None or len(life.children) != 1 or self.signs_in is None:
            return None
        child, events = life.children[0], life.keys[str(self.key)].superseded
        events = [each for each in events if each.request is not self]
        is_repeated = (
            life.user == child.user == self.signs_in
            and not child.endings
            and not any(key.superseded for key in child.keys.values())
            and all(each.request.name == "login" and each.acked for each in events)
            and not any(each.request.was_rolled_back for each in events)
        )
        return child if is_repeated else None

    def overlaps(self, other: Request) -> bool:
        """Return whether neither request began after the response to the other."""
        return self.began < (other.ended or FOREVER) and other.began < (self.ended or FOREVER)

    def __str__(self) -> str:
        return f"{self.label}:{self.who}.{self.operation}"


@dataclass(eq=False)
class Write:
    """A value that a request gave to a key of a session, or the deletion of the key."""

    key: str
    value: Any
    request: Request
    acked: int | None = None
    is_void: bool = False
    """Whether the request ended without saving it."""

    @property
    def finished(self) -> int:
        """Return the tick from which on it cannot take effect any more."""
        return self.acked or self.request.ended or FOREVER


@dataclass(eq=False)
class Ending:
    """An event that ends a session, or may end it."""

    start: int
    acked: int | None
    reason: str
    request: Request | None
    acked_at: int = 0
    spared: Life | None = None
    user: int | None = None

    def spares_login(self, life: Life) -> bool:
        """Return whether the browser whose request ends the others began a session by a login."""
        if self.spared is None or self.request is None:
            return False
        born = life.request
        return born.who == self.request.who and born.overlaps(self.request)


@dataclass(eq=False)
class Superseding:
    """An event by which a session gets another key, or may get one."""

    start: int
    acked: int | None
    start_at: int
    acked_at: int
    grace: int | None
    """For how many milliseconds the old key is still accepted; None if it is not."""
    request: Request


@dataclass(eq=False)
class Key:
    """A key of a session."""

    text: str
    id: str | None
    known: int
    """When the first save under it was acknowledged."""
    issued_at: int = 0
    superseded: list[Superseding] = field(default_factory=list)

    def was_superseded_after(self, at: int) -> bool:
        """Return whether a request has superseded it for good after the time ``at``."""
        return any(
            each.acked and each.grace is None and each.acked_at > at for each in self.superseded
        )

    def is_superseded_beside(self, request: Request) -> bool:
        """Return whether another request supersedes it while this one runs, or may have done so."""
        return any(
            each.grace is None
            and each.request is not request
            and (each.acked is None or each.request.overlaps(request))
            for each in self.superseded
        )


@dataclass(eq=False)
class Life:
    """A session from its first acknowledged save to its end."""

    number: int
    user: int | None
    request: Request
    """The request that created it."""
    start: int
    acked: int
    password: int = 0
    """How many times its user had changed the password."""
    secrets: int = 0
    """How many times the ``SECRET_KEY`` had changed."""
    used_at: int = 0
    """When the last request that used it began, in milliseconds of the clock."""
    signed_in: int = 0
    """When its user last signed in."""
    is_migrated: bool = True
    """False if only the previous backend has it; lists do not show it then."""
    keys: dict[str, Key] = field(default_factory=dict)
    own_writes: list[Write] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)
    parent: Life | None = None
    """The session whose data a login has kept for this one."""
    inherited_until: int = 0
    inherits_surely: bool = True
    has_joined: bool = False
    """Whether a login has begun it under a key that another request was giving its parent."""
    children: list[Life] = field(default_factory=list)

    @property
    def ids(self) -> set[str]:
        """Return all session ids that it has had."""
        return {key.id for key in self.keys.values() if key.id}

    @property
    def writes(self) -> list[tuple[Write, bool]]:
        """Return the writes to it, each with whether it must have taken effect."""
        own = [(write, True) for write in self.own_writes]
        if self.parent is None:
            return own
        inherited = [
            # If two logins overlap, a write at the same time is in the session of one of them.
            (
                write,
                must
                and self.inherits_surely
                and (len(self.parent.children) < 2 or write.finished < self.start),
            )
            for write, must in self.parent.writes
            if write.request.began < self.inherited_until
        ]
        return inherited + own

    def goes_on(self, request: Request, data: dict[str, Any]) -> bool:
        """Return whether data that a request saves is of this session, judged by its values."""
        if self.user is not None:
            return bool(data.get("_auth_user_id") == str(self.user))
        others = [write for write, _ in self.writes if write.request is not request]
        if not any(write.acked and write.value is not DELETED for write in others):
            return not self.endings
        return any(data.get(write.key) == write.value for write in others)

    def overlapping(self, request: Request) -> list[Superseding]:
        """Return the events that may have superseded a key that a request has just given it."""
        found = {
            id(each): each
            for key in self.keys.values()
            for each in key.superseded
            if each.request is not request and each.grace is None
        }
        return [
            replace(each, acked=None)
            for each in found.values()
            if each.acked is None or each.acked >= request.began
        ]

    def forget(self, what: Ending | Superseding) -> None:
        """Remove an event that was noted as possible."""
        if isinstance(what, Ending):
            self.endings = [each for each in self.endings if each is not what]
        else:
            for key in self.keys.values():
                key.superseded = [each for each in key.superseded if each is not what]

    def end(self, ending: Ending) -> None:
        """Note that it ends, or may end.

        Sessions that logins have made from it in the meantime may end with it.
        """
        self.endings.append(ending)
        for child in self.children:
            if child.acked > ending.start:
                child.inherits_surely = False
                child.end(Ending(ending.start, None, ending.reason, ending.request))

    def note_child(self, child: Life) -> None:
        """Note a session that a login has made from it, and that may have ended with it.

        Of two sessions with keys of each other, the first one is the parent.
        """
        if child.leads_to(self):
            return
        self.children.append(child)
        for ending in self.endings:
            self.may_end_children(ending)

    def leads_to(self, life: Life) -> bool:
        return self is life or any(each.leads_to(life) for each in self.children)

    def may_end_children(self, ending: Ending) -> None:
        """Note that the sessions that logins have made from it may end with it.

        A login that joins a rotation is stored under the id of the session that was rotated. An end
        that has followed the rotation to that id, before the login was stored, ends both (8).
        """
        for child in self.children:
            is_beside = ending.request is not None and ending.request.overlaps(child.request)
            if child.has_joined and is_beside:
                child.end(replace(ending, acked=None))

    def note_superseding(self, superseding: Superseding) -> None:
        """Note an event that may supersede all its keys."""
        for key in self.keys.values():
            key.superseded.append(superseding)

    def supersede(self, request: Request, acked: int | None, at: int, grace: int | None) -> None:
        """Note that a request has superseded its keys, at the tick ``acked`` and the time ``at``.

        A request that began before a key was known may have superseded it or not.
        """
        for key in self.keys.values():
            if grace is not None and any(each.acked for each in key.superseded):
                continue
            acked_key = acked if key.known < request.began else None
            key.superseded.append(
                Superseding(request.began, acked_key, request.began_at, at, grace, request)
            )

    def may_be_live(self, key: Key, since: int, at: int) -> bool:
        """Return whether a request may see it under a key.

        The request began at the tick ``since`` and the time ``at``.
        """
        for ending in self.endings:
            if ending.acked is not None and ending.acked < since and ending.acked_at <= at:
                return False
        return not any(
            each.acked is not None
            and each.acked < since
            and (each.grace is None or at >= each.acked_at + each.grace)
            for each in key.superseded
        )

    def must_be_live(self, key: Key, since: int, until: int, at: int) -> bool:
        """Return whether a request must see it under a key.

        The request began at the tick ``since`` and reads at the tick ``until`` and the time ``at``.
        """
        if since < key.known or any(ending.start < until for ending in self.endings):
            return False
        return not any(
            each.start < until and (each.grace is None or at >= each.start_at + each.grace)
            for each in key.superseded
        )

    def allowed(self, name: str, since: int, until: int) -> tuple[list[Any], bool]:
        """Return the values that a key may have, and whether it may be absent.

        The request that reads it began at the tick ``since`` and reads at the tick ``until``.
        """
        writes = [each for each in self.writes if each[0].key == name]
        final = [
            write
            for write, must in writes
            if must and write.acked is not None and write.acked < since
        ]
        values = [
            write.value
            for write, _ in writes
            if not (write.is_void or write.request.is_in_transaction)
            and write.request.began < until
            and not any(write.finished < later.request.began for later in final)
        ]
        return values, not final or DELETED in values
