"""Views to guard: one with an N+1, one without, sync and async, and one that streams nothing."""

from contextlib import suppress

from django.http import HttpRequest, HttpResponse
from django.template import Context, Engine
from django.urls import path

from tests.testapp.models import Novel

LIST = Engine().from_string("{% for novel in novels %}{{ novel.novelist.name }} {% endfor %}")


def loop(request: HttpRequest) -> HttpResponse:
    """Query for each row, in a template."""
    return HttpResponse(LIST.render(Context({"novels": Novel.objects.all()})))


def swallowing(request: HttpRequest) -> HttpResponse:
    """Query for each row, and make no fuss about errors."""
    with suppress(Exception):
        return loop(request)
    return HttpResponse("something went wrong")


def once(request: HttpRequest, pk: int) -> HttpResponse:
    """Query once."""
    return HttpResponse(Novel.objects.get(pk=pk).title)


async def async_loop(request: HttpRequest) -> HttpResponse:
    """Query for each row."""
    names = [(await Novel.objects.aget(pk=n.pk)).title async for n in Novel.objects.only("pk")]
    return HttpResponse(" ".join(names))


def handler500(request: HttpRequest) -> HttpResponse:
    """Answer without the demo's templates, which link to the demo's pages."""
    return HttpResponse(status=500)


urlpatterns = [
    path("loop/", loop),
    path("swallowing/", swallowing),
    path("once/<int:pk>/", once),
    path("async-loop/", async_loop),
]
