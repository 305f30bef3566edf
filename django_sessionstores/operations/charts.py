"""Compute column charts, bar charts and positions on a timeline for the admin's pages.

Coordinates and sizes are strings for the attributes of SVG elements, in the units of the
``viewBox`` that the template sets. Colours and fonts are in the stylesheet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from ..core.lifetime import LATEST, utc_datetime

HEIGHT: Final = 100
"""The height of a column chart, in SVG units."""
_COLUMN: Final = 20
"""The width of a column with the gap beside it, in SVG units."""
_GAP: Final = 4
"""The gap between two columns, in SVG units."""
ROW_WIDTH: Final = 200
"""The length of the longest bar of `rows`, in SVG units."""
_STEPS: Final = tuple(
    timedelta(hours=hours)
    for hours in (1, 2, 4, 8, 24, 48, 7 * 24, 14 * 24, 28 * 24, 91 * 24, 365 * 24)
)
"""The spans of time that a column can stand for."""
_MAX_COLUMNS: Final = 30
_EPOCH: Final = utc_datetime(0)


class Column(msgspec.Struct, frozen=True):
    """A vertical bar for the number of events between two moments."""

    begin: datetime
    end: datetime
    number: int
    x: str
    y: str
    height: str

    @property
    def span(self) -> str:
        """Return the milliseconds since the epoch after ``begin`` and after ``end``, as in "1-2".

        A moment equal to ``begin`` is not in the column, and one equal to ``end`` is.
        """
        return "-".join(
            str((each - _EPOCH) // timedelta(milliseconds=1) + 1) for each in (self.begin, self.end)
        )


class Columns(msgspec.Struct, frozen=True):
    """A column chart: the numbers of events in equal spans of time."""

    columns: list[Column]
    width: str
    """The width of the chart."""
    bar: str
    """The width of a bar."""
    most: int
    """The number that a bar of full height stands for."""
    step: timedelta
    """The time that a column stands for."""
    now: str
    """The x coordinate of the present moment."""


class Row(msgspec.Struct, frozen=True):
    """A horizontal bar for the number of items with the same label."""

    label: str
    number: int
    width: str
    value: str = ""
    """What selects these items in a list; empty if nothing does."""


def columns(numbers: Mapping[datetime, int], now: datetime) -> Columns:
    """Return a chart of the numbers at some moments in equal spans of time, which include ``now``.

    Each span is as short as possible, from an hour up, for the chart to have about 30 columns.
    """
    first, last = min([now, *numbers]), max([now, *numbers])
    step = next((step for step in _STEPS if (last - first) / step < _MAX_COLUMNS - 1), None)
    if step is None:
        step = (last - first) / (_MAX_COLUMNS - 1)
    # The spans are counted from now, so that no column is both in the past and in the future.
    before = -((first - now) // step) or 1
    counts = [0] * (before + (last - now) // step + (last > now))
    for moment, number in numbers.items():
        # A moment that equals now is counted in the last column of the past.
        counts[before + (moment - now) // step - (moment == now)] += number
    return spans(counts, now - before * step, step, now=before)


def spans(
    counts: Sequence[int],
    begin: datetime,
    step: timedelta,
    *,
    most: int = 0,
    now: int | None = None,
) -> Columns:
    """Return a chart with a column for each count.

    The first column begins at ``begin``, and each stands for the time ``step``. A column of full
    height stands for ``most``, or for the greatest count if that is greater. ``now`` is the number
    of columns that are in the past, by default all.
    """
    most = max([most, 1, *counts])
    return Columns(
        [
            Column(
                begin=begin + number * step,
                end=_end(begin + number * step, step),
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
        step=step,
        now=str((len(counts) if now is None else now) * _COLUMN),
    )


def _end(begin: datetime, step: timedelta) -> datetime:
    """Return the end of a span of time, at most the last moment at which a session can expire."""
    latest = utc_datetime(LATEST)
    return begin + step if latest - begin > step else latest


def rows(counts: Sequence[tuple[str, int]], values: Mapping[str, str] | None = None) -> list[Row]:
    """Return a bar for each pair of a label and a count. The longest is `ROW_WIDTH` units long.

    ``values`` are those that select the items of a label in a list.
    """
    most = max([1, *(number for _, number in counts)])
    return [
        Row(
            label,
            number,
            str(max(ROW_WIDTH * number // most, min(number, 1))),
            (values or {}).get(label, ""),
        )
        for label, number in counts
    ]


def position(moment: datetime, first: datetime, last: datetime, width: int) -> str:
    """Return the x coordinate of a moment on a line of ``width`` units from ``first`` to ``last``.

    A moment outside of the line is placed at its end.
    """
    share = (moment - first) / (last - first) if last > first else 0.0
    return str(round(width * min(max(share, 0.0), 1.0)))


def _height(number: int, most: int) -> int:
    """Return the height of the bar of a number, in SVG units."""
    # Give non-zero bars a minimum height of 2 units.
    return max(HEIGHT * number // most, 2) if number else 0
