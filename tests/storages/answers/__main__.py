"""Write the trees of all storages anew."""

import logging
import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()
logging.disable(logging.CRITICAL)

from tests.storages import answers  # noqa: E402

for name in answers.FILES:
    (answers.FOLDER / f"{name}.txt").write_text(answers.text_of(name))
