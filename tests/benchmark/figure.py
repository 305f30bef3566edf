"""A line of the sections about many sessions."""

from typing import NamedTuple


class Figure(NamedTuple):
    name: str
    value: float
    unit: str
