"""The findings of the doctor: what stores answer and system checks report, in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
from django.conf import settings as django_settings
from django.core import checks as django_checks
from django.core.checks.registry import registry
from django.utils.translation import gettext_lazy, gettext_noop

from ...conf import full_name
from ...core.phrases import Phrase, translate
from ...middleware.installed import OWN_PATH
from .. import checks
from ..checks.stores import check_write_access
from .probe import LARGE
from .stores import Store

_CHECKS: Final = (f"{checks.__name__}.", "django.core.checks.security.sessions")
"""The beginnings of the names of the modules whose checks are about sessions."""
_OWN_IDS: Final = "sessionstores."
_WRONG: Final = django_checks.WARNING
LEVELS: Final = {
    "critical": gettext_lazy("Critical"),
    "error": gettext_lazy("Error"),
    "warning": gettext_lazy("Warning"),
    "info": gettext_lazy("Info"),
    "debug": gettext_lazy("Debug"),
}
"""The translated names of `Finding.level`."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A message about what is wrong or worth knowing, of a system check or about a store."""

    level: str
    id: str
    breaks: str
    """Which requests fail because of it, in words; empty if it is not known to break any."""
    message: str
    hint: str
    is_wrong: bool

    @property
    def is_problem(self) -> bool:
        """Return whether the doctor fails because of it: an error, or a warning of this package.

        Django's warnings are opinions about settings, and ``check --deploy`` reports them too.
        """
        return self.is_wrong and (self.level != "warning" or self.id.startswith(_OWN_IDS))


_UNUSABLE: Final = Phrase(gettext_noop("Every request that uses one of these sessions fails."))
_UNUSABLE_BEHIND_CACHE: Final = Phrase(
    gettext_noop(
        "Logins, logouts and changes of these sessions fail. A session can be read for as long as "
        "the cache has a copy of it."
    )
)
_NOT_MIGRATED: Final = Phrase(
    gettext_noop(
        "Every request fails whose session has not been migrated yet, and so does every logout."
    )
)
_NOT_REMOVED: Final = Phrase(
    gettext_noop(
        "Every logout fails, because the session could be migrated again. Other requests go on."
    )
)
_NOT_MIGRATED_INTO_KEY: Final = Phrase(
    gettext_noop("Every request fails whose session has not been migrated yet.")
)
_NOT_REMOVED_INTO_KEY: Final = Phrase(
    gettext_noop(
        "Every logout fails whose session has not been migrated yet, because it could be migrated "
        "again. Other requests go on."
    )
)
"""With sessions in cookies, the cookie says that its session is not in a previous backend."""
_UNWRITABLE: Final = Phrase(
    gettext_noop(
        "Logins, logouts and changes of these sessions fail. Requests that only read go on."
    )
)
_FULL: Final = Phrase(
    gettext_noop("Logins and changes of these sessions fail. Reading and logging out go on.")
)
_REFUSED: Final = Phrase(
    gettext_noop(
        "Requests fail that need a command which is refused, for example to list sessions."
    )
)
_TOO_SMALL: Final = Phrase(gettext_noop("Requests that store that much in a session fail."))
_GO_ON: Final = Phrase(gettext_noop("Requests go on without this cache, and take longer."))
_EVICTS: Final = Phrase(
    gettext_noop("When the store is full, users are logged out before their sessions expire.")
)


def findings(
    stores: Sequence[Store], eviction_policy: str, *, has_middleware: bool, holds_in_key: bool
) -> list[Finding]:
    """Return the findings: first those of stores, then other problems, and then the rest.

    ``holds_in_key`` is that of the storage in use.
    """
    of_stores = [*_of_stores(stores, holds_in_key=holds_in_key)]
    if eviction_policy:
        of_stores.append((_eviction(eviction_policy), _EVICTS))
    others = [*map(_not_probed, (each for each in stores if each.belongs_to_another))]
    others += _of_settings(has_middleware)
    # Findings that break no request come last, such as an outage of the cache of cached_db.
    of_stores.sort(key=lambda each: (not each[1], each[0].id))
    others.sort(key=lambda message: (message.level < _WRONG, message.id or ""))
    return [
        Finding(
            level=_level_name(message.level),
            id=message.id or "",
            breaks=translate(breaks),
            message=translate(message.msg),
            hint=translate(message.hint or ""),
            is_wrong=message.level >= _WRONG,
        )
        for message, breaks in (*of_stores, *((each, "") for each in others))
        if not message.is_silenced()
    ]


def _of_stores(
    stores: Sequence[Store], *, holds_in_key: bool
) -> Iterator[tuple[django_checks.CheckMessage, str]]:
    """Yield what is wrong with stores, and which requests fail because of it."""
    not_migrated = _NOT_MIGRATED_INTO_KEY if holds_in_key else _NOT_MIGRATED
    not_removed = _NOT_REMOVED_INTO_KEY if holds_in_key else _NOT_REMOVED
    has_copies = any(each.has_copies and not (each.error or each.is_previous) for each in stores)
    for store in stores:
        if store.error:
            breaks = _UNUSABLE_BEHIND_CACHE if store.has_cache and has_copies else _UNUSABLE
            breaks = not_migrated if store.is_previous else breaks
            yield _unusable(store), "" if store.has_copies else breaks
        if store.write_obstacle:
            breaks = not_removed if store.is_previous else _fail_without_writes(store)
            yield _unwritable(store), "" if store.has_copies else breaks
        if store.missing_indexes:
            yield _not_indexed(store), ""
        if store.has_other_content:
            yield _not_alone(store), ""
        if store.members_not_ready:
            yield _not_whole(store), ""
        if store.size_obstacle:
            yield _too_small(store), "" if store.has_copies else _TOO_SMALL


def _fail_without_writes(store: Store) -> Phrase:
    if store.is_full:
        return _FULL
    return _REFUSED if store.is_probed else _UNWRITABLE


def _unusable(store: Store) -> django_checks.CheckMessage:
    text = Phrase(
        gettext_noop("Sessions are in %(store)s, which cannot be used: %(error)s"),
        store=store.name,
        error=store.error,
    )
    if store.has_copies:
        text = Phrase(
            gettext_noop("Copies of sessions are in %(store)s, which cannot be used: %(error)s"),
            store=store.name,
            error=store.error,
        )
    return django_checks.Error(
        text,
        hint=_GO_ON if store.has_copies else None,
        id="sessionstores.E022",
    )


def _unwritable(store: Store) -> django_checks.CheckMessage:
    text = Phrase(
        gettext_noop("Sessions are in %(store)s, which cannot be written."), store=store.name
    )
    if store.has_copies:
        text = Phrase(
            gettext_noop("Copies of sessions are in %(store)s, which cannot be written."),
            store=store.name,
        )
    elif store.is_probed:
        text = Phrase(
            gettext_noop("Sessions are in %(store)s, which refuses some operations."),
            store=store.name,
        )
    hint = store.write_obstacle
    return django_checks.Error(
        text,
        hint=f"{hint} {translate(_GO_ON)}" if store.has_copies else hint,
        id="sessionstores.E026",
    )


def _too_small(store: Store) -> django_checks.CheckMessage:
    text = Phrase(
        gettext_noop("Sessions are in %(store)s, which refuses one of %(number)s bytes."),
        store=store.name,
        number=LARGE,
    )
    if store.has_copies:
        text = Phrase(
            gettext_noop(
                "Copies of sessions are in %(store)s, which refuses one of %(number)s bytes."
            ),
            store=store.name,
            number=LARGE,
        )
    return django_checks.Warning(
        text,
        hint=store.size_obstacle,
        id="sessionstores.W038",
    )


def _not_indexed(store: Store) -> django_checks.CheckMessage:
    return django_checks.Warning(
        Phrase(
            gettext_noop(
                "Sessions are in %(store)s, which does not have these indexes: %(indexes)s. "
                "Expired sessions may stay, and lists of sessions take long."
            ),
            store=store.name,
            indexes=", ".join(store.missing_indexes),
        ),
        hint=Phrase(gettext_noop("Run: %(command)s"), command="python manage.py sessions reindex"),
        id="sessionstores.W041",
    )


def _not_alone(store: Store) -> django_checks.CheckMessage:
    return django_checks.Warning(
        Phrase(
            gettext_noop(
                "Sessions are in %(store)s, which also has documents that are not sessions. "
                "MongoDB removes those that have a date in the past in the field 'expires'."
            ),
            store=store.name,
        ),
        hint=Phrase(
            gettext_noop("Set %(setting)s to the name of a collection that only has sessions."),
            setting=full_name("MONGODB_COLLECTION"),
        ),
        id="sessionstores.W044",
    )


def _not_whole(store: Store) -> django_checks.CheckMessage:
    return django_checks.Warning(
        Phrase(
            gettext_noop(
                "Sessions are in %(store)s. These members of its replica set do not answer or do "
                "not have the data: %(members)s. Sessions need the majority, which is %(majority)s "
                "of %(number)s members if all of them vote."
            ),
            store=store.name,
            members=", ".join(store.members_not_ready),
            majority=str(store.members // 2 + 1),
            number=str(store.members),
        ),
        hint=Phrase(
            gettext_noop("Bring them back before others fail. %(command)s shows all members."),
            command="rs.status()",
        ),
        id="sessionstores.W045",
    )


def _eviction(policy: str) -> django_checks.CheckMessage:
    return django_checks.Warning(
        Phrase(
            gettext_noop(
                "When the store is full, it drops sessions that are in use, by its policy "
                "%(policy)s."
            ),
            policy=policy,
        ),
        hint=Phrase(
            gettext_noop(
                "Set %(setting)s in the configuration of Redis to noeviction, or give sessions "
                "a server of their own."
            ),
            setting="maxmemory-policy",
        ),
        id="sessionstores.W026",
    )


def _not_probed(store: Store) -> django_checks.CheckMessage:
    return django_checks.Info(
        Phrase(
            gettext_noop(
                "Whether sessions can be stored in %(store)s was not tried, because the folder "
                "does not exist yet or belongs to another user."
            ),
            store=store.name,
        ),
        hint=Phrase(
            gettext_noop("Run the doctor as the user of the site, after its first session.")
        ),
        id="sessionstores.I004",
    )


def _of_settings(has_middleware: bool) -> Iterator[django_checks.CheckMessage]:
    """Yield the messages of the system checks that are about sessions.

    In development, without those that only concern a site in production.
    """
    everywhere = registry.get_checks()
    for check in registry.get_checks(include_deployment_checks=True):
        # Whether the stores can be written is known from the stores themselves.
        if not check.__module__.startswith(_CHECKS) or check is check_write_access:
            continue
        for message in check(app_configs=None, databases=None):
            if message.level < _WRONG or check in everywhere or not django_settings.DEBUG:
                yield message
    if not has_middleware:
        yield django_checks.Error(
            Phrase(gettext_noop("MIDDLEWARE has no session middleware, so no view has a session.")),
            hint=Phrase(
                gettext_noop("Add %(path)s to MIDDLEWARE, above those that use the session."),
                path=repr(OWN_PATH),
            ),
            id="sessionstores.E023",
        )


def _level_name(level: int) -> str:
    for name in ("CRITICAL", "ERROR", "WARNING", "INFO"):
        if level >= getattr(django_checks, name):
            return name.lower()
    return "debug"


def split_by_effect(findings: Sequence[Finding]) -> tuple[list[Finding], list[Finding]]:
    """Return the findings that break requests, and the others."""
    breaks = [each for each in findings if each.breaks]
    return breaks, [each for each in findings if not each.breaks]
