"""Tokenizers without PyTorch: transformers imports it, if it is there, for the models that nobody asked for."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_torch() -> Iterator[None]:
    """Have transformers, if it is first imported in here, do without PyTorch: 340 MB and some seconds less.

    For a process that loads no model, then or later: transformers does not look for PyTorch a second time.
    """
    if "torch" in sys.modules or "transformers" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]  # an import of it fails, as if it were missing
    try:
        yield
    finally:
        del sys.modules["torch"]
