"""The triggers, and on PostgreSQL the functions that move money."""

from django.db import migrations

from dbpatterns.ledger import sql


class Migration(migrations.Migration):
    dependencies = [("dbpatterns_ledger", "0001_initial")]

    operations = [sql.install(1)]
