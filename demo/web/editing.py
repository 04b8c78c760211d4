"""The page where a post is edited, and what it shows when somebody else was faster."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required, permission_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from dbpatterns.optimistic import StaleObjectError
from dbpatterns.repositories.unit_of_work import UnitOfWork
from dbpatterns.services import resolve
from demo.blog.forms import PostForm
from demo.blog.models import Post
from demo.blog.repositories import PostRepository

__all__ = ["post_edit"]


@never_cache  # "Back" asks again, and gets the version of now
@login_required
@permission_required("blog.change_post", raise_exception=True)
@require_http_methods(["GET", "HEAD", "POST"])
def post_edit(request: HttpRequest, slug: str) -> HttpResponse:
    """Edit a post, published or not; a 409 shows both values if another has saved meanwhile.

    There the reader sends the form again, which is then on top of what is stored now, or drops
    it. Five queries to show, and one UPDATE of the post to save.
    """
    post = _find(slug)
    back = _address(post)  # a form puts its values onto the post
    form = PostForm(request.POST or None, instance=post, label_suffix="")
    if form.is_valid():
        try:
            with UnitOfWork():
                form.save()
        except StaleObjectError:  # faster than our own look at the version
            form = PostForm(request.POST, instance=_find(slug), label_suffix="")
            form.is_valid()
        else:
            messages.success(request, "Saved.")
            return redirect(_address(post))
    context = {"form": form, "slug": slug, "back": back}
    if not form.is_stale:
        return render(request, "web/post_edit.html", context)
    try:
        differences = {each.name: each for each in form.rebase()}
    except Post.DoesNotExist as error:
        raise Http404("The post has been deleted.") from error
    context["rows"] = [(field, differences[field.name]) for field in form.visible_fields()]
    return render(request, "web/post_conflict.html", context, status=409)


def _find(slug: str) -> Post:
    post = resolve(PostRepository).find_one_by(slug=slug) if slug.isprintable() else None
    if post is None:
        raise Http404("There is no such post.")
    return post


def _address(post: Post) -> str:
    """Return where the post can be seen: its page, or the form if it is not published."""
    name = "post" if post.status == Post.Status.PUBLISHED else "post_edit"
    return reverse(name, args=[post.slug])
