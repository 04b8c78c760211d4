import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    """Make room for what links the bank's rows to the ledger's."""

    dependencies = [
        ("banking", "0001_initial"),
        ("dbpatterns_ledger", "0002_guards"),
    ]

    operations = [
        migrations.AddField(
            model_name="account",
            name="ledger",
            field=models.OneToOneField(
                editable=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="bank",
                to="dbpatterns_ledger.account",
            ),
        ),
        migrations.AddField(
            model_name="transfer",
            name="booking",
            field=models.OneToOneField(
                editable=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="bank",
                to="dbpatterns_ledger.transfer",
            ),
        ),
    ]
