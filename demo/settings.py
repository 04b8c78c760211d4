"""The demo's settings: SQLite files and no services by default, real servers by environment.

DATABASE_URL, DBPATTERNS_SHARD_URLS (comma separated) and REDIS_URL name the servers;
DJANGO_DEBUG=0 makes it a production site, which then needs DJANGO_SECRET_KEY and
DJANGO_ALLOWED_HOSTS.
"""

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dj_database_url
from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = Path(os.environ.get("DEMO_DATA_DIR", BASE_DIR / "var"))
try:
    DATA_DIR.mkdir(parents=True, exist_ok=True)
except OSError as error:
    raise ImproperlyConfigured(
        f"DEMO_DATA_DIR={DATA_DIR} is no folder and cannot be made: {error.strerror}."
    ) from error

DEBUG = os.environ.get("DJANGO_DEBUG", "1") == "1"
SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "")
if not SECRET_KEY:
    if not DEBUG:
        raise ImproperlyConfigured("Set DJANGO_SECRET_KEY: 50 random characters, kept secret.")
    SECRET_KEY = "insecure-and-for-debugging-only"

ALLOWED_HOSTS = os.environ.get("DJANGO_ALLOWED_HOSTS", "").split(",") if not DEBUG else []
CSRF_TRUSTED_ORIGINS = [
    origin for origin in os.environ.get("DJANGO_CSRF_TRUSTED_ORIGINS", "").split(",") if origin
]

INSTALLED_APPS = [
    "demo.web",  # before the admin, whose pages it gives an icon
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django.contrib.messages",
    "django.contrib.sessions",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "rest_framework",
    "rest_framework.authtoken",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "dbpatterns",
    "dbpatterns.sharding",
    "dbpatterns.idempotency",
    "dbpatterns.ledger",
    "dbpatterns.eventstore",
    "demo.users",
    "demo.blog",
    "demo.banking",
    "demo.api",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
if DEBUG:  # first, to see the queries of the others; a production site does without its cost
    MIDDLEWARE.insert(0, "dbpatterns.queries.middleware.NPlusOneMiddleware")

ROOT_URLCONF = "demo.urls"
WSGI_APPLICATION = "demo.wsgi.application"
ASGI_APPLICATION = "demo.asgi.application"

TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]


def _database(url: str, variable: str) -> dict[str, Any]:
    """Read one URL; SQLite gets what a site with concurrent writers needs."""
    try:
        database: dict[str, Any] = {**dj_database_url.parse(url.strip(), conn_max_age=60)}
    except ValueError as error:  # the message repeats no URL: it may hold a password
        raise ImproperlyConfigured(
            f"{variable} holds no database URL: write postgres://user:password@host:5432/name, "
            "with @ : / ? # % and commas in a password percent-encoded."
        ) from error
    if database["ENGINE"].endswith("sqlite3"):
        database["OPTIONS"] = {
            "transaction_mode": "IMMEDIATE",  # else a read that turns into a write fails at once
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        }
    return database


def _sqlite_url(alias: str) -> str:
    return f"sqlite:///{quote(str(DATA_DIR / f'{alias}.sqlite3'))}"


_shard_urls = [
    url for url in os.environ.get("DBPATTERNS_SHARD_URLS", "").split(",") if url.strip()
] or [_sqlite_url(f"shard_{number}") for number in range(4)]
SHARDS = [f"shard_{number}" for number in range(len(_shard_urls))]
DATABASES = {
    "default": _database(os.environ.get("DATABASE_URL") or _sqlite_url("default"), "DATABASE_URL"),
    **{
        alias: _database(url, "DBPATTERNS_SHARD_URLS")
        for alias, url in zip(SHARDS, _shard_urls, strict=True)
    },
}
DATABASE_ROUTERS = ["dbpatterns.sharding.ShardRouter"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

DBPATTERNS = {
    # Beside the bank's rows, so that a key, a booking, what it books and its events are one
    # transaction.
    "SHARDING": {
        "SHARDS": SHARDS,
        "GROUPS": {
            "bank": {
                "APPS": [
                    "banking",
                    "dbpatterns_eventstore",
                    "dbpatterns_idempotency",
                    "dbpatterns_ledger",
                ],
            },
        },
    },
    # A log line, not a warning: it goes where all others go, and `python -W error` breaks no page.
    "QUERIES": {"MODE": "log", "WRITES": "log"},
}

_redis_url = os.environ.get("REDIS_URL")
if _redis_url and not _redis_url.startswith(("redis://", "rediss://", "unix://")):
    raise ImproperlyConfigured("REDIS_URL holds no Redis URL: write redis://host:6379/0.")
CACHES: dict[str, dict[str, Any]] = {
    "default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": _redis_url}
    if _redis_url
    else {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
}
if _redis_url:
    # JSON, not the default pickle: whoever may write to Redis must not run code here.
    CACHES["default"]["OPTIONS"] = {"SERIALIZER": "django_redis.serializers.json.JSONSerializer"}

AUTH_USER_MODEL = "users.User"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "bank"
LOGOUT_REDIRECT_URL = "home"

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "static/"
STATIC_ROOT = DATA_DIR / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    },
}
WHITENOISE_USE_FINDERS = DEBUG

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        # The first one's challenge makes a missing log-in a 401; a session has none.
        "rest_framework.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["demo.api.parsers.BoundedJSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_THROTTLE_CLASSES": [
        "rest_framework.throttling.AnonRateThrottle",
        "rest_framework.throttling.UserRateThrottle",
    ],
    "DEFAULT_THROTTLE_RATES": {
        "anon": os.environ.get("DEMO_THROTTLE_ANON", "120/min"),
        "user": os.environ.get("DEMO_THROTTLE_USER", "600/min"),
        "token": os.environ.get("DEMO_THROTTLE_TOKEN", "10/min"),
        "transfer": os.environ.get("DEMO_THROTTLE_TRANSFER", "60/min"),
    },
    "EXCEPTION_HANDLER": "demo.api.problems.problem_response",
    "NUM_PROXIES": 0,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "dbpatterns demo",
    "DESCRIPTION": "A blog, public to read, and a bank, where everyone sees their own money.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "demo.api.schema.add_problems",
    ],
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(levelname)s %(name)s %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {"dbpatterns": {"handlers": ["console"], "level": "INFO"}},
}

SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = not DEBUG
SESSION_COOKIE_HTTPONLY = True
SECURE_REFERRER_POLICY = "same-origin"
if not DEBUG:
    SECURE_HSTS_SECONDS = 31_536_000
    SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = True
    if os.environ.get("DJANGO_BEHIND_TLS_PROXY") == "1":
        SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
