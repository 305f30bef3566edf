"""Faults that are planted in the package: the simulation has to notice each of them.

A model that finds nothing may simply not look. Each program here breaks no promise as the package
is, and the promise that is named with the fault.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import msgspec
import pytest

from django_sessionstores import middleware, signals
from django_sessionstores.core import clock
from django_sessionstores.core.flow import Call, Flow
from django_sessionstores.core.records import (
    Record,
    SecretText,
    State,
    draw_key,
    make_tombstone,
    without_payload,
)
from django_sessionstores.exceptions import SessionLimitReached, StorageFull, StorageUnavailable
from django_sessionstores.inventory import ending as inventory_ending
from django_sessionstores.inventory.arguments import Limits
from django_sessionstores.inventory.ending import Ending
from django_sessionstores.migration import lazy
from django_sessionstores.payloads import codec, merge
from django_sessionstores.sessions import (
    conflicts,
    drafting,
    ending,
    events,
    loading,
    rotation,
    saving,
    store,
)
from django_sessionstores.sessions.rollback import Merge, ProvisionalStates
from django_sessionstores.sessions.state import New, RotationCause
from django_sessionstores.storages import base, limited, revocation, tombstones
from django_sessionstores.storages.base import Page, Updated
from django_sessionstores.storages.calls import Calls
from django_sessionstores.storages.copies import CopyTrust, never
from django_sessionstores.storages.layered import LayeredStorage
from django_sessionstores.storages.limited import LimitedStorage
from django_sessionstores.storages.memory import MemoryStorage
from django_sessionstores.storages.registered import (
    RegisteredStorage,
    stored_records,
)
from django_sessionstores.storages.registered.stored_records import StoredRecords
from django_sessionstores.testing.simulation.database import SimulatedDatabase
from django_sessionstores.testing.simulation.programs import Program, run
from django_sessionstores.testing.simulation.stores import Scheduled, SimulatedCache
from django_sessionstores.watching import findings
from tests.testing.simulation.known import OTHER, PROGRAMS, USER, VISITOR

Plant = Callable[[pytest.MonkeyPatch], None]


def returning(value: Any = None) -> Callable[..., Flow[Any]]:
    """Return a function that calls no store and returns this value, whatever its arguments."""

    def call(*args: Any, **options: Any) -> Flow[Any]:
        return value
        yield

    return call


def ignore_versions(plant: pytest.MonkeyPatch) -> None:
    def update(self: MemoryStorage, record: Any, base: Any, now: int) -> Updated:
        self._put(record, now)
        return Updated(record)

    plant.setattr(MemoryStorage, "update", update)


def keep_what_is_deleted(plant: pytest.MonkeyPatch) -> None:
    plant.setattr(MemoryStorage, "delete", lambda self, session_id: True)


def leave_the_old_key(plant: pytest.MonkeyPatch) -> None:
    def rotate(self: MemoryStorage, record: Any, base: Any, tombstone: Any, now: int) -> Any:
        return self.create(record, now)

    plant.setattr(MemoryStorage, "rotate", rotate)


def take_an_outage_for_nothing(plant: pytest.MonkeyPatch) -> None:
    original = Scheduled.call

    def call(self: Scheduled, method: str, args: tuple[Any, ...]) -> Any:
        try:
            return original(self, method, args)
        except StorageUnavailable:
            if method == "read":
                return None
            raise

    plant.setattr(Scheduled, "call", call)


def tell_twice(plant: pytest.MonkeyPatch) -> None:
    original = signals.send

    def send(signal: Any, sender: Any, **facts: Any) -> Flow[None]:
        yield from original(signal, sender, **facts)
        yield from original(signal, sender, **facts)

    plant.setattr(signals, "send", send)


def tell_before_the_commit(plant: pytest.MonkeyPatch) -> None:
    def send_after_commit(kind: Any, storage: Any, told: Any) -> Flow[Any]:
        yield from events.send(kind, told)
        return (yield from Calls(storage).after_commit(lambda: None))

    plant.setattr(events, "send_after_commit", send_after_commit)


def tell_nothing(plant: pytest.MonkeyPatch) -> None:
    plant.setattr(signals, "send", returning())


def list_nothing(plant: pytest.MonkeyPatch) -> None:
    plant.setattr(MemoryStorage, "scan", lambda self, *arguments: Page([], ""))


def publish_before_the_commit(plant: pytest.MonkeyPatch) -> None:
    def after_commit(
        self: LayeredStorage, step: Callable[[], Flow[None]]
    ) -> Flow[Callable[[], bool]]:
        yield from step()
        return lambda: True

    plant.setattr(LayeredStorage, "_after_commit", after_commit)


def show_what_is_not_committed(plant: pytest.MonkeyPatch) -> None:
    def put(self: SimulatedDatabase, connection: Any, session_id: str, record: Any) -> None:
        self.write(session_id, record)

    plant.setattr(SimulatedDatabase, "_put", put)


def forget_the_cache(plant: pytest.MonkeyPatch) -> None:
    plant.setattr(LayeredStorage, "_publish", returning())
    plant.setattr(LayeredStorage, "_leave_tombstones", returning(True))


def leave_copies_while_a_session_ends(plant: pytest.MonkeyPatch) -> None:
    def end(self: LayeredStorage, session_ids: Any, name: str, *args: Any) -> Flow[Any]:
        answer = yield Call(self.authority, name, args)
        yield from self._leave_tombstones(session_ids)
        return answer

    plant.setattr(LayeredStorage, "_end", end)


def leave_copies_while_a_key_is_rotated(plant: pytest.MonkeyPatch) -> None:
    plant.setattr(LayeredStorage, "_mark", returning())


def forget_which_version_is_replaced(plant: pytest.MonkeyPatch) -> None:
    def mark(self: LayeredStorage, base: Record) -> Flow[None]:
        yield from self._tell_cache(base.id, "delete", base.id)

    plant.setattr(LayeredStorage, "_mark", mark)


def trust_copies_from_before_the_process(plant: pytest.MonkeyPatch) -> None:
    original = CopyTrust.__init__

    def init(self: CopyTrust, *, lease: float, retry: float, process_began: Any) -> None:
        original(self, lease=lease, retry=retry, process_began=never)

    plant.setattr(CopyTrust, "__init__", init)


def trust_copies_while_others_use_no_cache(plant: pytest.MonkeyPatch) -> None:
    def begin_again(self: CopyTrust) -> None:
        self._trusted_since = clock.now()

    plant.setattr(CopyTrust, "begin_again", begin_again)


def believe_the_tombstones_of_the_cache(plant: pytest.MonkeyPatch) -> None:
    original = SimulatedCache.read

    def read(self: SimulatedCache, locator: str) -> Record | None:
        found = original(self, locator)
        if found is None or found.state is not State.ENDED:
            return found
        return make_tombstone(locator, State.SUPERSEDED, now=clock.now(), seconds=60)

    plant.setattr(SimulatedCache, "read", read)


def ignore_tombstones_in_the_cache(plant: pytest.MonkeyPatch) -> None:
    from django_sessionstores.testing.simulation import stores

    plant.setattr(stores, "is_refused", lambda copy, stored, now: False)


def delete_the_cookie_in_an_outage(plant: pytest.MonkeyPatch) -> None:
    original = middleware.outages.OutagePage.response

    def response(self: Any, *args: Any) -> Any:
        answer = original(self, *args)
        answer.delete_cookie("sessionid")
        return answer

    plant.setattr(middleware.outages.OutagePage, "response", response)


def end_only_the_first(plant: pytest.MonkeyPatch) -> None:
    original = Ending.end_all

    def end_all(self: Any, user: Any, but: Any, limits: Any = None, *others: Any) -> Any:
        return original(self, user, but, Limits(most=1), *others)

    plant.setattr(Ending, "end_all", end_all)


def end_all_the_same(plant: pytest.MonkeyPatch) -> None:
    original = Ending.end_all

    def end_all(self: Any, user: Any, but: Any, *others: Any) -> Any:
        return original(self, user, (), *others)

    plant.setattr(Ending, "end_all", end_all)


def purge_too_much(plant: pytest.MonkeyPatch) -> None:
    original = MemoryStorage.purge
    plant.setattr(
        MemoryStorage, "purge", lambda self, now, batch: original(self, now + 10**12, batch)
    )


def rotate_without_grace(plant: pytest.MonkeyPatch) -> None:
    original = rotation.begin_rotation

    def begin_rotation(previous: Any, cause: Any, cycles: int = 1) -> Any:
        return original(previous, RotationCause.CYCLED, cycles)

    plant.setattr(rotation, "begin_rotation", begin_rotation)


def draw_keys_that_cannot_be_derived(plant: pytest.MonkeyPatch) -> None:
    original = rotation.begin_rotation

    def begin_rotation(previous: Any, cause: Any, cycles: int = 1) -> Any:
        return msgspec.structs.replace(
            original(previous, cause, cycles), key=SecretText(draw_key())
        )

    plant.setattr(rotation, "begin_rotation", begin_rotation)


def derive_keys_without_a_nonce(plant: pytest.MonkeyPatch) -> None:
    original = codec.KeyRing.successors
    plant.setattr(codec.KeyRing, "successors", lambda self, key, nonce: original(self, key, 0))


def forget_the_nonce(plant: pytest.MonkeyPatch) -> None:
    original = rotation.tombstone_of

    def tombstone_of(state: Any, successor: str) -> Any:
        return msgspec.structs.replace(original(state, successor), version=1)

    plant.setattr(rotation, "tombstone_of", tombstone_of)


def ignore_lineages(plant: pytest.MonkeyPatch) -> None:
    plant.setattr(Record, "lineage", property(lambda self: self.id))


def do_not_follow(plant: pytest.MonkeyPatch) -> None:
    plant.setattr(revocation, "leads_on", lambda tombstone, successor: False)


def end_what_a_login_began(plant: pytest.MonkeyPatch) -> None:
    plant.setattr(revocation, "is_same_session", lambda tombstone, successor: True)


def keep_what_is_rolled_back(plant: pytest.MonkeyPatch) -> None:
    def settle(self: ProvisionalStates) -> list[Any]:
        self.clear()
        return []

    plant.setattr(ProvisionalStates, "settle", settle)


def keep_what_was_merged(plant: pytest.MonkeyPatch) -> None:
    plant.setattr(Merge, "undo", lambda self, data: data)


def count_nobody(plant: pytest.MonkeyPatch) -> None:
    def others(self: LimitedStorage, *records: Any) -> Flow[tuple[list[Any], bool]]:
        return [], True
        yield

    plant.setattr(LimitedStorage, "_other_sessions", others)


def evict_the_newest(plant: pytest.MonkeyPatch) -> None:
    plant.setattr(limited, "_creation", lambda records: (-records[0].created, records[0].id))


def evict_everybody(plant: pytest.MonkeyPatch) -> None:
    def surplus(self: LimitedStorage, *records: Any) -> Flow[Any]:
        others, _ = yield from self._other_sessions(*records)
        return others

    plant.setattr(LimitedStorage, "_surplus", surplus)


def evict_by_the_listed_ids(plant: pytest.MonkeyPatch) -> None:
    def end_many(storage: Any, records: Any) -> Flow[list[Record]]:
        ids = yield from Calls(storage).end_many([each.id for each in records])
        return [each for each in records if each.id in ids]

    plant.setattr(revocation, "end_many", end_many)


def leave_the_copies_of_many(plant: pytest.MonkeyPatch) -> None:
    def end_many(self: LayeredStorage, ids: Any) -> Flow[Any]:
        return (yield from Calls(self.authority).end_many(ids))

    plant.setattr(LayeredStorage, "_end_many", end_many)


def leave_copies_in_a_full_cache(plant: pytest.MonkeyPatch) -> None:
    original = LayeredStorage._tell_cache

    def tell_cache(self: LayeredStorage, *args: Any, **options: Any) -> Flow[None]:
        with suppress(StorageFull):
            yield from original(self, *args, **options)

    plant.setattr(LayeredStorage, "_tell_cache", tell_cache)


def refuse_everybody(plant: pytest.MonkeyPatch) -> None:
    def surplus(self: LimitedStorage, *records: Any) -> Flow[Any]:
        raise SessionLimitReached
        yield

    plant.setattr(LimitedStorage, "_surplus", surplus)


def ignore_the_lock(plant: pytest.MonkeyPatch) -> None:
    def lock(self: LimitedStorage, user_id: str) -> Flow[Any]:
        return limited._lock_of(user_id, self.sites()[0], clock.now())
        yield

    plant.setattr(LimitedStorage, "_lock", lock)
    plant.setattr(LimitedStorage, "_unlock", returning(True))


def keep_the_key_at_login(plant: pytest.MonkeyPatch) -> None:
    def cycle(self: Any, **kwargs: bool) -> Flow[None]:
        self.modified = True
        return
        yield

    plant.setattr(store.SessionStore, "_cycle", cycle)


def accept_any_key(plant: pytest.MonkeyPatch) -> None:
    original = loading.load

    def load(env: Any, state: Any) -> Flow[Any]:
        loaded = yield from original(env, state)
        if isinstance(loaded.state, New):
            loaded = msgspec.structs.replace(loaded, state=New(state.key))
        return loaded

    plant.setattr(loading, "load", load)


def save_nothing_that_is_nested(plant: pytest.MonkeyPatch) -> None:
    plant.setattr(store.SessionStore, "_has_changed", lambda self, state: False)


def overwrite_the_other(plant: pytest.MonkeyPatch) -> None:
    def merge_with_stored(base: Any, mine: Any, theirs: Any) -> Flow[Any]:
        return mine
        yield

    plant.setattr(conflicts, "merge_with_stored", merge_with_stored)


def let_an_outdated_login_win(plant: pytest.MonkeyPatch) -> None:
    plant.setattr(merge, "_is_outdated_login", lambda base, mine, theirs: False)


def fail_a_reader(plant: pytest.MonkeyPatch) -> None:
    plant.setattr(saving, "_HARMLESS_TO_READERS", ())


def go_on_with_what_has_ended(plant: pytest.MonkeyPatch) -> None:
    """Let a save whose session has ended store it under another key."""

    def resolve_update(env: Any, state: Any, data: Any, outcome: Any) -> Flow[Any]:
        return conflicts.NextTry(New(SecretText(draw_key())), data)
        yield

    plant.setattr(conflicts, "resolve_update", resolve_update)


def send_cookies_without_proof(plant: pytest.MonkeyPatch) -> None:
    plant.setattr(store.SessionStore, "_prove", returning(True))


def send_no_cookie(plant: pytest.MonkeyPatch) -> None:
    plant.setattr(middleware.SessionMiddleware, "_is_due", returning(False))


def register_what_has_ended(plant: pytest.MonkeyPatch) -> None:
    original = StoredRecords._rotate_entry

    def rotate_entry(self: StoredRecords, record: Record, *args: Any) -> Flow[Updated]:
        outcome = yield from original(self, record, *args)
        return outcome if isinstance(outcome, Updated) else Updated(without_payload(record))

    plant.setattr(StoredRecords, "_rotate_entry", rotate_entry)


def leave_the_data_of_what_has_ended(plant: pytest.MonkeyPatch) -> None:
    def delete(self: StoredRecords, session_id: str) -> Flow[bool]:
        return bool((yield Call(self._registry, "delete", (session_id,))))

    plant.setattr(StoredRecords, "delete", delete)


def tell_the_end_of_both_records_of_a_rotation(plant: pytest.MonkeyPatch) -> None:
    plant.setattr(inventory_ending._Progress, "add", lambda self, records: list(records))


def tell_the_end_of_what_has_expired(plant: pytest.MonkeyPatch) -> None:
    original = SimulatedDatabase.delete

    def delete(self: SimulatedDatabase, session_id: str) -> bool:
        was_there = self.rows.get(session_id) is not None
        return original(self, session_id) or was_there

    plant.setattr(SimulatedDatabase, "delete", delete)


def let_a_login_begin_when_its_session_began(plant: pytest.MonkeyPatch) -> None:
    original = drafting._start_time
    plant.setattr(drafting, "_start_time", lambda *args: original(*args[:-1], None))


def tell_the_cache_of_an_end_after_it(plant: pytest.MonkeyPatch) -> None:
    def delete(self: LayeredStorage, session_id: str) -> Flow[bool]:
        deleted: bool = yield Call(self.authority, "delete", (session_id,))
        yield from self._leave_tombstones((session_id,))
        return deleted

    plant.setattr(LayeredStorage, "_delete", delete)


def migrate_without_a_lineage(plant: pytest.MonkeyPatch) -> None:
    original = lazy.record_of

    def record_of(*args: Any) -> Record:
        return msgspec.structs.replace(original(*args), origin="")

    plant.setattr(lazy, "record_of", record_of)


def leave_a_rotation_to_the_request_that_began_it(plant: pytest.MonkeyPatch) -> None:
    plant.setattr(StoredRecords, "_read_successor", returning())


def undo_a_rotation_without_a_look(plant: pytest.MonkeyPatch) -> None:
    plant.setattr(base, "was_rotated", returning(False))
    plant.setattr(stored_records, "was_rotated", returning(False))


def migrate_without_removing(plant: pytest.MonkeyPatch) -> None:
    no_copies = lazy.PreviousCopies(was_there=False, expires=0, is_foreign=False)
    plant.setattr(lazy.MigratingStorage, "_remove", returning())
    plant.setattr(lazy.MigratingStorage, "_end_in_sources", returning(no_copies))
    leave_no_tombstone_of_a_previous_session(plant)


def leave_no_tombstone_of_a_previous_session(plant: pytest.MonkeyPatch) -> None:
    outcome = tombstones.TombstoneOutcome(is_stored=False, has_ended=False)
    plant.setattr(lazy, "leave_tombstone", returning(outcome))


def end_with_a_journal_for_a_successor(plant: pytest.MonkeyPatch) -> None:
    update = RegisteredStorage._update

    def with_payload(self: RegisteredStorage, record: Any, base: Any, now: int) -> Flow[Any]:
        if record.state is State.LIVE or base.state is not State.LIVE:
            return (yield from update(self, record, base, now))
        tombstone = msgspec.structs.replace(record, payload=b"not of this session!")
        return (yield from update(self, tombstone, base, now))

    plant.setattr(RegisteredStorage, "_update", with_payload)


def end_what_has_the_new_password(plant: pytest.MonkeyPatch) -> None:
    original = ending._is_outdated

    def is_outdated(base: Any) -> Flow[bool]:
        was_outdated = yield from original(base)
        plant.setattr(ending, "_is_outdated", lambda base: is_still_outdated())
        return was_outdated

    def is_still_outdated() -> Flow[bool]:
        return True
        yield

    plant.setattr(ending, "_is_outdated", is_outdated)


def watch_no_further(plant: pytest.MonkeyPatch) -> None:
    plant.setattr(findings, "leads_on", lambda *_: False)


def watch_whatever_follows(plant: pytest.MonkeyPatch) -> None:
    plant.setattr(findings, "leads_on", lambda *_: True)


def see_no_end(plant: pytest.MonkeyPatch) -> None:
    plant.setattr(findings, "_found", lambda current, known, now: known)


WATCH: Final = "1:x.watch 1*"
WORKERS: Final = "cached_db own sync +workers"
SAVED_BESIDE: Final = "3:x.read 3* 4:x.put.a 4* 5:x.read 5*"
FAILS: Final = "3:x.put.a+save+error@rollback 3*"

CASES: Final = [
    (watch_no_further, 15, f"memory own sync: {USER} {WATCH} +1001 2:x.read 2* 3:o.recheck 3*"),
    (watch_no_further, 15, f"db own async: {USER} {WATCH} 2:x.cycle 2*"),
    (watch_whatever_follows, 11, f"memory own sync: {USER} {WATCH} 2:x.login.2 2*"),
    (see_no_end, 7, f"memory own sync: {USER} {WATCH} 2:x.logout 2* 3:o.recheck 3*"),
    (see_no_end, 7, f"cookie_registry own async: {USER} {WATCH} 2:o.end_all.1 2*"),
    (ignore_versions, 2, f"memory own sync: {USER} 1:x.put.a 1 2:x.put.b 2* 1*"),
    (overwrite_the_other, 2, f"memory own sync: {USER} 1:x.put.a 1 2:x.put.b 2* 1*"),
    (
        overwrite_the_other,
        2,
        f"db own sync: {USER} 1:x.login.1 2:x.login.1 2 1* >1 3:x.put.a 3* 4:x.cycle+save 4 4",
    ),
    (save_nothing_that_is_nested, 1, f"memory own sync: {USER} 1:x.nested 1* 2:x.nested 2*"),
    (keep_what_is_deleted, 7, f"memory own sync: {USER} 1:x.logout 1* >1"),
    (keep_what_is_deleted, 7, f"memory own sync: {USER} 1:o.end.x 1*"),
    (leave_the_old_key, 11, f"memory own sync: {VISITOR} 1:x.login.1 1*"),
    (keep_the_key_at_login, 11, f"memory own sync: {VISITOR} 1:x.login.1 1* >1 2:x.poll"),
    (rotate_without_grace, 12, f"memory own sync: {USER} +1001 1:x.read 1* 2:x.read"),
    (take_an_outage_for_nothing, 21, f"memory own sync: {USER} 1:x.read 1- 1* >1"),
    (delete_the_cookie_in_an_outage, 21, f"memory own sync: {USER} 1:x.read 1- 1* >1"),
    (tell_twice, 10, f"memory own sync: {USER} 1:x.logout 1*"),
    (tell_before_the_commit, 10, f"db own sync: {USER} 1:o.delete_key.x@rollback"),
    (tell_before_the_commit, 10, f"db own sync: {USER} 1:x.visit.2@rollback"),
    (tell_nothing, 10, f"memory own sync: {USER} 1:x.logout 1*"),
    (tell_nothing, 26, "memory own sync: 1:x.save 1*"),
    (list_nothing, 26, f"memory own sync: {USER}"),
    (publish_before_the_commit, 18, f"cached_db own sync: {USER} 1:x.put.a+save+error@rollback 1*"),
    (show_what_is_not_committed, 18, f"db own sync: {USER} 1:x.put.a+save+error@rollback 1*"),
    (show_what_is_not_committed, 19, f"db own sync: {USER} 1:x.put.a+save@atomic 1 1 2:x.read 2*"),
    (forget_the_cache, 7, f"cached_db own sync: {USER} 1:x.read 1* 2:x.logout 2*"),
    (forget_the_cache, 1, f"cached_db own sync: {USER} 1:x.put.a 1* 2:x.read 2*"),
    (
        leave_copies_while_a_session_ends,
        7,
        f"cached_db own sync: {USER} 1:o.end_all.1 1 1 2:o.end_all.1 2* 3:x.read 3*",
    ),
    (
        leave_copies_while_a_key_is_rotated,
        7,
        f"cached_db own sync: {USER} 1:x.cycle 1 1 2:o.end_all.1 2* 3:x.read 3*",
    ),
    (
        forget_which_version_is_replaced,
        18,
        f"cached_db own sync: {USER} +1001 2:x.put.b 2 2 2 1:x.read 1 1 1 1 2* >2 {FAILS} 1*",
    ),
    (
        trust_copies_from_before_the_process,
        1,
        f"{WORKERS}: {USER} away.cache 1:x.put.a 1* back.cache begin.0 2:x.read 2*",
    ),
    (
        trust_copies_from_before_the_process,
        7,
        f"{WORKERS}: {USER} away.cache 1:x.delete 1* back.cache begin.0 2:x.read 2*",
    ),
    (
        trust_copies_while_others_use_no_cache,
        1,
        f"{WORKERS}: {USER} away.cache 1:x.read 1* +2 2:x.read 2* back.cache +4 {SAVED_BESIDE}",
    ),
    (
        believe_the_tombstones_of_the_cache,
        26,
        f"cached_db own sync: {USER} 1:x.delete@rollback 1*",
    ),
    (
        ignore_tombstones_in_the_cache,
        7,
        f"cached_db own sync: {USER} evict 1:x.read 1 1 2:x.logout 2* 1*",
    ),
    (end_only_the_first, 7, f"memory own sync: {OTHER} {USER} 1:o.end_all.1 1*"),
    (end_all_the_same, 9, f"memory own sync: {OTHER} {USER} 1:x.others 1*"),
    (do_not_follow, 8, f"memory own sync: {USER} +1001 1:x.read 1* 2:o.end.x 2* 1*"),
    (count_nobody, 25, f"memory own sync +limit: {OTHER} {USER} 1:z.login.1 1*"),
    (evict_the_newest, 1, f"memory own sync +limit: {OTHER} {USER} 1:z.login.1 1*"),
    (refuse_everybody, 25, f"memory own sync +refuse: {VISITOR} 1:x.login.1 1*"),
    (purge_too_much, 1, f"memory own sync: {USER} 1:o.purge 1*"),
    (fail_a_reader, 17, f"memory own sync: {USER} +1001 1:x.read 1 2:x.cycle 2* 1*"),
    (draw_keys_that_cannot_be_derived, 12, f"memory own sync: {USER} +1001 1:x.read 1* 2:x.read"),
    (
        derive_keys_without_a_nonce,
        15,
        f"db own sync +2step: {USER} +1001 1:x.read 1 1 1 1! 2:x.poll 2* >2 3:x.put.a 3*",
    ),
    (forget_the_nonce, 12, f"memory own sync: {USER} +1001 1:x.read 1* 2:x.read"),
    (
        ignore_lineages,
        9,
        f"db own sync: {OTHER} {USER} +1001 1:x.others 1 1 1 2:x.read 2* 1* >1 >2",
    ),
    (end_what_a_login_began, 1, f"memory own sync: {VISITOR} 1:x.login.1 1* 2:o.end.x 2*"),
    (
        end_what_a_login_began,
        1,
        f"cached_db own async: {USER} 1:x.cycle 2:x.login.1 2 2 1 1 1 2* 1* 3:o.end.x 3*",
    ),
    (keep_what_is_rolled_back, 18, f"db own sync: {USER} 1:x.put.a+save@rollback 1*"),
    (
        keep_what_was_merged,
        18,
        f"db own sync: {USER} 1:x.put.a+save@rollback 1 2:x.put.b 2* 1 1 1 3:x.drop.b 3* 1*",
    ),
    (
        evict_by_the_listed_ids,
        25,
        f"db own sync +limit: {OTHER} {USER} 1:z.login.1 1 1 1 1 1 1 2:y.cycle 2* >2 1*",
    ),
    (leave_the_copies_of_many, 7, f"cached_db own sync: {USER} 1:o.end_all.1 1* 2:x.read 2*"),
    (evict_everybody, 25, f"memory own sync +limit: {OTHER} {USER}"),
    (
        leave_copies_in_a_full_cache,
        1,
        f"cached_db own sync: {USER} full.cache 1:x.put.a 1* 2:x.read",
    ),
    (
        leave_copies_in_a_full_cache,
        7,
        f"cached_db own sync: {USER} full.cache 1:x.logout 1* 2:x.read",
    ),
    (ignore_the_lock, 25, f"memory own sync +limit: {USER} 1:y.login.1 1 1 1 2:z.login.1 2* 1*"),
    (accept_any_key, 7, f"memory own sync: {USER} 1:x.logout 1* 2:x.put.a"),
    (
        let_an_outdated_login_win,
        15,
        f"db own sync: {USER} 1:x.password 1 1 2:x.login.1 2 2 1* 2* >2 >1",
    ),
    (go_on_with_what_has_ended, 7, f"memory own sync: {USER} 1:x.put.a 1 2:x.logout 2* 1* >2 >1"),
    (
        send_cookies_without_proof,
        16,
        "cookie_registry own async: 1:x.login.1 1* >1 2:x.cycle+save 3:x.logout 2 3 2 3*",
    ),
    (send_no_cookie, 28, f"memory own sync: {VISITOR} 1:x.login.1 1*"),
    (
        register_what_has_ended,
        16,
        f"cache_registry own sync: {USER} +1001 1:x.read 1 1 1 1 2:o.end.x 2* 1*",
    ),
    (
        leave_the_data_of_what_has_ended,
        16,
        f"cache_registry django sync: {USER} 1:x.put.a 1 1 2:x.delete 2* 1*",
    ),
    (
        tell_the_end_of_both_records_of_a_rotation,
        10,
        f"cache_registry django sync +2step: {USER} 1:x.cycle 1 1 1 1 1 2:o.end_all.1 2* 1*",
    ),
    (tell_the_end_of_what_has_expired, 10, f"db own sync: {USER} +2419200 1:x.delete 1*"),
    (
        let_a_login_begin_when_its_session_began,
        1,
        f"db own sync: {USER} 1:x.login.1 skew.1.-5000 1* 2:o.end.x 2*",
    ),
    (
        tell_the_cache_of_an_end_after_it,
        7,
        PROGRAMS["a process dies between a deletion in the database and the word to the cache"],
    ),
    (
        migrate_without_a_lineage,
        18,
        PROGRAMS["data of a migration that is rolled back is found under another one's entry"],
    ),
    (
        leave_a_rotation_to_the_request_that_began_it,
        15,
        f"cache_registry own sync: {USER} +1001 1:x.read 1 1 1 1 2:x.poll 2* 1*",
    ),
    (undo_a_rotation_without_a_look, 22, f"db own sync +2step: {USER} +1001 1:x.save 1 1 1~ 1* >1"),
    (
        undo_a_rotation_without_a_look,
        22,
        f"cache_registry own sync: {USER} +1001 1:x.save 1 1 1 1~ 1* >1",
    ),
    (
        migrate_without_removing,
        7,
        "memory own sync +memory: previous.x.1 1:x.read 1* 2:x.logout 2* 3:x.read",
    ),
    (
        leave_no_tombstone_of_a_previous_session,
        7,
        "memory own sync +memory: previous.x.1 1:x.read 1 1 2:x.flush 2* 1*",
    ),
    (
        end_with_a_journal_for_a_successor,
        15,
        "cookie_registry own sync: 1:x.login.1 1* >1 2:x.password 2 2 2 3:x.password 2 3*",
    ),
    (
        end_what_has_the_new_password,
        10,
        (
            "cookie_registry django async: 1:y.login.1 1* >1 2:y.password 3:y.password 2 2 3* >3 "
            "4:y.password 4"
        ),
    ),
]


@pytest.mark.parametrize(("plant", "promise", "line"), CASES)
def test_a_planted_fault_is_noticed(
    plant: Plant, promise: int, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Program.parse(line)
    assert run(program).violations == []
    plant(monkeypatch)
    found = run(program).violations
    assert promise in {each.promise for each in found}, found
