"""Every address of the demo."""

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path

urlpatterns: list[URLPattern | URLResolver] = [
    path("admin/", admin.site.urls),
    path("api/", include("demo.api.urls")),
    path("", include("demo.web.urls")),
]
