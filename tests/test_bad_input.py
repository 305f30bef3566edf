"""What nobody should give to the inventory or to a command: a clear error, and nothing ended."""

from __future__ import annotations

import io
import json
import os
import subprocess
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.core.cache import caches
from django.test import override_settings

from django_sessionstores.core.records import draw_key
from django_sessionstores.exceptions import CannotList
from django_sessionstores.inventory import Inventory
from django_sessionstores.management.commands import clearsessions
from django_sessionstores.management.commands.sessions import Command
from django_sessionstores.testing import Twin
from tests.cases import CACHE_ALIAS, Engine
from tests.management.test_sessions import manage, on_terminal, plain, stored, widest
from tests.migration.previous_backends import DJANGO
from tests.services import Redis
from tests.stored_sessions import is_alive

ID = "a" * 40
NOT_IDS: list[Any] = [
    *("", " ", "*", "%", "_", "[", "[a-f]*", "?" * 40, "%" * 40, "_" * 40, "a*" * 20, "\\"),
    *("\0", f"{ID}\0", f"{ID}\n", f" {ID}", "a" * 39, "a" * 41, "A" * 40, "g" * 40, "é" * 40),
    *("../../etc/passwd", "x" * 100_000, "\ud800" * 40, "٣" * 40, draw_key()),
    *(None, 7, b"a" * 40, [ID]),
]
FORGED = [
    *("nonsense", "*", "%", "_", "[", "\0", "-1", "1", "1.", ".", "' OR 1=1 --", "0x" + "0" * 38),
    *("A" * 40, "a" * 39, "a" * 41, f"{ID}\n", "\ud800", "٣." + ID, f"-1.{ID}", f"1e3.{ID}"),
    *("9" * 400 + f".{ID}", f"nan.{ID}", f"1.{ID}\n", f"1.{ID[:-1]}*", "inf." + ID),
]
NOBODY: list[Any] = ["nobody", "*", "%", "_", "[0-9]", "'", "10", -1, 10**30, "9" * 1000, "7 "]
NOT_USERS: list[Any] = ["", "7\0", "\0", "\ud800", AnonymousUser(), User(username="ada")]


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def inventory(request: pytest.FixtureRequest, engine: Engine) -> Any:
    return Twin(Inventory(), request.param)


@pytest.fixture
def session(engine: Engine) -> Any:
    return stored(engine, 7)


# The inventory ------------------------------------------------------------------------------------


def test_ids(engine: Engine, inventory: Any, session: Any) -> None:
    """No pattern, no path, no beginning of an id, nor the key, which is not repeated."""
    for bad in [*NOT_IDS, session.session_key]:
        for call in (inventory.get, inventory.data, inventory.end):
            with pytest.raises(ValueError, match="not a session id") as raised:
                call(bad)
            assert session.session_key not in str(raised.value)
        for but in ([bad], bad) if isinstance(bad, str) else ([bad],):
            with pytest.raises(ValueError, match="not a session id"):
                inventory.end_all(7, but=but)
            with pytest.raises(ValueError, match="not a session id"):
                inventory.end_everything(but=but)
    assert is_alive(engine, session)


def test_cursors(engine: Engine, inventory: Any, session: Any) -> None:
    """Cut off, made up, or of another engine. A list that began anew would never end."""
    if not engine.storage.lists:
        pytest.skip(f"{engine.id} declares that it cannot list")
    for forged in FORGED:
        for user in (None, 7):
            with pytest.raises(ValueError, match="cursor"):
                inventory.list(cursor=forged, user=user)
    by_id, by_expiry = ID, f"1796385420000.{ID}"
    if engine.case.database is None and any(store.server is Redis for store in engine.case.stores):
        # A full Redis has lists in the order of the ids.
        found = inventory.list(cursor=by_id).sessions
        assert [each.id for each in found if each.id <= by_id] == []
        return
    with pytest.raises(ValueError, match="cursor"):
        inventory.list(cursor=by_id if engine.storage.indexes_counts else by_expiry)


def test_numbers(engine: Engine, inventory: Any, session: Any) -> None:
    """A page of none would be asked for for ever; a huge one is what there is."""
    if not engine.storage.lists:
        pytest.skip(f"{engine.id} declares that it cannot list")
    for name in ("limit", "within"):
        for number in (0, -1, -(10**30)):
            with pytest.raises(ValueError, match=f"{name} is .*1 or more"):
                inventory.list(**{name: number})
        for odd in (2.5, "10", float("inf")):
            with pytest.raises(TypeError, match=f"{name} is .*must be of type int"):
                inventory.list(**{name: odd})
        assert len(inventory.list(**{name: 10**30}).sessions) == 1
    of_user = partial(inventory.end_all, 7)
    for call in (inventory.end_everything, inventory.purge, of_user):
        with pytest.raises(ValueError, match="most is -1; it must be 0 or more"):
            call(most=-1)
        with pytest.raises(TypeError, match="most is '1'"):
            call(most="1")
        with pytest.raises(ValueError, match="seconds is -1; it must be 0 or more"):
            call(seconds=-1)
        with pytest.raises(TypeError, match="seconds is '1'"):
            call(seconds="1")
        assert call(most=0) == 0
    assert is_alive(engine, session)


def test_users(engine: Engine, inventory: Any, session: Any) -> None:
    """A user who does not exist has no sessions. A value that cannot be a primary key is refused,
    and never means all users."""
    if not engine.storage.lists:
        pytest.skip(f"{engine.id} declares that it cannot list")
    for unknown in NOBODY:
        assert inventory.list(user=unknown).sessions == []
        assert (inventory.count(user=unknown), inventory.end_all(unknown)) == (0, 0)
    for bad in NOT_USERS:
        for call in (
            inventory.end_all,
            lambda user: inventory.list(user=user),
            lambda user: inventory.count(user=user),
        ):
            with pytest.raises(ValueError, match="no primary key"):
                call(bad)
    with pytest.raises(ValueError, match="end_everything"):
        inventory.end_all(None)
    assert is_alive(engine, session)


@pytest.mark.engines("memory", "db:sqlite", "cache:redis-cache", "cache:database-cache")
@pytest.mark.parametrize(
    ("filters", "error", "says"),
    [
        ({"logged_in": "no"}, TypeError, "logged_in"),
        ({"expired": "both"}, TypeError, "expired"),
        ({"idle_since": datetime(2026, 1, 1)}, ValueError, "time zone"),
        ({"idle_since": timedelta(days=1)}, TypeError, "idle_since"),
        ({"idle_since": "7d"}, TypeError, "idle_since"),
        ({"where": "user_id = 7"}, TypeError, "where"),
        ({"id_prefix": "*"}, ValueError, "id_prefix"),
        ({"id_prefix": "abc%"}, ValueError, "id_prefix"),
        ({"id_prefix": "ABC"}, ValueError, "id_prefix"),
        ({"id_prefix": "a" * 41}, ValueError, "id_prefix"),
        ({"id_prefix": None}, TypeError, "id_prefix"),
        ({"ip": 7}, TypeError, "ip"),
        ({"session": ID}, TypeError, "session"),
        ({"cursor": 7}, TypeError, "cursor"),
    ],
    ids=str,
)
def test_filters(
    inventory: Any, session: Any, filters: dict[str, Any], error: Any, says: str
) -> None:
    """A filter that lets all through, or none, is not what was meant."""
    with pytest.raises(error, match=says):
        inventory.list(**filters)


@pytest.mark.parametrize("path", ["", ".", ".db", "a b", "nosuch", "a..b", "\0", "os.path.nosuch"])
def test_engines_that_are_not_there(path: str) -> None:
    """An empty name is not the engine in use."""
    with pytest.raises(ImportError):
        Inventory(path)


@pytest.mark.parametrize("path", ["os", "django_sessionstores", f"{DJANGO}.db"])
def test_engines_that_are_none(path: str) -> None:
    """A module of another kind."""
    with pytest.raises(CannotList, match="is not an engine of django_sessionstores"):
        Inventory(path)


# The commands -------------------------------------------------------------------------------------


def run(*arguments: str, command: Any = Command) -> tuple[int, str, str]:
    """Exit code, and what goes to standard output and to standard error."""
    output, errors = io.StringIO(), io.StringIO()
    name = command.__module__.rpartition(".")[2]
    try:
        command(stdout=output, stderr=errors, no_color=True).run_from_argv(
            ["manage.py", name, *arguments]
        )
    except SystemExit as end:
        return int(end.code or 0), output.getvalue(), errors.getvalue()
    return 0, output.getvalue(), errors.getvalue()


WORDS = ["", "*", "%", "_", "[", "a*", "%%%%%%", "______", "[a-f]*", "abcde", "abcdeg", "a" * 41]
PREFIXES = [*WORDS, "\0" * 6, "abcdef\0", "-1", "9" * 5000, "\ud800", "../../etc"]
USERS = ["", "*", "%", "_", "[", "nobody", "ada%", "AD_", "\0", "ada\0", "\ud800", "9" * 5000]
BAD: list[tuple[int, list[str]]] = [
    *((2, ["show", each]) for each in PREFIXES),
    *((2, ["end", "--no-input", each]) for each in PREFIXES),
    *((2, ["end", "--no-input", "--user", "ada", "--but", each]) for each in PREFIXES if each),
    *((1, ["show", each]) for each in ("abcdef", ID)),
    *((1, ["end", "--no-input", each]) for each in ("abcdef", ID)),
    *((1, ["end", "--no-input", "--user", each]) for each in USERS),
    *((1, ["list", "--user", each]) for each in USERS),
    *((1, ["list", "--cursor", each]) for each in FORGED if each[0] != "-"),
    *((1, ["list", f"--cursor={each}"]) for each in FORGED),
    *((2, ["list", "--limit", each]) for each in ("0", "-1", "1.5", "1e3", "9" * 5000, "", "٣")),
    *((2, ["list", "--ip", each]) for each in ("", "*", "1.2.x", "1.2.3.4/99", "\0", "::g")),
    *(
        (2, ["list", "--idle-since", each])
        for each in ("", "7", "-1d", "7y", "*", "9" * 5000 + "d")
    ),
    (2, ["list", "--logged-in", "--anonymous"]),
    (2, ["list", "--user", "ada", "--anonymous"]),
    (2, ["list", "--colour", "blue"]),
    (2, ["stats", "--user", "ada"]),
    (2, ["stats", ID]),
    (2, ["end", "--no-input"]),
    (2, ["end", "--no-input", "--all", "--user", "ada"]),
    (2, ["end", "--no-input", "--all", ID]),
    (2, ["end", "--no-input", "--user", "ada", ID]),
    (2, ["end", "--no-input", "--all", "--but", ID]),
    (1, ["end", "--no-input", "--user", "ada", "--but", ID]),
    (2, ["end", "--all", "--json"]),
    (2, ["clear", "--no-input", "*"]),
    (2, ["clear", "--no-input", "--user", "ada"]),
    (2, ["clear", "--json"]),
    *(
        (1, ["clear-cache", "--no-input", each])
        for each in ("", "*", "%", "nosuch", "\0", "\ud800")
    ),
    (2, ["clear-cache", "--no-input"]),
    (2, ["clear-cache", "--no-input", "default", CACHE_ALIAS]),
    (2, ["clear-cache", "--json", "default"]),
    (2, ["purge", ID]),
    (2, ["purge", "--json"]),
    (2, ["purge", "--no-input"]),
    (2, ["reindex", "*"]),
    (2, ["reindex", "--json"]),
    (2, ["doctor", "*"]),
    (2, ["move"]),
    *(
        (1, ["move", "--from", each])
        for each in ("", ".", "a b", "nosuch", "os", "\0", "\ud800", "*")
    ),
    *(
        (1, ["move", "--from", f"{DJANGO}.db", "--to", each])
        for each in ("", ".", "nosuch", "os", "*")
    ),
    (1, ["move", "--from", f"{DJANGO}.cache", "--from-cache", ""]),
    (1, ["move", "--from", f"{DJANGO}.cache", "--from-cache", "nosuch"]),
    (1, ["move", "--from", f"{DJANGO}.signed_cookies"]),
    (1, ["move", "--from", "django_sessionstores.backends.db"]),
    *(
        (2, ["move", "--from", f"{DJANGO}.db", "--batch", each])
        for each in ("0", "-1", "x", "9" * 99)
    ),
    (2, ["dance"]),
    (2, [""]),
    (2, []),
]


@pytest.mark.engines("db:sqlite", "cache:database-cache", "cache:redis-cache", "file")
def test_commands(engine: Engine, user: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1 or 2, what is wrong and no traceback, nothing on standard output: a script may
    read that. And nothing is gone."""
    kept = [stored(engine, user.pk), stored(engine), stored(engine, 7)]
    caches["default"].set("page", 1)
    for expected, arguments in BAD:
        if engine.name != "db" and "django_sessionstores.backends.db" in arguments:
            continue
        code, output, errors = run(*arguments)
        usage = capsys.readouterr()
        said = (arguments, output + usage.out, errors + usage.err)
        assert (code, output + usage.out) == (expected, ""), said
        assert ("CommandError: " if code == 1 else "usage: manage.py sessions") in said[2], said
        assert "Traceback" not in said[2], said
    assert [is_alive(engine, each) for each in kept] == [True] * 3
    assert caches["default"].get("page") == 1


@pytest.mark.engines("db:sqlite")
@pytest.mark.parametrize("arguments", [["*"], ["--all"], ["--batch", "1"], ["--no-input"]], ids=str)
def test_clearsessions(
    engine: Engine, session: Any, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """It takes nothing but Django's own options."""
    code, output, _ = run(*arguments, command=clearsessions.Command)
    assert (code, output) == (2, "")
    assert "unrecognized arguments" in capsys.readouterr().err
    assert is_alive(engine, session)


@pytest.mark.engines("db:sqlite")
@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "--cursor", "nonsense"],
        ["list", "--user", "nobody"],
        ["show", ID],
        ["clear-cache", "nosuch", "--no-input"],
        ["move", "--from", "nosuch"],
    ],
    ids=lambda words: words[0],
)
def test_errors_with_json(engine: Engine, session: Any, arguments: list[str]) -> None:
    """A program that parses the output must not find half a document, or a sentence."""
    code, output, errors = run(*arguments, "--json")
    assert (code, output, errors.startswith("CommandError: ")) == (1, "", True)


@pytest.mark.engines("db:sqlite")
def test_problems_with_json(engine: Engine) -> None:
    """They are what was asked for: a whole document, and what the exit code means apart from it."""
    with override_settings(SESSIONSTORES={"ENCRYPTION_KEYS": ["short"]}):
        code, output, errors = run("doctor", "--json")
    assert (code, json.loads(output)["problems"] > 0) == (1, True)
    assert "found" in errors


@pytest.mark.parametrize("path", ["", "nosuch", "os", "a b", "."])
def test_engines(path: str) -> None:
    """SESSION_ENGINE may be wrong as well."""
    with override_settings(SESSION_ENGINE=path):
        for arguments in (["list"], ["end", "--all", "--no-input"], ["purge"], ["doctor"]):
            code, output, errors = run(*arguments)
            assert (code, output, "CommandError: " in errors) == (1, "", True), arguments
        code, output, errors = run(command=clearsessions.Command)
        assert (code, output, "Error: " in errors) == (1, "", True), errors


# Pipes and terminals ------------------------------------------------------------------------------

OTHER_LINES = (
    *("sessions list --json", "sessions stats", "sessions doctor", "sessions reindex"),
    "clearsessions --skip-checks",
)


@pytest.mark.engines("file")
@pytest.mark.parametrize(
    "line",
    [
        *("sessions list", "sessions end --all"),
        *(pytest.param(each, marks=pytest.mark.slow) for each in OTHER_LINES),
    ],
)
def test_a_closed_pipe(engine: Engine, session: Any, line: str) -> None:
    """``head`` has seen enough. A question that nobody reads is not answered with yes."""
    process: Any = manage(
        engine, line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    process.stdin.write("y\n")
    process.stdin.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(60), "Traceback" in errors, "BrokenPipe" in errors) == (1, False, False)
    assert is_alive(engine, session)


@pytest.mark.engines("file")
@pytest.mark.parametrize("stdin", ["nothing", "closed", "garbage", "empty line"])
def test_nobody_answers(engine: Engine, session: Any, stdin: str) -> None:
    """If cron or a container runs the command, it says which option is missing and ends nothing."""
    options: dict[str, Any] = {"stdin": subprocess.PIPE}
    if stdin == "nothing":
        options["stdin"] = subprocess.DEVNULL
    elif stdin == "closed":
        options["preexec_fn"] = lambda: os.close(0)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process: Any = manage(engine, "sessions end --all", "sessions clear", **pipes, **options)
    answer = {"garbage": b"\xff\xfe\n" * 2, "empty line": b"\n" * 2}.get(stdin)
    if answer is not None:
        process.stdin.buffer.write(answer)
        process.stdin.close()
        process.stdin = None
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, "Traceback" in errors) == (1, False), errors
    assert errors.count("CommandError: ") == 2
    assert ("--no-input" if answer is None else "Nothing was ended") in errors
    assert is_alive(engine, session)


@pytest.mark.engines("file")
def test_errors_fit_a_terminal(engine: Engine, session: Any) -> None:
    """They are the longest of what is said."""
    code, seen = on_terminal(engine, f"sessions move --from {DJANGO}.db --to os")
    lines = plain(seen)
    assert (code, len(lines) > 2, widest(lines) <= 80) == (1, True, True)
