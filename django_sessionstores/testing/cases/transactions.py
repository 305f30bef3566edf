"""Cases of transactions: what is rolled back was never stored."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from django.db import connections, transaction

from .case import Need, case, expect
from .trial import Trial


class _RolledBack(ExitStack):
    """A transaction of each database, which is rolled back at the end."""

    def __enter__(self) -> _RolledBack:
        super().__enter__()
        for alias in connections:
            self.enter_context(transaction.atomic(using=alias))
        return self

    def __exit__(self, *error: Any) -> bool:
        for alias in connections:
            transaction.set_rollback(True, using=alias)
        return bool(super().__exit__(*error))


@case(19, Need.TRANSACTIONS)
def a_save_is_seen_inside_its_transaction(trial: Trial) -> None:
    """Inside the transaction, other objects see the save."""
    with _RolledBack():
        key = trial.store(color="blue")
        seen = trial.data(key)
    expect(seen == {"color": "blue"}, "They do not see it.")


@case(18, Need.TRANSACTIONS)
def a_first_save_that_is_rolled_back_was_never_stored(trial: Trial) -> None:
    """After a rollback, the key of a first save reads as empty."""
    with _RolledBack():
        key = trial.store(color="blue")
    expect(trial.data(key) == {}, "The session is found.")


@case(18, Need.TRANSACTIONS)
def a_change_that_is_rolled_back_was_never_stored(trial: Trial) -> None:
    """After a rollback, later requests find the value from before."""
    key = trial.store(color="blue")
    with _RolledBack():
        session = trial.session(key)
        session["color"] = "red"
        trial.save(session)
    expect(trial.data(key) == {"color": "blue"}, "The value that was rolled back is found.")


@case(18, Need.TRANSACTIONS)
def an_end_that_is_rolled_back_did_not_happen(trial: Trial) -> None:
    """After a rollback, a session that was deleted in the transaction is there."""
    key = trial.store(color="blue")
    with _RolledBack():
        trial.session().delete(key)
    expect(trial.data(key) == {"color": "blue"}, "The session is missing.")


@case(18, Need.TRANSACTIONS)
def an_object_can_be_saved_after_a_rollback(trial: Trial) -> None:
    """After the rollback of its first save, an object can be saved."""
    session = trial.session()
    session["color"] = "blue"
    with _RolledBack():
        trial.save(session)
    expect(trial.data(trial.save(session)) == {"color": "blue"}, "The data is missing.")
