"""The clock of ids, on every database that this app's migrations run on."""

from django.db import migrations

from dbpatterns.sharding.id_clock import install, uninstall


class Migration(migrations.Migration):
    dependencies = [("dbpatterns_sharding", "0001_initial")]

    operations = [
        migrations.RunPython(
            lambda apps, editor: install(editor.connection.alias),
            lambda apps, editor: uninstall(editor.connection.alias),
        )
    ]
