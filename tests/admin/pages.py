"""What the tests of the admin share: sessions, people who look at them, and what pages say."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.test import Client

from django_sessionstores.core.clock import now
from django_sessionstores.core.records import Client as Who
from django_sessionstores.sessions.state import RequestPolicy
from django_sessionstores.testing import DAY, at
from tests.pages import FIREFOX

PAGES = "/admin/django_sessionstores/session/"

EVERY_ENGINE = pytest.mark.engines(
    "memory", "file", "db:sqlite", "cached_db:locmem+sqlite", "cookie:sqlite", "cache:redis-cache"
)
ONE_ENGINE = pytest.mark.engines("db:sqlite")
VIEW, END, DATA = "view_session", "end_session", "view_session_data"
SECRETS, EXPORT = "view_session_secrets", "export_session"


def person(name: str, *permissions: str, **values: Any) -> Any:
    """Return a member of the staff with these permissions of the package, all as a superuser."""
    user = get_user_model()._default_manager.create(username=name, is_staff=True, **values)
    user.user_permissions.set(
        Permission.objects.filter(
            content_type__app_label="django_sessionstores", codename__in=permissions
        )
    )
    return user


def signed_in(user: Any) -> Client:
    client = Client(headers={"user-agent": FIREFOX})
    client.force_login(user)
    return client


def stored(
    engine: Any, user: Any = None, ip: str = "192.0.2.1", agent: str = FIREFOX, **data: Any
) -> Any:
    """Return a saved session."""
    session = engine.SessionStore()
    session.policy = RequestPolicy(client=lambda: Who(ip, agent))
    session.update({"x": 1, **data})
    if user is not None:
        session["_auth_user_id"] = str(user.pk)
    session.save()
    return session


def expired(engine: Any) -> Any:
    with at(now() - 30 * DAY):
        return stored(engine)


def text(response: Any) -> str:
    content: str = response.content.decode()
    return content


def listed(client: Client, **parameters: str) -> set[str]:
    """Return the beginnings of the ids on a page of the list."""
    page = text(client.get(PAGES, parameters, follow=True))
    return set(re.findall(r"<code>([0-9a-f]{12})</code>", page))


def short(*sessions: Any) -> set[str]:
    return {each.session_id[:12] for each in sessions}


def own(client: Client) -> Any:
    return client.session


def said(response: Any) -> str:
    """Return the messages at the top of the page."""
    told = r'<li class="(?:success|warning|error)">(.*?)</li>'
    return " ".join(re.findall(told, text(response), re.DOTALL))


def confirmed(client: Client, url: str, **data: Any) -> Any:
    return client.post(url, {"confirmed": "yes", **data}, follow=True)


def detail(session: Any) -> str:
    return f"{PAGES}{session.session_id}/change/"
