"""Every address of the API; what is not here is a 404 problem."""

from typing import Any, NoReturn

from django.urls import URLPattern, URLResolver, include, path, re_path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView
from rest_framework.exceptions import NotFound
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.routers import APIRootView, DefaultRouter
from rest_framework.views import APIView

from demo.api.bank import AccountViewSet, StandingOrderViewSet, TransferViewSet
from demo.api.blog import AuthorViewSet, CommentViewSet, PostViewSet
from demo.api.editing import PostEditingViewSet
from demo.api.tokens import TokenView

__all__ = ["urlpatterns"]


class RootView(APIRootView):
    """The lists there are."""

    permission_classes = [AllowAny]


class UnknownAddressView(APIView):
    """Answer every method on an unknown address with a 404 problem. No query."""

    authentication_classes = []
    permission_classes = [AllowAny]
    schema = None

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse before the method is looked at."""
        super().initial(request, *args, **kwargs)
        raise NotFound("There is nothing at this address; addresses here end in a slash.")


router = DefaultRouter()
router.APIRootView = RootView
router.include_format_suffixes = False
router.register("posts", PostViewSet, basename="api-post")
router.register("editing/posts", PostEditingViewSet, basename="api-edited-post")
router.register("authors", AuthorViewSet, basename="api-author")
router.register("comments", CommentViewSet, basename="api-comment")
router.register("accounts", AccountViewSet, basename="api-account")
router.register("transfers", TransferViewSet, basename="api-transfer")
router.register("standing-orders", StandingOrderViewSet, basename="api-standing-order")

urlpatterns: list[URLPattern | URLResolver] = [
    path("token/", TokenView.as_view(), name="api-token"),
    path("schema/", SpectacularAPIView.as_view(), name="api-schema"),
    path("docs/", SpectacularSwaggerView.as_view(url_name="api-schema"), name="api-docs"),
    path("", include(router.urls)),
    re_path("", UnknownAddressView.as_view()),
]
