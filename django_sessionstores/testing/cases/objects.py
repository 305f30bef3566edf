"""Cases of session objects: what code outside of requests relies on, sync and async."""

from __future__ import annotations

from typing import Any

from asgiref.sync import async_to_sync

from .case import Need, case, expect
from .trial import Trial


@case(28)
def create_stores_a_session_under_its_key(trial: Trial) -> None:
    """After create(), exists(session_key) is true, and the key leads to what is saved."""
    session = trial.session()
    session.create()
    expect(session.exists(session.session_key), "exists(session_key) is false.")
    session["color"] = "blue"
    expect(trial.data(trial.save(session)) == {"color": "blue"}, "The data is missing.")


@case(28)
def a_saved_key_exists(trial: Trial) -> None:
    """After save(), exists(session_key) is true on this object and on others."""
    session = trial.session()
    session["color"] = "blue"
    key = trial.save(session)
    expect(session.exists(key) and trial.session().exists(key), "exists(session_key) is false.")


@case(28)
def a_new_key_exists_before_the_save(trial: Trial) -> None:
    """After cycle_key(), exists(session_key) is true on this object."""
    session = trial.session(trial.store(color="blue"))
    session.cycle_key()
    expect(session.exists(session.session_key), "exists(session_key) is false.")


@case(28, Need.ENDS)
def two_new_keys_leave_one_session(trial: Trial) -> None:
    """After cycle_key() twice and a save, only the last key leads to the session."""
    key = trial.store(color="blue")
    session = trial.session(key)
    session.cycle_key()
    between = session.session_key
    session.cycle_key()
    last = trial.save(session)
    expect(trial.data(last) == {"color": "blue"}, "The last key does not lead to the session.")
    expect(trial.data(key) == trial.data(between) == {}, "An older key leads to the session.")


@case(29)
def an_object_can_be_used_after_its_request(trial: Trial) -> None:
    """An object that is kept after its request can be changed and saved."""
    browser = trial.browser(color="blue")
    kept: list[Any] = []
    browser.visit(lambda request: kept.append(request.session))
    kept[0]["size"] = 1
    seen = trial.data(trial.save(kept[0]))
    expect(seen == {"color": "blue", "size": 1}, "The data is another one.")


@case(30)
def async_methods_store_the_same(trial: Trial) -> None:
    """What aset() and asave() store is found by sync methods, and the other way round."""

    async def store() -> str:
        session = trial.session()
        await session.aset("color", "blue")
        await session.asave()
        return str(session.session_key)

    async def read(key: str) -> Any:
        return await trial.session(key).aget("color")

    expect(trial.data(async_to_sync(store)()) == {"color": "blue"}, "Sync methods do not find it.")
    seen = async_to_sync(read)(trial.store(color="red"))
    expect(seen == "red", "Async methods do not find it.")


@case(30, Need.ENDS)
def async_methods_end_the_same(trial: Trial) -> None:
    """acycle_key() and aflush() end the old key as their sync twins do."""
    key = trial.store(color="blue")

    async def cycle() -> str:
        session = trial.session(key)
        await session.aget("color")
        await session.acycle_key()
        await session.asave()
        return str(session.session_key)

    new_key = async_to_sync(cycle)()
    expect(trial.data(key) == {}, "The old key leads to the session after acycle_key().")
    expect(trial.data(new_key) == {"color": "blue"}, "The data is missing.")
    async_to_sync(trial.session(new_key).aflush)()
    expect(trial.data(new_key) == {}, "The key leads to the session after aflush().")


@case(30, Need.ENDS)
def async_saves_keep_parallel_writes(trial: Trial) -> None:
    """asave() keeps the changes of parallel requests to different names."""
    key = trial.store(color="blue")
    first, second = trial.session(key), trial.session(key)

    async def save() -> None:
        for session in (first, second):
            await session.aget("color")
        await first.aset("cart", [1])
        await second.aset("language", "fr")
        await first.asave()
        await second.asave()

    async_to_sync(save)()
    seen = trial.data(key)
    expect("cart" in seen and "language" in seen, "The change of one request is lost.")
