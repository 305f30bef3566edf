"""``manage.py translations``: catalogs that have the texts of the package as they are now."""

import re
import subprocess
import tempfile
from contextlib import chdir
from pathlib import Path
from shutil import copytree, which
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.management.commands import makemessages
from django.utils.translation import get_language_info, to_language

PACKAGE = Path(__file__).resolve().parents[3] / "django_sessionstores"
HEADER = """\
# {name} texts of django-sessionstores, under its license.
msgid ""
msgstr ""
"Project-Id-Version: django-sessionstores\\n"
"Language: {locale}\\n"
"MIME-Version: 1.0\\n"
"Content-Type: text/plain; charset=UTF-8\\n"
"Content-Transfer-Encoding: 8bit\\n"
{plural_forms}
"""


class Command(BaseCommand):
    """Brings catalogs up to date, compiles them and lists what is not translated."""

    help = (
        "Take the texts of the package into its catalogs, compile these, and list what is not "
        "translated. It needs GNU gettext."
    )
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "locales",
            nargs="*",
            metavar="locale",
            help="as zh_Hans; one that is not there is begun (all that are there)",
        )
        parser.add_argument("--missing", action="store_true", help="only list, and change nothing")

    def handle(self, *, locales: list[str], missing: bool, **options: Any) -> None:
        if which("msgfmt") is None:
            raise CommandError(
                "GNU gettext is not installed. Install it with: apt-get install gettext"
            )
        if not missing:
            complete = self._update(PACKAGE, locales)
        else:
            with tempfile.TemporaryDirectory() as folder:
                complete = self._update(copytree(PACKAGE, Path(folder, PACKAGE.name)), locales)
        if not complete:
            raise CommandError(
                "Not all is translated. "
                + (
                    "Without --missing, this command adds the texts to the catalogs."
                    if missing
                    else "Translate the texts above, then run this command again."
                )
            )

    def _update(self, package: Path, locales: list[str]) -> bool:
        """Whether all is translated then."""
        catalogs = update(package, locales)
        untranslated = [self._report(catalog) for catalog in catalogs]
        return not any(untranslated)

    def _report(self, catalog: Path) -> bool:
        """Tell what is not translated; whether that is something."""
        locale, path = catalog.parts[-3], catalog.relative_to(catalog.parents[4])
        options = ["--no-wrap", "--no-obsolete"]
        entries = _run("msgattrib", "--untranslated", *options, str(catalog)).partition("\n\n")[2]
        entries += _run("msgattrib", "--only-fuzzy", *options, str(catalog)).partition("\n\n")[2]
        if not entries:
            self.stdout.write(f"{locale}: complete")
        else:
            self.stdout.write(
                f"{locale}: translate these texts in {path}:\n\n{entries.strip()}\n\n"
            )
        return bool(entries)


def update(package: Path, locales: list[str]) -> list[Path]:
    """Bring the catalogs of a package up to date and compile them; all of it unless some are
    named."""
    folder = package / "locale"
    folder.mkdir(exist_ok=True)
    locales = locales or sorted(path.name for path in folder.iterdir())
    with chdir(package):
        call_command(_MakeMessages(), locale=locales, verbosity=0, no_location=True, no_wrap=True)
    catalogs = [folder / locale / "LC_MESSAGES" / "django.po" for locale in locales]
    for catalog in catalogs:
        compiled = catalog.with_suffix(".mo")
        _run("msgfmt", "--check-format", "-o", str(compiled), str(catalog))
    return catalogs


class _MakeMessages(makemessages.Command):
    """Django's, without what would differ at each run, and without guesses."""

    msgmerge_options = [*makemessages.Command.msgmerge_options, "--no-fuzzy-matching"]

    def handle(self, *args: Any, **options: Any) -> None:
        super().handle(*args, **{**options, "no_obsolete": True})

    def write_po_file(self, potfile: str, locale: str) -> None:
        super().write_po_file(potfile, locale)
        catalog = Path(potfile).parent / locale / "LC_MESSAGES" / "django.po"
        header, _, entries = catalog.read_text(encoding="utf-8").partition("\n\n")
        plural_forms = re.search(r'^"Plural-Forms:.*"$', header, re.MULTILINE)
        if plural_forms is None:
            raise CommandError(f"Django has no plural forms for {locale}: write them in {catalog}.")
        name = get_language_info(to_language(locale))["name"]
        header = HEADER.format(name=name, locale=locale, plural_forms=plural_forms[0])
        catalog.write_text(f"{header}\n{entries}", encoding="utf-8")


def _run(*command: str) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise CommandError(done.stdout)
    return done.stdout
