"""Unknown query parameters are an error, on every route at once."""

from fastapi import Request
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Query
from fastapi.routing import APIRoute

from app.http.problems import invalid_params


async def refuse_unknown_query(request: Request) -> None:
    """Dependency of the application: a misspelled filter must not list everything."""
    route = request.scope.get("route")
    if not isinstance(route, APIRoute):
        return
    known = {field.alias for field in get_flat_params(route.dependant) if isinstance(field.field_info, Query)}
    unknown = [name for name in dict(request.query_params) if name not in known]
    if unknown:
        raise invalid_params([(name, "there is no such query parameter") for name in unknown])
