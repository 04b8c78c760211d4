"""The bank's page: a customer's money and a transfer form; for staff, every shard."""

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import LoginView
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe

from dbpatterns.services import resolve
from dbpatterns.sharding import shards
from demo.banking.overview import OverviewService
from demo.banking.reach import Reach
from demo.banking.services import PaymentService
from demo.banking.statements import Statement, StatementService
from demo.banking.transfers import Refusal, TransferRefused
from demo.users.models import User
from demo.web.forms import TransferForm
from demo.web.templatetags.web import money

__all__ = ["LogInView", "bank", "districts"]


class LogInView(LoginView):
    """Ask for name and password; goes on to `next` on this site only."""

    template_name = "web/login.html"
    redirect_authenticated_user = True

    def get_form_kwargs(self) -> dict[str, object]:
        """Write labels as all other forms do: no colon."""
        return {**super().get_form_kwargs(), "label_suffix": ""}

    def get_context_data(self, **kwargs: object) -> dict[str, object]:
        """Tell the template whether the demo's public log-ins may exist."""
        return super().get_context_data(is_debug=settings.DEBUG, **kwargs)


@never_cache  # "Back" asks again, and gets balances of now and a fresh form
@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def bank(request: HttpRequest) -> HttpResponse:
    """Show a customer their money, staff every shard, and others why there is nothing.

    A customer: five queries, all on their own shard, and more when a line is not on the statement
    yet. Staff: sixteen queries a shard, one more with a search. A transfer adds those of
    `transfer`, and one for the payee, or one a shard.
    """
    user = request.user
    assert isinstance(user, User), "login_required"
    if user.customer_id is not None:
        return _customer_page(request, user.customer_id)
    if request.method == "POST":
        return HttpResponseNotAllowed(["GET", "HEAD"])
    if user.is_staff:
        return _staff_page(request)
    return render(request, "web/bank_none.html", status=403)


@never_cache
@login_required
@require_safe
def districts(request: HttpRequest) -> HttpResponse:
    """Show staff what the customers of each district hold; one query a shard."""
    if not request.user.is_staff:
        raise PermissionDenied
    context = {"districts": resolve(OverviewService).districts()}
    return render(request, "web/bank_districts.html", context)


def _customer_page(request: HttpRequest, customer_id: int) -> HttpResponse:
    statement = resolve(StatementService).read(customer_id)
    if request.method != "POST":
        form = TransferForm(statement.accounts)
    else:
        form = TransferForm(statement.accounts, request.POST.dict())
        if form.is_valid():
            try:
                _transfer(request, form, statement, customer_id)
            except TransferRefused as refused:
                _explain(form, refused)
            else:
                return redirect("bank")
    context = {"statement": statement, "form": form, "shards": shards()}
    return render(request, "web/bank.html", context)


def _transfer(
    request: HttpRequest, form: TransferForm, statement: Statement, customer_id: int
) -> None:
    asked = form.cleaned_data
    reach = Reach(customer_id, (statement.shard,))
    done, is_new = resolve(PaymentService).pay(
        asked["payer"],
        asked["payee"],
        reach=reach,
        amount=asked["amount"],
        idempotency_key=f"form:{asked['once']}",
        memo=asked["memo"],
    )
    sent = f"{money(done.amount, done.currency)} to account {done.payee.number}"
    if is_new:
        messages.success(request, f"Sent {sent}.")
    else:
        messages.info(request, f"Sent {sent}. The form came twice; the money moved once.")


def _explain(form: TransferForm, refused: TransferRefused) -> None:
    if refused.refusal == Refusal.KEY_REUSED:  # a person has no key to change
        form.renew()
        form.add_error(
            None, "This form has paid already, and was changed since. Send it again to pay again."
        )
    elif refused.refusal in (Refusal.UNKNOWN_ACCOUNT, Refusal.NOT_A_CUSTOMER_ACCOUNT):
        form.add_error("payee", str(refused))
    elif refused.refusal == Refusal.INSUFFICIENT_FUNDS:
        form.add_error("amount", str(refused))
    else:
        form.add_error(None, str(refused))


def _staff_page(request: HttpRequest) -> HttpResponse:
    asked = request.GET.get("q", "").strip()
    overview = resolve(OverviewService)
    context = {
        "asked": asked,
        "found": overview.find_accounts(asked),
        "by_shard": overview.every_shard(),
    }
    return render(request, "web/bank_staff.html", context)
