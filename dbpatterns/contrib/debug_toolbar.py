"""A panel for django-debug-toolbar: the request's statements by fingerprint and call site.

DEBUG_TOOLBAR_PANELS = [..., "dbpatterns.contrib.debug_toolbar.QueriesPanel"]
"""

from typing import Any

from debug_toolbar.panels import Panel
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy, ngettext

from dbpatterns.queries.monitor import Monitor

__all__ = ["QueriesPanel"]

_COLUMNS = ("calls", "duplicates", "total_ms", "p95_ms", "rows", "errors")


class QueriesPanel(Panel):
    """Counts the statements of one request; those of other threads are left out."""

    title = nav_title = gettext_lazy("Statements")

    def __init__(self, *args: Any, **options: Any) -> None:
        """Take what the toolbar gives."""
        super().__init__(*args, **options)
        self._monitor = Monitor(sample=1.0, is_scoped=True)

    @property
    def nav_subtitle(self) -> str:
        """How many statements, and how many of them again with the same values."""
        queries = self._queries()
        calls = sum(each["calls"] for each in queries)
        again = sum(each["duplicates"] for each in queries)
        text = ngettext(
            "%(calls)d call, %(again)d again", "%(calls)d calls, %(again)d again", calls
        )
        return text % {"calls": calls, "again": again}

    @property
    def content(self) -> SafeString:
        """One table, the dearest first."""
        head = format_html_join("", "<th>{}</th>", ((each.replace("_", " "),) for each in _COLUMNS))
        rows = format_html_join(
            "",
            "<tr>{}<td><code>{}</code><br>{}</td></tr>",
            (
                (
                    format_html_join(
                        "",
                        "<td>{}</td>",
                        (("-" if each[name] is None else each[name],) for name in _COLUMNS),
                    ),
                    each["fingerprint"],
                    each["site"],
                )
                for each in self._queries()
            ),
        )
        return format_html(
            "<table><thead><tr>{}<th>statement</th></tr></thead><tbody>{}</tbody></table>",
            head,
            rows,
        )

    def enable_instrumentation(self) -> None:
        """Count from now on."""
        self._monitor.start()

    def disable_instrumentation(self) -> None:
        """Count no more."""
        self._monitor.stop()

    def generate_stats(self, request: Any, response: Any) -> None:
        """Keep the counts for the toolbar's page."""
        self.record_stats(  # type: ignore[no-untyped-call]  # the toolbar is typed in part
            {"queries": [each.as_dict() for each in self._monitor.report()]}
        )

    def _queries(self) -> list[dict[str, Any]]:
        stats: dict[str, Any] = self.get_stats()  # type: ignore[no-untyped-call]
        queries: list[dict[str, Any]] = stats.get("queries", [])
        return queries
