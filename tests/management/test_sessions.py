"""``manage.py sessions``, as operators type it: on a terminal, through a pipe, from a script."""

from __future__ import annotations

import builtins
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.db import OperationalError, connections
from django.db.models.query import ModelIterable
from django.test import override_settings

from django_sessionstores.core.clock import now
from django_sessionstores.core.phrases import format_duration, format_exact_duration
from django_sessionstores.core.records import Client as Who
from django_sessionstores.core.records import Record, draw_key, session_id
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.inventory import Inventory, SessionInfo
from django_sessionstores.management import reports, selection
from django_sessionstores.management.commands.clearsessions import Command as ClearCommand
from django_sessionstores.management.commands.sessions import Command
from django_sessionstores.operations.checks.configuration import parts
from django_sessionstores.operations.doctor import Store, texts
from django_sessionstores.operations.indexes import make_indexes
from django_sessionstores.sessions.state import RequestPolicy
from django_sessionstores.storages.base import Storage
from django_sessionstores.storages.layered import LayeredStorage
from django_sessionstores.storages.outage_log import OutageLog
from django_sessionstores.storages.registered import RegisteredStorage
from django_sessionstores.testing import DAY, HOUR, at, observed
from tests import ROOT
from tests.cases import Engine
from tests.management.test_layout import columns_of
from tests.migration.previous_backends import DJANGO, at_django, empty_django
from tests.stored_sessions import is_alive

OURS = "django_sessionstores.middleware.SessionMiddleware"
DJANGOS = "django.contrib.sessions.middleware.SessionMiddleware"
PAGE = ROOT / "docs/howto/sessions_command.rst"
UNKNOWN = session_id("nobody's")
ACTIONS = (
    ["list"],
    ["show", UNKNOWN],
    ["stats"],
    ["end", UNKNOWN],
    ["purge"],
    ["reindex"],
    ["doctor"],
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def sessions(*arguments: str, **options: Any) -> str:
    """Return what the command prints."""
    output = io.StringIO()
    call_command("sessions", *arguments, stdout=output, stderr=io.StringIO(), **options)
    return output.getvalue()


def document(*arguments: str) -> Any:
    return json.loads(sessions(*arguments, "--json"))


def typed(*arguments: str, screen: io.StringIO | None = None) -> tuple[int, str]:
    """Exit code and all output, as from a command line without colours."""
    screen = screen or io.StringIO()
    try:
        Command(stdout=screen, stderr=screen, no_color=True).run_from_argv(
            ["manage.py", "sessions", *arguments]
        )
    except SystemExit as end:
        return int(end.code or 0), screen.getvalue()
    return 0, screen.getvalue()


def stored(engine: Engine, user: Any = None, ip: str = "", agent: str = "") -> Any:
    """Return a saved session."""
    session = engine.SessionStore()
    session["secret"] = "a value"
    if ip:
        session.policy = RequestPolicy(client=lambda: Who(ip, agent))
    if user is not None:
        session["_auth_user_id"] = str(user)
    session.save()
    return session


def put(engine: Engine, record_id: str, **values: Any) -> None:
    """Store a record with an id of the test's choice, past the session."""
    moment = now()
    times = {"created": moment, "last_activity": moment, "expires": moment + DAY}
    engine.storage.create(Record(id=record_id, **(times | values)), moment)


def alive(engine: Engine, *sessions: Any) -> list[bool]:
    return [is_alive(engine, session) for session in sessions]


@pytest.fixture
def listing(engine: Engine) -> Engine:
    """Return an engine that can list."""
    if not engine.storage.lists:
        pytest.skip(f"{engine.id} declares that it cannot list")
    return engine


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[str]]:
    """Return what an operator will type, and the questions that were asked."""
    given: list[str] = []
    asked: list[str] = []

    def answer(question: str) -> str:
        asked.append(question)
        if not given:
            raise EOFError
        if given == ["^C"]:
            raise KeyboardInterrupt
        return given.pop(0)

    monkeypatch.setattr(builtins, "input", answer)
    return given, asked


# list ---------------------------------------------------------------------------------------------


def test_list_has_a_line_for_each_session(listing: Engine, user: Any) -> None:
    """The list shows who is logged in and since when, but nothing that would let a reader take over
    a session."""
    known, visitor = stored(listing, user.pk), stored(listing)
    head, *lines = sessions("list").splitlines()
    assert head.split() == ["ID", "USER", "LAST", "CHANGE", "EXPIRES", "IP"]
    found = {line.split()[0]: line.split()[1] for line in lines}
    assert found == {known.session_id[:12]: "ada", visitor.session_id[:12]: "-"}
    for line in lines:
        assert re.search(r"  \d+ s ago +in 14 days +-$", line), line


def test_pages_of_list_hold_each_session_once(listing: Engine) -> None:
    """The cursor that one page prints is what the next one takes."""
    ids = {stored(listing).session_id for _ in range(5)}
    found: list[str] = []
    more: list[str] = []
    for _ in range(10):
        page = sessions("list", "--limit", "2", *more)
        found += re.findall(r"^([0-9a-f]{12}) ", page, re.MULTILINE)
        more = re.findall(r"^More: (--cursor) (\S+)$", page, re.MULTILINE)
        more = list(more[0]) if more else []
        if not more:
            break
    assert sorted(found) == sorted(id_[:12] for id_ in ids)


def test_list_for_machines(listing: Engine) -> None:
    """Whole ids, moments that every language parses, and where to go on."""
    session = stored(listing, 7)
    stored(listing)
    page = document("list", "--logged-in")
    (found,) = page["sessions"]
    assert (found["id"], found["user_id"], page["next"]) == (session.session_id, "7", "")
    expires = datetime.fromisoformat(found["expires"])
    assert abs(expires - datetime.now(UTC) - timedelta(days=14)) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {"ada", "bob", "visitor"}),
        (["--user", "ada"], {"ada"}),
        (["--logged-in"], {"ada", "bob"}),
        (["--anonymous"], {"visitor"}),
        (["--ip", "2001:DB8:0::1"], {"visitor"}),
        (["--ip", "2001:db8:"], {"visitor"}),
        (["--ip", "2001:db8::/32"], {"visitor"}),
        (["--ip", "192.0."], set()),
        (["--user-id", "0"], {"bob"}),
        (["--idle-since", "2h"], {"bob"}),
        (["--idle-since", "2000-01-01"], set()),
        (["--expired"], {"gone"}),
        (["--idle-since", "2h", "--anonymous"], set()),
    ],
    ids=lambda words: " ".join(sorted(words)),
)
@pytest.mark.engines("db:sqlite")
def test_filters_of_list(
    engine: Engine, user: Any, arguments: list[str], expected: set[str]
) -> None:
    """A filter that finds too little hides sessions, and nobody would end them."""
    moment = now()
    made = {
        "ada": {"user_id": str(user.pk)},
        "bob": {"user_id": "0", "last_activity": moment - 3 * HOUR},
        "visitor": {"ip": "2001:db8::1"},
        "gone": {"expires": moment - HOUR},
    }
    for name, values in made.items():
        put(engine, session_id(name), **values)
    found = {each["id"] for each in document("list", *arguments)["sessions"]}
    assert found == {session_id(name) for name in expected}


@pytest.mark.engines("db:sqlite")
def test_users_go_by_primary_key_as_well(engine: Engine, user: Any) -> None:
    """Logs have primary keys, and people have usernames."""
    session = stored(engine, user.pk)
    for name in ("ada", str(user.pk)):
        (found,) = document("list", "--user", name)["sessions"]
        assert found["id"] == session.session_id


@pytest.mark.engines("db:sqlite")
def test_a_name_that_means_two_users_is_refused(engine: Engine, user: Any) -> None:
    """The wrong one of them would be logged out."""
    other = type(user).objects.create(username=str(user.pk))
    try:
        session = stored(engine, user.pk)
        with pytest.raises(CommandError, match=f"or 'ada' .primary key {user.pk}."):
            sessions("end", "--user", str(user.pk), interactive=False)
        assert is_alive(engine, session)
        assert "1 session" in sessions("end", "--user", "ada", interactive=False)
    finally:
        other.delete()


@pytest.mark.engines("db:sqlite")
def test_a_name_that_is_the_key_of_a_deleted_user_is_refused(engine: Engine, user: Any) -> None:
    """The log names the primary key; that another user has it as username must end nothing."""
    user.username = "123456"
    user.save()
    mine, deleted = stored(engine, user.pk), stored(engine, "123456")
    for arguments in (["list"], ["end", "--no-input"]):
        with pytest.raises(CommandError, match=r"no longer exists .primary key 123456."):
            sessions(*arguments, "--user", "123456")
    assert alive(engine, mine, deleted) == [True, True]
    assert "1 session" in sessions("end", "--user-id", "123456", "--no-input")
    assert alive(engine, mine, deleted) == [True, False]


@pytest.mark.engines("db:sqlite")
def test_the_user_is_named_before_it_is_logged_out(engine: Engine, user: Any, answers: Any) -> None:
    """An operator who enters a primary key reads whose it is."""
    stored(engine, user.pk)
    answers[0][:] = ["n"]
    with pytest.raises(CommandError, match="Nothing was ended"):
        sessions("end", "--user", str(user.pk))
    assert answers[1] == ["End 1 session of user ada? [y/N] "]


@pytest.mark.engines("db:sqlite")
def test_similar_users_are_named(engine: Engine, user: Any) -> None:
    """A part of a name ends nothing, but the operator sees what to enter."""
    stored(engine, user.pk)
    with pytest.raises(CommandError, match=rf"Similar: 'ada' .primary key {user.pk}."):
        sessions("end", "--user", "AD", "--no-input")


@pytest.mark.engines("db:sqlite")
@pytest.mark.parametrize("text", ["", "\0", "\ud800"])
def test_what_cannot_be_a_primary_key(engine: Engine, text: str) -> None:
    """It is said before anything is asked of a database."""
    for arguments in (["list"], ["end", "--no-input"]):
        with pytest.raises(CommandError, match="cannot be the primary key of a user"):
            sessions(*arguments, "--user-id", text)


@pytest.mark.engines("db:sqlite")
@pytest.mark.parametrize("name", ["nobody", "123456789", "9" * 40, ""])
def test_unknown_users(engine: Engine, name: str) -> None:
    """ "No sessions" would say that the user is logged out."""
    for arguments in (["list"], ["end", "--no-input"]):
        reason = "There is no user with the username, email address or primary key"
        with pytest.raises(CommandError, match=reason):
            sessions(*arguments, "--user", name)


@pytest.mark.engines("db:sqlite")
def test_an_empty_list_says_so(engine: Engine) -> None:
    """Nothing at all could be a command that failed."""
    assert sessions("list") == "No sessions.\n"
    assert sessions("list", "-v0") == ""


# show ---------------------------------------------------------------------------------------------


@pytest.mark.authoritative
def test_show_by_id_works_on_every_engine(engine: Engine) -> None:
    """The id in a line of a log leads to a user and an address, whether or not the engine can list
    sessions."""
    session = stored(engine, 7, "192.0.2.1", "Browser/1.0")
    shown = sessions("show", session.session_id)
    assert f"Session      {session.session_id}\n" in shown
    assert "User         primary key 7\n" in shown
    if engine.storage.keeps_client:
        assert "IP address   192.0.2.1\n" in shown
        assert "User agent   Browser/1.0\n" in shown
    assert document("show", session.session_id)["user_id"] == "7"


@pytest.mark.authoritative
def test_no_key_and_no_value_is_shown(engine: Engine) -> None:
    """Terminals are recorded, and output is pasted into tickets."""
    session = stored(engine)
    for arguments in (["list"], ["show", session.session_id], ["doctor"]):
        for form in ([], ["--json"]):
            if arguments == ["list"] and not engine.storage.lists:
                continue
            _, output = typed(*arguments, *form)
            assert session.session_key not in output
            assert "a value" not in output
    assert "Values       not shown" in sessions("show", session.session_id)


def test_show_by_the_beginning_of_an_id(listing: Engine) -> None:
    """The beginning may be as long as in lists, or shorter, and in upper or lower case."""
    session = stored(listing)
    stored(listing)
    for prefix in (session.session_id[:12], session.session_id[:6].upper()):
        assert session.session_id in sessions("show", prefix)


@pytest.mark.engines("memory")
def test_a_beginning_of_two_ids_is_refused(engine: Engine) -> None:
    """It names both, so that the right one can be taken from the message."""
    both = ["abcdef" + "0" * 34, "abcdef" + "1" * 34]
    for record_id in both:
        put(engine, record_id)
    for arguments in (["show"], ["end", "--no-input"]):
        with pytest.raises(CommandError, match=f"2 ids begin with abcdef: {both[0]}, {both[1]}"):
            sessions(*arguments, "abcdef")
    assert len(document("list")["sessions"]) == 2


@pytest.mark.engines("db:sqlite")
def test_what_users_chose_does_not_reach_the_terminal_raw(engine: Engine, user: Any) -> None:
    """A name with control characters could rewrite what the operator reads."""
    user.username = "a\x1b[2Jda\n"
    user.save()
    session = stored(engine, user.pk)
    for output in (
        sessions("list"),
        sessions("show", session.session_id),
        sessions("stats"),
        sessions("list", "--json"),
    ):
        assert "\x1b" not in output
    assert " a[2Jda " in sessions("list")


# stats --------------------------------------------------------------------------------------------


def test_stats(listing: Engine) -> None:
    """Each session counts once, and an expired one is nobody who is logged in."""
    for user in (7, 7, 8, None):
        stored(listing, user)
    found = document("stats")
    assert {name: found[name] for name in ("live", "logged_in", "anonymous")} == {
        "live": 4,
        "logged_in": 3,
        "anonymous": 1,
    }
    assert found["top_users"] == [
        {"user_id": "7", "sessions": 2},
        {"user_id": "8", "sessions": 1},
    ]
    with at(now() + 15 * DAY):
        found = document("stats")
        assert (found["live"], found["top_users"]) == (0, [])
        assert found["expired"] == 4 or listing.storage.self_expiring


@pytest.mark.engines("db:sqlite")
def test_stats_for_people(engine: Engine, user: Any) -> None:
    """The command names users, because nobody knows primary keys."""
    for pk in (user.pk, user.pk, None):
        stored(engine, pk)
    assert sessions("stats") == (
        "Live                 3\n"
        "  logged in          2\n"
        "  visitors           1\n"
        "Expired, not purged  0\n"
        "Most sessions        2  ada\n"
    )


def info(user: int) -> SessionInfo:
    return SessionInfo(
        id="0" * 40,
        user_id=str(user),
        created=datetime.now(UTC),
        last_activity=datetime.now(UTC),
        expires=datetime.now(UTC),
        ip="",
        user_agent="",
        is_expired=False,
    )


def test_counting_users_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million users must not fill the memory; who has most of the sessions is still found, and
    the number says that it is a lower bound."""
    monkeypatch.setattr(reports, "_MOST_COUNTERS", 10)
    crowd = [info(user) for user in range(100, 200)]
    stats = reports.count([*crowd[:50], *[info(7)] * 30, *crowd[50:]], top=1)
    (most,) = stats.top_users
    assert most.user_id == "7"
    assert 20 <= most.sessions <= 30
    assert stats.live == 130
    assert reports.stats_fields(stats, {})["Most sessions"] == f"at least {most.sessions}  7"


def test_the_bar_comes_when_it_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar is removed before anything else is printed. If nobody sees it, the store is not asked
    for a total."""
    drawn: list[str] = []
    totals: list[int] = []

    def total() -> int:
        totals.append(4)
        return 4

    assert list(reports.with_progress(range(4), total, drawn.append)) == [0, 1, 2, 3]
    assert (drawn, totals) == ([], [])
    monkeypatch.setattr(reports, "_PATIENCE", 0.0)
    assert list(reports.with_progress(range(4), total, drawn.append)) == [0, 1, 2, 3]
    assert totals == [4]
    assert drawn[1] == f"\r[{'#' * 15}{' ' * 15}] 2 of 4"
    assert max(map(len, drawn)) < 80
    assert drawn[-1].strip() == ""
    assert drawn[-1].endswith("\r")


@pytest.mark.engines("db:sqlite")
def test_only_a_terminal_gets_the_bar(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a log, the bar would be a line of a thousand bars."""
    monkeypatch.setattr(reports, "_PATIENCE", 0.0)
    stored(engine)
    assert "\r" not in typed("stats")[1]
    _, seen = typed("stats", screen=Terminal())
    assert f"\r[{'#' * 30}] 1 of 1\r" in seen
    assert seen.rpartition("\r")[2].startswith("Live ")


def test_more_sessions_than_expected_do_not_break_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expired ones are in the pass and not in the total."""
    monkeypatch.setattr(reports, "_PATIENCE", 0.0)
    drawn: list[str] = []
    list(reports.with_progress(range(3), lambda: 0, drawn.append))
    assert drawn[2] == f"\r[{'#' * 30}] 3 of 3"


# end ----------------------------------------------------------------------------------------------


@pytest.mark.authoritative
def test_end_by_id_works_on_every_engine(engine: Engine) -> None:
    """The one that was named, and no other."""
    one, two, three = (stored(engine) for _ in range(3))
    ids = [one.session_id, two.session_id, one.session_id]
    with observed(engine.storage) as calls:
        assert sessions("end", *ids, interactive=False) == "2 sessions ended.\n"
    # They are looked up to be found, and once more for what is told of them.
    assert calls == ["lookup_many", "lookup_many", "end_many"]
    assert alive(engine, one, two, three) == [False, False, True]


def test_end_by_the_beginning_of_an_id(listing: Engine) -> None:
    """A session can be ended by the part of its id that lists show."""
    one, two = stored(listing), stored(listing)
    assert sessions("end", one.session_id[:12], interactive=False) == "1 session ended.\n"
    assert alive(listing, one, two) == [False, True]


@pytest.mark.authoritative
def test_nothing_is_ended_if_one_id_is_wrong(engine: Engine) -> None:
    """The operator meant something else, and has to look again."""
    session = stored(engine)
    with pytest.raises(CommandError, match=f"no live session whose id begins with {UNKNOWN}"):
        sessions("end", session.session_id, UNKNOWN, interactive=False)
    assert is_alive(engine, session)


def test_end_of_a_user(listing: Engine, user: Any) -> None:
    """All of them, or all but the one that is named."""
    mine = [stored(listing, user.pk) for _ in range(3)]
    other = stored(listing)
    kept = mine[0].session_id[:12]
    said = sessions("end", "--user", "ada", "--but", kept, interactive=False)
    assert said == "2 sessions ended.\n"
    assert alive(listing, *mine, other) == [True, False, False, True]
    assert sessions("end", "--user", "ada", interactive=False) == "1 session ended.\n"
    assert alive(listing, mine[0], other) == [False, True]
    with pytest.raises(CommandError, match="There is no live session of user ada to end"):
        sessions("end", "--user", "ada", interactive=False)


@pytest.mark.engines("memory", "db:sqlite")
def test_the_session_to_keep_has_to_be_one_of_the_user(engine: Engine, user: Any) -> None:
    """A wrong id would end the one that was to be kept."""
    mine, other = stored(engine, user.pk), stored(engine)
    for kept in (other.session_id, UNKNOWN):
        with pytest.raises(CommandError, match=kept):
            sessions("end", "--user", "ada", "--but", kept, interactive=False)
    assert is_alive(engine, mine)


@pytest.mark.parametrize("address", ["192.0.2.7", "192.0.2.", "192.0.2.0/24"])
def test_end_from_an_address(listing: Engine, user: Any, address: str) -> None:
    """Of all users, as an operator does after an attack, or of one."""
    mine = [stored(listing, user.pk, "192.0.2.7") for _ in range(2)]
    other, elsewhere = stored(listing, None, "192.0.2.7"), stored(listing, user.pk, "198.51.100.4")
    arguments = ("end", "--ip", address)
    kept, where = mine[0].session_id, selection.address(address)
    assert sessions(*arguments, "--user", "ada", "--but", kept, "--dry-run") == (
        f"Would end 1 session of user ada from {where}.\n"
    )
    said = sessions(*arguments, "--user", "ada", "--but", kept, interactive=False)
    assert said == "1 session ended.\n"
    assert alive(listing, *mine, other, elsewhere) == [True, False, True, True]
    assert sessions(*arguments, interactive=False) == "2 sessions ended.\n"
    assert alive(listing, *mine, other, elsewhere) == [False, False, False, True]
    with pytest.raises(CommandError, match=f"There is no live session from {where} to end"):
        sessions(*arguments, interactive=False)


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("django_sessionstores.backends.dbb", ["doctor"]),
        ("django_sessionstores.backends.dbb", ["purge"]),
        ("django_sessionstores.backends.file", ["move", "--from", f"{DJANGO}.dbb"]),
        (
            "django_sessionstores.backends.file",
            ["move", "--from", f"{DJANGO}.db", "--to", "django_sessionstores.backends.dbb"],
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_misspelt_engine_is_named_with_the_nearest_one(path: str, arguments: list[str]) -> None:
    """As by the checks, which the commands do not run."""
    with (
        override_settings(SESSION_ENGINE=path),
        pytest.raises(CommandError, match=r"Did you mean '[a-z._]+\.db'\?$"),
    ):
        sessions(*arguments)


@pytest.mark.engines("db:sqlite")
@pytest.mark.parametrize("action", ["list", "end"])
def test_a_text_that_cannot_be_the_id_of_a_user(engine: Engine, action: str) -> None:
    """'No sessions' would say that the user has none, and the id was mistyped."""
    arguments = (action, "--user-id", "7f")
    with pytest.raises(CommandError, match=r"'7f' is not a primary key of auth\.User"):
        sessions(*arguments)
    # Of another user model that the site used before.
    stored(engine, "7f")
    assert "1 session" in sessions("end", "--user-id", "7f", "--dry-run")


def test_end_of_all(listing: Engine) -> None:
    """A site may need this after a breach."""
    everyone = [stored(listing, user) for user in (1, 2, None)]
    assert sessions("end", "--all", interactive=False) == "3 sessions ended.\n"
    assert alive(listing, *everyone) == [False] * 3
    assert sessions("end", "--all", interactive=False) == "There is no live session to end.\n"


@pytest.mark.engines("db:sqlite")
@pytest.mark.parametrize("answer", ["", "n", "yess", "^C", None])
def test_without_a_yes_nothing_is_ended(
    engine: Engine, user: Any, answers: Any, answer: str | None
) -> None:
    """Neither the Enter key nor a script without a terminal confirms."""
    session = stored(engine, user.pk)
    for arguments, asked in (
        ([session.session_id], "End 1 session? [y/N] "),
        (["--user", "ada"], "End 1 session of user ada? [y/N] "),
        (["--all"], "End 1 session? [y/N] "),
    ):
        answers[0][:] = [] if answer is None else [answer]
        reason = "Not running in a terminal" if answer is None else "Nothing was ended"
        with pytest.raises(CommandError, match=reason):
            sessions("end", *arguments)
        assert answers[1].pop() == asked
    assert is_alive(engine, session)


@pytest.mark.engines("db:sqlite")
def test_a_question_that_nobody_answers_ends_its_line(engine: Engine, answers: Any) -> None:
    """In the mail of a cron job, the error has a line of its own."""
    stored(engine)
    reason = "Not running in a terminal. Use --no-input to confirm."
    assert typed("end", "--all") == (1, f"\nCommandError: {reason}\n")


@pytest.mark.engines("db:sqlite")
def test_with_a_yes_they_are(engine: Engine, answers: Any) -> None:
    """A question that could not be agreed to would be no question."""
    stored(engine)
    answers[0][:] = ["y"]
    assert sessions("end", "--all") == "1 session ended.\n"


@pytest.mark.engines("db:sqlite")
def test_a_dry_run_ends_nothing(engine: Engine, user: Any, answers: Any) -> None:
    """A dry run does not ask, either."""
    session = stored(engine, user.pk)
    for arguments in ([session.session_id[:12]], ["--user", "ada"], ["--all"]):
        said = sessions("end", *arguments, "--dry-run")
        assert said.startswith("Would end 1 session")
        assert sessions("end", *arguments, "--dry-run", "-v0") == said
    assert sessions("purge", "--dry-run", "-v0") == "Would remove 0 expired sessions.\n"
    assert is_alive(engine, session)
    assert answers[1] == []


# purge --------------------------------------------------------------------------------------------


@pytest.mark.engines("memory", "file", "db:sqlite", "cached_db:locmem+sqlite", "cookie:sqlite")
def test_purge(engine: Engine) -> None:
    """The subcommand removes what ``clearsessions`` removes, and only counting changes nothing."""
    for _ in range(3):
        stored(engine)
    with at(now() + 15 * DAY):
        live = stored(engine)
        for _ in range(2):
            assert sessions("purge", dry_run=True) == "Would remove 3 expired sessions.\n"
        assert sessions("purge") == "3 expired sessions removed.\n"
        assert document("stats")["expired"] == 0
        assert is_alive(engine, live)


# doctor -------------------------------------------------------------------------------------------


@pytest.fixture
def sound(engine: Engine) -> Iterator[Engine]:
    """Yield a site without findings. A folder of sessions that is missing would be one."""
    for part in parts(engine.storage):
        if found := part.folder():
            Path(found[0]).mkdir(mode=0o700, parents=True, exist_ok=True)
    with override_settings(SESSION_COOKIE_SECURE=True, SESSION_COOKIE_AGE=3600):
        yield engine


@pytest.mark.authoritative
def test_doctor_asks_every_store(sound: Engine) -> None:
    """Each store is asked by itself, because sessions go on while a cache is down and nothing else
    reports that."""
    found = document("doctor")
    assert found["engine"] == f"django_sessionstores.backends.{sound.name}"
    assert found["problems"] == 0
    assert found["encryption_keys"] == 1
    assert None not in [store["milliseconds"] for store in found["stores"]]
    parts = {store["description"] for store in found["stores"]}  # Nodes have one in common.
    assert all(part in found["description"] for part in parts)
    assert len(parts) == max(1, len(sound.case.stores))
    for name, value in found["capabilities"].items():
        # Sessions have no address under Django's middleware, whatever could be kept.
        assert value is (getattr(sound.storage, name) and name != "keeps_client")
    with override_settings(MIDDLEWARE=[OURS]):
        capabilities = document("doctor")["capabilities"]
    assert capabilities["keeps_client"] is sound.storage.keeps_client


@pytest.mark.engines("db:sqlite")
def test_only_errors_and_warnings_of_this_package_make_doctor_fail(sound: Engine) -> None:
    """Django's warnings are printed. ``check --deploy`` is what fails because of them."""
    with override_settings(SESSION_COOKIE_SECURE=False):
        code, said = typed("doctor", "--verbosity", "0")
        assert (code, said.split("\n")[0]) == (0, "WARNING security.W012")
        assert document("doctor")["problems"] == 0
        with override_settings(SESSIONSTORES={"ENCRYPTION_KEYS": ["short"]}):
            code, said = typed("doctor")
    assert code == 1
    assert "WARNING security.W012" in said
    assert "WARNING sessionstores.W005" in said
    assert said.endswith("CommandError: 1 problem found.\n")


@pytest.mark.engines("file")
@pytest.mark.parametrize("place", ["parent", "folder", "shard"])
def test_doctor_finds_a_folder_that_cannot_be_written(
    sound: Engine, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """A folder that cannot be made is an outage. In the others, reads find no session, and nothing
    fails before the first login."""
    folder = sound.file_path / "django_sessionstores"
    if place != "parent":
        stored(sound)
    shard = next(folder.glob("??"), folder)
    refused = {"parent": sound.file_path, "folder": folder, "shard": shard}[place]
    refuse(monkeypatch, refused)
    if place == "parent":
        shutil.rmtree(folder, ignore_errors=True)
    code, said = typed("doctor")
    said = " ".join(said.split())
    assert code == 1
    assert f"his process may not write to {refused}. " in said
    is_outage = place == "parent"
    # The folders belong to the user of this process.
    assert (f"chmod u+rwx {refused}." if is_outage else f"chmod -R u+rwX {folder}.") in said
    # Only this test refuses; the system lets the doctor write.
    assert ("CANNOT BE USED. " if is_outage else "REFUSES SOME OPERATIONS. ") in said
    assert document_of_failure("doctor")["stores"][0]["error" if is_outage else "write_obstacle"]


@pytest.mark.engines("db:sqlite", "cached_db:locmem+sqlite")
def test_doctor_finds_a_database_that_cannot_be_written(
    sound: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This happens if the user who ran ``migrate`` owns the file, and the site runs as another
    user."""
    refuse(monkeypatch, Path(connections["default"].settings_dict["NAME"]))
    code, said = typed("doctor")
    assert code == 1
    assert "OPERATIONS. This process may not write to" in " ".join(said.split())


def refuse(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Have the system say that this process may not write to a path. Tests may run as root."""
    access = os.access

    def refused(asked: Any, mode: int) -> bool:
        return access(asked, mode) and not (mode & os.W_OK and Path(asked) == path)

    monkeypatch.setattr(os, "access", refused)


def document_of_failure(*arguments: str) -> Any:
    code, said = typed(*arguments, "--json")
    assert code == 1
    return json.loads(said.partition("\nCommandError")[0])


@pytest.mark.parametrize(
    ("middleware", "options", "limit"),
    [
        (DJANGOS, {}, "4,087 bytes, encrypted, in 1 cookie"),
        (DJANGOS, {"COOKIE_MAX_BYTES": 2000}, "2,000 bytes, encrypted, in 1 cookie"),
        (OURS, {}, "16,340 bytes, encrypted, in up to 4 cookies"),
        (OURS, {"COOKIE_MAX_BYTES": 6000}, "6,000 bytes, encrypted, in up to 2 cookies"),
        (OURS, {"COOKIE_MAX_BYTES": "1 MB"}, "wrong, see the findings"),
    ],
)
@pytest.mark.engines("cookie:unregistered", "cookie:sqlite")
def test_doctor_tells_how_large_cookies_may_be(
    engine: Engine, middleware: str, options: dict[str, Any], limit: str
) -> None:
    """A save of a larger session raises ``PayloadTooLarge``, so the answer must not be "none"."""
    stated = {**getattr(settings, "SESSIONSTORES", {}), **options}
    with override_settings(SESSIONSTORES=stated, MIDDLEWARE=[middleware]):
        _code, said = typed("doctor")
    assert re.search(r"^Size limit +(.+)$", said, re.MULTILINE)[1] == limit


@pytest.mark.engines("cached_db:locmem+sqlite", "cookie:sqlite", "db:sqlite", "file")
def test_doctor_finds_a_store_that_is_unreachable(sound: Engine) -> None:
    """The exit code is 1, so that a monitor can run the command."""

    def broken(name: str) -> None:
        raise StorageUnavailable("no route")

    storage = sound.storage
    if isinstance(storage, LayeredStorage):
        storage = storage.cache
    elif isinstance(storage, RegisteredStorage):
        storage = storage.registry
    with observed(storage, before=broken):
        code, said = typed("doctor")
    assert code == 1
    assert f"{storage.describe()}: CANNOT BE USED. no route\n" in said
    assert said.endswith("CommandError: 1 problem found.\n")
    wrong = {**getattr(settings, "SESSIONSTORES", {}), "AAA": 1}
    with observed(storage, before=broken), override_settings(SESSIONSTORES=wrong):
        findings = document_of_failure("doctor")["findings"]
    # The first of the problems, whatever else is wrong.
    assert [each["id"] for each in findings[:2]] == ["sessionstores.E022", "sessionstores.E002"]
    assert findings[0]["message"].endswith("which cannot be used: no route")


@pytest.mark.engines("db:sqlite")
@pytest.mark.parametrize(
    ("policy", "limit", "told"),
    [
        *(("allkeys-lru", "100mb", True), ("volatile-ttl", "100mb", True)),
        *(("noeviction", "100mb", False), ("allkeys-lru", "0", False)),
    ],
)
@pytest.mark.engines("cache:redis-cache")
@pytest.mark.private_servers
def test_doctor_finds_that_a_full_redis_logs_users_out(
    sound: Engine, policy: str, limit: str, told: bool
) -> None:
    (server,) = sound.servers.values()
    server.cli("config", "set", "maxmemory-policy", policy)
    server.cli("config", "set", "maxmemory", limit)
    code, said = typed("doctor")
    assert (f"by its policy {policy}" in " ".join(said.split())) is told
    assert code == told


@pytest.mark.engines("cache:redis-cache", "file", "cached_db:redis-cache+postgresql", "memory")
def test_doctor_tells_of_the_index(sound: Engine) -> None:
    """The first list creates the index, and Redis can lose it."""
    has_index = sound.name in {"cache", "file"}
    assert (document("doctor")["index_is_complete"] is not None) is has_index
    assert ("Index  " in sessions("doctor")) is has_index
    if has_index:
        session = sound.SessionStore()
        session["_auth_user_id"] = "7"
        session.save()
        Inventory().list(user=7)
        assert document("doctor")["index_is_complete"] is True
    if sound.name == "cache":
        report = document("doctor")["index"]
        assert (report["sessions"], report["buckets"], report["incomplete"]) == (1, 2, 0)
        sound.storage._server.ask("DEL", *sound.storage._index.builder.directories()[:5])
        said = " ".join(sessions("doctor").split())
        assert "not complete: the next list makes it" in said
        assert "Parts missing 5" in said
        assert "Index buckets " in said
    else:
        assert document("doctor")["index"] is None


def test_doctor_tells_the_policy(sound: Engine) -> None:
    """The doctor shows the policy that is in force."""
    options = {**getattr(settings, "SESSIONSTORES", {}), "IDLE_TIMEOUT": 1800}
    with override_settings(SESSIONSTORES=options, SECRET_KEY_FALLBACKS=["a", "b"]):
        said = sessions("doctor")
        policy = document("doctor")["policy"]
    assert (policy["SESSION_COOKIE_AGE"], policy["IDLE_TIMEOUT"]) == (3600, 1800)
    assert "SESSION_COOKIE_AGE = 3600 (1 h)\n" in said.replace(" " * 17, "")
    assert "IDLE_TIMEOUT = 1800 (30 min)\n" in said
    assert "ABSOLUTE_TIMEOUT = 0 (disabled)\n" in said
    assert "TOUCH_INTERVAL = 60 (1 min)\n" in said
    assert "Encryption keys  3\n" in said
    assert "Middleware       django.contrib.sessions.middleware.SessionMiddleware\n" in said


@pytest.mark.engines("db:sqlite")
def test_doctor_never_tells_the_encryption_keys(sound: Engine) -> None:
    """The output is pasted into tickets."""
    with override_settings(SESSIONSTORES={"ENCRYPTION_KEYS": ["hush-hush"]}):
        for form in ([], ["--json"]):
            code, said = typed("doctor", *form)
            assert "sessionstores.W005" in said
            assert "hush-hush" not in said
            assert "tests only" not in said
            assert code == 1


@pytest.mark.engines("db:sqlite")
@pytest.mark.parametrize(
    ("settings", "finding"),
    [
        ({"SESSIONSTORES": {"IDEL_TIMEOUT": 5}}, "ERROR sessionstores.E002"),
        ({"SESSIONSTORES": {"IDLE_TIMEOUT": "5"}}, "IDLE_TIMEOUT = wrong, see the findings"),
        ({"SESSIONSTORES": {"ENCRYPTION_KEYS": [""]}}, "Encryption keys  wrong, see the findings"),
        ({"MIDDLEWARE": []}, "Middleware       none, so no view has a session"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_doctor_finds_what_is_wrong(sound: Engine, settings: dict[str, Any], finding: str) -> None:
    """Where a check would keep other commands from running, too."""
    with override_settings(**settings):
        code, said = typed("doctor")
    assert finding in said
    assert code == 1


@pytest.mark.engines("memory", "file", "db:sqlite", "cache:locmem", "cached_db:locmem+sqlite")
@pytest.mark.usefixtures("middleware")
def test_doctor_has_no_complaints_in_development(engine: Engine) -> None:
    """A cookie that is not Secure, a cache in one process or a folder for temporary files is a
    problem of a live site only."""
    with override_settings(DEBUG=True, SESSION_FILE_PATH=None):
        code, said = typed("doctor")
        assert code == 0, said
        assert "WARNING" not in said
        assert "INFO sessionstores.I001" in said
    with override_settings(DEBUG=False):
        assert "WARNING" in typed("doctor")[1]


@pytest.mark.parametrize(
    ("milliseconds", "said"), [(0.012, "0.012"), (0.4, "0.4"), (12.345, "12.3")]
)
def test_no_store_answers_in_no_time(milliseconds: float, said: str) -> None:
    store = Store(description="a store", milliseconds=milliseconds)
    assert texts._store_in_words(store) == f"a store: answers in {said} ms"


@pytest.mark.engines("db:sqlite")
def test_the_last_activity_is_called_what_it_is(engine: Engine) -> None:
    """If requests that only read are not recorded, the time is that of the last change."""
    session = stored(engine)
    for options, words in (
        ({"MIDDLEWARE": [OURS]}, "Last activity"),
        ({"MIDDLEWARE": [DJANGOS]}, "Last change"),
        ({"MIDDLEWARE": [DJANGOS], "SESSION_SAVE_EVERY_REQUEST": True}, "Last activity"),
    ):
        with override_settings(**options):
            assert words.upper() in sessions("list")
            assert f"\n{words} " in sessions("show", session.session_id)
            assert document("list")["records_reads"] is (words == "Last activity")


@pytest.mark.engines("db:sqlite")
def test_doctor_heeds_silenced_checks(sound: Engine) -> None:
    """The doctor does not report what the project has silenced."""
    silenced = [f"security.W01{number}" for number in range(10)]
    with override_settings(SESSION_COOKIE_SECURE=False, SILENCED_SYSTEM_CHECKS=silenced):
        assert typed("doctor")[0] == 0


@pytest.mark.engines("db:sqlite")
def test_doctor_in_silence(sound: Engine) -> None:
    """If cron runs the command, it prints something only if there is a problem."""
    assert typed("doctor", "-v0") == (0, "")
    with override_settings(SESSIONSTORES={"IDEL_TIMEOUT": 5}):
        code, said = typed("doctor", "-v0")
    assert code == 1
    assert "Did you mean 'IDLE_TIMEOUT'?" in said
    assert re.match(r"ERROR sessionstores\.E\d+\n  ", said), said


# Bad input, other engines, outages ----------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "dance",
        "list --limit 0",
        "list --limit -1",
        "list --limit many",
        "list --ip here",
        "list --idle-since yesterday",
        "list --idle-since 2026-02-30",
        "list --idle-since 999999w",
        "list --anonymous --logged-in",
        "list --anonymous --user ada",
        "list extra",
        "show",
        "show abcde",
        "show nothexadecimal",
        f"show {UNKNOWN}0",
        f"show {UNKNOWN} {UNKNOWN}",
        "stats extra",
        "end",
        "end --but abcdef",
        "end --all --but abcdef",
        "end --all --user ada",
        "end --all --user-id 7",
        "end --all --ip 192.0.2.7",
        f"end {UNKNOWN} --ip 192.0.2.7",
        "end --ip here",
        "end --ip 192.0.2.7 --but 123456",
        "end --user ada --user-id 7",
        "list --user ada --user-id 7",
        f"end --all {UNKNOWN}",
        f"end --user ada {UNKNOWN}",
        "end abcde",
        "purge extra",
        "purge --json",
        "doctor extra",
    ],
)
@pytest.mark.engines("db:sqlite")
def test_usage_errors(
    engine: Engine, user: Any, capsys: pytest.CaptureFixture[str], arguments: str
) -> None:
    """Exit code 2 and how it goes, before anything is done."""
    session = stored(engine, user.pk)
    assert (
        typed(*arguments.split(), *(["--no-input"] if "end" in arguments.split()[:1] else []))[0]
        == 2
    )
    assert "usage: manage.py sessions" in capsys.readouterr().err
    assert is_alive(engine, session)


@pytest.mark.engines("db:sqlite")
def test_a_search_for_an_address_that_is_not_stored(engine: Engine) -> None:
    """An empty list alone would say that nobody uses the address."""
    stored(engine)
    for middleware, warns in ((OURS, False), (DJANGOS, True)):
        with override_settings(MIDDLEWARE=[middleware]):
            said = typed("list", "--ip", "192.0.2.")[1]
            assert "No sessions." in said
            assert ("IP addresses are not stored, because MIDDLEWARE has no" in said) is warns
            assert "are not stored" not in typed("list")[1]


@pytest.mark.engines("db:sqlite")
def test_a_session_key_is_not_repeated(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    """A user may mistake the key for the id. The message could end up in a log."""
    key = "z" + draw_key()[1:]
    for action in ("show", "end"):
        code, said = typed(action, key)
        assert code == 2
        assert key not in said + capsys.readouterr().err


@pytest.mark.engines("db:sqlite")
def test_a_cursor_that_no_page_gave(engine: Engine) -> None:
    """It was cut off when it was copied."""
    code, said = typed("list", "--cursor", "nonsense")
    assert (code, "cursor" in said) == (1, True)


@pytest.mark.parametrize(
    "arguments", [*ACTIONS, ["end", "--all"], ["purge", "--dry-run"]], ids=" ".join
)
def test_engines_of_others(arguments: list[str]) -> None:
    """Their sessions have no ids, so they can only be purged."""
    with override_settings(SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies"):
        if arguments == ["purge"]:
            assert sessions("purge") == "The expired sessions were removed.\n"
            return
        with pytest.raises(CommandError, match=r"signed_cookies is not an engine of"):
            sessions(*arguments)


@pytest.mark.parametrize("arguments", ACTIONS, ids=" ".join)
def test_an_engine_that_is_not_there(arguments: list[str]) -> None:
    """There is no traceback, because the setting is wrong and not the package."""
    with (
        override_settings(SESSION_ENGINE="django_sessionstores.backends.nosuch"),
        pytest.raises(CommandError, match=r"SESSION_ENGINE '.*nosuch' cannot be used"),
    ):
        sessions(*arguments)


def test_an_engine_that_cannot_list_says_so(engine: Engine, user: Any) -> None:
    """An empty list would mean that nobody is logged in."""
    if engine.storage.lists:
        pytest.skip(f"{engine.id} lists")
    session = stored(engine, user.pk)
    for arguments in (
        ["list"],
        ["stats"],
        ["show", "abcdef"],
        ["end", "--all"],
        ["end", "--user", "ada"],
        ["end", "abcdef"],
        ["purge", "--dry-run"],
    ):
        with pytest.raises(CommandError, match="REGISTRY"):
            sessions(*arguments)
    assert is_alive(engine, session)


@pytest.mark.engines("cookie:unregistered")
def test_sessions_that_only_browsers_have(engine: Engine) -> None:
    """It would not be true to say that they have ended."""
    session = stored(engine)
    for action in ("show", "end"):
        with pytest.raises(CommandError, match="only the browsers have them"):
            sessions(action, session.session_id)


@pytest.mark.engines("memory", "file", "db:sqlite", "cookie:sqlite", "cache:locmem")
def test_an_outage_is_told_as_one(engine: Engine) -> None:
    """The command names the store, prints no traceback and exits with 1. It never says that there
    are no sessions."""

    def broken(*args: Any) -> None:
        raise StorageUnavailable("no route")

    stored(engine)
    storage = engine.storage
    watched = storage.registry if isinstance(storage, RegisteredStorage) else storage
    for arguments in [*ACTIONS[:-1], ["end", "--all"]]:
        if arguments == ["reindex"]:
            continue  # These have no index to ask for.
        if arguments[-1] in {"list", "stats", "--all"} and not storage.lists:
            continue
        # This one has no async twin, and so is not among the calls that are observed.
        numbers = mock.patch.object(watched, "numbers", side_effect=broken)
        with observed(watched, before=broken), numbers:
            code, said = typed(*arguments)
        assert code == 1
        assert f"The store of sessions, {storage.describe()}, could not do this: no route" in said


@pytest.mark.engines(
    "db:postgresql",
    "db:mariadb",
    "cache:redis-cache",
    "cache:django-redis",
    "cache:memcached",
    "cached_db:redis-cache+postgresql",
)
@pytest.mark.private_servers
def test_a_server_that_is_gone(engine: Engine) -> None:
    """The message is the same whatever error the client raises."""
    session = stored(engine)
    for server in engine.servers.values():
        server.kill()
    code, said = typed("end", session.session_id, "--no-input")
    assert code == 1
    message = " ".join(said.split())
    assert "The store of sessions could not do this: " in message
    stores = [message.count(store) for store in ("Redis through", "memcached at", "database '")]
    assert sorted(stores) == [0, 0, 1]
    code, said = typed("doctor")
    assert code == 1
    assert said.count("CANNOT BE USED") == len(engine.servers)
    assert not re.search("CANNOT BE USED. Redis through", " ".join(said.split()))


@pytest.mark.engines("db:sqlite")
def test_an_outage_that_stops_indexes_is_said_once(
    engine: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log of ``migrate`` has the reason in one of its lines only."""

    def fail(storage: Storage) -> None:
        error = StorageUnavailable("no route")
        if is_counted:
            OutageLog(str).failed(error)
        raise error

    monkeypatch.setattr(type(engine.storage), "make_indexes", fail)
    for is_counted in (True, False):
        caplog.clear()
        make_indexes()
        *begins, last = caplog.messages
        assert begins == ["Session store outage begins: no route"] * is_counted
        assert last.endswith("python manage.py sessions reindex." + " no route" * (not is_counted))


@pytest.mark.engines("db:sqlite")
def test_an_outage_is_said_once(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """Not in a line of the log as well, which without a LOGGING setting is on the same screen."""

    def broken(name: str) -> None:
        # The command can do without the cache, and so its error does not name it.
        for reason in ("the cache is away", "no route"):
            error = StorageUnavailable(reason)
            OutageLog(str).failed(error)
        raise error

    def logged(run: Callable[[], object]) -> list[str]:
        caplog.clear()
        with observed(engine.storage, before=broken), suppress(CommandError, SystemExit):
            run()
        return [each.getMessage().rpartition(": ")[2] for each in caplog.records]

    clear = ["manage.py", "clearsessions", "--skip-checks"]
    clearing = ClearCommand(stdout=io.StringIO(), stderr=io.StringIO())
    assert logged(lambda: typed("list")) == ["the cache is away"]
    assert logged(lambda: clearing.run_from_argv(clear)) == ["the cache is away"]
    # It names all of them.
    assert logged(lambda: typed("doctor")) == []
    # The log of a process that lives longer is read for other reasons.
    assert logged(lambda: sessions("list")) == ["the cache is away", "no route"]


@pytest.mark.engines("cache:locmem", "db:sqlite")
def test_users_that_cannot_be_read(engine: Engine) -> None:
    """The database of users is unreachable, so it would not be true that they are unknown.
    Everything that needs no names goes on, with primary keys."""

    def broken(*_: Any) -> None:
        raise OperationalError("no route")

    session = stored(engine, 7)
    with mock.patch.object(ModelIterable, "__iter__", broken):
        with pytest.raises(CommandError, match="The database of users is unreachable: no route"):
            sessions("end", "--user", "7", interactive=False)
        assert "User         primary key 7\n" in sessions("show", session.session_id)


@pytest.mark.engines("db:sqlite")
def test_an_outage_in_the_middle_of_ending(engine: Engine) -> None:
    """The operator has to know that some may live."""

    def broken(name: str) -> None:
        if name == "end_many":
            raise StorageUnavailable("no route")

    stored(engine)
    with observed(engine.storage, before=broken):
        code, said = typed("end", "--all", "--no-input")
    assert code == 1
    assert "may not have ended: run the command again" in said


@pytest.mark.engines("memory", "cache:locmem")
def test_sessions_of_another_process_are_not_seen(engine: Engine) -> None:
    """ "No sessions" would be said of a site full of people."""
    for action in ("doctor", "list"):
        code, said = typed(action)
        assert "This process cannot see the sessions of the site" in said
    assert code == 0


@pytest.mark.engines("db:sqlite")
@pytest.mark.parametrize("before", [True, False], ids=["before", "behind"])
def test_djangos_own_options_may_stand_anywhere(engine: Engine, before: bool) -> None:
    """Nobody remembers which options are of the command and which of the action."""
    stored(engine)
    options = ["--verbosity", "0", "--traceback", "--no-color", "--settings", "tests.settings"]
    action = ["end", "--all", "--no-input"]
    arguments = [*options, *action] if before else [*action, *options]
    assert typed(*arguments) == (0, "")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (0.5, "1 s"),
        (59.4, "59 s"),
        (59.5, "1 min"),
        (89, "1 min"),
        (90, "2 min"),
        (3569, "59 min"),
        (3599, "60 min"),
        (5400, "90 min"),
        (7169, "119 min"),
        (7170, "2 h"),
        (47 * 3600, "47 h"),
        (47.5 * 3600, "2 days"),
        (48 * 3600, "2 days"),
        (14 * 86_400 - 1, "14 days"),
        (2000 * 86_400, "2,000 days"),
    ],
)
def test_spans(seconds: float, text: str) -> None:
    """A span has the unit in which people think of it."""
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.5, "0.5 s"),
        (59.9996, "1 min"),
        (60, "1 min"),
        (90, "1 min 30 s"),
        (5400, "1 h 30 min"),
        (86_400, "1 day"),
        (100_000, "1 day 3 h 46 min 40 s"),
        (1_209_600, "14 days"),
        (1_209_600.0, "14 days"),
        (172_800_000, "2,000 days"),
    ],
)
def test_the_value_of_a_setting_is_not_rounded(seconds: float, text: str) -> None:
    assert format_exact_duration(seconds) == text


def test_moments() -> None:
    """A date is midnight in the project's time zone; one with an offset is itself."""
    with override_settings(TIME_ZONE="Asia/Tokyo"):
        assert selection.moment("2026-11-20").isoformat() == "2026-11-20T00:00:00+09:00"
        assert selection.moment("2026-11-20T10:00").isoformat() == "2026-11-20T10:00:00+09:00"
    given = selection.moment("2026-11-20T10:00:00+01:00")
    assert given.isoformat() == "2026-11-20T10:00:00+01:00"


# Terminals ----------------------------------------------------------------------------------------

LONG_IP = "2001:db8:1234:5678:9abc:def0:1234:5678"
MANAGE = """
import sys
from tests.cases import attach
from django.core.management import execute_from_command_line
with attach(sys.argv[1]):
    from django_sessionstores.management import reports
    from django_sessionstores.management.commands.clearsessions import Command
    reports._PATIENCE = 0.0  # The bar is there at once, where there is one.
    code = 0
    for line in sys.argv[2:]:
        if len(sys.argv) > 3:
            print("$", line.encode("ascii", "backslashreplace").decode(), flush=True)
        words = ["manage.py", *line.split()]
        try:
            if words[1] == "clearsessions":
                Command().run_from_argv(words)  # By name, it would be Django's.
            else:
                execute_from_command_line(words)
        except SystemExit as end:
            code = end.code
        sys.stdout.flush()
    sys.exit(code)
"""


def manage(
    engine: Engine, *lines: str, variables: Mapping[str, str] = {}, **options: Any
) -> subprocess.Popen[str]:
    """Command lines in a process of their own, with the exit code of the last that failed."""
    environment = {k: v for k, v in os.environ.items() if k not in {"COLUMNS", "NO_COLOR"}}
    environment |= {"TERM": "xterm", "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    environment |= variables
    return subprocess.Popen(
        [sys.executable, "-c", MANAGE, engine.id, *lines],
        cwd=ROOT,
        env=environment,
        text=True,
        **options,
    )


def through_pipes(engine: Engine, *lines: str, typed: str = "") -> tuple[int, str]:
    """Exit code and all output, where a program reads it."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = manage(engine, *lines, **pipes)
    output, _ = process.communicate(typed, timeout=120)
    return process.returncode, output


def on_terminal(
    engine: Engine,
    *lines: str,
    typed: str = "",
    columns: int = 80,
    variables: Mapping[str, str] = {},
) -> tuple[int, str]:
    """Exit code and what a person sees on a pseudo-terminal."""
    pty = pytest.importorskip("pty")
    import fcntl
    import struct
    import termios

    encoding = variables.get("PYTHONIOENCODING") or "utf-8"
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = manage(
        engine, *lines, variables=variables, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    os.write(ours, typed.encode())
    seen = b""
    try:
        while chunk := os.read(ours, 4096):
            seen += chunk
    except OSError:
        pass  # How Linux says that the other side is closed.
    finally:
        os.close(ours)
    return process.wait(120), seen.decode(encoding, "replace").replace("\r\n", "\n")


def plain(text: str) -> list[str]:
    return re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()


def widest(lines: list[str]) -> int:
    """In columns: the one character here that is wide takes two."""
    return max(len(line) + line.count("山") for line in lines)


@pytest.fixture
def crowded(engine: Engine, user: Any) -> Any:
    """Return a session whose texts are all as long as they may be."""
    user.username = "ada." + "山" * 60 + "@example.com"
    user.save()
    session = stored(engine, user.pk, LONG_IP, "Browser/1.0 " * 30)
    for _ in range(3):
        stored(engine)
    return session


@pytest.mark.engines("db:sqlite")
def test_a_list_fits_a_terminal(engine: Engine, crowded: Any) -> None:
    """A line that wraps makes a table unreadable. The head stands out."""
    code, seen = on_terminal(engine, "sessions list --limit 2")
    code, everything = on_terminal(engine, "sessions list")
    assert code == 0
    assert seen.startswith("\x1b[")
    lines = plain(seen) + plain(everything)
    assert widest(lines) <= 80
    assert crowded.session_id[:12] in everything
    assert sum("…" in line for line in plain(everything)) == 1


@pytest.mark.slow
@pytest.mark.engines("db:sqlite")
@pytest.mark.parametrize("action", ["show", "stats", "doctor"])
def test_reports_fit_a_terminal(engine: Engine, crowded: Any, action: str) -> None:
    """Long values go on in the next line, and nothing of them is lost."""
    argument = crowded.session_id if action == "show" else ""
    _, seen = on_terminal(engine, f"sessions {action} {argument}")
    lines = plain(seen)
    assert len(lines) >= 5
    assert widest(lines) <= 80
    if action == "show":
        assert seen.count("Browser/1.0") == 30


@pytest.mark.engines("db:sqlite")
def test_nothing_is_cut_or_coloured_in_a_pipe(engine: Engine, crowded: Any) -> None:
    """A program that reads it gets all of it."""
    code, piped = through_pipes(engine, "sessions list")
    assert code == 0
    assert "\x1b" not in piped
    assert "…" not in piped
    assert LONG_IP in piped
    assert "@example.com" in piped


@pytest.mark.engines("db:sqlite")
def test_a_pipe_that_closes_early_is_a_failure_without_a_traceback(engine: Engine) -> None:
    """The list of which somebody reads the beginning."""
    reading, writing = os.pipe()
    os.close(reading)
    process = manage(engine, "sessions list", stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    _, said = process.communicate(timeout=120)
    assert (process.returncode, said) == (1, "")


@pytest.mark.engines("db:sqlite")
def test_a_question_is_asked_on_a_terminal(engine: Engine, crowded: Any) -> None:
    """Exit code 0 of a run that ended nothing would be a lie; nobody types here, so it is 1."""
    code, output = through_pipes(engine, "sessions end --all", typed="n\n")
    assert (code, output) == (1, "End 4 sessions? [y/N] CommandError: Nothing was ended.\n")
    assert is_alive(engine, crowded)


HEBREW, CHINESE, ESCAPES = "דנה_כהן", "王小明🎉", "x\x1b[31mred\x1b]0;title\x07\u202e\tend\nline"
ENCODINGS: dict[str, dict[str, str]] = {
    "utf-8": {"PYTHONIOENCODING": "utf-8"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "POSIX": {
        "PYTHONIOENCODING": "",
        "LC_ALL": "POSIX",
        "LANG": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
    },
}


@pytest.fixture
def international(engine: Engine, user: Any) -> Any:
    """Sessions of users with names of all kinds. Returns the one of the first."""
    manager = get_user_model()._default_manager
    sessions = [
        stored(engine, manager.create(username=name).pk, LONG_IP, f"Browser {name}")
        for name in (HEBREW, CHINESE, ESCAPES, "n" * 150)
    ]
    return sessions[0]


def commands_with_names(session: Any) -> list[str]:
    return [
        "sessions list",
        f"sessions show {session.session_id}",
        "sessions stats",
        "sessions end --user דנה --dry-run",
        f"sessions end --user {HEBREW} --dry-run",
    ]


@pytest.mark.engines("db:sqlite")
@pytest.mark.parametrize(
    "name",
    [each if each == "POSIX" else pytest.param(each, marks=pytest.mark.slow) for each in ENCODINGS],
)
@pytest.mark.parametrize("is_terminal", [True, False], ids=["terminal", "pipe"])
def test_output_of_any_encoding(
    engine: Engine, international: Any, name: str, is_terminal: bool
) -> None:
    """Cron jobs, redirections on Windows, and old terminals; what they lack is escaped."""
    lines = commands_with_names(international)
    if is_terminal:
        _, seen = on_terminal(engine, *lines, variables=ENCODINGS[name])
        output = re.sub(r"\x1b\[[0-9;]*m", "", seen)  # The colours of the package.
    else:
        process = manage(
            engine,
            *lines,
            variables=ENCODINGS[name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="cp1252" if name == "cp1252" else "utf-8",
        )
        output, _ = process.communicate(timeout=120)
        assert "n" * 150 in output
    table = output.partition("$ sessions show")[0]
    # What was typed is not output.
    output = "\n".join(line for line in output.splitlines() if not line.startswith("$ "))
    if is_terminal:
        assert max(map(columns_of, output.splitlines())) <= 80
    assert "Traceback" not in output
    assert not set(output) & set("\x1b\x07\t\u202e")
    assert "There is no user" in output
    assert "Would end 1 session of user" in output
    assert (HEBREW in output) is (name == "utf-8")
    assert (r"\u05d3\u05e0\u05d4" in output) is (name != "utf-8")
    assert ("\u2068" in output) is (is_terminal and name == "utf-8")
    # With its fixed columns, each of four sessions has one line.
    assert len(table.strip().splitlines()) == 2 + 4


@pytest.mark.engines("db:sqlite")
def test_a_name_of_the_command_line_without_a_locale(engine: Engine, international: Any) -> None:
    """Python decodes nothing but ASCII there, and UTF-8 is what was typed."""
    with override_settings():
        assert selection.user(HEBREW) == HEBREW
        undecoded = HEBREW.encode().decode("ascii", "surrogateescape")
        with mock.patch.object(
            os, "fsencode", lambda text: text.encode("ascii", "surrogateescape")
        ):
            assert selection.user(undecoded) == HEBREW
        assert selection.user("caf\udce9") == "caf\udce9"
        assert selection.user("\ud83d") == "\ud83d"
    code, said = typed("end", "--user", "caf\udce9")
    assert (code, r"caf\udce9" in said) == (1, True)


@pytest.mark.engines("db:sqlite")
def test_a_line_break_in_a_name_forges_no_field(engine: Engine, user: Any) -> None:
    user.username = "ada\nExpires  never"
    user.save()
    session = stored(engine, user.pk, LONG_IP, "Browser\nSession  none")
    shown = sessions("show", session.session_id).splitlines()
    assert [line.split()[0] for line in shown].count("Expires") == 1
    assert sum(line.startswith("User") for line in shown) == 2
    assert len(shown) == 8
    _, said = typed("end", "--user", user.username, "--dry-run")
    assert said == "Would end 1 session of user ada Expires  never.\n"


@pytest.mark.slow
@pytest.mark.engines("db:sqlite")
def test_no_color(engine: Engine, crowded: Any) -> None:
    """The environment variable and the option; --force-color says the contrary."""

    def are_coloured(*options: str, **variables: str) -> list[bool]:
        """Return it for a report and an error, with each of some options."""
        lines = [
            f"sessions {line} {option}"
            for option in options
            for line in ("list", "end --user nobody")
        ]
        _, seen = on_terminal(engine, *lines, variables=variables)
        _, *outputs = re.split(r"\$ sessions .*\n", seen)
        return ["\x1b" in output for output in outputs]

    assert are_coloured("", "--no-color") == [True, True, False, False]
    assert are_coloured("", NO_COLOR="") == [True, True]
    without, forced = [False, False], [True, True]
    assert are_coloured("", "--force-color", NO_COLOR="1") == without + forced
    _, piped = through_pipes(engine, "sessions list --force-color")
    assert piped.startswith("\x1b[")


@pytest.mark.slow
@pytest.mark.engines("db:sqlite")
@pytest.mark.parametrize("columns", [32, 40, 60])
def test_a_list_on_a_narrow_terminal(engine: Engine, crowded: Any, columns: int) -> None:
    """The terminal is that of a phone, or half a screen wide."""
    _, seen = on_terminal(engine, "sessions list", columns=columns)
    assert len(plain(seen)) == 5
    assert widest(plain(seen)) <= max(columns, 34)
    assert crowded.session_id[:12] in seen


PREVIOUS = f"{DJANGO}.db"
LINES = (
    *("list", "list --limit 1", "show ID", "stats", "purge --dry-run", "purge", "reindex"),
    *("doctor", "end ID --dry-run", "end ID", "end --user USER --but ID", "end --all"),
    *("end abcdef", "end abc", "clear", "clear --dry-run", f"move --from {PREVIOUS} --to os"),
    *("clear-cache default --no-input", "clear-cache nosuch --no-input"),
    *(f"move --from {PREVIOUS} --dry-run", f"move --from {PREVIOUS}"),
)
BARS = ("stats", f"move --from {PREVIOUS} --dry-run", f"move --from {PREVIOUS}")
ASKS = ("end ID", "end --user USER --but ID", "end --all", "clear")
USAGE = "end abc"


@pytest.mark.engines("db:sqlite")
@pytest.mark.parametrize("screen", ["terminal", "pipe"])
def test_commands_on_a_terminal_and_in_a_pipe(engine: Engine, user: Any, screen: str) -> None:
    """No line is wrapped by the terminal, and a program gets no colours, bars or cut values."""
    empty_django()
    at_django("db")
    kept = stored(engine, user.pk, LONG_IP, "Browser/1.0 " * 30)
    put(engine, session_id("gone"), expires=now() - HOUR)
    stored(engine, user.pk)
    # Checks of the test project are not what is tried here.
    lines = ["clearsessions --skip-checks", *(f"sessions {line}" for line in LINES)]
    lines = [each.replace("ID", kept.session_id).replace("USER", "ada") for each in lines]
    run = on_terminal if screen == "terminal" else through_pipes
    _, output = run(engine, *lines, typed="n\n" * len(ASKS))
    empty_django()
    assert "Traceback" not in output
    parts = re.split(r"^\$ (.*)\n", re.sub(r"\x1b\[[0-9;]*m", "", output), flags=re.MULTILINE)
    said = dict(zip(("clearsessions", *LINES), parts[2::2], strict=True))
    assert parts[1::2] == lines
    assert output.count("Nothing was ended.") == len(ASKS)
    for line, text in said.items():
        assert text.strip(), line
        assert ("\r[####" in text) is (screen == "terminal" and line in BARS), line
        # How arguments are to be written is told by argparse, in its own way.
        if screen == "terminal" and line != USAGE:
            assert widest(text.splitlines()) <= 80, line
    if screen == "pipe":
        assert ("\x1b" in output, "\r" in output, "…" in output) == (False, False, False)
    else:
        assert "\x1b" in output
    assert is_alive(engine, kept)


@pytest.mark.slow
@pytest.mark.engines("cache:redis-cache")
def test_a_cache_on_a_terminal_and_in_a_pipe(engine: Engine) -> None:
    """The same of what is asked there, in more words."""
    session = stored(engine)
    lines = [f"sessions {each}" for each in ("clear-cache sessions", "clear", "reindex")]
    lines.append("sessions clear-cache sessions --dry-run")
    _, seen = on_terminal(engine, *lines, typed="n\n" * 2)
    assert seen.count("Nothing was ") == 2
    assert widest(plain(seen)) <= 80
    _, piped = through_pipes(engine, *lines, typed="n\n" * 2)
    assert ("\x1b" in piped, "\r" in piped, "Traceback" in piped) == (False,) * 3
    assert is_alive(engine, session)


# The documentation --------------------------------------------------------------------------------

NOON = int(datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp() * 1000)
MINUTE = HOUR // 60
TRANSCRIPT = re.compile(r"^\.\. code-block:: console\n\n((?: {4}.*\n|\n)+)", re.MULTILINE)
PROMPT = "$ python manage.py "


def transcripts(page: Path = PAGE, name: str = "sessions") -> list[tuple[str, str]]:
    """Return what is given to a command on the page, and what it says that it prints."""
    text = "\n".join(TRANSCRIPT.findall(page.read_text(encoding="utf-8")))
    text = re.sub(r"^ {4}", "", text, flags=re.MULTILINE)
    parts = [part.partition("\n") for part in text.split(PROMPT)[1:]]
    return [
        (command.removeprefix(name).strip(), output.strip("\n"))
        for command, _, output in parts
        if command.split()[0] == name
    ]


@pytest.fixture
def site(engine: Engine) -> Iterator[None]:
    """Make the site of the page: two users and two visitors, at noon."""
    users = get_user_model()._default_manager
    ada, bob = users.create(pk=7, username="ada"), users.create(pk=12, username="bob")
    agent = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)"
    rows: list[tuple[Any, int, str]] = [
        (ada.pk, 0, "192.0.2.17"),
        (ada.pk, 3, "2001:db8::42"),
        (bob.pk, 50, "198.51.100.4"),
        (None, 7 * 60, "203.0.113.80"),
        (None, 15 * 24 * 60, "203.0.113.9"),
    ]
    settings = {
        "TIME_ZONE": "UTC",
        "SESSION_COOKIE_SECURE": True,
        "MIDDLEWARE": ["django_sessionstores.middleware.SessionMiddleware"],
        "SESSIONSTORES": {
            "IDLE_TIMEOUT": 3600,
            "ENCRYPTION_KEYS": ["too short"],
            "MIGRATE_FROM": [f"{DJANGO}.db"],
        },
    }
    empty_django()
    for _ in range(3):
        at_django("db")
    with override_settings(**settings), at(NOON):
        for number, (pk, minutes, ip) in enumerate(rows):
            last = NOON - minutes * MINUTE
            put(
                engine,
                session_id(f"session {number}"),
                user_id=None if pk is None else str(pk),
                created=last - 2 * HOUR,
                last_activity=last,
                expires=last + 14 * DAY,
                ip=ip,
                user_agent=agent,
                payload=bytes(212),
            )
        yield
    users.filter(pk__in=[ada.pk, bob.pk]).delete()


def run_transcript(command: str, monkeypatch: pytest.MonkeyPatch, answer: Callable[[], str]) -> str:
    screen = Terminal()

    def ask(question: str) -> str:
        screen.write(f"{question}{answer()}\n")
        return answer()

    monkeypatch.setattr(builtins, "input", ask)
    monkeypatch.setenv("COLUMNS", "80")
    _, output = typed(*command.split(), screen=screen)
    return re.sub(r"in\s+[\d.]+ ms", "in 0.4 ms", output).strip("\n")


@pytest.mark.engines("db:sqlite")
def test_transcripts_are_true(engine: Engine, site: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The documentation shows exactly what the commands print. They run in its order, because
    ending changes what is listed."""
    shown = transcripts()
    actions = {action[0] for action in ACTIONS} | {"move", "clear"}
    assert {command.split()[0] for command, _ in shown} == actions
    for command, expected in shown:
        output = run_transcript(command, monkeypatch, lambda: "y")
        assert output == expected, command
