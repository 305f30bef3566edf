"""Write the trees of all storages anew."""

import argparse
import logging
import os

import django

argparse.ArgumentParser("python -m tests.storages.answers", description=__doc__).parse_args()
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()
logging.disable(logging.CRITICAL)

from tests.storages import answers  # noqa: E402

for name in answers.FILES:
    (answers.FOLDER / f"{name}.txt").write_text(answers.text_of(name))
