"""Places in which users are named, searched and shown: a function for each, which may fail.

They hold for every user model. What they expect is computed here, without the code that is tested.
"""

from __future__ import annotations

import functools
import io
import json
import logging
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from decimal import Decimal
from typing import Any, NamedTuple
from unittest import mock

import pytest
from asgiref.sync import async_to_sync
from django.apps import apps
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.backends import ModelBackend
from django.core.management import CommandError, call_command, load_command_class
from django.db import OperationalError, connection
from django.db.models.query import ModelIterable
from django.template.response import SimpleTemplateResponse
from django.test import AsyncClient, Client, override_settings
from django.test.utils import CaptureQueriesContext

from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.inventory import Inventory
from django_sessionstores.sessions.user_ids import primary_key
from django_sessionstores.testing.cases import backend
from django_sessionstores.testing.cases.catalog import CASES
from django_sessionstores.testing.cases.running import Outcome, run_cases
from django_sessionstores.testing.cases.users import new_user
from django_sessionstores.testing.sites import asign_in, sign_in

PAGES = "/admin/django_sessionstores/session/"
NONSENSE = (
    "nobody",
    "9" * 19,
    "9" * 40,
    "-" + "9" * 30,
    "-1",
    "1.5",
    "1e400",
    "NaN",
    "sNaN",
    "Infinity",
    "null",
    "None",
    "true",
    "{}",
    "[]",
    "[1]",
    "[1, 2, 3]",
    '["a", "b"]',
    "[" * 5000,
    "\0",
    "\ud83d",
    "\u0661\u0662",
    "%",
    "_",
    "'",
    "\\",
    "a" * 3000,
    "00000000-0000-0000-0000-000000000000",
    "{00000000000000000000000000000000}",
    "2026-11-30",
    "10.0.0.",
    "10.0.0.0/99",
    "abcdef",
    "user:",
    "id:",
    "a b c",
)


NOT_KEYS = ("9" * 30, "somebody", "[1]", "7 of 9")
"""User ids that are not those of a user here, and that most databases refuse to compare."""


class Backend(ModelBackend):
    """Finds each user, and those of `kept` without the database."""

    kept: list[Any] = []

    def get_user(self, user_id: Any) -> Any:
        users = get_user_model()
        kept = [each for each in self.kept if each.pk == user_id]
        return kept[0] if kept else users._base_manager.filter(pk=user_id).first()

    def has_perm(self, user_obj: Any, perm: str, obj: Any = None) -> bool:
        return bool(getattr(user_obj, "is_superuser", True))


class Someone(NamedTuple):
    """A user that is logged in."""

    user: Any
    """As the database has it."""
    id: str
    """What the records of the user's sessions have."""
    name: str
    client: Client
    session_id: str


# --- Steps ----------------------------------------------------------------------------------


def clean() -> None:
    """Leave neither users nor sessions."""
    Inventory().end_everything()
    for model in apps.get_app_config("user_models").get_models():
        model._base_manager.all().delete()
    for model in reversed(list(apps.get_app_config("user_models").get_models())):
        model._base_manager.all().delete()
    Backend.kept = []


def someone(number: int = 0) -> Someone:
    """Return a user with a session, logged in before the user was read from the database."""
    from tests.accounts.user_models import models

    made = models.make(number)
    client, session_id = another_session(made)
    user = get_user_model()._base_manager.get(pk=made.pk)
    key = user._meta.pk.value_to_string(user)
    name = str(getattr(user, user.USERNAME_FIELD))
    return Someone(user, key, name, client, session_id)


def another_session(user: Any) -> tuple[Client, str]:
    client = Client()
    client.force_login(user)
    return client, client.session.session_id


def stored_for(*user_ids: str) -> dict[str, str]:
    """Return the user ids of sessions that are stored for them, by session id."""
    found = {}
    for user_id in user_ids:
        session = Inventory()._store()
        session["_auth_user_id"] = user_id
        session.save()
        found[session.session_id] = user_id
    return found


@functools.cache
def _command() -> Any:
    """Return the command, with one parser for all calls: to make it takes longer than the rest."""
    command = load_command_class("django_sessionstores", "sessions")
    parser = command.create_parser("", "sessions")
    command.create_parser = lambda *arguments: parser
    return command


def sessions(*arguments: str) -> str:
    """Return the output of the command."""
    output, errors = io.StringIO(), io.StringIO()
    call_command(_command(), *arguments, stdout=output, stderr=errors)
    return output.getvalue() + errors.getvalue()


def refused(message: str, *arguments: str) -> None:
    """Call the command, which must fail with this message and nothing else."""
    with pytest.raises(CommandError, match=message):
        sessions(*arguments)


def listed(*arguments: str) -> set[str]:
    return {each["id"] for each in json.loads(sessions("list", "--json", *arguments))["sessions"]}


def searched(reader: Someone, **parameters: str) -> set[str]:
    """Return the ids of the sessions that the admin lists."""
    response = reader.client.get(PAGES, parameters)
    assert response.status_code == 200, response.status_code
    return {each.info.id for each in response.context["sessions"]}


def spellings(one: Someone) -> list[str]:
    """Return texts by which an operator may name a user."""
    found = [one.id, str(one.user.pk) if not isinstance(one.user.pk, tuple) else one.id, one.name]
    found += [one.name.upper(), one.name.title()]
    if settings.KIND == "any_case_username":
        found.append(f"@{one.name}")
    if settings.KIND == "relation_username":
        found.append(str(one.user.badge.serial))
    if isinstance(one.user.pk, str):
        found.append(one.id.upper())
    if email := getattr(one.user, "email", ""):
        found += [email, email.upper()]
    if isinstance(one.user.pk, Decimal):
        found.append(str(one.user.pk.normalize()))
    return found


def delete_behind_the_back(one: Someone) -> None:
    """Delete a user as another program would: no signal, and the sessions stay."""
    tables = [one.user._meta.db_table]
    pk = one.user._meta.pk
    with connection.cursor() as cursor:
        columns = getattr(pk, "columns", None) or [pk.column]
        prepared = one.user.pk if isinstance(one.user.pk, tuple) else (one.user.pk,)
        fields = getattr(pk, "fields", None) or [pk]
        values = [
            field.get_db_prep_value(value, connection)
            for field, value in zip(fields, prepared, strict=True)
        ]
        where = " AND ".join(f"{connection.ops.quote_name(each)} = %s" for each in columns)
        for table in tables:
            cursor.execute(f"DELETE FROM {connection.ops.quote_name(table)} WHERE {where}", values)
            assert cursor.rowcount == 1


@contextmanager
def users_away(*kept: Someone) -> Iterator[None]:
    """Have the database of users not answer. Who is in ``kept`` can be the user of a request."""
    Backend.kept = [each.user for each in kept]
    read = ModelIterable.__iter__

    def broken(rows: Any) -> Any:
        if issubclass(get_user_model(), rows.queryset.model):
            raise OperationalError("no route")
        return read(rows)

    with mock.patch.object(ModelIterable, "__iter__", broken):
        yield
    Backend.kept = []


def unrendered() -> AbstractContextManager[object]:
    """Leave templates out meanwhile, which take most of the time of a request."""
    return mock.patch.object(SimpleTemplateResponse, "render", lambda response: response)


# --- Commands -------------------------------------------------------------------------------


def command_list() -> None:
    one, visitor = someone(), Client()
    visitor.session.save()
    head, *lines = sessions("list").splitlines()
    assert head.split() == ["ID", "USER", "LAST", "ACTIVITY", "EXPIRES", "IP"], head
    shown = {line.split()[0]: line for line in lines}
    assert f"  {one.name}  " in shown[one.session_id[:12]], lines


def command_list_of_user() -> None:
    one, other = someone(0), someone(1)
    for text in spellings(one):
        assert listed("--user", text) == {one.session_id}, text
    assert listed("--user-id", one.id) == {one.session_id}
    assert listed("--user-id", other.id) == {other.session_id}


def command_nonsense() -> None:
    one = someone()
    for text in NONSENSE:
        for action in (["list"], ["end", "--no-input"], ["end", "--dry-run"]):
            refused(r"There is no user", *action, f"--user={text}")
            if action == ["list"] and text.isprintable() and text.isascii():
                if primary_key(text) is None:
                    refused("is not a primary key of", "list", f"--user-id={text}")
                else:
                    assert listed(f"--user-id={text}") == set()
    assert listed() == {one.session_id}


def command_part_of_a_name() -> None:
    one = someone()
    for text in parts(one):
        refused(re.escape(one.name), "list", f"--user={text}")


def command_show_and_stats() -> None:
    one = someone()
    assert re.search(
        rf"User +{re.escape(one.name)} \(primary key", sessions("show", one.session_id)
    )
    assert f"1  {one.name}\n" in sessions("stats")
    assert json.loads(sessions("stats", "--json"))["top_users"][0]["user_id"] == one.id


def command_end_of_user() -> None:
    other = someone(1)
    one = someone(0)
    for option, text in [*(("--user", each) for each in spellings(one)), ("--user-id", one.id)]:
        _, session_id = another_session(one.user)
        _, kept = another_session(one.user)
        said = sessions("end", option, text, "--but", kept, "--no-input")
        assert session_id not in listed(), (text, said)
        assert listed() >= {kept, other.session_id}, text
        sessions("end", option, text, "--no-input")
        assert listed() == {other.session_id}, text


def command_queries() -> None:
    """Names of many users take no more queries than that of one."""
    someone(0)
    with CaptureQueriesContext(connection) as few:
        sessions("list")
    someone(1), someone(2)
    with CaptureQueriesContext(connection) as many:
        sessions("list")
    assert len(many) == len(few), many.captured_queries


def command_ids_of_another_model() -> None:
    """The site had other users before, or another program logs in: their ids cannot be keys."""
    one, shown = someone(), stored_for(*NOT_KEYS)
    lines = {line.split()[0]: line for line in sessions("list").splitlines()[1:]}
    assert f"  {one.name}  " in lines[one.session_id[:12]]
    for session_id, user_id in shown.items():
        assert f"  {user_id}  " in lines[session_id[:12]], lines
        assert listed("--user", user_id) == {session_id}, user_id
        assert sessions("end", "--user", user_id, "--no-input") == "1 session ended.\n"


def command_end_one() -> None:
    one, other = someone(0), someone(1)
    assert sessions("end", one.session_id[:12], "--no-input") == "1 session ended.\n"
    assert listed() == {other.session_id}


def command_deleted_user() -> None:
    for option in ("--user", "--user-id"):
        clean()
        one, other = someone(0), someone(1)
        delete_behind_the_back(one)
        assert one.session_id[:12] in sessions("list", option, one.id)
        assert one.id.split()[0] in sessions("list")
        assert one.id.split()[0] in sessions("show", one.session_id)
        assert one.id.split()[0] in sessions("stats")
        assert sessions("end", option, one.id, "--no-input") == "1 session ended.\n"
        assert listed() == {other.session_id}


def command_users_away() -> None:
    one = someone()
    with users_away():
        for arguments in (["list"], ["list", "--user-id", one.id], ["list", "--user", one.id]):
            said = sessions(*arguments).replace("\n", " ")
            assert one.session_id[:12] in said, said
            assert one.id.split()[0] in said, said
            assert "database of users is unreachable: no route" in said, said
        assert "is unreachable" in sessions("stats")
        assert "is unreachable" in sessions("show", one.session_id)
        for text in (one.name, one.id):
            refused("is unreachable", "end", "--user", text, "--no-input")
        assert "1 session ended" in sessions("end", "--user-id", one.id, "--no-input")


# --- The admin ------------------------------------------------------------------------------


def parts(one: Someone) -> list[str]:
    """Return parts of the names of a user that can be searched: numbers cannot."""
    found = []
    if isinstance(getattr(one.user, one.user.USERNAME_FIELD), str) or "b-" in one.name:
        found = [one.name[:-1], one.name[1:].upper()]
    if email := getattr(one.user, "email", ""):
        found.append(email.partition("@")[0].partition(".")[0][:-1])
    return found


def admin_list() -> None:
    one, reader = someone(0), someone(2)
    response = reader.client.get(PAGES)
    assert response.status_code == 200
    shown = {each.info.id: each.user for each in response.context["sessions"]}
    assert shown == {one.session_id: one.name, reader.session_id: reader.name}, shown
    table = response.content.decode().partition('<table class="ss-list"')[2]
    columns = re.findall(r'<th scope="col"[^>]*>(?:<a[^>]*>)?([^<]+)', table)
    assert columns[:3] == ["User", "Device", "IP address"], columns


def admin_ids_of_another_model() -> None:
    one, reader, shown = someone(0), someone(2), stored_for(*NOT_KEYS)
    rows = reader.client.get(PAGES).context["sessions"]
    expected = {**shown, one.session_id: one.name, reader.session_id: reader.name}
    assert {each.info.id: each.user for each in rows} == expected
    for session_id, user_id in shown.items():
        assert searched(reader, q=f"user:{user_id}") == {session_id}, user_id
        assert reader.client.get(f"{PAGES}{session_id}/change/").status_code == 200


def admin_search() -> None:
    one, reader, _other = someone(0), someone(2), someone(1)
    for text in spellings(one):
        assert searched(reader, q=text) == {one.session_id}, text
        assert searched(reader, q=f"user:{text}") == {one.session_id}, text
    assert searched(reader, user=one.id) == {one.session_id}
    for text in parts(one):
        assert searched(reader, q=text) == {one.session_id}, text
    if parts(one):
        several = reader.client.get(PAGES, {"q": "example" if "@" in one.name else "b"})
        assert several.status_code == 200
    assert searched(reader, q=f"id:{one.session_id[:8]}") == {one.session_id}


def admin_nonsense() -> None:
    """What the page shows of it is the same for each kind of users, and rendered for one only."""
    reader = someone(2)
    with nullcontext() if settings.KIND == "plain" else unrendered():
        for text in NONSENSE:
            for parameters in ({"q": text}, {"q": f"user:{text}"}, {"user": text}):
                if "\ud83d" in text:
                    continue  # No browser can send it.
                response = reader.client.get(PAGES, parameters, follow=True)
                assert response.status_code == 200, (parameters, response.status_code)


def admin_detail() -> None:
    one, reader = someone(0), someone(2)
    response = reader.client.get(f"{PAGES}{one.session_id}/change/")
    assert response.status_code == 200
    page = response.content.decode().replace("<wbr>", "")  # Where a long name may be broken.
    assert one.name in page
    link = response.context["sessions_of_user"]
    assert {each.info.id for each in reader.client.get(link).context["sessions"]} == {
        one.session_id
    }


def admin_end() -> None:
    from django.contrib.admin.models import LogEntry

    LogEntry.objects.all().delete()
    reader, one = someone(2), someone(0)
    another_session(one.user)
    page = reader.client.get(PAGES, {"user": one.id})
    url = page.context["end_user_url"]
    assert one.name in reader.client.get(url).content.decode()
    reader.client.post(url, {"confirmed": "yes"})
    assert listed() == {reader.session_id}
    (entry,) = LogEntry.objects.all()
    assert entry.object_repr == one.name, entry.object_repr
    _, session_id = another_session(one.user)
    reader.client.post(f"{PAGES}{session_id}/end/", {"confirmed": "yes"})
    assert listed() == {reader.session_id}
    # The reader's own session is spared by the same page.
    _, second = another_session(reader.user)
    reader.client.post(reader.client.get(PAGES, {"user": reader.id}).context["end_user_url"])
    assert second not in listed()
    assert listed() == {reader.session_id}


def admin_deleted_user() -> None:
    reader, one, other = someone(2), someone(0), someone(1)
    delete_behind_the_back(one)
    for parameters in ({"q": one.id}, {"q": f"user:{one.id}"}, {"user": one.id}):
        assert searched(reader, **parameters) == {one.session_id}, parameters
    assert reader.client.get(f"{PAGES}{one.session_id}/change/").status_code == 200
    url = reader.client.get(PAGES, {"q": f"user:{one.id}"}).context["end_user_url"]
    reader.client.post(url, {"confirmed": "yes"})
    assert listed() == {reader.session_id, other.session_id}


def admin_users_away() -> None:
    reader, one = someone(2), someone(0)
    with users_away(reader):
        for parameters in ({}, {"user": one.id}, {"q": one.id}, {"q": f"user:{one.id}"}):
            response = reader.client.get(PAGES, parameters)
            assert response.status_code == 200
            shown = {each.info.id: each.user for each in response.context["sessions"]}
            assert shown[one.session_id] == one.id, shown
            assert "Users are shown by primary key" in response.content.decode()
        response = reader.client.get(PAGES, {"q": "user:nobody"})
        assert "database of users is unreachable" in response.content.decode()
        response = reader.client.get(f"{PAGES}{one.session_id}/change/")
        assert response.status_code == 200
        url = response.context["end_user_url"]
        assert reader.client.get(url).status_code == 200
        reader.client.post(url, {"confirmed": "yes"})
    assert listed() == {reader.session_id}


# --- Devices and API ------------------------------------------------------------------------


def devices_page() -> None:
    one, _other = someone(0), someone(1)
    _, second = another_session(one.user)
    response = one.client.get("/devices/")
    assert response.status_code == 200
    assert second in response.content.decode()
    for url in (f"/devices/{second}/end/", "/devices/end-others/"):
        assert one.client.get(url).status_code == 200
    assert one.client.post(f"/devices/{second}/end/").status_code == 302
    assert second not in listed()


def devices_api() -> None:
    one, other = someone(0), someone(1)
    _, second = another_session(one.user)
    _, third = another_session(one.user)
    found = one.client.get("/devices/api/").json()["sessions"]
    assert {each["id"] for each in found} == {one.session_id, second, third}
    assert one.client.delete(f"/devices/api/{second}/").status_code in {200, 204}
    assert one.client.delete(f"/devices/api/{other.session_id}/").status_code == 404
    assert one.client.post("/devices/api/end-others/").status_code == 200
    assert listed() == {one.session_id, other.session_id}


def inventory() -> None:
    one, other = someone(0), someone(1)
    sessions = Inventory()
    forms = [one.user, one.user.pk, one.id]
    if not isinstance(one.user.pk, tuple):
        forms.append(str(one.user.pk))
    for form in forms:
        (found,) = sessions.list(user=form).sessions
        assert (found.id, found.user_id) == (one.session_id, one.id), form
        assert sessions.count(user=form) == 1, form
        assert not sessions.end(other.session_id, user=form)
    for form in forms:
        _, session_id = another_session(one.user)
        assert sessions.end(session_id, user=form), form
        another_session(one.user)
        assert sessions.end_all(form, but=one.session_id) == 1, form
    assert listed() == {one.session_id, other.session_id}


def login_again() -> None:
    """Sign in the same user again, and another user in the same browser."""
    one, other = someone(0), someone(1)
    one.client.force_login(one.user)
    assert Inventory().count(user=one.user) == 1
    one.client.force_login(other.user)
    assert Inventory().count(user=one.user) == 0
    assert Inventory().count(user=other.user) == 2


def session_limit() -> None:
    """Sessions from before and after the user was read are those of one user."""
    from tests.accounts.user_models import models

    with override_settings(SESSIONSTORES={"MAX_SESSIONS": 2}):
        other, made = someone(1), models.make(0)
        user = get_user_model()._base_manager.get(pk=made.pk)
        for each in (made, user, made, user):
            another_session(each)
        assert Inventory().count(user=made) == Inventory().count(user=user) == 2
        assert Inventory().count(user=other.user) == 1


# --- Changes of accounts --------------------------------------------------------------------


def new_password() -> None:
    one, other = someone(0), someone(1)
    if not hasattr(one.user, "set_password"):
        return
    one.user.set_password("another")
    one.user.save()
    assert listed() == {other.session_id}


def deactivation() -> None:
    one, other = someone(0), someone(1)
    one.user.is_active = False
    one.user.save()
    assert listed() == {other.session_id}


def deletion() -> None:
    one, other = someone(0), someone(1)
    one.user.delete()
    assert listed() == {other.session_id}


def deletion_of_the_unread() -> None:
    """By the object that was created, which may have another primary key than the row."""
    from tests.accounts.user_models import models

    other, made = someone(1), models.make(0)
    another_session(made)
    made.delete()
    assert listed() == {other.session_id}


def deletion_during_an_outage() -> None:
    """The log names a command, which works."""
    one, other = someone(0), someone(1)
    logger = logging.getLogger("django_sessionstores")
    with (
        mock.patch.object(Inventory, "end_for", side_effect=StorageUnavailable("away")),
        mock.patch.object(logger, "error") as error,
    ):
        one.user.delete()
    text, *values = error.call_args.args
    command = re.search(r"manage\.py sessions (.*)", text % tuple(values))
    assert command is not None
    arguments = shlex.split(command[1])
    assert sessions(*arguments, "--no-input") == "1 session ended.\n"
    assert listed() == {other.session_id}


def tests_of_a_site() -> None:
    """Those that ask for any user, and the command that holds session backends to cases."""
    clients = [sign_in(Client()), async_to_sync(asign_in)(AsyncClient())]
    ids = [client.session["_auth_user_id"] for client in clients]
    made = [new_user() for _ in range(2)]
    ids += [user._meta.pk.value_to_string(user) for user in made]
    assert len(set(ids)) == 4
    assert len({getattr(user, user.USERNAME_FIELD) for user in made}) == 2
    cases = [CASES["a-login-makes-a-new-key"], CASES["a-deleted-user-is-signed-out"]]
    results = run_cases(backend.Backend(settings.SESSION_ENGINE), cases)
    assert [result.outcome for result in results] == [Outcome.PASSED, Outcome.PASSED]


PLACES: dict[str, Callable[[], None]] = {
    each.__name__: each
    for each in (
        command_list,
        command_list_of_user,
        command_nonsense,
        command_part_of_a_name,
        command_show_and_stats,
        command_end_of_user,
        command_ids_of_another_model,
        command_end_one,
        command_queries,
        command_deleted_user,
        command_users_away,
        admin_list,
        admin_ids_of_another_model,
        admin_search,
        admin_nonsense,
        admin_detail,
        admin_end,
        admin_deleted_user,
        admin_users_away,
        devices_page,
        devices_api,
        inventory,
        login_again,
        session_limit,
        new_password,
        deactivation,
        deletion,
        deletion_of_the_unread,
        deletion_during_an_outage,
        tests_of_a_site,
    )
}
