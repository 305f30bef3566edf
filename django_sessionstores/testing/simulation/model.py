"""The reference model: what browsers and operators may see, by the number of each promise.

The model was written from the list of promises, not from the code. It knows what requests asked for
and how they were answered, but not what a store holds, and judges everything that they see.

Other tests cover the promises that do not depend on the order of requests: the types of values (6),
damaged data (24), sites that share a store (27), and the cost of a session object (29).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from . import internals
from .history import (
    BEFORE,
    DELETED,
    FOREVER,
    Ending,
    Key,
    Life,
    Request,
    Superseding,
    Violation,
    Write,
)
from .judge import (
    ENDS_OWN,
    Judge,
    joined_session,
    keeps_data,
    login_repeated_beside,
    note_continuation,
)
from .signal_log import SignalLog

if TYPE_CHECKING:
    from .world import World

__all__ = ["DELETED", "Model", "Request", "Violation"]

_CHANGES_KEY: Final = frozenset({"login", "cycle", "password"})
_GRACE_AT: Final = 60_000


class Model(Judge):
    """Follow the sessions of a world through everything that happens to them."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.signals = SignalLog()

    def began(self, request: Request) -> None:
        """Note that a request has begun, and the session whose key it presents."""
        life = request.life = request.presented = self.by_key.get(request.key or "")
        if life is None or request.who == "o":
            return
        # The hash of a login under another SECRET_KEY is no longer that of its user.
        changes_user = request.name in {"login", "visit"} and life.user is not None
        if changes_user and life.secrets == self._world.secrets:
            changes_user = request.operation.split(".")[1][:1] != str(life.user)
        if request.name in ENDS_OWN or changes_user:
            reason = "replaced" if changes_user else "logout"
            ending = Ending(request.began, None, reason, request)
            request.tentative.append((life, ending))
            life.end(ending)
        elif request.name in _CHANGES_KEY:
            superseding = Superseding(
                request.began, None, request.began_at, request.began_at, None, request
            )
            request.tentative.append((life, superseding))
            life.note_superseding(superseding)

    def saw(self, request: Request, data: dict[str, Any] | None) -> None:
        """Judge the data that a request has first read; None if it did not find a session."""
        if self.is_watching and not request.acts:
            now, request.has_looked = self._now, True
            self.judge(request, request.key, data, (request.began, now), request.began_at)
            if data is None:
                request.life = None

    def ended(self, request: Request) -> None:
        """Judge the response to a request that has ended."""
        for write in request.writes:
            # A cache does not take part in transactions (18), only its registry does.
            is_kept = request.was_rolled_back and self._world.config.is_registered
            write.is_void = write.acked is None and not request.is_uncertain and not is_kept
        life = request.life
        if life is not None and request.status == 200:
            if not self.is_idle(life, request.key, self._world.time):
                life.used_at = max(life.used_at, request.began_at)
            has_found = request.who != "o" and request.cookie != ""
            life.is_migrated |= has_found and not request.was_rolled_back
        failed = request.is_uncertain or request.error is not None
        if not failed:
            for subject, what in request.tentative:
                subject.forget(what)
        elif life is not None:
            self._note_what_may_be(request, life)
            if request.cookie and request.cookie not in self.by_key:
                self._add_key(life, request.cookie)  # Stored before the outage, and handed out.
        if request.who == "o" or request.was_killed:
            return
        self._judge_status(request)
        self._judge_cookie(request)

    def _note_what_may_be(self, request: Request, life: Life) -> None:
        is_flushed = request.is_uncertain or _is_hash_uncertain(self._world, life, request)
        if request.name == "password" or (request.name == "login" and is_flushed):
            reason = "password" if request.name == "password" else "replaced"
            life.end(Ending(request.began, None, reason, request))
        if request.is_uncertain:
            superseding = Superseding(
                request.began, None, request.began_at, self._world.time, _GRACE_AT, request
            )
            life.note_superseding(superseding)

    def writes(self, request: Request, name: str, value: object) -> None:
        """Note a change that a request is about to save."""
        write = Write(name, value, request)
        request.writes.append(write)
        if request.life is not None:
            request.life.own_writes.append(write)

    def existed(self, user: int | None, text: str, values: dict[str, Any]) -> None:
        """Note a session that existed before the first request."""
        now = self._now
        request = Request(BEFORE, "", "put", None, now, self._world.time, ended=now)
        life = self._born(request, user, now)
        life.is_migrated = False
        self._add_key(life, text)
        life.own_writes = [Write(name, value, request, now) for name, value in values.items()]

    def saved(
        self, request: Request, text: str | None, written: dict[str, Any], data: dict[str, Any]
    ) -> None:
        """Note an acknowledged save, and find the session that it belongs to.

        ``text`` is the session key, ``written`` the changes of the request, and ``data`` the whole
        data that was saved.
        """
        if text is None:
            return
        now, own, knows = self._now, request.life, request.has_looked or request.name == "clear"
        if own is not None and not knows and not own.goes_on(request, data):
            own = None
        life = self.by_key.get(text) or self._of_id(self._world.id_of(text))
        is_told = self.signals.has_begun(self._world.id_of(text))
        if life is own is None and not (is_told or request.acts):
            return  # Its key was superseded, and without a change it has stored nothing.
        if life is None and own is not None and self._begins_again(request, own, text):
            life = self._followed(request, own, now)
        life = life or self._going_on(request, own, text, now)
        if request.name == "password" and life.user is not None:
            life.password = self._world.users[life.user].password
        if text not in life.keys:
            key = self._add_key(life, text)
            if text == internals.derived_key(request.key or ""):
                key.superseded = life.keys[str(request.key)].superseded
            else:
                key.superseded += life.overlapping(request)
        for write in request.writes:
            if life is not own:
                if own is not None and write in own.own_writes:
                    own.own_writes.remove(write)
                life.own_writes.append(write)
            if written.get(write.key) is write.value:
                write.acked = write.acked or now
        if request.signs_in is not None:
            life.signed_in = now
            life.secrets = min(life.secrets, request.secrets)
        if own is not None and life is not own:
            self._follow(request, own, life, now)
        request.life = life

    def _add_key(self, life: Life, text: str) -> Key:
        key = life.keys[text] = Key(text, self._world.id_of(text), self._now, self._world.time)
        self.by_key[text] = life
        return key

    def _follow(self, request: Request, own: Life, life: Life, now: int) -> None:
        """Note that a session has got the key of another request's, which was answered first."""
        pk = request.signs_in
        if not request.cycles and (pk is None or not keeps_data(self._world, own, pk)):
            return
        own.supersede(request, now, self._world.time, None)
        if own.user in {None, life.user}:
            note_continuation(own, life)

    def _begins_again(self, request: Request, own: Life, text: str) -> bool:
        """Return whether a password change began another session: a request beside it may find the
        new password, and end the first session for it."""
        is_told = self.signals.has_begun(self._world.id_of(text))
        return is_told and request.name == "password" and own.user is not None

    def _followed(self, request: Request, own: Life, now: int) -> Life:
        life = self._born(request, own.user, now)
        life.parent, life.inherited_until, life.inherits_surely = own, now, False
        own.note_child(life)
        own.end(Ending(request.began, None, "password", request))
        return life

    def _of_id(self, session_id: str | None) -> Life | None:
        """Return the session with this id; if keys hold sessions, several keys may share it."""
        return next((life for life in self.lives if session_id and session_id in life.ids), None)

    def _going_on(self, request: Request, own: Life | None, text: str, now: int) -> Life:
        """Return the session that a save under a new key belongs to."""
        pk = request.signs_in
        child = request.repeated_login
        joins = pk is None or (child is not None and not self.may_be_evicted(child))
        if own is None and joins and request.has_superseded_key(self._world.time - _GRACE_AT):
            message = f"{request}: under a superseded key it has stored another session"
            self._broken(11 if pk is None else 15, message)
        if own is None or pk is not None:
            life = self._born(request, pk, now)
            is_uncertain = own is not None and _is_hash_uncertain(self._world, own, request)
            may_keep = is_uncertain and own is not None and own.user == pk
            if own is not None and (may_keep or keeps_data(self._world, own, pk)):
                parent = joined_session(own, request, self._world.requests.values())
                life.parent, life.inherited_until = parent, now
                parent.note_child(life)
                life.inherits_surely = parent is own and not own.endings
                own.supersede(request, now, self._world.time, None)
                if own.user is not None and is_uncertain:
                    # Django's login treats it as another user's, unless a view has asked for the
                    # user before.
                    life.inherits_surely = False
                    own.end(Ending(request.began, None, "replaced", request))
            elif own is not None:
                is_uncertain |= self._may_be_joined(own, request)
                acked = None if is_uncertain else now
                own.end(Ending(request.began, acked, "replaced", request, self._world.time))
            elif repeated := login_repeated_beside(request):
                life.parent, life.inherited_until, life.inherits_surely = repeated, now, False
                repeated.note_child(life)
            return life
        # The new key of a session from a previous backend is derived from its old one.
        is_derived = not request.cycles and text == internals.derived_key(request.key or "")
        if request.cycles:
            own.supersede(request, now, self._world.time, None)
        elif self._world.config.rotates and _is_hash_uncertain(self._world, own, request):
            # Django cycles the key if the login was made under a previous SECRET_KEY.
            own.supersede(request, None, self._world.time, None)
        elif self._world.config.rotates and not is_derived:
            own.supersede(request, now, self._world.time, _GRACE_AT)
        return own

    def _born(self, request: Request, user: int | None, now: int) -> Life:
        number, began = len(self.lives) + 1, request.began
        life = Life(number, user, request, began, now, used_at=request.began_at)
        if user is not None:
            life.password = self._world.users[user].password
            life.secrets = request.secrets
        self.lives.append(life)
        for each in self._user_endings:
            if each.user == user and life.start < (each.acked or FOREVER):
                life.end(Ending(each.start, None, each.reason, each.request))
        return life

    def ends_own(self, request: Request) -> None:
        """Note that a request has ended its session."""
        life = request.life

        def certain() -> None:
            if life is not None:
                key = life.keys[str(request.key)]
                beside = not request.has_looked and key.is_superseded_beside(request)
                beside |= self._may_be_joined(life, request)
                if request.name == "visit":
                    # The login may have left the session to a request that sets a new password.
                    beside |= _is_hash_uncertain(self._world, life, request)
                acked = None if beside else self._now
                ending = Ending(request.began, acked, "logout", request, self._world.time)
                self._end_by_key(life, key, ending)

        self._world.when_certain(certain)

    def ends_user(self, request: Request, pk: int, reason: str, *, but_own: bool) -> None:
        """Note that a request is about to end the sessions of a user.

        With ``but_own``, its own session is spared.
        """
        spared = request.life if but_own else None
        request.ending = Ending(self._now, None, reason, request, spared=spared, user=pk)
        self._user_endings.append(request.ending)
        for life in self.lives:
            if life.user == pk and life is not spared:
                ending = Ending(request.ending.start, None, reason, request)
                life.end(ending)
                request.tentative.append((life, ending))

    def ended_user(self, request: Request) -> None:
        """Note that a request has ended the sessions of a user; call `ends_user` first."""
        ending = request.ending
        assert ending is not None  # noqa: S101 - `ends_user` was called before

        def certain() -> None:
            if request.is_uncertain:
                return  # The log reports that some of the sessions may still be live.
            ending.acked, ending.acked_at = self._now, self._world.time
            self._end_user(ending)

        is_revoked, world = ending.reason == "revoked", self._world
        (world.when_certain if is_revoked else world.when_committed)(certain)

    def _end_user(self, ending: Ending) -> None:
        # Of two new passwords at once, the one of the other request may be the one that stays.
        rivals = [
            each.life
            for each in self._world.requests.values()
            if each.name == ending.reason == "password"
            and ending.request not in {None, each}
            and each.overlaps(ending.request)
        ]
        for life in self.lives:
            if life.user != ending.user or life is ending.spared:
                continue
            acked = ending.acked if life.acked < ending.start and life.is_migrated else None
            if ending.spares_login(life) or life in rivals:
                acked = None  # The same browser has signed in again in the meantime.
            life.end(Ending(ending.start, acked, ending.reason, ending.request, self._world.time))

    def ends_id(self, request: Request, browser: str) -> None:
        """Note that a request is about to end the session of a browser by its id or key."""
        request.life = self.by_key.get(self._world.browsers.get(browser) or "")
        request.key = self._world.browsers.get(browser)
        request.began, request.began_at = self._now, self._world.time
        if request.life is not None:
            reason = "logout" if request.name == "delete_key" else "revoked"
            ending = Ending(request.began, None, reason, request)
            request.tentative.append((request.life, ending))
            request.life.end(ending)

    def ended_id(self, request: Request, answer: bool | None) -> None:
        """Judge whether the session has ended, and the answer; None if the call returns nothing."""
        life, now = request.life, self._now
        if life is None:
            return
        if not answer and not life.is_migrated:
            # Only the previous backend may have the session.
            request.tentative.clear()
            return
        for subject, what in request.tentative:
            subject.forget(what)
        key, at = life.keys[str(request.key)], self._world.time
        had_ended = any(each.acked and each.acked < request.began for each in life.endings)
        must = life.must_be_live(key, request.began, now, at) and not self.may_be_evicted(life)
        if answer and had_ended:
            self._broken(8, f"{request}: ended session {life.number}, which had ended")
        if answer is False and must:
            self._broken(8, f"{request}: did not find session {life.number}, which is live")
        for subject, what in request.tentative:
            if isinstance(what, Ending):
                subject.end(what)  # Until it is certain.

        def certain() -> None:
            now, at = self._now, self._world.time
            for subject, what in request.tentative:
                subject.forget(what)
            if answer:
                ending = Ending(request.began, now, "revoked", request, at)
                life.end(ending)
                life.may_end_children(ending)
            elif answer is None:
                # If another request changes the key at the same time, it may not lead to a session
                # any more.
                acked = None if key.is_superseded_beside(request) else now
                self._end_by_key(life, key, Ending(request.began, acked, "logout", request, at))

        self._world.when_certain(certain)

    def _end_by_key(self, life: Life, key: Key, ending: Ending) -> None:
        """Note that a request has ended the session that its key leads to."""
        request = ending.request
        assert request is not None  # noqa: S101 - only an expiry has no request
        if life.may_be_live(key, request.began, request.began_at):
            life.end(ending)
            life.may_end_children(ending)
        elif self._is_skewed:
            # The clocks decide whether the key was superseded before the request began.
            life.end(replace(ending, acked=None))

    def all_expired(self) -> None:
        """Note that all sessions have expired."""
        now = self._now
        for life in self.lives:
            life.end(Ending(now, now, "expired", None, self._world.time))


def _is_hash_uncertain(world: World, life: Life, request: Request) -> bool:
    """Return whether a login may find either hash: beside a new password, or after a new key."""
    return life.secrets < world.secrets or any(
        each.name == "password" and (each.overlaps(request) or each.overlaps(life.request))
        for each in world.requests.values()
    )
