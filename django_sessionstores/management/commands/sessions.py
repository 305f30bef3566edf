"""``manage.py sessions``: find, count and end sessions, whatever the engine.

The options of its actions are in `management.options`, its output in `management.terminal` and
`management.reports`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from itertools import chain
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser, no_translations
from django.db import Error as DatabaseError

from ... import conf
from ...accounts.users import FoundUser, usernames
from ...conf import NAME
from ...core import clock
from ...core.lifetime import utc_datetime
from ...exceptions import StorageUnavailable
from ...inventory import Inventory, SessionInfo
from ...middleware.installed import OWN_PATH, has_package_middleware, records_reads
from ...migration import bulk
from ...migration.lazy import sources
from ...operations import cache_keys, doctor, statistics
from ...operations.checks.configuration import parts
from ...sessions.user_ids import normal_user_id
from .. import moved_engines, reports, selection
from ..engine import errors_reported, open_inventory, purge
from ..layout import single_line
from ..options import add_actions
from ..outages import outages_reported_once
from ..reports import purge_summary, quantity
from ..terminal import Terminal, exit_if_pipe_closes, respect_no_color, reword
from ..users import find_user

_TOP_USERS = 5


class Command(BaseCommand):
    """Lists, shows, counts and ends the sessions of ``SESSION_ENGINE``, and checks their store.

    Never shows a session key or session data.
    """

    help = "Find, count and end sessions, and look after the store that they are in."
    # Failing checks would keep doctor from saying what is wrong.
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        add_actions(parser)

    # Half of the output is translated, for the admin's pages; one language is easier to read.
    @no_translations
    def handle(self, *, action: str, **options: Any) -> None:
        forced = options["force_color"]
        respect_no_color(self, force_color=forced)
        self.terminal = Terminal(self, options["verbosity"], force_color=forced)
        try:
            with (
                exit_if_pipe_closes(self.stdout),
                outages_reported_once(self, reports_all=action == "doctor"),
                errors_reported(),
            ):
                getattr(self, f"_{action.replace('-', '_')}")(**options)
        except CommandError as error:
            reword(error, self.stderr)
            raise

    def _inventory(self) -> Inventory:
        inventory = open_inventory()
        if not inventory.storage.shared:
            self.terminal.warn(
                f"Sessions are in {inventory.storage.describe()}. This process cannot see the "
                "sessions of the site."
            )
        return inventory

    def _warn_without_addresses(self) -> None:
        if not has_package_middleware():
            self.terminal.warn(
                f"IP addresses are not stored, because MIDDLEWARE has no {OWN_PATH}."
            )

    def _list(self, *, json: bool, expired: bool, **options: Any) -> None:
        inventory = self._inventory()
        if options["ip"]:
            self._warn_without_addresses()
        filters = {name: options[name] for name in ("logged_in", "idle_since", "ip")}
        user = find_user(inventory, options["user"], options["user_id"], warn=self.terminal.warn)
        if user is not None:
            filters["user"] = user.id
        try:
            page = inventory.list(
                cursor=options["cursor"], limit=options["limit"], expired=expired, **filters
            )
        except ValueError as error:
            raise CommandError(str(error)) from error
        if json:
            self.terminal.write(
                reports.as_json({**page._asdict(), "records_reads": records_reads()})
            )
            return
        names = self._names(each.user_id for each in page.sessions)
        header, *lines = reports.session_table(page.sessions, names, _now(), self.terminal.screen)
        self.terminal.heading(header if lines else "No sessions.")
        self.terminal.lines(lines)
        if page.next and self.terminal.verbosity > 0:
            self.terminal.write(f"\nMore: --cursor {page.next}")

    def _show(self, *, ids: list[str], json: bool, **options: Any) -> None:
        (found,) = selection.find(self._inventory(), ids)
        if json:
            self.terminal.write(reports.as_json(found))
            return
        fields = reports.session_fields(found, self._names([found.user_id]), _now())
        self.terminal.fields(fields)

    def _stats(self, *, json: bool, **options: Any) -> None:
        inventory = self._inventory()
        if (numbers := inventory.numbers(_TOP_USERS)) is not None:
            stats = reports.stats_of(numbers)
        else:
            sessions: Iterable[SessionInfo] = inventory.iterate(expired=None)
            progress = self.terminal.with_progress(sessions, inventory.count)
            stats = reports.count(progress, _TOP_USERS)
        if conf.settings.STATISTICS:
            stats.last_day = _last_day()
        if json:
            self.terminal.write(reports.as_json(stats))
            return
        names = self._names(each.user_id for each in stats.top_users)
        self.terminal.fields(reports.stats_fields(stats, names))

    def _end(
        self,
        *,
        ids: list[str],
        user: str | None,
        user_id: str | None,
        ip: str | None,
        **options: Any,
    ) -> None:
        is_of_user = (user, user_id) != (None, None)
        if [bool(ids), is_of_user or ip is not None, options["all"]].count(True) != 1:
            options["usage_error"](
                "give one of these: IDs of sessions, --user, --user-id, --ip or --all"
            )
        if options["but"] and not is_of_user:
            options["usage_error"]("--but goes with --user or --user-id")
        if ids:
            self._end_some(ids, **options)
            return
        inventory = self._inventory()
        found = find_user(inventory, user, user_id)
        if ip is not None:
            self._end_from(inventory, ip, found, **options)
        elif found is not None:
            self._end_of_user(inventory, found, **options)
        else:
            self._end_everything(inventory, inventory.count(), **options)

    def _end_everything(self, inventory: Inventory, number: int, **options: Any) -> None:
        if not number:
            self.terminal.say("There is no live session to end.")
        elif self._is_end_confirmed(number, "", **options):
            self._report_end(inventory.end_everything)

    def _end_some(self, ids: list[str], **options: Any) -> None:
        inventory = self._inventory()
        found = selection.find(inventory, ids)
        if self._is_end_confirmed(len(found), "", **options):
            self._report_end(lambda: len(inventory.end_many(each.id for each in found)))

    def _end_from(
        self,
        inventory: Inventory,
        ip: str,
        user: FoundUser | None,
        *,
        but: str | None,
        **options: Any,
    ) -> None:
        self._warn_without_addresses()
        of_user = {} if user is None else {"user": user.id}
        kept = _kept(inventory, user, but)
        found = [each.id for each in inventory.iterate(ip=ip, **of_user)]
        ids = [each for each in found if kept is None or each != kept.id]
        owner = "" if user is None else f" of user {single_line(user.name)}"
        if self._is_end_confirmed(len(ids), f"{owner} from {ip}", **options):
            self._report_end(lambda: len(inventory.end_many(ids)))

    def _end_of_user(
        self, inventory: Inventory, user: FoundUser, *, but: str | None, **options: Any
    ) -> None:
        kept = _kept(inventory, user, but)
        number = inventory.count(user=user.id) - (kept is not None)
        if self._is_end_confirmed(number, f" of user {single_line(user.name)}", **options):
            self._report_end(lambda: inventory.end_all(user.id, but=kept.id if kept else None))

    def _clear(self, **options: Any) -> None:
        _check_answerable(**options)
        inventory = self._inventory()
        number = inventory.count()
        if self.terminal.verbosity > 0:
            for source in sources():
                self.terminal.warn(
                    f"Sessions that are still in {source.describe()} are not ended: see "
                    f"{NAME}['MIGRATE_FROM']."
                )
        if options["json"]:
            ended = 0 if options["dry_run"] else int(inventory.end_everything())
            self.terminal.write(reports.as_json({"found": number, "ended": ended}))
        else:
            self._end_everything(inventory, number, **options)

    def _clear_cache(
        self, *, alias: str, dry_run: bool, interactive: bool, json: bool, **options: Any
    ) -> None:
        _check_answerable(json=json, dry_run=dry_run, interactive=interactive, **options)
        keys = cache_keys.keys_besides_sessions(alias)
        try:
            number, removed = keys.count(), 0
            content = f"{quantity(number, 'key')} of {keys.describe()}"
            if dry_run and not json:
                self.terminal.say(f"Would remove {content}, and no session.", is_result=True)
            elif not dry_run:
                if interactive and not self.terminal.confirm(f"Remove {content}, and no session?"):
                    raise CommandError("Nothing was removed.")
                removed = keys.remove_all()
        except StorageUnavailable as error:
            raise CommandError(str(error)) from error
        if json:
            self.terminal.write(reports.as_json({"found": number, "removed": removed}))
        elif not dry_run:
            self.terminal.say(f"{quantity(removed, 'key')} removed.")

    def _purge(self, *, dry_run: bool, **options: Any) -> None:
        if dry_run:
            expired = sum(1 for _ in self._inventory().iterate(expired=True))
            would = f"Would remove {quantity(expired, 'expired session')}."
            self.terminal.say(would, is_result=True)
        else:
            self.terminal.say(purge_summary(purge()))

    def _reindex(self, **options: Any) -> None:
        inventory = self._inventory()
        made = [name for part in parts(inventory.storage) for name in part.make_indexes()]
        if made:
            self.terminal.say(f"Made these indexes: {', '.join(made)}.")
        number = inventory.reindex()
        if number is None:
            self.terminal.say("There is no index beside the sessions, and nothing to do.")
        else:
            self.terminal.say(f"{quantity(number, 'session')} in the index.")

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
        storage = moved_engines.target(settings.SESSION_ENGINE if target is None else target)
        backends = moved_engines.sources(source, from_cache)
        for each in backends:
            moved_engines.check_pair(each, storage)
            if not dry_run:
                moved_engines.check_stores(each, storage)
        if self.terminal.verbosity > 0 and not moved_engines.is_named(source):
            self.terminal.warn(
                f"{NAME}['MIGRATE_FROM'] does not name {source}: until its session is moved, a "
                "browser that comes back is logged out."
            )
        report = bulk.Report()
        move = bulk.survey if dry_run else bulk.move
        outcomes = chain.from_iterable(move(each, storage, batch) for each in backends)
        try:
            for outcome in self.terminal.with_progress(
                outcomes, lambda: sum(each.count() for each in backends)
            ):
                report.add(outcome)
        except StorageUnavailable as error:
            raise CommandError(
                f"{error} {quantity(report.moved, 'session')} moved so far. Run the command again: "
                "it goes on where it stopped."
            ) from None
        if json:
            self.terminal.write(reports.as_json(report))
        elif self.terminal.verbosity > 0:
            self.terminal.heading("Would be:" if dry_run else "Done:")
            self.terminal.fields(reports.moved_fields(report))
        if report.failures:
            raise CommandError(f"{quantity(report.failures, 'session')} cannot be moved.")

    def _doctor(self, *, json: bool, **options: Any) -> None:
        diagnosis = doctor.diagnose(self._inventory().storage, writes=True)
        if json:
            self.terminal.write(reports.as_json(diagnosis))
        else:
            if self.terminal.verbosity > 0:
                self.terminal.fields(doctor.summary(diagnosis))
            breaks, others = doctor.split_by_effect(diagnosis.findings)
            self._show_findings("What would break", breaks)
            self._show_findings("Other findings" if breaks else "", others)
        if diagnosis.problems:
            raise CommandError(f"{quantity(diagnosis.problems, 'problem')} found.")

    def _show_findings(self, title: str, findings: Sequence[doctor.Finding]) -> None:
        if title and findings:
            self.terminal.heading(f"\n{title}")
        for finding in findings:
            if self.terminal.verbosity > 0 or finding.is_wrong:
                self.terminal.heading("")
                heading = f"{finding.level.upper()} {finding.id}"
                self.terminal.heading(heading, is_result=True)
                self.terminal.fields({"": doctor.finding_in_words(finding)})

    def _names(self, user_ids: Iterable[str | None]) -> dict[str, str]:
        """Return the usernames, and warn if they cannot be read."""
        names = usernames(user_ids)
        if names.problem is not None:
            self.terminal.warn(
                f"The database of users is unreachable: {names.problem}. Users are shown by "
                "primary key."
            )
        return names

    # --- Steps of ending -------------------------------------------------------------------

    def _is_end_confirmed(
        self, number: int, owner: str, *, dry_run: bool, interactive: bool, **options: Any
    ) -> bool:
        """Return whether to end these sessions, and ask if need be.

        ``owner`` follows the number of sessions in the messages. Raises ``CommandError`` if there
        is nothing to end, or if the answer is no.
        """
        if number < 1:
            raise CommandError(f"There is no live session{owner} to end.")
        sessions = f"{quantity(number, 'session')}{owner}"
        if dry_run:
            self.terminal.say(f"Would end {sessions}.", is_result=True)
        elif interactive and not self.terminal.confirm(f"End {sessions}?"):
            raise CommandError("Nothing was ended.")
        return not dry_run

    def _report_end(self, end: Callable[[], int]) -> None:
        """End sessions, and say how many."""
        try:
            number = end()
        except StorageUnavailable as error:
            raise StorageUnavailable(
                f"{error} Some of the sessions may not have ended: run the command again."
            ) from error
        self.terminal.say(f"{quantity(number, 'session')} ended.")


def _kept(inventory: Inventory, user: FoundUser | None, prefix: str | None) -> SessionInfo | None:
    """Return the user's session with an id that ``--but`` names; ``None`` without it."""
    if user is None or prefix is None:
        return None
    (kept,) = selection.find(inventory, [prefix])
    if kept.user_id != normal_user_id(user.id):
        raise CommandError(f"Session {kept.id} is not one of user {user.name}.")
    return kept


def _now() -> datetime:
    return utc_datetime(clock.now())


def _check_answerable(
    *, json: bool, dry_run: bool, interactive: bool, usage_error: Any, **options: Any
) -> None:
    if json and interactive and not dry_run:
        usage_error("--json goes with --no-input or --dry-run")


def _last_day() -> statistics.Sums:
    try:
        return statistics.sums(_now() - timedelta(hours=23))
    except DatabaseError as error:
        raise CommandError(
            f"{NAME}['STATISTICS'] is on, and its table cannot be read: {error}. Run migrate, or "
            "set it to False."
        ) from error
