"""The check that stored answers are what their task allows."""

from collections.abc import Callable, Mapping
from datetime import date
from typing import Any

from pydantic import ValidationError

from llm_assets.dagster.checks.finding import EXAMPLES, Finding, Subject, nothing, percent, share_of
from llm_assets.dagster.checks.labels import label_column
from llm_assets.dagster.checks.settings import Valid
from llm_assets.json_schema import MAX_ITEMS, MAX_STRING_LENGTH, resolve, subschemas
from llm_assets.tasks import Extract


def valid(settings: Valid, subject: Subject) -> Finding:
    """Stored answers are what the task allows."""
    found = label_column(subject.task)
    if found is not None and not isinstance(subject.task, Extract):
        return _labels(settings, subject, *found)
    return _fields(settings, subject)


def _labels(settings: Valid, subject: Subject, column: str, allowed: tuple[str, ...]) -> Finding:
    """Every label is of the list. The database counts, so every row is looked at."""
    key = subject.partition.key
    counts = subject.answers.value_counts(column, [key])
    rows = sum(counts.values())
    if not rows:
        return nothing("There are no answers in this partition.", rows=0)
    others = {name: count for name, count in counts.items() if name not in allowed}
    wrong = sum(others.values())
    share = wrong / rows
    numbers = {"rows": rows, "invalid_rows": wrong, "invalid_share": share}
    if not wrong:
        return Finding(True, f"Each of {rows:,} labels is one of {len(allowed)}.", 0.0, numbers)
    names = ", ".join(f"{name!r} ({count:,})" for name, count in list(others.items())[:EXAMPLES])
    text = (
        f"{share_of(wrong, rows)} labels are none of {', '.join(allowed)}: {names}. They were written by hand, or the "
        "list of labels has changed since: materialize the partition again."
    )
    rows_shown = subject.answers.with_values(column, list(others), key, EXAMPLES)
    return Finding(share <= settings.max_share, text, share, numbers, rows_shown)


def _fields(settings: Valid, subject: Subject) -> Finding:
    """Every answer's fields fit the schema; of many answers, those of a sample."""
    task = subject.task
    assert isinstance(task, Extract)
    rows = subject.answers.sample(subject.partition.key, settings.sample_rows)
    if not rows:
        return nothing("There are no answers in this partition.", rows=0)
    problem_of = _validator(task)
    bounds = {
        kind: bound
        for kind, key, bound in ((str, "maxLength", MAX_STRING_LENGTH), (list, "maxItems", MAX_ITEMS))
        if any(node.get(key) == bound for node in subschemas(task.json_schema))
    }
    examples: list[Mapping[str, object]] = []
    wrong = full = 0
    for row in rows:
        full += any(_is_full(row[name], bounds) for name in _properties(task))
        problem = problem_of(row)
        if problem is not None:
            wrong += 1
            if len(examples) < EXAMPLES:
                shown = {name: row[name] for name in _properties(task)}
                examples.append(subject.row(subject.answers.key_of(row), problem=problem, **shown))
    share = wrong / len(rows)
    numbers = {"rows": len(rows), "invalid_rows": wrong, "invalid_share": share, "full_rows": full}
    advice = (
        f" {full:,} have a string of just {MAX_STRING_LENGTH} characters or a list of just {MAX_ITEMS} items, where a "
        "schema that sets no bound ends them. If they are cut off, set a higher maxLength or maxItems."
        if full
        else ""
    )
    if not wrong:
        return Finding(True, f"Each of {len(rows):,} answers looked at fits the schema.{advice}", 0.0, numbers)
    text = (
        f"{share_of(wrong, len(rows))} answers looked at do not fit the schema; {percent(settings.max_share)} may. "
        "They were written by hand, or the schema has changed since: materialize the partition again."
    )
    return Finding(share <= settings.max_share, text + advice, share, numbers, examples)


def _is_full(value: Any, bounds: Mapping[type, int]) -> bool:
    """Whether a string or list, at any depth, is just as long as its kind may be by default."""
    if isinstance(value, dict):
        return any(_is_full(item, bounds) for item in value.values())
    if isinstance(value, list) and any(_is_full(item, bounds) for item in value):
        return True
    return isinstance(value, str | list) and len(value) == bounds.get(type(value))


def _properties(task: Extract) -> dict[str, Any]:
    return resolve(task.json_schema, task.json_schema)["properties"]


def _validator(task: Extract) -> Callable[[Mapping[str, Any]], str | None]:
    """Return what says why a stored row does not fit the task's schema, or None if it does."""
    from jsonschema.validators import validator_for

    schema = task.json_schema
    properties, required = _properties(task), set(resolve(schema, schema).get("required", ()))
    validator = validator_for(schema)(schema)

    def problem_of(row: Mapping[str, Any]) -> str | None:
        # A field that an answer leaves out is NULL in the table.
        answer = {
            name: value.isoformat() if isinstance(value, date) else value
            for name in properties
            if (value := row[name]) is not None or name in required
        }
        error = next(validator.iter_errors(answer), None)
        if error is not None:
            return f"{'.'.join(map(str, error.absolute_path)) or 'answer'}: {error.message}"
        if task.answer_model is not None:
            try:
                task.answer_model.model_validate(answer)
            except ValidationError as refused:
                first = refused.errors()[0]
                return f"{'.'.join(map(str, first['loc'])) or 'answer'}: {first['msg']}"
        return None

    return problem_of
