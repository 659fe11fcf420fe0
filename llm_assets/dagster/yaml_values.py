"""Attributes as they stand in a YAML file: templates filled in, and what is wrong with them told by file and line."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import dagster as dg
from pydantic import ValidationError

from llm_assets.dagster.yaml_schema import SettingsSchema, has
from llm_assets.errors import ConfigError, did_you_mean

TEMPLATE = re.compile(r"\{\{|\{%")
ENVIRONMENT_VARIABLE = re.compile(r"\s*\{\{\s*env(?:\.(\w+)|\(\s*(['\"])(\w+)\2\s*\))\s*\}\}\s*")

Path = tuple[str | int, ...]


def rendered(context: dg.ResolutionContext, value: Any) -> Any:
    """Return a YAML value with its templates filled in.

    Only texts with a template are touched: Dagster would make a number of the text "1" elsewhere too, and a label or
    an example may be just that.
    """
    if isinstance(value, Mapping):
        return {key: rendered(context.at_path(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rendered(context.at_path(index), item) for index, item in enumerate(value)]
    if isinstance(value, str) and TEMPLATE.search(value):
        return context.resolve_value(value, as_type=object)
    return value


def environment_variable(value: object) -> dg.EnvVar | None:
    """Return the environment variable that a template names and nothing else, or None.

    Dagster records an `EnvVar` by its name, and reads it in the run; the text of a template it would record itself.
    """
    found = ENVIRONMENT_VARIABLE.fullmatch(value) if isinstance(value, str) else None
    return dg.EnvVar(found[1] or found[3]) if found else None


def located(
    error: ValidationError, written: Any, values: Any, schema: SettingsSchema, context: dg.ResolutionContext
) -> str:
    """Return what is wrong, one line for each setting: file and line, where in the file, and why it cannot be so.

    Args:
        error: What pydantic found.
        written: The attributes as the file has them.
        values: The same with their templates filled in.
        schema: Says what could stand there.
        context: Where the attributes begin.
    """
    found: dict[Path, list[str]] = {}
    unlike: set[Path] = set()
    for path, kind, reason in _reasons(error, written, values, schema):
        if kind.endswith("_type"):
            unlike.add(path)
        if reason not in found.setdefault(path, []):
            found[path].append(reason)
    lines: list[tuple[int, str]] = []
    for path, reasons in found.items():
        # Of several kinds that a value could have, the one that fits in part says best what is wrong.
        if path in unlike and any(other[: len(path)] == path for other in found if other != path):
            continue
        place = ".".join(map(str, (*context.path, *path)))
        line, position = _position(context, path)
        lines.append((line, f"{position}{place}: {', or: '.join(reasons)}"))
    return "\n".join(text for _, text in sorted(lines, key=lambda item: item[0]))


@contextmanager
def told_at(context: dg.ResolutionContext, values: Any = None, *path: str | int) -> Iterator[None]:
    """Put file, line and place of a setting before what is wrong when definitions are built from settings.

    Args:
        context: Where the attributes begin.
        values: The attributes.
        path: Where in them the setting is; a message may begin with the place of one inside.
    """
    try:
        yield
    except (ConfigError, dg.DagsterInvalidDefinitionError) as error:
        inside = (*path, *_begun_with(str(error), values, path))
        place = ".".join(map(str, (*context.path, *inside)))
        raise ConfigError(f"{_position(context, inside)[1]}{place}: {error}") from (
            None if isinstance(error, ConfigError) else error
        )


def _begun_with(message: str, values: Any, path: Path) -> Path:
    """Return the place of the setting that a message begins with, and of what it quotes of it."""
    for part in path:
        values = values[part] if has(values, part) else None
    found: list[str | int] = []
    for part in re.split(r"[^\w.]", message, maxsplit=1)[0].split("."):
        if not has(values, part):
            break
        found.append(part)
        values = values[part]
    items = values if isinstance(values, Mapping) else dict(enumerate(values)) if isinstance(values, list) else {}
    if found:
        quoted = (key for key, item in items.items() if repr(key) in message or repr(item) in message)
        found += [*quoted][:1]
    return tuple(found)


def _position(context: dg.ResolutionContext, path: Path) -> tuple[int, str]:
    if context.source_position_tree is None:
        return 0, ""
    position, _ = context.source_position_tree.lookup_closest_and_path([*context.path, *path], None)
    return position.start.line, f"{position}: "


def _reasons(
    error: ValidationError, written: Any, values: Any, schema: SettingsSchema
) -> Iterator[tuple[Path, str, str]]:
    for item in error.errors(include_url=False):
        loc = item["loc"]
        path, here = _path(loc, values)
        reason = item["msg"].removeprefix("Value error, ").replace("valid tuple", "valid list")  # YAML has no tuples
        match item["type"]:
            case "extra_forbidden":
                reason = f"There is no such setting. {did_you_mean(str(loc[-1]), schema.names(path[:-1], values))}"
            case "missing":
                reason = f"{str(loc[-1])!r} is missing. {schema.description((*path, loc[-1]), values)}"
            case "union_tag_not_found":
                reason = f"The type is missing. Write one of: {', '.join(schema.kinds(path, values))}."
            case "union_tag_invalid":
                tag = str(item.get("ctx", {}).get("tag"))
                path, reason = (
                    (*path, "type"),
                    f"There is no type {tag!r}. {did_you_mean(tag, schema.kinds(path, values))}",
                )
            case "value_error":
                path = (*path, *_named(reason, here))
            case _ if here is None:
                template = _at(written, path)
                reason = (
                    f"Nothing is written here. {schema.description(path, values)}"
                    if template is None
                    else f"{template!r} gives nothing. Is the environment variable set?"
                )
            case "string_type" if isinstance(here, bool):
                reason = f"{reason}. YAML reads yes, no, on and off as true and false: write it in quotes."
            case _ if isinstance(here, str | int | float):
                reason = f"{reason}, not {here!r}."
        yield path, item["type"], reason.strip()


def _path(loc: Sequence[str | int], values: Any) -> tuple[Path, Any]:
    """Return where in the file pydantic's location is, which also names members of unions, and the value there."""
    path: list[str | int] = []
    for part in loc:
        if has(values, part):
            path.append(part)
            values = values[part]
    return tuple(path), values


def _named(reason: str, here: Any) -> Path:
    """The setting that a check of several settings speaks of."""
    keys = here if isinstance(here, Mapping) else ()
    return next(((key,) for key in keys if repr(key) in reason), ())


def _at(values: Any, path: Path) -> Any:
    for part in path:
        values = values[part]
    return values
