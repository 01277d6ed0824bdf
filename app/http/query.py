"""Unknown query parameters are an error, on every route at once."""

from collections.abc import Iterator

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel

from app.http.problems import invalid_params


async def refuse_unknown_query(request: Request) -> None:
    """Dependency of the application: a misspelled filter must not list everything."""
    route = request.scope.get("route")
    if not request.query_params or not isinstance(route, APIRoute):
        return
    known = set(_query_names(route.dependant))
    unknown = [name for name in dict(request.query_params) if name not in known]
    if unknown:
        raise invalid_params([(name, "there is no such query parameter") for name in unknown])


def _query_names(dependant: Dependant) -> Iterator[str]:
    for field in dependant.query_params:
        annotation = field.field_info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from (info.alias or name for name, info in annotation.model_fields.items())
        else:
            yield field.alias
    for dependency in dependant.dependencies:
        yield from _query_names(dependency)
