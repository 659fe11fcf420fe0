"""Label, extract from and summarize the text rows of a database with vLLM, inside Dagster runs."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_assets.tables.frame import to_pandas

__all__ = ["to_pandas"]


def __getattr__(name: str) -> Any:
    # At its first use, so that importing the package loads nothing.
    if name == "to_pandas":
        from llm_assets.tables.frame import to_pandas

        return to_pandas
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
