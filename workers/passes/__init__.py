"""One file a pass: `@implements(SPEC.name)` on `apply(model, params, ctx) -> ModelHandle`."""

from collections.abc import Callable
from typing import Any

from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.registry import Registry

Apply = Callable[[ModelHandle, Any, PassContext], ModelHandle]

registry: Registry[Apply] = Registry(__name__, "pass")
implements = registry.implements
