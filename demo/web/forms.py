"""The transfer form: payers from the customer's own accounts, and a token that pays once."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from django import forms

from demo.banking.models import Account
from demo.banking.money import parse_amount
from demo.web.templatetags.web import money

__all__ = ["TransferForm"]


class TransferForm(forms.Form):
    """Asks for one transfer; needs the customer's accounts and makes no query."""

    once = forms.UUIDField(
        # Browsers put typed values back on "Back", and would put this one back too.
        widget=forms.HiddenInput(attrs={"autocomplete": "off"})
    )
    """The idempotency key: a form that is sent twice pays once."""
    payer = forms.ChoiceField(label="From your account")
    payee = forms.CharField(
        label="To account number",
        max_length=40,
        widget=forms.TextInput(
            attrs={"autocomplete": "off", "autocapitalize": "off", "spellcheck": "false"}
        ),
    )
    amount = forms.CharField(
        label="Amount",
        max_length=40,
        help_text="Digits and a point, like 1250.50",
        widget=forms.TextInput(attrs={"inputmode": "decimal", "autocomplete": "off"}),
    )
    memo = forms.CharField(
        label="Memo", max_length=140, required=False, help_text="The payee reads it, too"
    )

    def __init__(self, accounts: Sequence[Account], data: Mapping[str, Any] | None = None) -> None:
        super().__init__(data, initial={"once": uuid.uuid4()}, label_suffix="")
        self.by_number = {
            each.number: each for each in accounts if each.status == Account.Status.OPEN
        }
        payer = self.fields["payer"]
        assert isinstance(payer, forms.ChoiceField)
        payer.choices = [
            (number, f"{number} ({money(account.balance, account.currency)})")
            for number, account in self.by_number.items()
        ]

    def clean_payer(self) -> Account:
        """Return the account; only the customer's own are known here."""
        return self.by_number[self.cleaned_data["payer"]]

    def clean_amount(self) -> int:
        """Return minor units."""
        try:
            return parse_amount(self.cleaned_data["amount"])
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error

    def renew(self) -> None:
        """Put a new token into a form that was sent, so that it may pay again."""
        self.data = {**self.data, "once": str(uuid.uuid4())}
