"""Changes of accounts: end the sessions of a user whose password changed, who was deactivated or
deleted.

Without this, Django notices such a change only at the next request of each session, if the
authentication backend checks it at all, and the session stays stored and listed. The receivers here
end the sessions when the user is saved or deleted.

A model does not know in which session it was changed. So the sessions of the running request are
left to that request (see `request_sessions`): after a password change, the session continues under
a new key, because the view calls ``update_session_auth_hash()``; a view that deletes an account
calls ``logout()``. Whether a session that the request has opened by its key is its own is known
only when the request is over, see `_OpenedSessions`.

The receivers compare a user with the stored row, not with the values that the instance was loaded
with: to remember those would cost time at each request, and would miss changes made since.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Collection, Mapping
from functools import partial
from importlib import import_module
from typing import Any, Final, NamedTuple

from asgiref.sync import sync_to_async
from django.apps import apps
from django.conf import settings as django_settings
from django.contrib.auth import HASH_SESSION_KEY
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, models
from django.db.models import signals as model_signals

from ..conf import settings
from ..core import clock
from ..core.flow import run
from ..core.records import Record
from ..exceptions import StorageUnavailable
from ..inventory import Inventory
from ..sessions import SessionStore, request_sessions, verification
from ..sessions.user_ids import user_id_of
from ..storages.sql import transactions

logger: Final = logging.getLogger("django_sessionstores")

_CHANGES: Final = "_sessions_to_end"
"""The attribute of a user between the two signals of its save: an `_AccountChange` for each
database."""
_UID: Final = "django_sessionstores.accounts.changes"


class _AccountChange(NamedTuple):
    """A change of a user that ends its sessions as soon as it is stored."""

    cause: str
    field: str
    value: Any
    """The new value of the field."""
    only: set[str] | None = None
    """See `_sessions_of`."""


def connect() -> None:
    """Connect the receivers to the user model. Called when all models are loaded."""
    try:
        user_model = apps.get_model(django_settings.AUTH_USER_MODEL)
    except (LookupError, ValueError):
        return  # The site has no users, or Django's checks report the setting.
    # The sender of a signal is the class that was saved: perhaps a proxy or a child of the model.
    for model in apps.get_models():
        if issubclass(model, user_model):
            for signal, receiver in (
                (model_signals.pre_save, _before_save),
                (model_signals.post_save, _after_save),
                (model_signals.post_delete, _after_delete),
            ):
                signal.connect(receiver, sender=model, dispatch_uid=_UID)


def _before_save(
    instance: models.Model, raw: bool, using: str, update_fields: frozenset[str] | None, **_: Any
) -> None:
    change: _AccountChange | None = instance.__dict__.get(_CHANGES, {}).pop(using, None)
    # A fixture is not a change, and may be only half loaded.
    if raw or instance._state.adding:
        return
    causes = {
        "password": settings.END_ON_PASSWORD_CHANGE,
        "is_active": settings.END_ON_DEACTIVATION,
    }
    user_model = _user_model()
    watched = [
        field.name
        for field in user_model._meta.concrete_fields
        if causes.get(field.name) and (update_fields is None or field.name in update_fields)
    ]
    if change is not None:
        watched.append(change.field)
    if not watched or not _can_end():
        return
    stored = user_model._base_manager.using(using).filter(pk=_pk(instance)).values(*watched).first()
    if stored is None:
        return
    if change is not None and stored[change.field] != change.value:
        change = None  # The save for which it was noted has failed.
    if change is None or change.cause != "deactivated":
        # A receiver of the project may save the user again before `_after_save` is called.
        change = _find_change(instance, stored) or change
    if change is not None:
        instance.__dict__.setdefault(_CHANGES, {})[using] = change


def _find_change(user: models.Model, stored: dict[str, Any]) -> _AccountChange | None:
    """Return the change that will end the sessions of a user who is about to be saved.

    ``stored`` has the watched fields of the stored row. Returns ``None`` without such a change.
    """
    if stored.get("is_active") and not getattr(user, "is_active", True):
        return _AccountChange("deactivated", "is_active", value=False)
    password = getattr(user, "password", None)
    if "password" in stored and stored["password"] != password:
        return _AccountChange("password", "password", password, _sessions_of(user_id_of(user)))
    return None


def _after_save(instance: models.Model, using: str, **_: Any) -> None:
    change: _AccountChange | None = instance.__dict__.get(_CHANGES, {}).pop(using, None)
    if change is not None:
        _end_after_commit(instance, change.cause, using, change.only)


def _sessions_of(user_id: str) -> set[str] | None:
    """Return the sessions of a user from before a password change.

    A session that begins later may be a login with either password, see `_is_outdated`. Returns
    ``None`` if the store does not answer.
    """
    try:
        return Inventory().lineages(user_id)
    except StorageUnavailable:
        return None


def _is_outdated(
    find: Callable[[], Any], moment: int, record: Record, data: Mapping[str, Any]
) -> bool:
    """Return whether a session is a login with the password that the user had before ``moment``.

    The hash of the login tells a login with the old password, which was running during the change,
    from one with the new password. Without a hash, the time at which the session began decides.
    ``moment`` is in milliseconds since the epoch, and ``find`` returns the user.
    """
    session_hash, user = data.get(HASH_SESSION_KEY), find()
    if session_hash is None or not hasattr(user, "get_session_auth_hash"):
        return record.created <= moment
    return not verification.is_hash_of(user, session_hash)


def _after_delete(sender: type[models.Model], instance: models.Model, using: str, **_: Any) -> None:
    # If a child of the model is deleted, Django also sends the signal for its parent.
    is_user = sender._meta.concrete_model is _user_model()._meta.concrete_model
    if is_user and settings.END_ON_DELETION and _can_end():
        _end_after_commit(instance, "deleted", using)


def _user_model() -> type[models.Model]:
    return apps.get_model(django_settings.AUTH_USER_MODEL)


def _pk(user: models.Model) -> Any:
    """Return the primary key of the user model: a child of the model may have another one."""
    return getattr(user, _user_model()._meta.pk.attname)


def _can_end() -> bool:
    """Return whether the session engine can list the sessions of a user."""
    try:
        store = import_module(django_settings.SESSION_ENGINE).SessionStore
        return issubclass(store, SessionStore) and store.storage().lists
    except (ImportError, AttributeError, ImproperlyConfigured):
        return False  # The system checks report it. Users can be saved nevertheless.


def _end_after_commit(
    user: models.Model, cause: str, using: str, only: Collection[str] | None = None
) -> None:
    """End the sessions after the commit of the change. A rollback ends no sessions."""
    # The user is read from the database that has the change, not from a replica that may lag.
    find = _user_model()._base_manager.using(using).filter(pk=_pk(user)).first
    ending = partial(_end, user_id_of(user), cause, only, find)
    transactions.after_commit(connections[using], partial(_end_despite_rollback, ending, using))


def _end_despite_rollback(ending: Callable[[], None], using: str) -> None:
    """End the sessions; end them again if that is rolled back although the change is committed.

    Sessions may be in another database than users, with a transaction that is still open.
    """
    storage = Inventory().storage
    # In a test, the transaction of the users' database may be open as well.
    if storage.in_transaction() and not transactions.is_open(connections[using]):
        storage.after_rollback(partial(_end_again, ending))
    ending()


def _end_again(ending: Callable[[], None]) -> None:
    logger.warning(
        "Sessions that ended with a change of their user's account were restored, because a "
        "transaction of their database was rolled back. They are ended again."
    )
    ending()


def _end(
    user_id: str,
    cause: str,
    only: Collection[str] | None = None,
    find: Callable[[], Any] = lambda: None,
) -> None:
    """End the sessions of a user, except the sessions of the running request.

    With ``only`` (see `_sessions_of`), logins with the new password of the user that ``find``
    returns are spared as well.
    """
    moment, opened = clock.now(), request_sessions.sessions()
    end = partial(_end_except, user_id, cause)
    spared = own = request_sessions.own_ids(opened)
    if request_sessions.is_in_request():
        opened = [each for each in opened if each.may_be_of(user_id)]
        spared = own.union(*(each.stored_ids for each in opened))
    end(spared, only, partial(_is_outdated, find, moment))
    if spared > own:
        # Without a hash to compare, those end that have not begun since.
        find = find if cause == "password" else lambda: None
        end_rest = partial(end, only=(), is_outdated=partial(_is_outdated, find, moment))
        run(request_sessions.keep(_OpenedSessions(opened, end_rest)))


class _OpenedSessions:
    """Session objects that a request has made by their keys, before it changed an account.

    Such a session may be the request's own: its key may come from a header, or the object may
    replace that of the middleware. Or the request may have only looked at the session of somebody
    else. At the end of the request it is known: its own continues under a new key by then.
    """

    def __init__(self, sessions: list[Any], end_except: Callable[[set[str]], None]) -> None:
        self._sessions = sessions
        self._end_except = end_except

    def settle(self) -> None:
        """End those that are not the request's own."""
        self._end_except(request_sessions.own_ids(self._sessions))

    async def asettle(self) -> None:
        """See `settle`. The user is in a database that only sync code can ask."""
        await sync_to_async(self.settle)()


def _end_except(
    user_id: str,
    cause: str,
    kept: set[str],
    only: Collection[str] | None,
    is_outdated: Callable[[Record, Mapping[str, Any]], bool],
) -> None:
    """End the sessions of a user, see `Inventory.end_for`, and log an outage."""
    try:
        Inventory().end_for(cause, user_id, kept, only=only, is_outdated=is_outdated)
    except StorageUnavailable as error:
        # The change is stored already. Django compares the password at each request as well.
        logger.error(  # noqa: TRY400 - the error says it; a traceback adds frames with secrets.
            "The sessions of user %s may go on, although they had to end (%s): %s. End them with: "
            "manage.py sessions end --user-id=%s",
            user_id,
            cause,
            str(error).rstrip("."),
            shlex.quote(user_id),
        )
