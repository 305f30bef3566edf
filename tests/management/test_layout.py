"""Text for terminals and pipes: nothing that users choose breaks a line, a table or the output."""

from __future__ import annotations

import io
import os
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_sessionstores.management import layout, terminal
from django_sessionstores.management.layout import Screen, single_line

FSI, LRI, PDI = "\u2068", "\u2066", "\u2069"
HEBREW = "דנה כהן"
ENCODINGS = ["utf-8", "utf-16", "ascii", "latin-1", "cp1252", "cp932", "koi8-r", "gb18030"]
ANY_TEXT = st.text(st.characters(), max_size=40) | st.text(
    st.sampled_from("a 山🎉é\u0301\u200d\ufe0f\u202eא\t\n\r\x1b\x07\x85\u2028\ud83d\xa0\u3000"),
    max_size=40,
)
SCREENS = st.builds(Screen, st.none() | st.integers(40, 120), st.sampled_from(ENCODINGS))


def columns_of(text: str) -> int:
    """Return the columns of a text with the characters of these tests, by the simplest rule."""
    wide = sum(unicodedata.east_asian_width(each) in {"W", "F"} for each in text)
    none = sum(unicodedata.category(each) in {"Mn", "Me", "Cf"} for each in text)
    jamo = sum(0x1160 <= ord(each) <= 0x11FF for each in text)
    return len(text) + wide - none - jamo


def assert_harmless(line: str, screen: Screen) -> None:
    line.encode(screen.encoding)
    rest = line.replace(FSI, "").replace(LRI, "").replace(PDI, "")
    assert all(each == " " or each.isprintable() for each in rest)
    assert line.count(PDI) == line.count(FSI) + line.count(LRI)
    assert screen.width is None or columns_of(line) <= screen.width


@given(st.lists(st.tuples(ANY_TEXT, ANY_TEXT), min_size=1, max_size=4), SCREENS)
def test_a_table_of_any_texts(rows: Any, screen: Screen) -> None:
    """One line for each row, harmless, and no wider than the terminal."""
    lines = layout.table(("ID", "NAME", "IP"), [("12ab", *row) for row in rows], screen)
    assert len(lines) == len(rows) + 1
    for line in lines:
        assert_harmless(line, screen)


@given(st.dictionaries(st.sampled_from(["User", "Agent"]), ANY_TEXT, min_size=1), SCREENS)
def test_fields_of_any_texts(values: Any, screen: Screen) -> None:
    for line in layout.fields(values, screen):
        assert_harmless(line, screen)


@given(ANY_TEXT, SCREENS)
def test_sentences_with_any_texts(text: str, screen: Screen) -> None:
    """The first line of an error is one of them, and the name of its class is before it."""
    lines = layout.wrap_text(text, screen, behind="CommandError: ").split("\n")
    for number, line in enumerate(lines):
        assert_harmless(line if number else f"CommandError: {line}", screen)


@given(ANY_TEXT)
def test_nothing_is_lost_in_a_pipe(text: str) -> None:
    """Only what is not visible is left out."""
    (line,) = layout.table(("",), [(text,)], Screen())[1:]
    assert line == single_line(text).rstrip()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tab\there", "tab here"),
        ("line\nbreak\r\x85\u2028end", "line break   end"),
        ("\x1b[31mred\x1b]0;title\x07", "[31mred]0;title"),
        ("a\u202eevil\u2066\u200b\ufeff", "aevil"),
        ("no\xa0break\u3000wide", "no break wide"),
        ("e\u0301", "e\u0301"),
        ("☺\ufe0f", "☺"),
        ("half \ud83d", r"half \ud83d"),
        ("plain", "plain"),
    ],
)
def test_one_line(text: str, shown: str) -> None:
    assert single_line(text) == shown


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", "zoë 王…"),
        ("cp1252", r"zoë \u738b…"),
        ("latin-1", r"zoë \u738b\u2026"),
        ("ascii", r"zo\xeb \u738b\u2026"),
        ("gb18030", "zoë 王…"),
    ],
)
def test_what_an_encoding_lacks_is_escaped(encoding: str, shown: str) -> None:
    """An operator can tell which user the line is about."""
    assert Screen(None, encoding).show("zoë 王…") == shown


def test_columns_stand_below_each_other() -> None:
    """Widths are counted in columns of a terminal. Some characters take two of them, and some
    none."""
    names = ["ada", "王小明", "e\u0301e\u0301", "กำลังใจ", "🎉", "한글", "\u1112\u1161\u11ab"]
    lines = layout.table(("NAME", "IP"), [(name, "|") for name in names], Screen())
    # The widest name takes six columns, and two are between the columns of the table.
    assert {columns_of(line.partition("|")[0]) for line in lines[1:]} == {6 + 2}


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_long_name_is_cut(encoding: str) -> None:
    """The cut is at the width of the terminal, between characters, and marked in the encoding of
    the terminal."""
    screen = Screen(40, encoding)
    name = "n" * 150
    (line,) = layout.table(("ID", "NAME"), [("12ab", name)], screen)[1:]
    assert len(line) == 40
    assert line.endswith("…" if encoding == "utf-8" else "...")
    (wide,) = layout.table(("ID", "NAME"), [("12ab", "山" * 150)], Screen(41))[1:]
    assert columns_of(wide) in {40, 41}
    (whole,) = layout.table(("ID", "NAME"), [("12ab", name)], Screen(None, encoding))[1:]
    assert whole.endswith(name)


def test_names_that_are_read_from_right_to_left() -> None:
    """They do not take the number beside them along, or turn their line around."""
    (row,) = layout.table(("NAME", "AGE"), [(HEBREW, "28 s")], Screen(80))[1:]
    assert row == f"{FSI}{HEBREW}{PDI}  28 s"
    (line,) = layout.fields({"User": f"{HEBREW} (primary key 7)"}, Screen(80))
    assert line == f"User  {LRI}{HEBREW} (primary key 7){PDI}"
    assert layout.wrap_text(f"{HEBREW}?", Screen(80)) == f"{LRI}{HEBREW}?{PDI}"
    assert layout.wrap_text("ada?", Screen(80)) == "ada?"


@pytest.mark.parametrize("screen", [Screen(), Screen(80, "cp1255"), Screen(80, "iso8859-8")])
def test_only_a_terminal_of_unicode_gets_isolates(screen: Screen) -> None:
    """A program would have to remove them, and others would show something else."""
    (row,) = layout.table(("NAME", "AGE"), [(HEBREW, "28 s")], screen)[1:]
    assert row == f"{HEBREW}  28 s"


def test_a_cut_name_is_isolated_whole() -> None:
    (row,) = layout.table(("ID", "NAME"), [("12ab", HEBREW * 20)], Screen(40))[1:]
    assert row.startswith(f"12ab  {FSI}{HEBREW}")
    assert row.endswith(f"…{PDI}")


class Stream(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def test_the_width_is_that_of_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """The width is not that of stdout, which may be a pipe. ``COLUMNS`` overrides it."""
    monkeypatch.delenv("COLUMNS", raising=False)
    stream = Stream()
    monkeypatch.setattr(stream, "fileno", lambda: 7, raising=False)
    sizes = {7: os.terminal_size((123, 24))}
    monkeypatch.setattr(
        os, "get_terminal_size", lambda fd=1: sizes.get(fd, os.terminal_size((80, 24)))
    )
    assert terminal.screen_of(stream) == Screen(123, "utf-8")
    monkeypatch.setenv("COLUMNS", "44")
    assert terminal.screen_of(stream) == Screen(44, "utf-8")
    assert terminal.screen_of(io.StringIO()) == Screen(None, "utf-8")
