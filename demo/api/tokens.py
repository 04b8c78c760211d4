"""Where a program gets its token."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.authtoken.serializers import AuthTokenSerializer
from rest_framework.authtoken.views import ObtainAuthToken
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import AnonRateThrottle

from demo.api.parsers import BoundedJSONParser
from demo.api.serializers import StrictSerializer

__all__ = ["TokenSerializer", "TokenThrottle", "TokenView"]


class TokenThrottle(AnonRateThrottle):
    """A tight rate per address: this is where passwords are guessed."""

    scope = "token"


class CredentialsSerializer(StrictSerializer, AuthTokenSerializer):
    """A user name and a password."""


class TokenSerializer(serializers.Serializer[Any]):
    """What to send as `Authorization: Token <token>`."""

    token = serializers.CharField(read_only=True)


class TokenView(ObtainAuthToken):
    """Exchange a user name and a password for the user's token."""

    authentication_classes = []  # a session or an old token neither helps nor hinders
    throttle_classes = [TokenThrottle]
    parser_classes = [BoundedJSONParser]
    serializer_class = CredentialsSerializer

    @extend_schema(request=CredentialsSerializer, responses={200: TokenSerializer})
    def post(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Return the user's token, made when first asked for. Three queries at most."""
        return super().post(request, *args, **kwargs)
