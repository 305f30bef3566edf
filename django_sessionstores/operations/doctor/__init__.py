"""The doctor: how the sessions of a site are stored, what is wrong, and which requests fail."""

from .diagnosis import Diagnosis, diagnose
from .findings import LEVELS, Finding, split_by_effect
from .probe import is_in_one_store
from .stores import Store, ask_stores
from .texts import finding_in_words, summary

__all__ = [
    "LEVELS",
    "Diagnosis",
    "Finding",
    "Store",
    "ask_stores",
    "diagnose",
    "finding_in_words",
    "is_in_one_store",
    "split_by_effect",
    "summary",
]
