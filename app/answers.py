"""What the service answers a client: a JSON object, or a problem (RFC 9457)."""

from collections.abc import Mapping
from typing import Any

import httpx

Json = dict[str, Any]


class ApiProblem(Exception):
    """The service answered with an error; `problem` is the problem object (RFC 9457).

    `refused`: a request of ours was refused (4xx); false where the service failed, or rejected an upload's content.
    """

    def __init__(self, problem: Mapping[str, Any], *, refused: bool = False):
        self.problem: Json = dict(problem)
        self.refused = refused
        super().__init__(f"{self.problem.get('title')}: {self.problem.get('detail')}")

    @property
    def code(self) -> str:
        """The machine-readable code, such as `invalid_params`."""
        return str(self.problem.get("code", "internal"))

    @property
    def status(self) -> int:
        """The HTTP status."""
        return int(self.problem.get("status", 500))


def object_of(response: httpx.Response) -> Json:
    """The JSON object of an answer.

    Raises:
        ApiProblem: it holds none.
    """
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise ApiProblem(_strange(response))
    return answer


def problem_of(response: httpx.Response) -> Json:
    """The problem object of an answer that says what went wrong, or one about an answer that does not."""
    if response.headers.get("Content-Type", "").startswith("application/problem+json"):
        return object_of(response)
    return _strange(response)


def _strange(response: httpx.Response) -> Json:
    """A problem for an answer that is none of Burnish's: a proxy's error page, say."""
    start = " ".join(response.text[:200].split())
    return {
        "title": "The answer is not one of Burnish",
        "status": response.status_code,
        "detail": f"{response.request.method} {response.request.url} answered {response.status_code}: {start}",
        "code": "internal",
        "hint": "is this the address of a Burnish service?",
    }
