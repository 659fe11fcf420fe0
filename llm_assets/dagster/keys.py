"""Keys of assets as settings: the one of a source table, and what is put before the keys of answers."""

import re
from collections.abc import Sequence
from typing import Annotated, Any

import dagster as dg
from pydantic import AfterValidator, BeforeValidator

from llm_assets.errors import ConfigError

KeyOfAsset = dg.AssetKey | str | Sequence[str]
"""The key of an asset: `crm/reviews`, or its parts."""


def asset_key(key: KeyOfAsset) -> dg.AssetKey:
    """Return a key that is given as a text with slashes, as its parts, or as it is.

    Raises:
        ConfigError: a part of it is empty.
    """
    if isinstance(key, dg.AssetKey):
        return key
    parts = key.split("/") if isinstance(key, str) else list(key)
    if not parts or not all(part.strip() for part in parts):
        raise ConfigError(f"{key!r} is no asset key, because a part of it is empty. Write one such as 'crm/reviews'.")
    return dg.AssetKey(parts)


def checked_prefix(prefix: Sequence[str]) -> tuple[str, ...]:
    """Return what is put before asset keys, or raise a ConfigError: Dagster names steps by it."""
    if isinstance(prefix, str):
        raise ConfigError(f"key_prefix is {prefix!r}, and it has to be a list: {prefix.split('/')}.")
    for part in prefix:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", part):
            raise ConfigError(
                f"key_prefix has the part {part!r}. A part has letters, digits, - and _; several parts are several "
                "items, such as ['crm', 'shop']."
            )
    return tuple(prefix)


def checked_name(name: str) -> str:
    """Return the name of a table's step, jobs, schedule and sensors, or raise a ConfigError."""
    if not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise ConfigError(
            f"The name {name!r} is none for Dagster. Write letters, digits and _, such as 'reviews_labels'."
        )
    return name


def _parts(key: Any) -> Any:
    return tuple(asset_key(key).path) if isinstance(key, str | dg.AssetKey) else key


def _checked_parts(parts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(asset_key(parts).path)


AssetKeyParts = Annotated[
    tuple[str, ...],
    BeforeValidator(_parts, json_schema_input_type=str | tuple[str, ...]),
    AfterValidator(_checked_parts),
]
"""A setting that is the key of an asset."""


def _checked_group(group: str) -> str:
    _check_attribute(group_name=group)
    return group


def _checked_owner(owner: str) -> str:
    try:
        _check_attribute(owners=[owner])
    except ConfigError:
        raise ConfigError(
            f"The owner {owner!r} is neither an address nor a team. Write one such as ada@example.com or team:support."
        ) from None
    return owner


def _checked_tags(tags: dict[str, str]) -> dict[str, str]:
    for name, value in tags.items():
        try:
            _check_attribute(tags={name: value})
        except ConfigError as error:
            raise ConfigError(f"The tag {name!r}: {error}") from None
    return tags


def _check_attribute(**attributes: Any) -> None:
    """Raise a ConfigError with what Dagster says of an attribute that an asset cannot have."""
    try:
        dg.AssetSpec("any", **attributes)
    except dg.DagsterInvalidDefinitionError as error:
        raise ConfigError(str(error)) from None


GroupName = Annotated[str, AfterValidator(_checked_group)]
Owner = Annotated[str, AfterValidator(_checked_owner)]
Tags = Annotated[dict[str, str], AfterValidator(_checked_tags)]

Name = Annotated[str, AfterValidator(checked_name)]
"""A setting that steps, jobs, schedules and sensors are named for."""

KeyPrefix = Annotated[tuple[str, ...], AfterValidator(checked_prefix)]
"""A setting that is put before the keys of assets."""
