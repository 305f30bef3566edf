"""``manage.py sessions``: which sessions there are, and how to end them, whatever the engine."""

from __future__ import annotations

import shutil
from argparse import SUPPRESS, ArgumentParser
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser, no_translations
from django.db import Error as DatabaseError

from ... import adoption, conf, doctor, session, tally
from ...conf import NAME
from ...exceptions import StorageUnavailable
from ...inventory import Inventory, SessionInfo
from ...lifetime import aware
from ...users import usernames
from .. import cache_keys, moving, reports, selection
from ..engine import counted, errors_reported, open_inventory, purge, purged, until_nobody_reads
from ..users import find_user_id

T = TypeVar("T")

_TOP_USERS = 5


class Command(BaseCommand):
    """Lists, shows, counts and ends the sessions of ``SESSION_ENGINE``, and says how it is.

    Never shows a session key, nor what is in a session.
    """

    help = "Find, count and end sessions, and look after the store that they are in."
    # They would keep doctor from saying what is wrong.
    requires_system_checks = []

    # --- Arguments -------------------------------------------------------------------------

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

        def add(name: str, words: str, *, json: bool = True) -> Any:
            # Of the same class as the parser, see CommandParser.
            action = actions.add_parser(name, help=words, description=words)
            _add_general_options(action)
            if json:
                action.add_argument("--json", action="store_true", help="one JSON document")
            return action

        self._add_list_arguments(add("list", "List live sessions, page by page."))
        shown = add("show", "Show one session, but not what is in it.")
        shown.add_argument("ids", nargs=1, metavar="ID", type=selection.id_prefix, help=_ID)
        add("stats", "Count the sessions, in one pass over all of them.")
        self._add_end_arguments(add("end", "End sessions: who has one is logged out.", json=False))
        cleared = add("clear", "End every session, and touch nothing else in the store.")
        _add_asking_options(cleared)
        emptied = add("clear-cache", "Remove all keys of a cache but those of sessions.")
        emptied.add_argument("alias", metavar="ALIAS", help="the cache's name in CACHES")
        _add_asking_options(emptied)
        removed = add("purge", "Remove expired sessions, as clearsessions does.", json=False)
        removed.add_argument("--dry-run", action="store_true", help="only count them")
        add("reindex", "Make the index of sessions anew, where there is one.", json=False)
        self._add_move_arguments(add("move", "Move all sessions from one engine to another."))
        add("doctor", "Tell how sessions are kept, and what is wrong. Exit code 1 if anything is.")

    def _add_list_arguments(self, parser: ArgumentParser) -> None:
        who = parser.add_mutually_exclusive_group()
        who.add_argument("--user", metavar="USER", help="only of this primary key or username")
        who.add_argument(
            "--logged-in", action="store_true", default=None, help="only of logged-in users"
        )
        who.add_argument(
            "--anonymous",
            action="store_false",
            dest="logged_in",
            default=None,
            help="only of visitors",
        )
        parser.add_argument(
            "--idle-since",
            metavar="WHEN",
            type=selection.moment,
            help="only without activity for 30m, 12h, 7d, 2w, or since a date",
        )
        parser.add_argument("--ip", type=selection.address, help="only last used from there")
        parser.add_argument(
            "--expired", action="store_true", help="the expired that are not purged, instead"
        )
        parser.add_argument(
            "--limit", metavar="N", type=selection.positive, default=50, help="at most N (50)"
        )
        parser.add_argument("--cursor", default="", help="go on where a former page ended")

    def _add_end_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("ids", nargs="*", metavar="ID", type=selection.id_prefix, help=_ID)
        parser.add_argument("--user", metavar="USER", help="all of this primary key or username")
        parser.add_argument(
            "--but", metavar="ID", type=selection.id_prefix, help="with --user: not this one"
        )
        parser.add_argument("--all", action="store_true", help="all of all users and visitors")
        _add_asking_options(parser)

    def _add_move_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--from", dest="source", metavar="ENGINE", required=True, help="a former SESSION_ENGINE"
        )
        parser.add_argument(
            "--from-cache", metavar="ALIAS", help="its SESSION_CACHE_ALIAS, if it was another one"
        )
        parser.add_argument(
            "--to", dest="target", metavar="ENGINE", help="SESSION_ENGINE unless given"
        )
        parser.add_argument(
            "--batch",
            metavar="N",
            type=selection.positive,
            default=500,
            help="read N at once (500)",
        )
        parser.add_argument("--dry-run", action="store_true", help="only say what would be done")

    # --- Actions ---------------------------------------------------------------------------

    # Half of what it says is translated, for the pages: one language is easier to read.
    @no_translations
    def handle(self, *, action: str, **options: Any) -> None:
        self.verbosity: int = options["verbosity"]
        try:
            with until_nobody_reads(self.stdout), errors_reported():
                getattr(self, f"_{action.replace('-', '_')}")(**options)
        except CommandError as error:
            error.args = (
                reports.wrapped(str(error), _width(self.stderr), behind="CommandError: "),
            )
            raise

    def _inventory(self) -> Inventory:
        inventory = open_inventory()
        if not inventory.storage.shared and self.verbosity > 0:
            self._note(
                f"Sessions are in {inventory.storage.describe()}: those of the site are not seen "
                "from here."
            )
        return inventory

    def _list(self, *, json: bool, expired: bool, **options: Any) -> None:
        inventory = self._inventory()
        filters = {name: options[name] for name in ("logged_in", "idle_since", "ip")}
        if options["user"] is not None:
            filters["user"] = find_user_id(options["user"])
        try:
            page = inventory.list(
                cursor=options["cursor"], limit=options["limit"], expired=expired, **filters
            )
        except ValueError as error:
            raise CommandError(str(error)) from error
        if json:
            self.stdout.write(reports.as_json(page._asdict()))
            return
        names = self._names(page.sessions)
        header, *lines = reports.session_table(page.sessions, names, self._now, self._width)
        self._head(header if lines else "No sessions.")
        self._lines(lines)
        if page.next and self.verbosity > 0:
            self.stdout.write(f"\nMore: --cursor {page.next}")

    def _show(self, *, ids: list[str], json: bool, **options: Any) -> None:
        (found,) = selection.find(self._inventory(), ids)
        if json:
            self.stdout.write(reports.as_json(found))
            return
        fields = reports.session_fields(found, self._names([found]), self._now)
        self._lines(reports.fields(fields, self._width))

    def _stats(self, *, json: bool, **options: Any) -> None:
        inventory = self._inventory()
        sessions: Iterable[SessionInfo] = inventory.iterate(expired=None)
        stats = reports.count(self._with_progress(sessions, inventory.count), _TOP_USERS)
        if conf.settings.TALLY:
            stats.last_day = _last_day()
        if json:
            self.stdout.write(reports.as_json(stats))
            return
        names = usernames(each.user_id for each in stats.top_users)
        self._lines(reports.fields(reports.stats_fields(stats, names), self._width))

    def _end(self, *, ids: list[str], user: str | None, **options: Any) -> None:
        if [bool(ids), user is not None, options["all"]].count(True) != 1:
            options["usage_error"]("name sessions by ID, or give --user, or --all")
        if options["but"] and user is None:
            options["usage_error"]("--but goes with --user")
        if ids:
            self._end_some(ids, **options)
        elif user is not None:
            self._end_of_user(find_user_id(user), user, **options)
        else:
            inventory = self._inventory()
            if self._agreed(inventory.count(), "", **options):
                self._ended(inventory.end_everything)

    def _end_some(self, ids: list[str], **options: Any) -> None:
        inventory = self._inventory()
        found = selection.find(inventory, ids)
        if self._agreed(len(found), "", **options):
            self._ended(lambda: sum([inventory.end(each.id) for each in found]))

    def _end_of_user(self, user_id: str, name: str, *, but: str | None, **options: Any) -> None:
        inventory = self._inventory()
        kept = selection.find(inventory, [but])[0] if but else None
        if kept and kept.user_id != user_id:
            raise CommandError(f"Session {kept.id} is not one of user {name}.")
        number = inventory.count(user=user_id) - (kept is not None)
        if self._agreed(number, f" of user {reports.printable(name)}", **options):
            self._ended(lambda: inventory.end_all(user_id, but=kept.id if kept else None))

    def _clear(self, **options: Any) -> None:
        _check_answerable(**options)
        inventory = self._inventory()
        number = inventory.count()
        if self.verbosity > 0:
            for former in adoption.formers():
                self._note(
                    f"Sessions that are still in {former.describe()} are not ended: see "
                    f"{NAME}['MIGRATE_FROM']."
                )
        if options["json"]:
            ended = 0 if options["dry_run"] else inventory.end_everything()
            self.stdout.write(reports.as_json({"found": number, "ended": ended}))
        elif self._agreed(number, "", **options):
            self._ended(inventory.end_everything)

    def _clear_cache(
        self, *, alias: str, dry_run: bool, interactive: bool, json: bool, **options: Any
    ) -> None:
        _check_answerable(json=json, dry_run=dry_run, interactive=interactive, **options)
        keys = cache_keys.others_in(alias)
        try:
            number, removed = keys.count(), 0
            which = f"{counted(number, 'key')} of {keys.describe()}"
            if dry_run and not json:
                self._say(f"Would remove {which}, and no session.")
            elif not dry_run:
                if interactive and not self._confirmed(f"Remove {which}, and no session?"):
                    raise CommandError("Nothing was removed.")
                removed = keys.remove_all()
        except StorageUnavailable as error:
            raise CommandError(str(error)) from error
        if json:
            self.stdout.write(reports.as_json({"found": number, "removed": removed}))
        elif not dry_run:
            self._say(f"{counted(removed, 'key')} removed.")

    def _purge(self, *, dry_run: bool, **options: Any) -> None:
        if dry_run:
            expired = sum(1 for _ in self._inventory().iterate(expired=True))
            self._say(f"Would remove {counted(expired, 'expired session')}.")
        else:
            self._say(purged(purge()))

    def _reindex(self, **options: Any) -> None:
        number = self._inventory().reindex()
        if number is None:
            self._say("There is no index beside the sessions, and nothing to do.")
        else:
            self._say(f"{counted(number, 'session')} in the index.")

    def _move(
        self,
        *,
        source: str,
        from_cache: str | None,
        target: str | None,
        batch: int,
        dry_run: bool,
        json: bool,
        **options: Any,
    ) -> None:
        storage = moving.target(settings.SESSION_ENGINE if target is None else target)
        former = moving.source(source, from_cache)
        moving.check_pair(former, storage)
        if self.verbosity > 0 and not moving.is_named(source):
            self._note(
                f"{NAME}['MIGRATE_FROM'] does not name {source}: until its session is moved, a "
                "browser that comes back is logged out."
            )
        report = moving.Report()
        outcomes = (moving.survey if dry_run else moving.move)(former, storage, batch)
        try:
            for outcome in self._with_progress(outcomes, former.count):
                report.add(outcome)
        except StorageUnavailable as error:
            raise CommandError(
                f"{error} {counted(report.moved, 'session')} moved so far. Run the command again: "
                "it goes on where it stopped."
            ) from None
        if json:
            self.stdout.write(reports.as_json(report))
        elif self.verbosity > 0:
            self._head("Would be:" if dry_run else "Done:")
            self._lines(reports.fields(reports.moved_fields(report), self._width))
        if report.failures:
            raise CommandError(f"{counted(report.failures, 'session')} cannot be moved.")

    def _doctor(self, *, json: bool, **options: Any) -> None:
        diagnosis = doctor.diagnose(self._inventory().storage)
        if json:
            self.stdout.write(reports.as_json(diagnosis))
        elif self.verbosity > 0:
            self._lines(reports.fields(doctor.summary(diagnosis), self._width))
        for finding in () if json else diagnosis.findings:
            if self.verbosity > 0 or finding.is_wrong:
                self._head(f"\n{finding.level.upper()} {finding.id}")
                self._lines(reports.fields({"": doctor.in_words(finding)}, self._width))
        if diagnosis.problems:
            raise CommandError(f"{counted(diagnosis.problems, 'problem')} found.")

    # --- Steps of ending -------------------------------------------------------------------

    def _agreed(
        self, number: int, whose: str, *, dry_run: bool, interactive: bool, **options: Any
    ) -> bool:
        """Whether to go on. Raises ``CommandError`` where there is nothing to end."""
        if number < 1:
            raise CommandError(f"There is no live session{whose} to end.")
        sessions = f"{counted(number, 'session')}{whose}"
        if dry_run:
            self._say(f"Would end {sessions}.")
        elif interactive and not self._confirmed(f"End {sessions}?"):
            raise CommandError("Nothing was ended.")
        return not dry_run

    def _ended(self, end: Callable[[], int]) -> None:
        try:
            number = end()
        except StorageUnavailable as error:
            raise StorageUnavailable(
                f"{error} Some of the sessions may not have ended: run the command again."
            ) from error
        self._say(f"{counted(number, 'session')} ended.")

    # --- Output ----------------------------------------------------------------------------

    @property
    def _now(self) -> datetime:
        return aware(session.now())

    @property
    def _width(self) -> int | None:
        """Columns of the terminal; ``None`` for a pipe, where nothing is cut."""
        return _width(self.stdout)

    def _with_progress(self, items: Iterable[T], total: Callable[[], int]) -> Iterable[T]:
        if not self.stderr.isatty():
            return items
        draw = partial(self.stderr.write, style_func=str, ending="")
        return reports.with_progress(items, total, draw)

    def _names(self, sessions: Iterable[SessionInfo]) -> dict[str, str]:
        return usernames(each.user_id for each in sessions)

    def _say(self, text: str) -> None:
        if self.verbosity > 0:
            self.stdout.write(reports.wrapped(text, self._width))

    def _note(self, text: str) -> None:
        """Say what is not what was asked for."""
        self.stderr.write(reports.wrapped(text, _width(self.stderr)))

    def _confirmed(self, question: str) -> bool:
        try:
            answer = input(reports.wrapped(f"{question} [y/N] ", self._width))
        except (EOFError, RuntimeError):  # The latter where there is no standard input at all.
            raise CommandError("Nobody is there to answer; give --no-input.") from None
        except (KeyboardInterrupt, UnicodeDecodeError):
            return False
        return answer.strip().lower() in {"y", "yes"}

    def _head(self, text: str) -> None:
        if self.verbosity > 0:
            self.stdout.write(self.style.MIGRATE_HEADING(text) if self.stdout.isatty() else text)

    def _lines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.stdout.write(line)


_ID = "a session id, or its first 6 characters or more"


def _add_general_options(parser: ArgumentParser) -> None:
    """Take Django's own options behind the name of the action as well as before it."""
    parser.add_argument("-v", "--verbosity", type=int, choices=range(4), default=SUPPRESS)
    for option in ("--settings", "--pythonpath"):
        parser.add_argument(option, default=SUPPRESS, help=SUPPRESS)
    for flag in ("--traceback", "--no-color", "--force-color"):
        parser.add_argument(flag, action="store_true", default=SUPPRESS, help=SUPPRESS)


def _add_asking_options(parser: ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument(
        "--no-input", "--noinput", action="store_false", dest="interactive", help="do not ask"
    )
    parser.set_defaults(usage_error=parser.error)


def _check_answerable(
    *, json: bool, dry_run: bool, interactive: bool, usage_error: Any, **options: Any
) -> None:
    if json and interactive and not dry_run:
        usage_error("--json goes with --no-input or --dry-run")


def _width(stream: Any) -> int | None:
    return shutil.get_terminal_size().columns if stream.isatty() else None


def _last_day() -> tally.Sums:
    try:
        return tally.sums(aware(session.now()) - timedelta(hours=23))
    except DatabaseError as error:
        raise CommandError(
            f"{NAME}['TALLY'] is on, and its table cannot be read: {error}. Run migrate, or set it "
            "to False."
        ) from error
