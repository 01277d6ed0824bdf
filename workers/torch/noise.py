"""What torch says of its own making while it exports: silenced where that happens."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Inside the block no warning of attributes that recurrent layers set, of gradients that control flow looks at, or of
    calls to torch's own old functions."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The tensor attributes? self", category=UserWarning)
        warnings.filterwarnings(
            "ignore", message="The .grad attribute of a Tensor that is not a leaf", category=UserWarning
        )
        warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated", category=FutureWarning)
        yield
