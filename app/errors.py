"""Errors of the contract: a class a code. The docstring's first line is the title, `http_status` the status (RFC 9457)."""

from typing import Any, ClassVar

from app.text import plain

LONGEST_DETAIL = 4000  # characters


class BurnishError(Exception):
    """Something went wrong"""

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        detail: str,
        *,
        stage: str | None = None,
        node: str | None = None,
        param: str | None = None,
        hint: str | None = None,
        errors: list[dict[str, Any]] | None = None,
        retryable: bool | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(detail)
        self.detail = detail
        self.stage = stage
        self.node = node
        self.param = param
        self.hint = hint
        self.errors = errors
        self.headers = headers or {}
        self._retryable = self.retryable if retryable is None else retryable

    def problem(self) -> dict[str, Any]:
        """The problem object (RFC 9457) that answers and failed jobs carry, less `instance`."""
        cls = type(self)
        body: dict[str, Any] = {
            "type": f"urn:burnish:problem:{cls.code}",
            "title": title_of(cls),
            "status": cls.http_status,
            "detail": plain(self.detail, LONGEST_DETAIL),
            "code": cls.code,
            "retryable": self._retryable,
        }
        for name in ("stage", "node", "param", "hint", "errors"):
            if (value := getattr(self, name)) is not None:
                body[name] = plain(value) if isinstance(value, str) else value
        return body


def title_of(cls: type[BurnishError]) -> str:
    """The first line of an error class's docstring."""
    return (cls.__doc__ or "").strip().splitlines()[0]


class Unauthorized(BurnishError):
    """No valid key was given"""

    code, http_status = "unauthorized", 401


class Forbidden(BurnishError):
    """The key may not do this"""

    code, http_status = "forbidden", 403


class NotFound(BurnishError):
    """There is no such thing"""

    code, http_status = "not_found", 404


class MethodNotAllowed(BurnishError):
    """The resource does not know this method"""

    code, http_status = "method_not_allowed", 405


class Conflict(BurnishError):
    """The state of the resource does not allow this"""

    code, http_status = "conflict", 409


class RangeNotSatisfiable(BurnishError):
    """The file does not hold that range"""

    code, http_status = "range_not_satisfiable", 416


class PayloadTooLarge(BurnishError):
    """The upload is larger than this service takes"""

    code, http_status = "payload_too_large", 413


class MalformedRequest(BurnishError):
    """The request could not be read"""

    code, http_status = "malformed_request", 400


class RequestTimeout(BurnishError):
    """The request did not come in time"""

    code, http_status, retryable = "request_timeout", 408, True


class HeadTooLarge(BurnishError):
    """The request's address and header fields are larger than this service takes"""

    code, http_status = "head_too_large", 431


class UploadStalled(BurnishError):
    """The upload's bytes stopped coming"""

    code, http_status, retryable = "upload_stalled", 408, True


class UploadMismatch(BurnishError):
    """The upload is not what was announced"""

    code, http_status = "upload_mismatch", 422


class UnsupportedFormat(BurnishError):
    """The file's format is not supported"""

    code, http_status = "unsupported_format", 415


class UnsupportedMediaType(BurnishError):
    """The body's media type is not one that this resource takes"""

    code, http_status = "unsupported_media_type", 415


class UnsafeModel(BurnishError):
    """The file holds code that would run when loaded"""

    code, http_status = "unsafe_model", 422


class InvalidModel(BurnishError):
    """The model is not valid"""

    code, http_status = "invalid_model", 422


class InvalidDataset(BurnishError):
    """The dataset is not valid"""

    code, http_status = "invalid_dataset", 422


class SignatureMismatch(BurnishError):
    """Data and model do not fit each other"""

    code, http_status = "signature_mismatch", 422


class UnknownPass(BurnishError):
    """There is no such pass"""

    code, http_status = "unknown_pass", 422


class InvalidParams(BurnishError):
    """The request has invalid fields"""

    code, http_status = "invalid_params", 422


class IncompatibleRecipe(BurnishError):
    """The passes do not fit each other, the model or the target"""

    code, http_status = "incompatible_recipe", 422


class UnsupportedOperator(BurnishError):
    """The target does not know an operator of the model"""

    code, http_status = "unsupported_operator", 422


class NoWorker(BurnishError):
    """No worker can do this"""

    code, http_status = "no_worker", 409


class BudgetNotMet(BurnishError):
    """The optimized model breaks its budget"""

    code, http_status = "budget_not_met", 422


class OutOfMemory(BurnishError):
    """The job needed more memory than it may have"""

    code, http_status = "out_of_memory", 500


class Crashed(BurnishError):
    """The job's process died"""

    code, http_status, retryable = "crashed", 500, True


class TimedOut(BurnishError):
    """The job took longer than it may"""

    code, http_status, retryable = "timed_out", 504, True


class Cancelled(BurnishError):
    """The job was cancelled"""

    code, http_status = "cancelled", 409


class DiskFull(BurnishError):
    """There is no space left"""

    code, http_status, retryable = "disk_full", 507, True


class QuotaExceeded(BurnishError):
    """The project's quota is used up"""

    code, http_status, retryable = "quota_exceeded", 429, True


class RateLimited(BurnishError):
    """Too many requests"""

    code, http_status, retryable = "rate_limited", 429, True


class Unavailable(BurnishError):
    """A part of the service does not answer"""

    code, http_status, retryable = "unavailable", 503, True


class Internal(BurnishError):
    """Burnish made a mistake"""

    code, http_status = "internal", 500


def by_code() -> dict[str, type[BurnishError]]:
    """Every error class by its code."""
    return {cls.code: cls for cls in BurnishError.__subclasses__()}
