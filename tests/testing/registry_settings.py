"""The settings that the command for session backends uses by itself, and a registry."""

from django_sessionstores.testing.cases.site import minimal_settings
from tests.services import temporary_folder

globals().update(minimal_settings(str(temporary_folder())))
SESSIONSTORES = {"REGISTRY": "db"}
