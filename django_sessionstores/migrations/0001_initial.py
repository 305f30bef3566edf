from django.apps.registry import Apps
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from django_sessionstores.models import ShortBytesField


def leave_room_for_updates(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """On PostgreSQL, leave a part of each page free for the new versions of its rows.

    A save then stays within its page and moves no index, from the first save after the page has
    filled. Other databases update in place anyway.
    """
    if schema_editor.connection.vendor == "postgresql":
        table = apps.get_model("django_sessionstores", "StoredSession")._meta.db_table
        schema_editor.execute(
            f"ALTER TABLE {schema_editor.quote_name(table)} SET (fillfactor = 80)"
        )


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="SessionStatistics",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("site", models.IntegerField(default=0, verbose_name="mark of the site")),
                ("hour", models.BigIntegerField(verbose_name="hour")),
                ("reason", models.CharField(blank=True, max_length=32, verbose_name="reason")),
                ("number", models.BigIntegerField(verbose_name="number")),
            ],
            options={
                "verbose_name": "session statistics",
                "verbose_name_plural": "session statistics",
                "default_permissions": (),
                "constraints": [
                    models.UniqueConstraint(
                        fields=("hour", "reason", "site"), name="sessionstores_statistics"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="StoredSession",
            fields=[
                ("version", models.BigIntegerField(verbose_name="version")),
                ("created", models.BigIntegerField(verbose_name="created")),
                ("last_activity", models.BigIntegerField(verbose_name="last activity")),
                ("expires", models.BigIntegerField(verbose_name="expires")),
                ("site", models.IntegerField(default=0, verbose_name="mark of the site")),
                ("state", models.SmallIntegerField(verbose_name="state")),
                (
                    "id",
                    ShortBytesField(
                        max_length=20, primary_key=True, serialize=False, verbose_name="session id"
                    ),
                ),
                ("user_id", models.CharField(max_length=255, null=True, verbose_name="user id")),
                ("ip", ShortBytesField(blank=True, max_length=47, verbose_name="IP address")),
                ("user_agent", models.BinaryField(blank=True, verbose_name="user agent")),
                ("origin", ShortBytesField(max_length=20, verbose_name="first session id")),
                ("payload", models.BinaryField(verbose_name="payload")),
            ],
            options={
                "verbose_name": "stored session",
                "verbose_name_plural": "stored sessions",
                "default_permissions": (),
                "indexes": [
                    models.Index(fields=["expires"], name="sessionstores_expires"),
                    models.Index(fields=["user_id", "expires"], name="sessionstores_user"),
                ],
            },
        ),
        migrations.CreateModel(
            name="Session",
            fields=[],
            options={
                "verbose_name": "session",
                "verbose_name_plural": "sessions",
                "permissions": [
                    ("end_session", "Can end sessions"),
                    ("export_session", "Can export the list of sessions"),
                    ("view_session_data", "Can view session data, except secrets"),
                    ("view_session_secrets", "Can view secrets in sessions"),
                ],
                "proxy": True,
                "default_permissions": ("view",),
                "indexes": [],
                "constraints": [],
            },
            bases=("django_sessionstores.storedsession",),
        ),
        # Nothing to undo: the table goes.
        migrations.RunPython(leave_room_for_updates, migrations.RunPython.noop),
    ]
