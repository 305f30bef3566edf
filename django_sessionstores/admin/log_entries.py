"""Entries of the session pages in the admin's history, about ended sessions and shown secrets."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, cast

from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db.models import Model
from django.http import HttpRequest

from ..models import Session
from .page import Page
from .session_row import SessionRow

_LONGEST: Final = 200
"""Characters that a log entry has for the name of its object."""


class Subject(NamedTuple):
    """The object that a log entry is about."""

    model: type[Model]
    pk: Any
    """The primary key; ``None`` for several objects."""
    words: str


def log_ended(page: Page, rows: Iterable[SessionRow]) -> None:
    """Write an entry for each session that was ended."""
    name = page.model_admin.opts.verbose_name_raw
    entries = [
        _entry(
            page.request,
            Subject(Session, row.info.id, row.summary),
            DELETION,
            _deletion_message(name, row.summary),
        )
        for row in rows
    ]
    LogEntry.objects.bulk_create(entries)


def log_number_ended(page: Page, subject: Subject, flag: int, number: int) -> None:
    """Write whose sessions have ended, and how many.

    ``flag`` is the action on the subject, for example ``CHANGE`` for a user.
    """
    message = _deletion_message("sessions", f"{subject.words}: {number}")
    entry = _entry(page.request, subject, flag, message)
    LogEntry.objects.bulk_create([entry])


def log_exported(page: Page, words: str) -> None:
    """Write that sessions were exported, and by which search they were found."""
    _entry(page.request, Subject(Session, None, words), CHANGE, "Exported them as CSV.").save()


def log_secrets_shown(page: Page, session_id: str) -> None:
    """Write that the secrets of a session were shown."""
    subject = Subject(Session, session_id, session_id)
    _entry(page.request, subject, CHANGE, "Looked at its secrets.").save()


def _deletion_message(name: str, words: str) -> str:
    """Return the message that Django writes when it deletes objects.

    Django translates it for each reader.
    """
    return json.dumps([{"deleted": {"name": name, "object": words}}])


def _entry(request: HttpRequest, subject: Subject, flag: int, message: str) -> LogEntry:
    return LogEntry(
        user_id=cast("Any", request.user.pk),
        content_type=ContentType.objects.get_for_model(subject.model, for_concrete_model=False),
        object_id=subject.pk,
        object_repr=subject.words[:_LONGEST],
        action_flag=flag,
        change_message=message,
    )
