"""Judging what requests see, how they are answered, and which cookies they get."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, Final

from .cache_outages import LEASE
from .history import BEFORE, DELETED, FOREVER, Ending, Key, Life, Request, Superseding, Violation
from .internals import SessionConflict, SessionEnded, SessionLimitReached, StorageUnavailable

if TYPE_CHECKING:
    from .world import World

_READS: Final = frozenset({"read", "poll", "dismiss"})
ENDS_OWN: Final = frozenset({"logout", "visit", "flush", "delete"})
_LEASE_AT: Final = LEASE * 1000
TOMBSTONE_AT: Final = 60_000
MOST: Final = 2
"""``MAX_SESSIONS`` of the sites that set it."""


class Judge:
    """The known sessions of a world, and the promises that were broken."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.violations: list[Violation] = []
        self.lives: list[Life] = []
        self.by_key: dict[str, Life] = {}
        self.is_watching = True
        self._user_endings: list[Ending] = []

    @property
    def known_ids(self) -> set[str]:
        """Return the ids of all keys that were handed out."""
        return set().union(*(life.ids for life in self.lives))

    @property
    def _is_skewed(self) -> bool:
        """Return whether the clocks of the servers differ."""
        return any(each.skew for each in self._world.scheduler.actors.values())

    @property
    def _now(self) -> int:
        return self._world.scheduler.tick()

    def _broken(self, promise: int, text: str) -> None:
        if self.is_watching:
            self.violations.append(Violation(promise, text))

    def judge(
        self,
        request: Request | None,
        key: str | None,
        data: dict[str, Any] | None,
        ticks: tuple[int, int],
        began_at: int,
    ) -> None:
        """Judge the data that was read under a key; None if there was no session.

        ``ticks`` are when the request began and when it read, and ``began_at`` is the time of the
        beginning. Without a request, the data was read after all of them.
        """
        life = self.by_key.get(key or "")
        who = "afterwards" if request is None else str(request)
        if life is None:
            if data is not None:
                self._broken(14, f"{who}: a key that was never handed out leads to {data}")
            return
        known, (since, until), at = life.keys[str(key)], ticks, self._world.now()
        if data is None:
            must = life.must_be_live(known, since, until, at)
            if must and not self.may_be_evicted(life) and not self.is_idle(life, key, at):
                why = self._why_missing(life, known, request)
                self._broken(why, f"{who}: session {life.number} is not there")
            return
        if not life.may_be_live(known, since, began_at) and not self.is_leased(life, began_at):
            if any(each.acked is not None for each in life.endings):
                self._broken(7, f"{who}: session {life.number} is back from its end")
            else:
                promise = 18 if self._world.is_rolled_back else 11
                text = f"{who}: the key from before leads to session {life.number}"
                self._broken(promise, text)
        user = data.get("_auth_user_id")
        if user != (None if life.user is None else str(life.user)):
            self._broken(11, f"{who}: session {life.number} of {life.user} is of {user}")
            return
        names = {write.key for write, _ in life.writes} | {
            name for name in data if not name.startswith("_")
        }
        for name in sorted(names):
            self._judge_value(life, name, data.get(name, DELETED), ticks, who)

    def _judge_value(
        self, life: Life, name: str, value: Any, ticks: tuple[int, int], who: str
    ) -> None:
        values, may_be_absent = life.allowed(name, *ticks)
        # The cache cannot always tell that a copy is outdated, until its lease is over.
        is_misled = self._world.may_be_misled
        if is_misled or value in values or (value is DELETED and may_be_absent):
            return
        voids = [write.value for write, _ in life.writes if write.key == name and write.is_void]
        text = f"{who}: session {life.number} has {name}={value!r}, not one of {values}"
        writes = [write for write, _ in life.writes if write.key == name]
        if any(write.value == value and write.request.is_in_transaction for write in writes):
            self._broken(19, text)
            return
        if value in voids:
            self._broken(18 if self._world.is_rolled_back else 3, text)
            return
        missed = [write for write, _ in life.writes if write.key == name and write.acked]
        beside = any(
            other.overlaps(write.request) and other is not write.request
            for write in missed
            for other in self._world.requests.values()
        )
        self._broken(18 if self._world.is_rolled_back else 2 if beside else 1, text)

    def _why_missing(self, life: Life, key: Key, request: Request | None) -> int:
        requests = list(self._world.requests.values())
        if any(each.spared is life for each in self._user_endings):
            return 9
        if self._world.is_rolled_back:
            return 18
        if any(each.was_killed for each in requests):
            return 23
        if any(each.faults for each in requests):
            return 22
        if key.superseded:
            return 12
        beside = request is not None and any(
            each.who == request.who and each is not request and each.overlaps(request)
            for each in requests
        )
        return 15 if beside else 1

    def _judge_status(self, request: Request) -> None:
        status, error = request.status, request.error
        if request.recovered and status != 500:
            self._broken(21, f"{request}: answered {status} for an outage that was over")
        asked = {"+error": 500, "+404": 404}
        expected = next((n for text, n in asked.items() if text in request.operation), 200)
        if status == expected or request.recovered:
            lost = [each for each in request.writes if each.acked is None and status < 400]
            if lost and not request.faults and any(each.value is not DELETED for each in lost):
                self._broken(1, f"{request}: answered {status} and did not save {lost[0].key}")
            return
        if request.faults or isinstance(error, StorageUnavailable):
            if (
                not request.faults
                and not self._is_disturbed
                and not self._is_migrated_beside(request)
            ):
                self._broken(21, f"{request}: an outage that nobody has had: {error!r}")
            return
        if status == 503 and request.signs_in is not None and self._may_keep_a_lock():
            return
        text = f"{request}: answered {status}, {type(error).__name__}: {error}"
        expired = request.presented is not None and self.is_idle(
            request.presented, request.key, self._world.time
        )
        if expired:
            return
        if request.name in _READS:
            # Django's middleware may replace a newer cookie by the old one.
            if self._world.config.middleware == "own":
                self._broken(17, text)
        elif isinstance(error, SessionLimitReached):
            others = _other_sessions(self, self._world.requests.values(), request)
            if others < MOST:
                self._broken(25, f"{request}: refused, with {others} sessions")
        elif not self._is_explained(request, error):
            self._broken(20 if "@" in request.operation else 15, text)

    @property
    def _is_disturbed(self) -> bool:
        """Return whether stores were unreachable, or transactions may have met a deadlock."""
        return (
            any("@" in each.operation or each.faults for each in self._world.requests.values())
            or self._world.cache_outages.were_any
        )

    def _may_keep_a_lock(self) -> bool:
        """Return whether several logins may have died while they held the lock of their user.

        Each lock is then kept until it expires.
        """
        has_limit = bool(self._world.config.options & {"limit", "refuse"})
        dead = [each for each in self._world.requests.values() if each.is_uncertain]
        return has_limit and len(dead) > 1

    def _is_migrated_beside(self, request: Request) -> bool:
        """Return whether another request may be ending the session of a previous backend.

        That request has deleted the session that a third one has migrated, and has not stored its
        tombstone yet. A request that reads then finds that the session existed, but not what became
        of it. It waits for about 300 milliseconds of the clock, which may pass here without a step
        of the other request (21).
        """
        life = request.presented
        return (
            life is not None
            and life.request.label == BEFORE
            and any(
                each.request is not None and each.request.overlaps(request) for each in life.endings
            )
        )

    def _is_explained(self, request: Request, error: Exception | None) -> bool:
        """Return whether another request has ended or superseded the session to be saved."""
        if isinstance(error, SessionConflict) and "@" in request.operation:
            return True
        if request.status >= 500 and not isinstance(error, SessionEnded):
            return False
        if request.signs_in is not None and any(
            each.user == request.signs_in
            and each.request is not None
            and each.request.overlaps(request)
            for each in self._user_endings
        ):
            return True  # The session that it has just stored is one of those that end.
        if request.life is not None and self.may_be_evicted(request.life):
            return True
        life = self.by_key.get(request.key or "")
        if life is None:
            # The request had no key, and the session that it has stored has ended since.
            own = request.life
            return own is not None and (bool(own.endings) or self.may_be_evicted(own))
        if self.may_be_evicted(life):
            return True
        if self._is_lost_by_an_error(request, life):
            return True
        until = request.ended or FOREVER
        ends = any(each.start < until and each.request is not request for each in life.endings)
        key = life.keys[request.key or ""]
        return ends or any(
            each.start < until
            and each.request is not request
            and (each.grace is None or self._world.time >= each.start_at + each.grace)
            for each in key.superseded
        )

    def _is_lost_by_an_error(self, request: Request, life: Life) -> bool:
        """Return whether a response with status 500 should have sent the new key of the session.

        Django's middleware does not send a cookie with it, so the rotation grace period of the old
        key may pass (12).
        """
        return self._world.config.middleware == "django" and any(
            "+error" in each.request.operation
            and each.grace is not None
            and request.began_at >= each.start_at + each.grace
            for each in life.keys[str(request.key)].superseded
        )

    def _judge_cookie(self, request: Request) -> None:
        life = request.life
        if request.cookie is None and request.status == 200 and life is not None:
            is_new = life.request is request and not (life.endings or request.faults)
            is_new = is_new and not self.may_be_evicted(life)
            if is_new and not any(key.superseded for key in life.keys.values()):
                self._broken(
                    28, f"{request}: sends no key of session {life.number}, which it began"
                )
        if request.cookie is None or request.faults:
            is_harmless = request.name in ENDS_OWN or self._may_lead_nowhere(request)
            if request.cookie == "" and request.faults and not is_harmless:
                self._broken(21, f"{request}: an outage deletes the cookie")
            return
        if not request.cookie:
            return
        life = self.by_key.get(request.cookie)
        if life is None:
            self._broken(16, f"{request}: sets a cookie for a key that was never stored")
            return
        key = life.keys[request.cookie]
        is_over = any(self._was_known(request, each) for each in life.endings)
        if is_over and not self._is_half_ended(life, request):
            self._broken(16, f"{request}: sets a cookie for session {life.number}, which ended")
        if any(each.grace is None and self._was_known(request, each) for each in key.superseded):
            self._broken(16, f"{request}: sets a cookie for a key that was superseded")

    def _may_lead_nowhere(self, request: Request) -> bool:
        """Return whether the cookie of a request may be deleted because its session has ended, or
        has had another key for so long that nothing is known of the old one (12)."""
        life = led_to(request)
        return (
            life is None
            or bool(life.endings)
            or self.may_be_evicted(life)
            or self.is_idle(life, request.key, self._world.time)
        )

    def _was_known(self, request: Request, what: Ending | Superseding) -> bool:
        """Return whether an event happened before the outcome of a request was decided."""
        decided = self._world.decided(request)
        return bool(what.acked and what.acked < decided and what.request is not request)

    def _is_half_ended(self, life: Life, request: Request) -> bool:
        """Return whether the outcome of a request was decided while others were ending its session.

        Under Django's middleware, a save asks the store of the data. A request that ends a session
        removes it from the registry first. Another one that ends all sessions of the user finds
        nothing any more, and is answered: it has not ended this one (8).
        """
        if not (self._world.config.is_registered and self._world.config.middleware == "django"):
            return False
        decided = self._world.decided(request)
        enders = [each.request for each in life.endings if each.request not in {None, request}]
        return any(each and each.began < decided < (each.ended or FOREVER) for each in enders)

    def _may_be_joined(self, life: Life, request: Request) -> bool:
        """Return whether a login beside a request may have begun another session under a key that
        a third request gave this one."""
        return any(
            each.signs_in is not None
            and each is not request
            and each.life is life
            and each.overlaps(request)
            for each in self._world.requests.values()
        )

    def is_leased(self, life: Life, at: int) -> bool:
        """Return whether a cache that was unreachable may still show an ended session (7)."""
        acked = [each.acked_at for each in life.endings if each.acked]
        return self._world.may_be_misled and all(at < each + _LEASE_AT for each in acked)

    def is_idle(self, life: Life, key: str | None, at: int) -> bool:
        """Return whether a session may have reached its idle timeout under a key."""
        if "idle" not in self._world.config.options:
            return False
        used_at = life.used_at
        if self._world.config.engine == "cookie_registry" and key in life.keys:
            used_at = life.keys[key].issued_at  # The key holds the time of expiry.
        # The stored time may lag by the touch interval.
        return at >= used_at + (self._world.config.idle_seconds - 60) * 1000

    def may_be_evicted(self, life: Life) -> bool:
        """Return whether the session limit may have ended a session."""
        if "limit" not in self._world.config.options or life.user is None:
            return False
        # The clocks of the servers decide which session is the oldest (25).
        newer = [
            each
            for each in self.lives
            if each is not life
            and each.user == life.user
            and (self._is_skewed or max(each.acked, each.signed_in) > life.start)
        ]
        uncertain = [
            each
            for each in self._world.requests.values()
            if (each.is_uncertain or each.ended is None) and each.signs_in == life.user
        ]
        return len(newer) + len(uncertain) >= MOST


def joined_session(own: Life, login: Request, requests: Collection[Request]) -> Life:
    """Return the session that a login may have joined, which has a key that nobody knows yet.

    If another login has begun a session from its own, and a third request is giving that one
    another key, this login is led there. Otherwise, return its own.
    """
    for child in own.children:
        beside = [each for each in requests if each.life is child and each.overlaps(login)]
        if child.user == login.signs_in and not child.endings and beside:
            return joined_session(child, login, requests)
    return own


def keeps_data(world: World, life: Life, pk: int | None) -> bool:
    """Return whether a login keeps the data of a session: a visitor's, or the same user's."""
    if life.user is None or pk is None:
        return True
    return life.user == pk and life.password == world.users[pk].password


def login_repeated_beside(request: Request) -> Life | None:
    """Return the session that a login of the same user continues under another key, if that login
    is not acknowledged: it has not ended, or its answer was lost."""
    life = request.presented
    while life is not None and life.user == request.signs_in:
        if any(
            each.request.signs_in == life.user
            and each.request is not request
            and (each.request.is_uncertain or each.request.overlaps(request))
            for key in life.keys.values()
            for each in key.superseded
        ):
            return life
        life = life.children[0] if len(life.children) == 1 else None
    return None


def note_continuation(own: Life, life: Life) -> None:
    """Note that a session is the session ``own`` under another key, or made from it.

    If a login has joined it before that was known, it seems to be made from an earlier one.
    """
    if life not in own.children:
        own.note_child(life)
    parent = life.parent
    if life in own.children and parent is not None and parent.leads_to(own):
        life.parent, life.inherits_surely = own, not own.endings
    life.has_joined = True
    for ending in own.endings:
        own.may_end_children(ending)


def led_to(request: Request) -> Life | None:
    """Return the session that the key of a request, or the tombstone of the key, led to."""
    life = request.presented
    if life is None:
        return None

    def is_forgotten(what: Ending | Superseding, grace: int = 0) -> bool:
        """Return whether its tombstone had expired when the request began."""
        return what.acked_at + grace + TOMBSTONE_AT <= request.began_at

    for ending in life.endings:
        # A login as another user leaves no tombstone between its flush and its save.
        is_beside = ending.request is not None and ending.request.overlaps(request)
        is_beside |= ending.acked is None
        if ending.reason != "replaced" or is_beside or is_forgotten(ending):
            return None
    superseded = life.keys[str(request.key)].superseded
    return None if any(is_forgotten(each, each.grace or 0) for each in superseded) else life


def _other_sessions(judge: Judge, requests: Iterable[Request], login: Request) -> int:
    """Return how many sessions of its user a login may have met, besides its own."""
    others = [
        each
        for each in judge.lives
        if each.user == login.signs_in
        and not any(end.acked and end.acked < login.began for end in each.endings)
    ]
    beside = [
        each
        for each in requests
        if each is not login
        and _may_have_stored(each, login.signs_in)
        and (each.overlaps(login) or each.is_uncertain)
    ]
    return len(others) + len(beside)


def _may_have_stored(request: Request, pk: int | None) -> bool:
    """Return whether a request may have stored a session of a user that nobody knows of.

    A rotation whose answer was lost leaves the new record, also if the session ended beside it.
    """
    life = request.life if request.is_uncertain else None
    return request.signs_in == pk or (life is not None and life.user == pk)
