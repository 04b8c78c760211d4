"""How the bank reads and writes JSON; money is a decimal string both ways, never a float."""

from collections.abc import Mapping
from typing import Any

from django.core.validators import RegexValidator
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from demo.banking.models import Account, StandingOrder, Transfer
from demo.banking.money import format_amount, parse_amount

__all__ = [
    "AccountSerializer",
    "AmountField",
    "BalanceField",
    "NewStandingOrderSerializer",
    "NewTransferSerializer",
    "StandingOrderChangeSerializer",
    "StandingOrderSerializer",
    "StrictSerializer",
    "TransferSerializer",
]


@extend_schema_field(
    {"type": "string", "pattern": r"^-?[0-9]+\.[0-9]{2}$", "example": "1250.00"},
)
class BalanceField(serializers.Field[int, Any, str, int]):
    """Minor units, signed, shown as a decimal string."""

    def to_representation(self, value: int) -> str:
        """Return minor units as a decimal, like `-245.20`."""
        return format_amount(value)


@extend_schema_field(
    {
        "type": "string",
        "pattern": r"^[0-9]{1,14}(\.[0-9]{1,2})?$",
        "example": "245.20",
        "description": "A decimal above zero, at most two decimals, as a string.",
    }
)
class AmountField(BalanceField):
    """A positive amount; a JSON number is refused, because on its way it may become a float."""

    default_error_messages = {
        "not_text": 'Write the amount as a string, like "245.20"; a number may lose cents.',
        "too_long": "This is too long for an amount.",
    }

    def to_internal_value(self, data: Any) -> int:
        """Return the minor units of a decimal string."""
        if not isinstance(data, str):
            self.fail("not_text")
        if len(data) > 40:  # an error repeats the text
            self.fail("too_long")
        try:
            return parse_amount(data)
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from error


class StrictSerializer(serializers.Serializer[Any]):
    """Refuse a member it does not know, so that a misspelt one is no silent nothing."""

    def to_internal_value(self, data: Any) -> Any:
        """Return the validated values."""
        if isinstance(data, Mapping):
            known = {name for name, field in self.fields.items() if not field.read_only}
            if unknown := sorted(data.keys() - known):
                names = ", ".join(sorted(known))
                raise serializers.ValidationError(
                    {name: [f"This cannot be set here; {names} can."] for name in unknown}
                )
        return super().to_internal_value(data)


class AccountSerializer(serializers.ModelSerializer[Account]):
    """An account and what is on it."""

    balance = BalanceField(read_only=True)
    customer = serializers.IntegerField(source="customer_id", read_only=True, allow_null=True)

    class Meta:
        model = Account
        fields = ["number", "kind", "customer", "currency", "balance", "status", "opened_on"]
        read_only_fields = fields


class TransferSerializer(serializers.ModelSerializer[Transfer]):
    """A booking, with the numbers of its accounts."""

    payer = serializers.CharField(source="payer.number", read_only=True)
    payee = serializers.CharField(source="payee.number", read_only=True)
    amount = AmountField(read_only=True)

    class Meta:
        model = Transfer
        fields = ["id", "kind", "payer", "payee", "amount", "currency", "memo", "created_at"]
        read_only_fields = fields


class NewTransferSerializer(StrictSerializer):
    """An order to move money now."""

    payer = serializers.CharField(max_length=40)
    payee = serializers.CharField(max_length=40)
    amount = AmountField()
    memo = serializers.CharField(max_length=140, allow_blank=True, default="")


class StandingOrderSerializer(serializers.ModelSerializer[StandingOrder]):
    """A payment that is made again and again."""

    account = serializers.CharField(source="account.number", read_only=True)
    currency = serializers.CharField(source="account.currency", read_only=True)
    amount = AmountField(read_only=True)

    class Meta:
        model = StandingOrder
        fields = [
            "id",
            "order_number",
            "account",
            "bank_code",
            "payee_account",
            "amount",
            "currency",
            "category",
            "is_active",
        ]
        read_only_fields = fields


class NewStandingOrderSerializer(StrictSerializer):
    """A new standing order; active at once."""

    account = serializers.CharField(max_length=40)
    bank_code = serializers.CharField(max_length=11)
    payee_account = serializers.CharField(
        max_length=34,
        validators=[RegexValidator(r"\A[0-9A-Za-z-]+\Z", "Only letters, digits and dashes.")],
    )
    amount = AmountField()
    category = serializers.CharField(max_length=20, allow_blank=True, default="")


class StandingOrderChangeSerializer(StrictSerializer):
    """What may change in a standing order: to end it, set `is_active` to false."""

    amount = AmountField(required=False)
    category = serializers.CharField(max_length=20, allow_blank=True, required=False)
    is_active = serializers.BooleanField(required=False)
