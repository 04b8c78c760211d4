import django.db.models.deletion
import uuid6
from django.db import migrations, models

from dbpatterns.sharding.fields import ShardedIdField, ShardedUUIDField

VIEW = """
CREATE VIEW banking_entry AS
SELECT entry.id, booked.id AS transfer_id, account.id AS account_id, account.customer_id,
    entry.amount, entry.balance_after, moved.created_at
FROM dbpatterns_ledger_entry AS entry
JOIN banking_account AS account ON account.ledger_id = entry.account_id
JOIN dbpatterns_ledger_transfer AS moved ON moved.id = entry.transfer_id
LEFT JOIN banking_transfer AS booked ON booked.booking_id = entry.transfer_id
"""


class Migration(migrations.Migration):
    """Make the bank's tables, and the view of the ledger's entries in its words.

    On SQLite Django changes a column by making the table anew, which a view of it forbids: a
    later migration that does so drops the view first and makes it again at its end.
    """

    initial = True

    dependencies = [
        ("dbpatterns_ledger", "0002_guards"),
    ]

    operations = [
        migrations.CreateModel(
            name="Customer",
            fields=[
                (
                    "id",
                    models.BigIntegerField(
                        primary_key=True, serialize=False, verbose_name="customer number"
                    ),
                ),
                ("name", models.CharField(max_length=200)),
                ("birth_date", models.DateField(blank=True, null=True)),
                ("district", models.CharField(blank=True, max_length=100)),
            ],
            options={
                "ordering": ["pk"],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("id__gt", 0)), name="bank_customer_positive"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Account",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=uuid6.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("number", models.CharField(max_length=40, unique=True)),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("customer", "Customer"),
                            ("clearing", "Clearing"),
                            ("opening", "Opening"),
                        ],
                        default="customer",
                        max_length=8,
                    ),
                ),
                ("bank_code", models.CharField(blank=True, max_length=11)),
                ("currency", models.CharField(default="CZK", max_length=3)),
                (
                    "status",
                    models.CharField(
                        choices=[("open", "Open"), ("closed", "Closed")],
                        default="open",
                        max_length=6,
                    ),
                ),
                ("opened_on", models.DateField(blank=True, null=True)),
                (
                    "ledger",
                    models.OneToOneField(
                        editable=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="bank",
                        to="dbpatterns_ledger.account",
                    ),
                ),
                (
                    "customer",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="accounts",
                        to="banking.customer",
                    ),
                ),
            ],
            options={
                "ordering": ["number"],
            },
        ),
        migrations.CreateModel(
            name="StandingOrder",
            fields=[
                (
                    "id",
                    ShardedUUIDField(blank=True, editable=False, primary_key=True, serialize=False),
                ),
                ("order_number", models.BigIntegerField(blank=True, null=True, unique=True)),
                ("bank_code", models.CharField(max_length=11)),
                ("payee_account", models.CharField(max_length=34)),
                ("amount", models.BigIntegerField()),
                ("category", models.CharField(blank=True, max_length=20)),
                ("is_active", models.BooleanField(default=True)),
                (
                    "account",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="standing_orders",
                        to="banking.account",
                    ),
                ),
                (
                    "customer",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="standing_orders",
                        to="banking.customer",
                    ),
                ),
            ],
            options={
                "ordering": ["id"],
            },
        ),
        migrations.CreateModel(
            name="StatementLine",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("generation", models.PositiveIntegerField(db_index=True, editable=False)),
                ("account", models.CharField(max_length=40)),
                ("version", models.BigIntegerField()),
                ("position", models.BigIntegerField()),
                ("at", models.DateTimeField()),
                ("kind", models.CharField(max_length=14)),
                ("counterparty", models.CharField(max_length=40)),
                ("memo", models.CharField(blank=True, max_length=140)),
                ("amount", models.BigIntegerField()),
                ("balance", models.BigIntegerField()),
            ],
            options={
                "ordering": ["account", "version"],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("generation", "account", "version"), name="bank_statement_line_once"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Transfer",
            fields=[
                (
                    "id",
                    ShardedUUIDField(blank=True, editable=False, primary_key=True, serialize=False),
                ),
                ("idempotency_key", models.CharField(max_length=100)),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("transfer", "Transfer"),
                            ("standing_order", "Standing Order"),
                            ("opening", "Opening"),
                        ],
                        default="transfer",
                        max_length=14,
                    ),
                ),
                ("amount", models.BigIntegerField()),
                ("currency", models.CharField(max_length=3)),
                ("memo", models.CharField(blank=True, max_length=140)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "booking",
                    models.OneToOneField(
                        editable=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="bank",
                        to="dbpatterns_ledger.transfer",
                    ),
                ),
                (
                    "customer",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="transfers",
                        to="banking.customer",
                    ),
                ),
                (
                    "payee",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="incoming_transfers",
                        to="banking.account",
                    ),
                ),
                (
                    "payer",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="outgoing_transfers",
                        to="banking.account",
                    ),
                ),
            ],
            options={
                "ordering": ["-id"],
            },
        ),
        migrations.CreateModel(
            name="StandingOrderExecution",
            fields=[
                (
                    "id",
                    ShardedIdField(blank=True, editable=False, primary_key=True, serialize=False),
                ),
                ("due_on", models.DateField()),
                (
                    "status",
                    models.CharField(
                        choices=[("paid", "Paid"), ("refused", "Refused")], max_length=7
                    ),
                ),
                ("reason", models.CharField(blank=True, max_length=200)),
                (
                    "order",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="executions",
                        to="banking.standingorder",
                    ),
                ),
                (
                    "transfer",
                    models.OneToOneField(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        to="banking.transfer",
                    ),
                ),
            ],
            options={
                "ordering": ["pk"],
            },
        ),
        migrations.AddConstraint(
            model_name="account",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("bank_code", ""), ("customer__isnull", False), ("kind", "customer")),
                    models.Q(
                        ("customer__isnull", True),
                        ("kind", "clearing"),
                        models.Q(("bank_code", ""), _negated=True),
                    ),
                    models.Q(("bank_code", ""), ("customer__isnull", True), ("kind", "opening")),
                    _connector="OR",
                ),
                name="bank_account_kind_fits",
            ),
        ),
        migrations.AddConstraint(
            model_name="account",
            constraint=models.CheckConstraint(
                condition=models.Q(("status__in", ["open", "closed"])),
                name="bank_account_status_known",
            ),
        ),
        migrations.AddConstraint(
            model_name="account",
            constraint=models.UniqueConstraint(
                condition=models.Q(("kind", "clearing")),
                fields=("bank_code", "currency"),
                name="bank_account_one_per_bank",
            ),
        ),
        migrations.AddConstraint(
            model_name="standingorder",
            constraint=models.CheckConstraint(
                condition=models.Q(("amount__gt", 0)), name="bank_order_positive"
            ),
        ),
        migrations.AddConstraint(
            model_name="standingorder",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("bank_code", ""), _negated=True),
                    models.Q(("payee_account", ""), _negated=True),
                ),
                name="bank_order_has_payee",
            ),
        ),
        migrations.AddConstraint(
            model_name="transfer",
            constraint=models.CheckConstraint(
                condition=models.Q(("amount__gt", 0)), name="bank_transfer_positive"
            ),
        ),
        migrations.AddConstraint(
            model_name="transfer",
            constraint=models.CheckConstraint(
                condition=models.Q(("payer", models.F("payee")), _negated=True),
                name="bank_transfer_two_accounts",
            ),
        ),
        migrations.AddConstraint(
            model_name="transfer",
            constraint=models.UniqueConstraint(
                fields=("customer", "kind", "idempotency_key"), name="bank_transfer_once_per_key"
            ),
        ),
        migrations.AddConstraint(
            model_name="standingorderexecution",
            constraint=models.UniqueConstraint(
                fields=("order", "due_on"), name="bank_execution_once_a_day"
            ),
        ),
        migrations.AddConstraint(
            model_name="standingorderexecution",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("reason", ""), ("status", "paid"), ("transfer__isnull", False)),
                    models.Q(
                        ("status", "refused"),
                        ("transfer__isnull", True),
                        models.Q(("reason", ""), _negated=True),
                    ),
                    _connector="OR",
                ),
                name="bank_execution_paid_or_refused",
            ),
        ),
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
                    "customer",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="entries",
                        to="banking.customer",
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
