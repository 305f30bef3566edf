"""All cases, in the order in which they are run. Import this after ``django.setup()``."""

from typing import Final

from . import (
    cookies,
    data,
    ending,
    keys,
    lifetime,
    login,
    objects,
    parallel,
    storage,
    transactions,
    twins,
)
from .case import CASES as _CASES
from .case import Case

_SUBJECTS: Final = [
    module.__name__.rpartition(".")[2]
    for module in (
        *(storage, lifetime, keys, login, ending, parallel),
        *(data, cookies, objects, twins, transactions),
    )
]

CASES: Final[dict[str, Case]] = dict(
    sorted(_CASES.items(), key=lambda each: _SUBJECTS.index(each[1].subject))
)
"""All cases by name."""
