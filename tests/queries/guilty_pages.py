"""More of the catalogue: templates of Django and Jinja2, serializers, forms and the admin."""

from typing import Any

import jinja2
from django import forms, template
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.forms import modelformset_factory
from django.http import HttpRequest, HttpResponse
from django.template import Context, Engine
from django.test import Client, override_settings
from django.urls import clear_url_caches, path
from django.views.generic import ListView
from rest_framework import serializers
from rest_framework.validators import UniqueValidator

from tests.queries.guilty import marked, serialize, shape
from tests.testapp.models import Berth, Critique, Genre, Novel, Port, Ship

NOVELIST = ("Novel.novelist", '.select_related("novelist")')
LOCMEM = "django.template.loaders.locmem.Loader"

register = template.Library()


@register.filter
def author_of(novel: Novel) -> str:
    return novel.novelist.name  # N+1


@register.simple_tag
def author_tag(novel: Novel) -> str:
    return novel.novelist.name  # N+1


@register.inclusion_tag("one.html")
def novel_tag(novel: Novel) -> dict[str, object]:
    return {"novel": novel}


def page(sources: dict[str, str], **context: object) -> None:
    engine = Engine(
        loaders=[(LOCMEM, sources)],
        libraries={"novels": "tests.queries.guilty_pages"},
    )
    engine.get_template("list.html").render(Context(context))  # N+1


def loop(body: str, **sources: str) -> None:
    page(
        {"list.html": "{% for novel in novels %}\n" + body + "\n{% endfor %}", **sources},
        novels=Novel.objects.all(),
    )


# Django's templates


@shape(*NOVELIST, template="list.html:2", line=marked(page))
def template_with() -> None:
    loop("{% with author=novel.novelist %}{{ author.name }}{% endwith %}")


@shape(*NOVELIST, template="one.html:2", line=marked(page))
def template_include() -> None:
    loop('{% include "one.html" %}', **{"one.html": "\n{{ novel.novelist.name }}"})


@shape(*NOVELIST, template="list.html:2", line=marked(page))
def template_inheritance() -> None:
    child = (
        '{% extends "base.html" %}{% block rows %}{% for novel in novels %}\n'
        "{{ novel.novelist.name }}{% endfor %}{{ block.super }}{% endblock %}"
    )
    page(
        {"list.html": child, "base.html": "{% block rows %}{% endblock %}"},
        novels=Novel.objects.all(),
    )


@shape(*NOVELIST, template="list.html:2", line=marked(page))
def template_condition() -> None:
    loop("{% if novel.novelist %}yes{% endif %}")


@shape(*NOVELIST, template="list.html:2", line=marked(author_of))
def template_filter_of_ones_own() -> None:
    loop("{% load novels %}{{ novel|author_of }}")


@shape(*NOVELIST, template="list.html:2", line=marked(author_tag))
def template_tag_of_ones_own() -> None:
    loop("{% load novels %}{% author_tag novel %}")


@shape(*NOVELIST, template="one.html:1", line=marked(page))
def template_inclusion_tag() -> None:
    loop("{% load novels %}{% novel_tag novel %}", **{"one.html": "{{ novel.novelist.name }}"})


@shape(
    "Novel.critiques",
    '.prefetch_related("critiques")',
    template="list.html:2",
    line=marked(page),
)
def template_length() -> None:
    loop("{{ novel.critiques.all|length }}")


@shape(
    "Novel.genres",
    '.prefetch_related("genres")',
    template="list.html:2",
    line=marked(page),
)
def template_join() -> None:
    loop('{{ novel.genres.all|join:", " }}')


@shape(
    "Novel.critiques.exists()",
    ".annotate(has_critiques=Exists(",
    template="list.html:2",
    line=marked(page),
)
def template_exists() -> None:
    loop("{% if novel.critiques.exists %}yes{% endif %}")


@shape(
    "Novel.critiques.first()",
    'Critique.objects.filter(novel=OuterRef("pk"))',
    template="list.html:2",
    line=marked(page),
)
def template_first_filter() -> None:
    loop("{{ novel.critiques.all|first }}")


@shape(*NOVELIST, template="list.html:1", line=marked(page))
def template_sort() -> None:
    page(
        {"list.html": '{% for novel in novels|dictsort:"novelist.name" %}x{% endfor %}'},
        novels=Novel.objects.all(),
    )


@shape(*NOVELIST, template="list.html:1", line=marked(page))
def template_regroup() -> None:
    page(
        {"list.html": "{% regroup novels by novelist.name as groups %}{{ groups|length }}"},
        novels=Novel.objects.all(),
    )


@shape(*NOVELIST, template="list.html:2", line=marked(page))
def template_ifchanged() -> None:
    loop("{% ifchanged novel.novelist.name %}x{% endifchanged %}")


@shape(*NOVELIST, template="list.html:2", line=marked(Novel.__str__, "# mark: str"))
def template_prints_the_model() -> None:
    loop("{{ novel }}")


# Jinja2


JINJA = jinja2.Environment(
    loader=jinja2.DictLoader(
        {
            "list.html": "{% for novel in novels %}\n\n{{ novel.novelist.name }}\n{% endfor %}",
            "macro.html": "{% macro cell(novel) %}\n{{ novel.novelist.name }}{% endmacro %}"
            "{% for novel in novels %}\n\n{{ cell(novel) }}\n{% endfor %}",
            "count.html": "{% for novel in novels %}\n{{ novel.critiques.count() }}{% endfor %}",
        }
    ),
    autoescape=True,
)


def jinja_page(name: str) -> None:
    JINJA.get_template(name).render(novels=Novel.objects.all())  # N+1


@shape(*NOVELIST, template="list.html:3", line=marked(jinja_page))
def jinja_loop() -> None:
    jinja_page("list.html")


@shape(*NOVELIST, template="macro.html:2", line=marked(jinja_page))
def jinja_macro() -> None:
    jinja_page("macro.html")


@shape(
    "Novel.critiques.count()",
    ".annotate(critiques_count=",
    template="count.html:2",
    line=marked(jinja_page),
)
def jinja_count() -> None:
    jinja_page("count.html")


# Serializers


class SlugSerializer(serializers.ModelSerializer[Novel]):
    novelist = serializers.SlugRelatedField(slug_field="name", read_only=True)

    class Meta:
        model = Novel
        fields = ["novelist"]


@shape(*NOVELIST, serializer="SlugSerializer.novelist", line=marked(serialize))
def slug_field() -> None:
    serialize(SlugSerializer)


class DottedSerializer(serializers.Serializer[Novel]):
    nation = serializers.CharField(source="novelist.nation.name")


@shape(
    "Novel.novelist",
    '.select_related("novelist__nation")',
    serializer="DottedSerializer.nation",
    line=marked(serialize),
)
def dotted_source_of_two_hops() -> None:
    serialize(DottedSerializer)


class KeysSerializer(serializers.ModelSerializer[Novel]):
    class Meta:
        model = Novel
        fields = ["genres"]


@shape(
    "Novel.genres",
    '.prefetch_related("genres")',
    serializer="KeysSerializer.genres",
    line=marked(serialize),
)
def keys_of_many() -> None:
    serialize(KeysSerializer)


class DeepSerializer(serializers.ModelSerializer[Novel]):
    class Meta:
        model = Novel
        fields = ["novelist"]
        depth = 1


@shape(*NOVELIST, serializer="DeepSerializer.novelist", line=marked(serialize))
def depth_of_a_serializer() -> None:
    serialize(DeepSerializer)


class OwnSerializer(serializers.ModelSerializer[Novel]):
    class Meta:
        model = Novel
        fields = ["title"]

    def to_representation(self, instance: Novel) -> dict[str, Any]:
        return {"author": instance.novelist.name}  # N+1


@shape(*NOVELIST, line=marked(OwnSerializer.to_representation))
def representation_of_ones_own() -> None:
    serialize(OwnSerializer)


class CritiqueSerializer(serializers.ModelSerializer[Critique]):
    author = serializers.CharField(source="novel.novelist.name")

    class Meta:
        model = Critique
        fields = ["author"]


class NestedManySerializer(serializers.ModelSerializer[Novel]):
    critiques = CritiqueSerializer(many=True)

    class Meta:
        model = Novel
        fields = ["critiques"]


def serialize_prefetched() -> None:
    rows = Novel.objects.prefetch_related("critiques")
    _ = NestedManySerializer(rows, many=True).data  # N+1


@shape(
    "Novel.novelist",
    '.prefetch_related("critiques__novel__novelist")',
    serializer="CritiqueSerializer.author",
    line=marked(serialize_prefetched),
)
def nested_list_of_prefetched_rows() -> None:
    serialize_prefetched()


class PropertySerializer(serializers.ModelSerializer[Novel]):
    class Meta:
        model = Novel
        fields = ["author_name"]


@shape(
    *NOVELIST,
    serializer="PropertySerializer.author_name",
    line=marked(Novel, "# mark: author_name"),
)
def property_in_a_serializer() -> None:
    serialize(PropertySerializer)


class UniqueSerializer(serializers.Serializer[Port]):
    name = serializers.CharField(validators=[UniqueValidator(Port.objects.all())])


@shape(
    "Port.objects.exists()",
    'set(Port.objects.filter(name__in=…).values_list("name", flat=True))',
    serializer="UniqueSerializer.name",
)
def unique_validator_of_many() -> None:
    UniqueSerializer(data=[{"name": name} for name in "abc"], many=True).is_valid()  # N+1


class ChoosingSerializer(serializers.ModelSerializer[Novel]):
    class Meta:
        model = Novel
        fields = ["genres"]


@shape(
    "Genre.objects.get()",
    "Genre.objects.in_bulk(ids)",
    serializer="ChoosingSerializer.genres",
)
def keys_that_are_looked_up() -> None:
    pks = [genre.pk for genre in Genre.objects.all()]
    ChoosingSerializer(data={"genres": pks}).is_valid()  # N+1


class ValidatingSerializer(serializers.Serializer[Port]):
    name = serializers.CharField()

    def validate_name(self, name: str) -> str:
        Port.objects.filter(name=name).exists()  # N+1
        return name


@shape(
    "Port.objects.exists()",
    "set(Port.objects.filter(name__in=…)",
    serializer="ValidatingSerializer.name",
    line=marked(ValidatingSerializer.validate_name),
)
def validation_of_many() -> None:
    ValidatingSerializer(data=[{"name": name} for name in "abc"], many=True).is_valid()


class RowsSerializer(serializers.ModelSerializer[Genre]):
    class Meta:
        model = Genre
        fields = ["name"]


@shape("Genre.objects.create()", "one Genre.objects.bulk_create(rows)", is_write=True)
def rows_saved_by_a_serializer() -> None:
    serializer = RowsSerializer(data=[{"name": name} for name in "abc"], many=True)
    serializer.is_valid(raise_exception=True)
    serializer.save()  # N+1


# Forms


@shape("Novelist.objects", "once for all forms", line=marked(page), template="list.html:1")
def choices_of_each_form() -> None:
    formset = modelformset_factory(Novel, fields=["novelist"], extra=0)
    page(
        {"list.html": "{% for form in formset %}{{ form.novelist }}{% endfor %}"},
        formset=formset(queryset=Novel.objects.all()),
    )


class NovelChoice(forms.ModelChoiceField):
    def label_from_instance(self, novel: Any) -> str:
        return str(novel.novelist.name)  # N+1


@shape(*NOVELIST, line=marked(NovelChoice.label_from_instance))
def label_of_each_choice() -> None:
    str(NovelChoice(Novel.objects.all()).widget.render("novel", None))


class NovelForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = Novel
        fields = ["title"]

    def clean_title(self) -> str:
        Novel.objects.filter(title=self.cleaned_data["title"]).exists()  # N+1
        return str(self.cleaned_data["title"])


@shape(
    "Novel.objects.exists()",
    "set(Novel.objects.filter(title__in=…)",
    line=marked(NovelForm.clean_title),
)
def validation_of_each_form() -> None:
    data = {"form-TOTAL_FORMS": 3, "form-INITIAL_FORMS": 0}
    data.update({f"form-{number}-title": f"new {number}" for number in range(3)})
    modelformset_factory(Novel, form=NovelForm)(data, queryset=Novel.objects.none()).is_valid()


# The admin


class BerthAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("rank", "port")

    @admin.display
    def port(self, berth: Berth) -> str:
        return berth.ship.home.name  # N+1


class PathAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("name", "home__name")


class StrAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    pass


class BerthInline(admin.TabularInline):  # type: ignore[type-arg]
    model = Berth
    fields = ("rank", "who")
    readonly_fields = ("who",)
    extra = 0

    def who(self, berth: Berth) -> str:
        return berth.sailor.name  # N+1


class ShipAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    inlines = (BerthInline,)


urlpatterns: list[Any] = []


def handler500(request: HttpRequest) -> HttpResponse:
    return HttpResponse(status=500)


def visit(model: Any, options: Any, page: str = "") -> None:
    site = admin.AdminSite()
    site.register(model, options)
    urlpatterns[:] = [path("admin/", site.urls)]
    clear_url_caches()
    users: Any = get_user_model().objects
    browser = Client()
    browser.force_login(users.create_superuser("root"))
    with override_settings(ROOT_URLCONF=__name__):
        browser.get(f"/admin/testapp/{model._meta.model_name}/{page}")  # N+1


@shape("Berth.ship", '.select_related("ship__home")', line=marked(BerthAdmin.port), template="*")
def column_of_a_changelist() -> None:
    visit(Berth, BerthAdmin)


class Novels(ListView):  # type: ignore[type-arg]
    model = Novel
    template_name = "list.html"


def list_page() -> None:
    source = {"list.html": "\n\n{% for novel in novel_list %}{{ novel.novelist.name }}{% endfor %}"}
    engine = {"BACKEND": "django.template.backends.django.DjangoTemplates"}
    engine["OPTIONS"] = {"loaders": [(LOCMEM, source)]}  # type: ignore[assignment]
    urlpatterns[:] = [path("novels/", Novels.as_view())]
    clear_url_caches()
    with override_settings(ROOT_URLCONF=__name__, TEMPLATES=[engine]):
        Client().get("/novels/")


@shape(*NOVELIST, template="list.html:3", line=("list.html", 3))
def template_that_django_renders() -> None:
    list_page()


@shape("Ship.home", '.select_related("home")', line=marked(visit), template="*")
def path_in_a_changelist() -> None:
    visit(Ship, PathAdmin)


@shape(*NOVELIST, line=marked(Novel.__str__, "# mark: str"), template="*")
def names_in_a_changelist() -> None:
    visit(Novel, StrAdmin)


@shape("Berth.sailor", '.select_related("sailor")', line=marked(BerthInline.who), template="*")
def column_of_an_inline() -> None:
    ship = Ship.objects.filter(kind="f")[0]
    visit(Ship, ShipAdmin, f"{ship.pk}/change/")
