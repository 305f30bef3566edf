"""Every text that people see is there in each language that the package speaks."""

from __future__ import annotations

import ast
import gettext
import pickle
import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import django
import polib
import pytest
from django.apps import apps
from django.contrib.admin.models import LogEntry
from django.test import Client, RequestFactory, override_settings
from django.utils import translation
from django.utils.translation import to_language

from django_sessionstores import middleware
from django_sessionstores.core.clock import now
from django_sessionstores.core.phrases import (
    Phrase,
    format_distance,
    format_duration,
    format_number,
    translate,
    translated_message,
)
from django_sessionstores.devices import sessions as your_sessions
from django_sessionstores.exceptions import CannotList, StorageUnavailable
from django_sessionstores.inventory import Inventory
from django_sessionstores.operations.checks.engine import report_storage
from django_sessionstores.operations.doctor import diagnose
from django_sessionstores.testing import DAY, at, observed
from testproject.management.commands.translations import update
from tests import ROOT
from tests.admin import conftest as admin_fixtures
from tests.admin.pages import (
    ONE_ENGINE,
    PAGES,
    VIEW,
    confirmed,
    detail,
    expired,
    person,
    signed_in,
    stored,
    text,
)
from tests.services import executable, skip_or_fail

PACKAGE = ROOT / "django_sessionstores"
ROOT = PACKAGE.parent
LOCALES = sorted(path.name for path in (PACKAGE / "locale").iterdir())
DJANGO = Path(django.__file__).parent
EACH = pytest.mark.parametrize("locale", LOCALES)

UPDATE = "'uv run manage.py translations'"

# Fixtures.
site, root, client = admin_fixtures.site, admin_fixtures.root, admin_fixtures.client


def catalog(locale: str, package: Path = PACKAGE) -> polib.POFile:
    return polib.pofile(str(package / "locale" / locale / "LC_MESSAGES" / "django.po"))


def po(locale: str) -> str:
    return f"django_sessionstores/locale/{locale}/LC_MESSAGES/django.po"


def key(entry: Any) -> tuple[str | None, str, str]:
    return entry.msgctxt, entry.msgid, entry.msgid_plural


def forms(entry: Any) -> list[str]:
    """Return what a text is translated to: one, or one for each plural form of the language."""
    if entry.msgid_plural:
        return [entry.msgstr_plural[number] for number in sorted(entry.msgstr_plural)]
    return [entry.msgstr]


# Catalogs -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the package, its catalogs brought up to date with its texts."""
    if executable("msgfmt") is None:
        skip_or_fail("GNU gettext is not installed. Install it with: apt-get install gettext")
    folder = tmp_path_factory.mktemp("fresh") / PACKAGE.name
    copytree(PACKAGE, folder, ignore=ignore_patterns("__pycache__"))
    update(folder, [])
    return folder


def test_languages() -> None:
    """Those of the table; a catalog that is lost would not be missed by the other tests."""
    howto = ROOT / "docs" / "howto" / "translating.rst"
    named = re.findall(r"^   \* - ``(\w+)``$", howto.read_text(encoding="utf-8"), re.MULTILINE)
    assert named == LOCALES, "Give each catalog a row of the table in docs/howto/translating.rst."


@EACH
def test_a_catalog_has_every_text(fresh: Path, locale: str) -> None:
    """Translated, and nothing that is no longer there."""
    now_there, committed = catalog(locale, fresh), catalog(locale)
    assert set(map(key, committed)) == set(map(key, now_there)), (
        f"Run {UPDATE}, which adds new texts to {po(locale)} and removes former ones."
    )
    untranslated = [entry.msgid for entry in now_there if not all(forms(entry)) or entry.fuzzy]
    assert untranslated == [], f"Translate these texts in {po(locale)}, then run {UPDATE}."
    assert now_there.obsolete_entries() == []
    assert len(committed) == len(now_there) > 200


@EACH
def test_to_bring_a_catalog_up_to_date_changes_nothing_else(fresh: Path, locale: str) -> None:
    """No date, path or name of a machine or of somebody comes in."""
    path = Path("locale", locale, "LC_MESSAGES", "django.po")
    before = (fresh / path).read_bytes()
    update(fresh, [locale])
    assert (fresh / path).read_bytes() == before
    head = (PACKAGE / path).read_text(encoding="utf-8").partition("\n\n")[0]
    assert set(catalog(locale).metadata) == {
        *("Project-Id-Version", "Language", "MIME-Version", "Content-Type"),
        *("Content-Transfer-Encoding", "Plural-Forms"),
    }
    assert "@" not in head
    assert not any(entry.occurrences for entry in catalog(locale))


def test_the_catalog_is_brought_up_to_date(fresh: Path, tmp_path: Path) -> None:
    """The command adds new texts without a translation, and removes those that no longer exist."""
    package = copytree(fresh, tmp_path / PACKAGE.name)
    page = package / "templates" / "admin" / "django_sessionstores" / "failure.html"
    source = page.read_text(encoding="utf-8")
    page.write_text(source + '{% load i18n %}{% translate "Brand new" %}', encoding="utf-8")
    overview = package / "operations" / "overview.py"
    source = overview.read_text(encoding="utf-8")
    overview.write_text(source.replace("a week or longer", "a fortnight"), encoding="utf-8")
    update(package, ["de"])
    found = catalog("de", package)
    assert {entry.msgid for entry in found.untranslated_entries()} == {"Brand new", "a fortnight"}
    assert found.find("a week or longer") is None


@EACH
def test_the_compiled_catalog_is_in_step(locale: str) -> None:
    """It is what Django reads."""
    source = catalog(locale)
    compiled = polib.mofile(str(Path(source.fpath).with_suffix(".mo")))
    assert {key(entry)[:2]: forms(entry) for entry in compiled} == {
        key(entry)[:2]: forms(entry) for entry in source
    }, f"Run {UPDATE}, which compiles {po(locale)}."
    assert compiled.metadata == source.metadata


@EACH
def test_placeholders_and_tags_are_kept(locale: str) -> None:
    """This holds for every plural form. A missing placeholder loses a number, and an additional one
    breaks the page."""

    def parts(words: str) -> Counter[str]:
        found = re.findall(r"%\(\w+\)[sd]|%[sd]|</?\w+[^>]*>|\{\.\.\.\}", words)
        # What a reader types, and names of settings and their values, are no words.
        return Counter([*found, *re.findall(r"\b(?:user|ip|id):|\b[A-Z]+_[A-Z_]+\b|'\w+'", words)])

    wrong = []
    for entry in catalog(locale):
        expected = parts(entry.msgid)
        assert not entry.msgid_plural or parts(entry.msgid_plural) == expected
        wrong += [(entry.msgid, form) for form in forms(entry) if parts(form) != expected]
    assert wrong == [], (
        f"Keep placeholders, tags and names of settings in {po(locale)}, then run {UPDATE}."
    )


PLURALS = {
    "ar": {0: 0, 1: 1, 2: 2, 3: 3, 10: 3, 11: 4, 99: 4, 100: 5, 103: 3},
    "de": {0: 1, 1: 0, 2: 1},
    "es": {0: 2, 1: 0, 2: 2, 1_000_000: 1},
    "fr": {0: 0, 1: 0, 2: 1},
    "ja": {0: 0, 1: 0, 2: 0},
    "zh_Hans": {0: 0, 1: 0, 2: 0},
}
"""By number, the plural form that the language has for it."""


@EACH
def test_plural_forms(locale: str) -> None:
    """All that the language has, each for its numbers. Django's own catalogs differ from one
    version to the next, and each catalog counts by its own."""
    found = catalog(locale)
    number, rule = re.fullmatch(
        r"nplurals=(\d); plural=(.*);", found.metadata["Plural-Forms"]
    ).groups()
    form = gettext.c2py(rule)
    assert {count: form(count) for count in PLURALS[locale]} == PLURALS[locale]
    plurals = [entry for entry in found if entry.msgid_plural]
    assert len(plurals) > 15
    assert {len(forms(entry)) for entry in plurals} == {int(number)}


def of_django(part: str, locale: str) -> Path:
    return DJANGO / part / "locale" / locale / "LC_MESSAGES" / "django.po"


@EACH
def test_words_are_those_of_django(locale: str) -> None:
    """Catalogs are one for a whole site: another word would change that of other pages, or be
    changed by theirs."""
    ours = {key(entry): forms(entry) for entry in catalog(locale)}
    differing = {}
    shared = 0
    for part in ("conf", *(f"contrib/{app}" for app in ("admin", "auth", "sessions"))):
        for entry in polib.pofile(str(of_django(part, locale))):
            if key(entry) in ours and all(forms(entry)):
                shared += 1
                if ours[key(entry)] != forms(entry):
                    differing[entry.msgid] = (forms(entry), ours[key(entry)])
    assert differing == {}, (
        "Django has these texts too, and one catalog serves the whole site. Either translate them "
        "as Django does, which is the first of the two here, or make yours another entry: write "
        "another text, or give it a context with pgettext()."
    )
    assert shared >= 6


def glossary() -> dict[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Return the words for translators: the forms in English, and those of each locale."""
    howto = (ROOT / "docs" / "howto" / "translating.rst").read_text(encoding="utf-8")
    table = howto.partition("\nWords of each language\n")[2].partition("   * - English\n")[2]
    head, *rows = ("   * - English\n" + table.partition("\n\n")[0]).split("   * - ")[1:]
    columns = [cell.strip() for cell in head.split("     - ")][1:]
    words = {}
    for row in rows:
        english, *cells = [tuple(cell.strip().split(", ")) for cell in row.split("     - ")]
        words[english] = dict(zip(columns, cells, strict=True))
    return words


def test_the_table_of_words_has_every_language() -> None:
    """In the order of the other table. Each word is in several texts."""
    assert len(glossary()) >= 10
    assert {tuple(words) for words in glossary().values()} == {tuple(LOCALES)}


HEADINGS = {"Sessions can", "Sessions cannot"}
"""Texts that need no word for sessions in other languages."""


@EACH
def test_one_word_is_used_for_one_thing(locale: str) -> None:
    """Otherwise, readers look for a difference that there is not."""
    wrong, seen = [], Counter[tuple[str, ...]]()
    for english, words in glossary().items():
        # Not in names of settings, commands and modules, nor in "user agent".
        forms_of_it = "|".join(map(re.escape, english))
        pattern = re.compile(rf"(?<![\w'./-])(?:{forms_of_it})(?![\w'/:]| agent)", re.IGNORECASE)
        for entry in catalog(locale):
            text = re.sub(r"%\(\w+\)[sd]|manage\.py [\w -]+|[A-Z_]{4,}", "", entry.msgid)
            if entry.msgid in HEADINGS or not pattern.search(text):
                continue
            seen[english] += 1
            wrong += [
                (english[0], words[locale], form)
                for form in forms(entry)
                if not any(word.lower() in form.lower() for word in words[locale])
            ]
    assert wrong == [], (
        f"Use the words of the table in docs/howto/translating.rst in {po(locale)}, or add a form "
        "to the table."
    )
    assert set(seen) == set(glossary())


MARKS = {
    **dict.fromkeys(("_", "gettext", "gettext_lazy", "gettext_noop"), (0,)),
    **dict.fromkeys(("ngettext", "ngettext_lazy"), (0, 1)),
    **dict.fromkeys(("pgettext", "pgettext_lazy"), (1,)),
}


def test_what_is_marked_in_code_is_found() -> None:
    """The extraction reads no f-string and no variable."""
    texts = {text for entry in catalog(LOCALES[0]) for text in (entry.msgid, entry.msgid_plural)}
    marked, lost = 0, []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            for place in MARKS.get(node.func.id, ()):
                argument = node.args[place]
                if ast.unparse(argument) == "text.template":  # Of a phrase, marked where it is.
                    continue
                marked += 1
                if not (isinstance(argument, ast.Constant) and argument.value in texts):
                    lost.append(f"{path.name}:{node.lineno}: {ast.unparse(argument)}")
    assert lost == [], (
        f"The catalogs lack these texts. Run {UPDATE}, which finds no variables and no f-strings."
    )
    assert marked > 150


def test_every_phrase_is_marked() -> None:
    """A template that is not marked would stay English on pages."""
    texts = {entry.msgid for entry in catalog(LOCALES[0])}
    words = 0
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Phrase":
                words += 1
                template = node.args[0]
                is_marked = isinstance(template, ast.Call) or ast.unparse(template) == "refused"
                assert is_marked, f"Mark the template with gettext_noop: {path}:{node.lineno}"
    assert words > 50
    assert len(texts) > 200


# Words --------------------------------------------------------------------------------------------

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("locale", "days", "words"),
    [
        ("en", -1, "24 hours ago"),
        ("en", -2, "2 days ago"),
        ("en", 13.4, "in 13 days"),
        ("en", 13.96, "in 14 days"),
        ("en", 3, "in 3 days"),
        ("en", -40, "40 days ago"),
        ("de", -3, "vor 3 Tagen"),
        ("de", 1, "in 24 Stunden"),
        ("fr", -15, "il y a 15 jours"),
        ("es", 400, "en 400 días"),
        ("zh_Hans", -3, "3 天前"),
        ("ja", 3, "3 日後"),
        ("ar", -2, "منذ 2 يومين"),
        ("ar", -3, "منذ 3 أيام"),
    ],
)
def test_distances(locale: str, days: float, words: str) -> None:
    """Whole, in the case and number that the language wants."""
    with translation.override(to_language(locale)):
        assert format_distance(NOON + timedelta(days=days), NOON).replace("\xa0", " ") == words


def test_pages_and_commands_tell_the_same_distance() -> None:
    """A session that expires in nearly two weeks does not do so in one."""
    for seconds in (60, 3599, 3600, 86_400, 2 * 86_400 - 1, 2 * 86_400, 14 * 86_400 - 1):
        with translation.override("en"):
            words = format_distance(NOON + timedelta(seconds=seconds), NOON).replace("\xa0", " ")
            translated_message = format_duration(seconds)
        assert words.split()[1] == translated_message.split()[0]


def test_distances_of_less_than_a_minute() -> None:
    """Seconds are not counted."""
    second = timedelta(seconds=1)
    with translation.override("en"):
        assert (
            format_distance(NOON - 59 * second, NOON) == format_distance(NOON, NOON) == "just now"
        )
        assert format_distance(NOON + 59 * second, NOON) == "in a moment"
        assert format_distance(NOON + 60 * second, NOON) == "in\xa01\xa0minute"


def test_spans_and_numbers() -> None:
    """Pages separate thousands as the language does. Commands are not translated, and use
    commas."""
    with translation.override(None):
        assert (format_number(1_209_600), format_duration(2000 * 86_400)) == (
            "1,209,600",
            "2,000 days",
        )
    with translation.override("de"):
        assert (format_number(1_209_600), format_duration(2000 * 86_400)) == (
            "1.209.600",
            "2.000 Tage",
        )


def test_phrases() -> None:
    """English in code, with what they are about; on pages translated to the last."""
    store = Phrase("files in %(folder)s", folder="/x")
    phrase = Phrase("Sessions are in %(store)s.", store=store)
    several = Phrase("The options are: %(options)s.", options=(store, "100 %"))
    error = CannotList(phrase)
    with translation.override("de"):
        assert phrase == str(error) == "Sessions are in files in /x."
        assert translate(phrase) == translated_message(error) == "Ort der Sitzungen: Dateien in /x."
        assert translate(several) == "Die Optionen sind: Dateien in /x, 100 %."
        assert translate("files in %(folder)s") == "files in %(folder)s"
        assert translated_message(StorageUnavailable("no route")) == "no route"
        assert translated_message(StorageUnavailable()) == ""
        # As Django's parallel test runner sends errors.
        sent = pickle.loads(pickle.dumps(error))
        assert (str(sent), translated_message(sent)) == (str(error), translated_message(error))
    with translation.override("ar"):
        assert translate(store) == "ملفات في \u2068/x\u2069"


def test_checks_are_in_english_and_findings_are_not() -> None:
    """Django's checks are in English whatever the language of the site is."""
    engine = "django_sessionstores.backends.memory"
    with override_settings(SESSION_ENGINE=engine, LANGUAGE_CODE="de"), translation.override("de"):
        (message,) = report_storage(None)
        findings = {each.id: each.message for each in diagnose(Inventory().storage).findings}
    assert message.msg.startswith("Sessions are in memory of this process")
    assert findings["sessionstores.I001"].startswith("Ort der Sitzungen: Arbeitsspeicher")


def test_the_page_of_an_outage() -> None:
    """The one line that the middleware says to visitors."""
    with translation.override("de"):
        page = middleware.outages.OutagePage().response(
            RequestFactory().get("/"), StorageUnavailable("no route")
        )
    assert page.content.decode().startswith("Dienst nicht verfügbar.")


# Pages --------------------------------------------------------------------------------------------


class Texts(HTMLParser):
    """The texts of a page, those of attributes that people read or hear included."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self._silent = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._silent += tag in {"script", "style"}
        named = ("title", "aria-label", "alt", "placeholder", "data-label")
        self._add(*(value for name, value in attrs if name in named and value))

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in {"script", "style"}

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self._add(data)

    def _add(self, *texts: str) -> None:
        self.found += [" ".join(text.split()) for text in texts if text.strip()]


def content(page: str) -> str:
    """Return the messages of a page and its content, without the frame of the admin."""
    translated_message = "".join(re.findall(r'<ul class="messagelist">.*?</ul>', page, re.DOTALL))
    begin = page.index('<div id="content-main"')
    return translated_message + page[begin : page.index('<footer id="footer">', begin)]


def without(site: Any, call: str) -> Any:
    """Have the store fail in one kind of call."""

    def refuse(name: str) -> None:
        if name == call:
            raise StorageUnavailable("no route")

    return observed(site.storage, before=refuse)


def pages(site: Any, root: Any, client: Client) -> Iterator[str]:
    """Yield each page, in each of its states."""
    ada = person("ada")
    with at(now() - 2 * DAY):
        session = stored(site, ada, cart={"apples": 3}, token="x", raw=b"x", nothing="")
    visitors = [stored(site) for _ in range(4)]
    expired(site)
    stored(site, root)
    person(str(ada.pk))
    gone = visitors.pop()
    Inventory().end(gone.session_id)

    def get(url: str, **parameters: str) -> str:
        return text(client.get(url, parameters, follow=True))

    yield get(PAGES)
    for state in ("expired", "all"):
        yield get(PAGES, state=state)
    for query in ("nobody", str(ada.pk), "192.0.2.77", "z" * 200):
        yield get(PAGES, q=query)
    yield get(PAGES, user=str(ada.pk))
    yield get(PAGES, cursor="nonsense")
    yield get(PAGES, _facets="True", o="user", began="week")
    yield get(f"{PAGES}end-matching/", _changelist_filters="who=visitors")
    yield text(client.post(f"{PAGES}action/", follow=True))
    yield get(PAGES, q=gone.session_id)
    yield get(f"{PAGES}overview/")
    wrong = {"REGISTRY": "wrong", "IDLE_AGES": 1, "COOKIE_PARTITIONED": True}
    with override_settings(SESSIONSTORES=wrong):
        page = get(f"{PAGES}overview/")
    yield page
    with override_settings(SESSIONSTORES={"ABSOLUTE_TIMEOUT": 7 * 86_400}):
        page = get(detail(session))
    yield page
    yield get(detail(session))
    yield get(f"{PAGES}{session.session_id}/end/")
    yield get(f"{PAGES}user/{ada.pk}/end/")
    yield get(f"{PAGES}user/{root.pk}/end/")
    yield get(f"{PAGES}end-others/")
    yield get(f"{PAGES}purge/")
    ids = [each.session_id for each in (visitors[0], gone, client.session)]
    yield text(client.post(f"{PAGES}end/", {"id": ids}))
    yield text(client.post(f"{PAGES}end/", {"id": [client.session.session_id]}))
    yield text(client.post(f"{PAGES}end/", follow=True))
    yield text(confirmed(client, f"{PAGES}end/", id=ids))
    with without(site, "end_many"):
        page = text(confirmed(client, f"{PAGES}end/", id=[visitors[1].session_id]))
    yield page
    yield text(confirmed(client, f"{PAGES}purge/"))
    yield text(confirmed(client, f"{PAGES}user/{ada.pk}/end/"))
    yield get(detail(visitors[1]))
    with without(site, "scan"):
        page = get(PAGES)
    yield page
    reader = signed_in(person("reader", VIEW))
    reader.defaults = client.defaults
    yield text(reader.get(detail(visitors[1])))


@pytest.fixture
def localised(site: Any) -> Iterator[None]:
    """Have a site that uses the language of its readers."""
    from django.conf import settings

    first, *others = settings.MIDDLEWARE
    names = [first, "django.middleware.locale.LocaleMiddleware", *others]
    with override_settings(MIDDLEWARE=names):
        yield


@ONE_ENGINE
def test_every_word_on_a_page_is_marked(
    site: Any, root: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All translations are in brackets, and only data and names of settings are outside."""
    for model in apps.get_models():
        model._meta.verbose_name_raw  # noqa: B018 - Kept for good when it is first asked for.

    def bracketed(name: str, place: int) -> None:
        original: Callable[..., str] = getattr(translation.trans_real, name)

        def marked(*args: Any) -> str:
            if not args[place]:
                return original(*args)
            # Tags in it cut it into several texts.
            return "⟦" + re.sub(r"<[^>]+>", r"⟧\g<0>⟦", original(*args)) + "⟧"

        monkeypatch.setattr(translation._trans, name, marked, raising=False)

    for name, place in (("gettext", 0), ("ngettext", 0), ("pgettext", 1), ("npgettext", 1)):
        bracketed(name, place)
    data = re.compile(
        # Ids first, which may begin with "ada".
        r"[0-9a-f]{12,40}|ada|root|reader|Firefox|Linux|Mozilla/.*|\d+\.\d+\.\d+\.\d+"
        r"|^[A-Z_]+ = .*|(?:django_sessionstores|security|sessionstores)\.[\w.]+|no route"
        # Names and types of what is in the session, and the day.
        r"|_auth_user\w+|cart|apples|token|raw|nothing|x|str|int|dict|bytes|JSON"
        r"|\d\d:\d\d:\d\d \w+|America/Chicago|You have 'django\.contrib\.sessions'.*|nobody"
    )
    unmarked = set()
    for page in pages(site, root, client):
        for found in Texts(content(page)).found:
            left = found
            while "⟦" in left:
                shorter = re.sub(r"⟦[^⟦⟧]*⟧", "", left)
                assert shorter != left, left
                left = shorter
            left = data.sub("", left)
            if re.search(r"[^\W\d_]", left):
                unmarked.add((found, left))
    assert unmarked == set()


@ONE_ENGINE
@EACH
@pytest.mark.slow
def test_pages_have_no_english_left(
    localised: None, site: Any, root: Any, client: Client, locale: str
) -> None:
    """The pages are in the language that the browser asks for."""
    language = to_language(locale)
    client.defaults["HTTP_ACCEPT_LANGUAGE"] = language
    direction = "rtl" if locale == "ar" else "ltr"
    english = [
        re.compile(re.sub(r"%\\\((\w+)\\\)[sd]", "[^.]+", re.escape(words)))
        for entry in catalog(locale)
        for words in {entry.msgid, entry.msgid_plural} - {"", *forms(entry)}
        # Placeholders alone would be found everywhere.
        if len(re.sub(r"%\(\w+\)[sd]|\W", "", words)) > 3
    ]
    spoken = {
        form
        for entry in catalog(locale)
        for form in forms(entry)
        if "%" not in form and form != entry.msgid
    }
    left, seen = set(), set[str]()
    for page in pages(site, root, client):
        assert f'<html lang="{language}" dir="{direction}">' in page
        for found in Texts(content(page)).found:
            left |= {found for pattern in english if pattern.fullmatch(found)}
            seen |= {found} & spoken
    assert left == set()
    assert len(seen) > 80


@ONE_ENGINE
@EACH
def test_pages_of_devices_have_no_english_left(
    site: Any, locale: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list in pages, its questions and their answers, in the language of the site."""
    from tests.devices import test_views as devices

    monkeypatch.setattr(your_sessions, "PER_PAGE", 2)
    # Some words are the same in both languages.
    english = {entry.msgid for entry in catalog(locale) if entry.msgid not in forms(entry)}
    left, seen = set[str](), 0
    language = to_language(locale)
    with devices.in_force(LANGUAGE_CODE=language, ROOT_URLCONF=devices.__name__):
        ada = devices.person("ada")
        browser = devices.Browser("sync", ada)
        agents = (devices.IPHONE, "curl/8.5.0", "", "iPad", devices.IPHONE)
        ids = [devices.stored(site, ada, agent=agent).session_id for agent in agents]
        for page in (
            *(browser.get(), browser.get("?page=2"), browser.get("end-others/")),
            *(browser.get(f"{ids[0]}/end/"), browser.post(f"{ids[0]}/end/")),
            *(browser.get(f"{devices.UNKNOWN}/end/"), browser.post("end-others/")),
        ):
            assert f'<html lang="{language}"' in text(page)
            found = Texts(text(page)).found
            left |= english & {*found}
            seen += len(found)
    assert left == set()
    assert seen > 100


@ONE_ENGINE
def test_english_would_be_found(site: Any, root: Any, client: Client) -> None:
    """By the texts that the test before takes from a page."""
    texts = {entry.msgid for entry in catalog(LOCALES[0])}
    found = {each for page in pages(site, root, client) for each in Texts(content(page)).found}
    assert len(found & texts) > 80


@ONE_ENGINE
def test_each_reads_the_history_in_their_language(
    localised: None, site: Any, root: Any, client: Client
) -> None:
    """Entries are stored like Django's entries of deletions, whoever has caused them."""
    session, ada = stored(site), person("ada")
    stored(site, ada)
    client.defaults["HTTP_ACCEPT_LANGUAGE"] = "fr"
    confirmed(client, f"{PAGES}{session.session_id}/end/")
    confirmed(client, f"{PAGES}user/{ada.pk}/end/")
    of_user, of_session = LogEntry.objects.all()
    assert of_session.object_repr.startswith(session.session_id[:12])
    with translation.override("de"):
        translated_message = of_session.get_change_message()
        assert translated_message.startswith(f"Sitzung „{session.session_id[:12]}")
        assert of_user.get_change_message() == "Sitzungen „ada: 1“ gelöscht."
