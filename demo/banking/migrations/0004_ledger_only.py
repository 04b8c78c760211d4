import django.db.models.deletion
from django.db import migrations, models

VIEW = """
CREATE VIEW banking_entry AS
SELECT entry.id, booked.id AS transfer_id, account.id AS account_id, entry.amount,
    entry.balance_after, moved.created_at
FROM dbpatterns_ledger_entry AS entry
JOIN banking_account AS account ON account.ledger_id = entry.account_id
JOIN dbpatterns_ledger_transfer AS moved ON moved.id = entry.transfer_id
LEFT JOIN banking_transfer AS booked ON booked.booking_id = entry.transfer_id
"""


class Migration(migrations.Migration):
    """Leave money to the ledger: no balance, and entries as a view of the ledger's.

    On SQLite Django changes a column by making the table anew, which a view of it forbids: a
    later migration that does so drops the view first and makes it again at its end.
    """

    dependencies = [("banking", "0003_move_the_books")]

    operations = [
        migrations.RemoveConstraint(model_name="account", name="bank_account_not_overdrawn"),
        migrations.RemoveField(model_name="account", name="balance"),
        migrations.AlterField(
            model_name="account",
            name="ledger",
            field=models.OneToOneField(
                editable=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="bank",
                to="dbpatterns_ledger.account",
            ),
        ),
        migrations.DeleteModel(name="Entry"),
        migrations.CreateModel(
            name="Entry",
            fields=[
                ("id", models.BigIntegerField(primary_key=True, serialize=False)),
                ("amount", models.BigIntegerField()),
                ("balance_after", models.BigIntegerField()),
                ("created_at", models.DateTimeField()),
                (
                    "account",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="entries",
                        to="banking.account",
                    ),
                ),
                (
                    "transfer",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="entries",
                        to="banking.transfer",
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "entries",
                "db_table": "banking_entry",
                "ordering": ["pk"],
                "managed": False,
            },
        ),
        migrations.RunSQL(VIEW, "DROP VIEW banking_entry"),
    ]
