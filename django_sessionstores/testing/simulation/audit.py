"""Judging what is left after all requests: the sessions, cookies, lists and signals."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from . import handler, watched
from .history import BEFORE, FOREVER, Ending, Life, Request, Violation
from .internals import Inventory, SessionStoresError
from .judge import ENDS_OWN, MOST, TOMBSTONE_AT, led_to

if TYPE_CHECKING:
    from .world import World

_ENDING: Final = ENDS_OWN | {
    *("end", "delete_key", "login", "password", "end_all", "deactivate"),
}


def audit(world: World) -> None:
    """Read every session, cookie, list and signal, and add to the model's violations."""
    for leaf in world.storages.leaves.values():
        leaf.is_away = leaf.is_full = False
        leaf.cut_off.clear()
    # Wait until a cache that did not answer is tried again.
    world.advance(6)
    if "cache" in world.storages.leaves:
        world.note_cache_is_back()
        world.cache_outages.use(world.storages.process_of(0), world.time)
    seen: dict[str, dict[str, Any] | None] = {}
    for key in world.model.by_key:
        try:
            seen[key] = _look(world, key)
        except SessionStoresError as error:
            _broken(world, 22, f"afterwards: reading a session raises {error!r}")
            continue
        now = world.scheduler.tick()
        world.model.judge(None, key, seen[key], (now, now), world.time)
    for browser in world.browsers:
        _audit_browser(world, browser, seen)
    _audit_watched(world)
    _audit_lists(world, seen)
    _audit_signals(world)


def _broken(world: World, promise: int, text: str) -> None:
    world.model.violations.append(Violation(promise, text))


def _look(world: World, key: str) -> dict[str, Any] | None:
    """Return the stored data of a key, or None if there is no session."""
    with world.undisturbed():
        session = world.session_of(key)
        return None if session.deadlines() is None else dict(session.items())


# --- Browsers ------------------------------------------------------------------------------


def _audit_browser(world: World, browser: str, seen: dict[str, dict[str, Any] | None]) -> None:
    """Judge whether a browser has kept its session despite its own parallel requests."""
    requests = [each for each in world.requests.values() if each.who == browser]
    lives = [each for each in world.model.lives if _is_held(world, each, browser, requests)]
    if not lives or any(_spoils(world, each, lives) for each in requests):
        return
    if any(each.arrived_at - each.began_at > TOMBSTONE_AT for each in requests):
        return  # The response took longer than the tombstone of a superseded key lasts.
    current = world.model.by_key.get(world.browsers[browser] or "")
    is_over = current and (current.endings or world.model.may_be_evicted(current))
    if current and any(each.is_uncertain and each.life is current for each in requests):
        is_over = True  # The request died before it could send a new key to the browser.
    if is_over and current and current not in lives:
        before = current.request.presented
        if before not in lives:
            return  # Of two logins without a cookie, the session of the current one has ended.
        if before is not None and before.user not in {None, current.user}:
            return  # The session of a login as another user has ended.
        if current.request.has_superseded_key(current.request.began_at - TOMBSTONE_AT):
            return  # A login under a superseded key has begun another session, which has ended.
    request = Request("look", browser, "poll", world.browsers[browser], 0, world.time)
    with world.undisturbed():
        request.began = world.scheduler.tick()
        response = handler.respond(world, request)
    users = {each.user for each in lives if each.user is not None}
    if response.status_code != 200:
        _broken(world, 17, f"afterwards: browser {browser} is answered {response.status_code}")
    elif (
        users
        and request.user is None
        # If the cookie leads to a session of a user, a late response is not the cause.
        and (
            "_auth_user_id" in (seen.get(request.key or "") or {})
            or not _came_late(world, requests, _signed_in(lives))
        )
    ):
        rolled_back = any(each.was_rolled_back for each in requests)
        _broken(
            world,
            18 if rolled_back else 15,
            f"afterwards: browser {browser} is signed out, and session {lives[-1].number} lives "
            f"(the last response was that of {_last(requests)})",
        )
    elif (
        not users
        and request.key not in world.model.by_key
        and not _came_late(world, requests, lives)
    ):
        _broken(world, 15, f"afterwards: browser {browser} has lost session {lives[-1].number}")


def _is_held(world: World, life: Life, browser: str, requests: list[Request]) -> bool:
    """Return whether a session is certainly live and the browser has certainly got its key."""
    if life.endings or life.children or world.model.may_be_evicted(life):
        return False
    if world.model.is_idle(life, world.browsers[browser], world.time):
        return False
    if any(each.is_uncertain and (each.life is life or each.key in life.keys) for each in requests):
        return False
    given = any(each.arrived and each.cookie in life.keys for each in requests)
    return given or world.given.get(browser) in life.keys


def _came_late(world: World, requests: list[Request], lives: list[Life]) -> bool:
    """Return whether the wrong cookie came last for a reason that cannot be avoided.

    A response must send a new key, even if it arrives after the response to a login. A request that
    began before the browser had a cookie belongs to another session. And Django's middleware sends
    the key after each save, even if the browser has it; this package's middleware does not.
    """
    if "strict" in world.config.options:
        return False
    if world.config.middleware == "django" and any("+error" in each.operation for each in requests):
        return True  # It sends no cookie with an error, so the grace period may pass.
    suspects = (_culprit(requests, lives), _last(requests))
    return any(each is not None and _is_late(world, each, requests, lives) for each in suspects)


def _is_late(world: World, last: Request, requests: list[Request], lives: list[Life]) -> bool:
    """Return whether what a response did to the cookie was right when it was sent."""
    if last.cookie == "" and led_to(last) is None:
        return True  # Its key led nowhere, and the browser may have got a newer cookie since.
    if last.cookie == last.key:
        return True  # It was sent to extend the expiry of a key that was valid.
    # Later calls, for example to update a cache, do not change the response.
    decided = world.decided(last) or last.ended or 0
    if any((each.ended or 0) > decided for each in requests if each.cookie and each is not last):
        return True
    presented = led_to(last)
    if presented is not None and presented is not last.life:
        return False
    ancestors = {each.parent for each in lives}
    return last.life not in ancestors and last.life not in lives


def _signed_in(lives: list[Life]) -> list[Life]:
    return [each for each in lives if each.user is not None]


def _changing(requests: list[Request]) -> list[Request]:
    """Return the requests whose responses have changed the cookie, in order of arrival."""
    changing = [each for each in requests if each.cookie is not None and each.arrived]
    return sorted(changing, key=lambda each: each.arrived or 0)


def _last(requests: list[Request]) -> Request | None:
    """Return the request whose response has changed the cookie last."""
    return next(reversed(_changing(requests)), None)


def _culprit(requests: list[Request], lives: list[Life]) -> Request | None:
    """Return the request whose response has replaced the key of a live session by another key.

    If that cannot be told, return the last request that has changed the cookie.
    """
    keys = {
        key.text
        for life in lives
        for key in life.keys.values()
        if not any(each.acked and each.grace is None for each in key.superseded)
    }
    changing = _changing(requests)
    places = [place for place, each in enumerate(changing) if each.cookie in keys]
    if not places or places[-1] == len(changing) - 1:
        return _last(requests)
    return changing[places[-1] + 1]


def _spoils(world: World, request: Request, lives: list[Life]) -> bool:
    """Return whether a request of the browser may have deleted its cookie."""
    if request.was_killed:
        return False
    until = request.arrived or 0
    if not any(until > life.start for life in lives):
        return False
    if request.name in ENDS_OWN:
        return True
    # A request with the key of a session that has ended in the meantime deletes the cookie.
    life = request.presented
    return life is not None and (
        world.model.may_be_evicted(life) or any(_leaves_nothing(each) for each in life.endings)
    )


def _leaves_nothing(ending: Ending) -> bool:
    """Return whether an ended session is not replaced by another one.

    A login that is refused may have flushed the session of another user before.
    """
    was_refused = ending.request is not None and ending.request.error is not None
    return ending.reason != "replaced" or was_refused


def _audit_watched(world: World) -> None:
    """Judge whether a re-check tells the sessions that have ended from those that live."""
    with world.undisturbed():
        findings = watched.Finder(world.storages.current, world.watched).find()
    watched.judge(world, None, findings)


# --- Lists and signals ---------------------------------------------------------------------


def _audit_lists(world: World, seen: dict[str, dict[str, Any] | None]) -> None:
    """Judge whether lists show each live session once, and no ended session."""
    with world.undisturbed():
        listed = [each.id for each in Inventory().iterate()]
        count = Inventory().count()
    # A request that died during a rotation has left both records, of which lists show one.
    has_died = any(each.was_killed or each.faults for each in world.requests.values())
    if count != len(listed) and not (has_died and count > len(listed)):
        _broken(world, 26, f"afterwards: {count} are counted and {len(listed)} listed")
    uncertain = any(each.is_uncertain for each in world.requests.values())
    for life in world.model.lives:
        times = sum(each in life.ids for each in listed)
        is_there = any(seen.get(key) is not None for key in life.keys)
        # An outdated copy in the cache is served for its lease (7), but is not listed.
        is_unlisted = not (times or uncertain or world.may_be_misled)
        is_missing = is_there and is_unlisted and life.is_migrated
        if times > 1 or is_missing:
            _broken(world, 26, f"afterwards: session {life.number} is listed {times} times")
        if times and not is_there and not uncertain:
            _broken(world, 26, f"afterwards: session {life.number} is listed, and is not there")
    strange = [each for each in listed if each not in world.model.known_ids]
    if strange and not uncertain:
        _broken(world, 26, f"afterwards: {len(strange)} sessions are listed that nobody has")
    if not uncertain:
        _audit_limit(world, listed)


def _audit_limit(world: World, listed: list[str]) -> None:
    if not world.config.options & {"limit", "refuse"}:
        return
    for pk in world.users:
        lives = [each for each in world.model.lives if each.user == pk]
        live = [each for each in lives if not each.ids.isdisjoint(listed)]
        # A limit counts listed sessions, and those of a previous backend are not listed.
        certain = [
            each for each in lives if each.is_migrated and not each.endings and not each.children
        ]
        if len(live) > MOST:
            _broken(world, 25, f"afterwards: user {pk} has {len(live)} sessions")
        # A session that a limit has ended does not come back when others end after it.
        if len(live) < min(MOST, len(certain)) and not any(each.endings for each in lives):
            _broken(world, 25, f"afterwards: user {pk} has {len(live)} of {len(certain)} sessions")


def _may_be_untold(world: World, life: Life) -> bool:
    """Return whether the end of a session may lack a signal.

    The request that ended it may have died, or may not have known that it existed.
    """
    requests = world.requests.values()
    if any(each.was_killed or each.faults for each in requests):
        return True
    # A login treats the session as another user's if it sees the new password.
    changing = [each for each in requests if each.name == "password"]
    if any(each.signs_in and each.overlaps(other) for each in requests for other in changing):
        return True
    reasons = {reason for _, reason in _unnamed_ends(world) if _is_unsure_of_ids(world)}
    if any(each.reason in reasons for each in life.endings):
        return True
    return any(each.acked is None for each in life.endings) and life.request.label == BEFORE


def _audit_signals(world: World) -> None:
    """Judge whether each beginning and end was signalled once, and nothing else."""
    for session_id, times in Counter(world.model.signals.starts).items():
        if times > 1:
            _broken(world, 10, f"afterwards: {session_id[:8]} was told to begin {times} times")
    _audit_ended_ids(world)
    requests = list(world.requests.values())
    signals, known = world.model.signals, world.model.known_ids
    ends = [(signals.known_id(each, known), reason) for each, reason in signals.ends]
    for life in world.model.lives:
        sent_reasons = [reason for session_id, reason in ends if session_id in life.ids]
        expired = [each.acked or FOREVER for each in life.endings if each.reason == "expired"]
        over = min(expired, default=FOREVER)
        # Who ends what has expired ends no session (10).
        endings = [each for each in life.endings if each.start < over]
        certain = [each for each in endings if each.acked is not None]
        # After a login, the next session ends instead. After an expiry, none does.
        may_be_silent = len(endings) < len(life.endings) or life.children
        reasons = {"evicted", *(each.reason for each in endings)}
        if any(each.name == "password" for each in world.requests.values()):
            reasons.add("password")
        if reasons & {"password", "deactivated"}:
            # Django ends the session if it finds that the user is not valid any more.
            reasons |= {"logout", "replaced"}
        if any(each.request and each.request.name == "visit" for each in endings):
            reasons |= {"logout", "replaced"}
        first = next((key.id for key in life.keys.values()), None)
        later = life.ids - {first}
        if later & signals.creations and "password" in sent_reasons:
            # A parallel request found that the user has a new password, and ended the session
            # before the request that set the password saved. That one began another session.
            sent_reasons.remove("password")
        enders = sum(each.name in _ENDING for each in requests)
        if life.request.label == BEFORE and enders > 1:
            # If two requests remove a session from a previous backend, either may be the first one
            # or find that the other one was.
            sent_reasons, may_be_silent = sent_reasons[:1], True
        if life.ids & signals.early:
            sent_reasons = sent_reasons[-1:]
        if world.config.rotates_in_two_steps:
            # The record that a rotation stores first may be ended, and then stored again.
            sent_reasons = list(dict.fromkeys(sent_reasons))
        name = f"afterwards: the end of session {life.number}"
        if len(sent_reasons) > 1:
            _broken(world, 10, f"{name} was told {len(sent_reasons)} times: {sent_reasons}")
        elif sent_reasons and not endings and not world.model.may_be_evicted(life):
            _broken(world, 10, f"{name} was told ({sent_reasons[0]}), and did not happen")
        elif certain and not sent_reasons and not may_be_silent and not _may_be_untold(world, life):
            _broken(world, 10, f"{name} was not told ({certain[0].reason})")
        elif sent_reasons and endings and sent_reasons[0] not in reasons:
            _broken(world, 10, f"{name} was told as {sent_reasons[0]}, and was {endings[0].reason}")


def _audit_ended_ids(world: World) -> None:
    """Judge whether each end was told with an id that a response or another signal has named.

    A rotation stores the record under the new id first. If the session ends then, nobody gets it.
    """
    requests = world.requests.values()
    if any(each.was_killed or each.faults for each in requests) or _is_unsure_of_ids(world):
        return
    for session_id, _ in _unnamed_ends(world):
        _broken(world, 10, f"afterwards: {session_id[:8]}, which nobody has, was told to end")


def _is_unsure_of_ids(world: World) -> bool:
    """Return whether the end of a session may be told with the id of a rotation that fails.

    Of two rotations at once in two steps, nothing in their records tells which one has succeeded.
    And if a session ends before a rotation has superseded its old id, another end may find its new
    one in the list before the rotation removes that.
    """
    if "2step" not in world.config.options:
        return False
    requests = world.requests.values()
    for each in requests:
        beside = [other for other in requests if other is not each and other.overlaps(each)]
        enders = [other for other in beside if other.name in {*_ENDING, "others"}]
        if len(enders) > 1 or any(each.key == other.key for other in beside):
            return True
    return False


def _unnamed_ends(world: World) -> list[tuple[str, str]]:
    """Return the ends that were told with an id that no response and no other signal has named."""
    signals = world.model.signals
    named = world.model.known_ids | signals.creations | signals.rotations.keys()
    return [each for each in signals.ends if each[0] not in named]
