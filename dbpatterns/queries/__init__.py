"""Queries: find every N+1, say the fix, mend it on request, and cost nothing when off.

    with guard(mode="raise"):
        render(posts)

    with autofixing():
        for post in Post.objects.all():
            print(post.author.name)  # two queries, however many posts

Importing needs nothing.
"""

from dbpatterns.queries.allowing import Allowed, allow
from dbpatterns.queries.autofix import AutofixQuerySet, autofixing, batched
from dbpatterns.queries.baseline import freeze
from dbpatterns.queries.budgets import QueryBudgetExceeded, query_budget
from dbpatterns.queries.guard import guard
from dbpatterns.queries.loading import Loader, load_scope, load_scope_middleware, loader_for
from dbpatterns.queries.report import (
    Duplicate,
    Finding,
    NPlusOneError,
    NPlusOneWarning,
    Place,
    Report,
)

__all__ = [
    "Allowed",
    "AutofixQuerySet",
    "Duplicate",
    "Finding",
    "Loader",
    "NPlusOneError",
    "NPlusOneWarning",
    "Place",
    "QueryBudgetExceeded",
    "Report",
    "allow",
    "autofixing",
    "batched",
    "freeze",
    "guard",
    "load_scope",
    "load_scope_middleware",
    "loader_for",
    "query_budget",
]
