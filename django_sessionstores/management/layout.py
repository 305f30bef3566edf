"""Text laid out for a terminal or a pipe: its width, its encoding, and the direction of names.

Names and user agents are chosen by users. Nothing of them may move the cursor, break a line, turn
it around, or fail to be written.
"""

from __future__ import annotations

import codecs
import unicodedata
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

_GAP: Final = "  "
_NARROWEST: Final = (8, 3)
"""Columns of the terminal that each column of a table keeps, and on a very narrow terminal."""
_ELLIPSIS: Final = "…"
_RIGHT_TO_LEFT: Final = frozenset({"R", "AL"})


class Screen(NamedTuple):
    """The terminal or pipe for which a text is laid out."""

    width: int | None = None
    """The columns of the terminal; ``None`` for a pipe, for which nothing is cut."""
    encoding: str = "utf-8"

    def encode(self, text: str) -> str:
        """Return the text with escapes in place of the characters that the encoding lacks."""
        if text.isascii():
            return text
        return text.encode(self.encoding, "backslashreplace").decode(self.encoding)

    def show(self, text: str) -> str:
        """Return the text as one line that can be written, see `single_line`."""
        return self.encode(single_line(text))

    @property
    def ellipsis(self) -> str:
        """What stands for the end of a text that was cut."""
        return _ELLIPSIS if self.encode(_ELLIPSIS) == _ELLIPSIS else "..."

    def isolate(self, text: str, mark: str = "\N{FIRST STRONG ISOLATE}") -> str:
        """Return the text so that it does not change the order of what stands beside it.

        That is only needed for text that is read from right to left, and for terminals. A program
        that reads a pipe gets the text alone.
        """
        if self.width is None or not _is_right_to_left(text):
            return text
        if not codecs.lookup(self.encoding).name.startswith("utf"):
            return text
        return f"{mark}{text}\N{POP DIRECTIONAL ISOLATE}"

    def isolate_line(self, text: str) -> str:
        """Return the text so that its line is read from left to right, whatever is in it."""
        return self.isolate(text, "\N{LEFT-TO-RIGHT ISOLATE}")


def single_line(text: str) -> str:
    """Return a text without the characters that could move a terminal's cursor or break a line.

    Any white space becomes a space. Invisible characters are left out: terminals do not agree on
    the width of a text with them, and some of them change its direction.
    """
    if text.isascii() and text.isprintable():
        return text
    # A surrogate, which stands for an undecodable byte of a command line, becomes an escape.
    text = text.encode(errors="backslashreplace").decode()
    return "".join(
        " " if each.isspace() else each
        for each in text
        if each.isspace() or (each.isprintable() and not _is_variation_selector(each))
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]], screen: Screen) -> list[str]:
    """Return the lines of a table.

    If they do not fit the screen, the widest columns are cut, except the first.
    """
    cells = [header, *([screen.show(cell) for cell in row] for row in rows)]
    widths = [max(map(columns, column)) for column in zip(*cells, strict=True)]
    if screen.width:
        for narrowest in _NARROWEST:
            _narrow(widths, screen.width - len(_GAP) * (len(widths) - 1), narrowest)
    return [
        _GAP.join(_fill(*each, screen) for each in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def _narrow(widths: list[int], most: int, narrowest: int) -> None:
    """Reduce the widths of the widest columns until their sum is at most ``most``."""
    while sum(widths) > most:
        # The first column is the id, which is needed whole.
        widest = max(range(1, len(widths)), key=widths.__getitem__)
        if widths[widest] <= narrowest:
            break
        widths[widest] -= 1


def fields(values: Mapping[str, str], screen: Screen) -> list[str]:
    """Return a line for each name and value. Long values continue on the next line."""
    indent = max(map(len, values)) + len(_GAP)
    lines: list[str] = []
    for name, value in values.items():
        texts = map(screen.show, value.split("\n"))
        width = screen.width and screen.width - indent
        pieces = [piece for text in texts for piece in _wrap_line(text, width)]
        lines += [
            f"{'' if number else name:<{indent}}{screen.isolate_line(piece)}".rstrip()
            for number, piece in enumerate(pieces)
        ]
    return lines


def wrap_text(text: str, screen: Screen, *, behind: str = "") -> str:
    """Return a text in lines that fit. ``behind`` stands before the text on the first line."""
    lines = [
        line
        for each in f"{behind}{text}".split("\n")
        for line in _wrap_line(screen.show(each), screen.width)
    ]
    lines[0] = lines[0][len(behind) :]
    return "\n".join(map(screen.isolate_line, lines))


def _wrap_line(text: str, width: int | None) -> list[str]:
    """Return the lines of a text, broken at spaces if there are any.

    ``textwrap`` cannot do this, because it counts one column for every character.
    """
    lines: list[str] = []
    while width and columns(text) > width:
        fitting = len(_beginning(text, max(width, 2 * _NARROWEST[0])))
        end = text.rfind(" ", 1, fitting + 1)
        lines.append(text[: end if end > 0 else fitting])
        text = text[len(lines[-1]) :].lstrip()
    return [*lines, text]


# --- Characters ----------------------------------------------------------------------------


def columns(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return len(text) if text.isascii() else sum(map(_column, text))


def _column(character: str) -> int:
    if unicodedata.category(character) in {"Mn", "Me"} or _is_joined_jamo(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _is_joined_jamo(character: str) -> bool:
    """Return whether this is a vowel or a final consonant of Korean, drawn in its syllable."""
    return "\u1160" <= character <= "\u11ff"


def _is_variation_selector(character: str) -> bool:
    """Return whether this selects a form of the character before it, which may be wider."""
    return "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"


def _is_right_to_left(text: str) -> bool:
    return not text.isascii() and any(
        unicodedata.bidirectional(each) in _RIGHT_TO_LEFT for each in text
    )


def _beginning(text: str, width: int) -> str:
    """Return as much of the text as fits."""
    return text[: bisect_right([*accumulate(map(_column, text))], width)]


def _fill(text: str, width: int, screen: Screen) -> str:
    """Return the text in exactly ``width`` columns, cut if necessary."""
    if columns(text) > width:
        ellipsis = screen.ellipsis[:width]
        text = _beginning(text, width - len(ellipsis)) + ellipsis
    return screen.isolate(text) + " " * (width - columns(text))
