"""Every page of the demo."""

from django.contrib.auth.views import LogoutView
from django.urls import URLPattern, URLResolver, path

from demo.web.bank import LogInView, bank, districts
from demo.web.blog import post_detail, post_list
from demo.web.editing import post_edit
from demo.web.home import home
from demo.web.n_plus_one import n_plus_one

__all__ = ["urlpatterns"]

urlpatterns: list[URLPattern | URLResolver] = [
    path("", home, name="home"),
    path("blog/", post_list, name="blog"),
    path("blog/<str:slug>/", post_detail, name="post"),
    path("blog/<str:slug>/edit/", post_edit, name="post_edit"),
    path("n-plus-one/", n_plus_one, name="n_plus_one"),
    path("bank/", bank, name="bank"),
    path("bank/districts/", districts, name="districts"),
    path("login/", LogInView.as_view(), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
]
