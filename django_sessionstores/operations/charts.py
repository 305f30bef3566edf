"""Geometry of small charts, as texts for the attributes of SVG elements. No style in them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

HEIGHT: Final = 100
_COLUMN: Final = 20
_GAP: Final = 4
ROW_WIDTH: Final = 200
"""The longest bar of `rows`."""
_STEPS: Final = tuple(
    timedelta(hours=hours)
    for hours in (1, 2, 4, 8, 24, 48, 7 * 24, 14 * 24, 28 * 24, 91 * 24, 365 * 24)
)
_MOST_COLUMNS: Final = 30


class Column(msgspec.Struct, frozen=True):
    """So many in a span of time, as a bar from the ground up."""

    begin: datetime
    end: datetime
    number: int
    x: str
    y: str
    height: str


class Columns(msgspec.Struct, frozen=True):
    """How many things happened when."""

    columns: list[Column]
    width: str
    bar: str
    """The width of a bar."""
    most: int
    now: str
    """Where now is."""


class Row(msgspec.Struct, frozen=True):
    """So many of a kind, as a bar from left to right."""

    label: str
    number: int
    width: str


def columns(moments: Sequence[datetime], now: datetime) -> Columns:
    """A column for each span of time between the first of some moments and the last, or now.

    The spans are hours, days or weeks: as long as it takes to have at most thirty.
    """
    first, last = min([now, *moments]), max([now, *moments])
    step = next((step for step in _STEPS if (last - first) / step < _MOST_COLUMNS - 1), None)
    if step is None:
        step = (last - first) / (_MOST_COLUMNS - 1)
    # Counted from now, so that no column is both past and future.
    before = -((first - now) // step) or 1
    counts = [0] * (before + (last - now) // step + (last > now))
    for moment in moments:
        # The last moment that is no future one is now itself.
        counts[before + (moment - now) // step - (moment == now)] += 1
    return spans(counts, now - before * step, step, now=before)


def spans(
    counts: Sequence[int],
    begin: datetime,
    step: timedelta,
    *,
    most: int = 0,
    now: int | None = None,
) -> Columns:
    """A column for each of some equal spans of time, the first of which begins at a moment.

    ``most`` is the number that a full column stands for, if that is not the greatest; ``now`` how
    many of the spans are past, if not all.
    """
    most = max([most, 1, *counts])
    return Columns(
        [
            Column(
                begin=begin + number * step,
                end=begin + (number + 1) * step,
                number=count,
                x=str(number * _COLUMN + _GAP // 2),
                y=str(HEIGHT - _height(count, most)),
                height=str(_height(count, most)),
            )
            for number, count in enumerate(counts)
        ],
        width=str(len(counts) * _COLUMN),
        bar=str(_COLUMN - _GAP),
        most=most,
        now=str((len(counts) if now is None else now) * _COLUMN),
    )


def rows(counts: Sequence[tuple[str, int]]) -> list[Row]:
    """A bar for each label."""
    most = max([1, *(number for _, number in counts)])
    return [
        Row(label, number, str(max(ROW_WIDTH * number // most, bool(number))))
        for label, number in counts
    ]


def position(moment: datetime, first: datetime, last: datetime, width: int) -> str:
    """Where a moment is on a line from the first to the last."""
    share = (moment - first) / (last - first) if last > first else 0.0
    return str(round(width * min(max(share, 0.0), 1.0)))


def _height(number: int, most: int) -> int:
    # What is there is seen, however little.
    return max(HEIGHT * number // most, 2) if number else 0
