"""Checks that count rows: those without an outcome, those that failed, and answers of low confidence."""

from collections.abc import Iterator

from llm_assets.dagster.checks.finding import EXAMPLES, Finding, Subject, nothing, percent, share_of
from llm_assets.dagster.checks.settings import Confidence, Coverage, Failures
from llm_assets.records import Key

SEARCHED_ROWS = 20_000
"""So many rows of a partition are searched for examples of those that have no outcome."""


def coverage(settings: Coverage, subject: Subject) -> Finding:
    """Every source row is answered or failed."""
    key = subject.partition.key
    rows = subject.source.count(subject.partition)
    answered, failed = subject.answers.answers(key), sum(subject.answers.failures(key).values())
    missing = max(rows - answered - failed, 0)
    share = missing / rows if rows else 0.0
    numbers = {
        "source_rows": rows,
        "rows_answered": answered,
        "rows_failed": failed,
        "rows_missing": missing,
        "missing_share": share,
    }
    if not rows:
        return nothing("The source has no rows in this partition.", **numbers)
    if not missing:
        return Finding(True, f"Each of {rows:,} source rows is answered or failed.", 0.0, numbers)
    found = [subject.row(row) for row in _rows_without_outcome(subject)]
    text = (
        f"{share_of(missing, rows)} source rows are neither answered nor failed. They came in after the last run, "
        "or it was stopped or reached a limit: materialize the partition again, and only they are asked."
    )
    return Finding(share <= settings.max_missing_share, text, share, numbers, found)


def _rows_without_outcome(subject: Subject) -> list[Key]:
    """Some keys of rows without an outcome, as far as they stand among the first rows."""
    found: list[Key] = []
    searched = 0
    for rows in subject.source.read(subject.partition):
        keys = [row.key for row in rows]
        done = subject.answers.done(keys)
        found += [key for key in keys if key not in done]
        searched += len(rows)
        if len(found) >= EXAMPLES or searched >= SEARCHED_ROWS:
            break
    return found[:EXAMPLES]


def failures(settings: Failures, subject: Subject) -> Finding:
    """Few rows failed."""
    key = subject.partition.key
    kinds = subject.answers.failures(key)
    failed = sum(kinds.values())
    rows = subject.answers.answers(key) + failed
    if not rows:
        return nothing("There are neither answers nor failures in this partition.", rows=0)
    share = failed / rows
    numbers = {
        "rows": rows,
        "rows_failed": failed,
        "failed_share": share,
        **{f"{kind}_rows": kinds[kind] for kind in kinds},
    }
    if not failed:
        return Finding(True, f"None of {rows:,} rows failed.", 0.0, numbers)
    by_kind = ", ".join(f"{kind}: {count:,}" for kind, count in kinds.items())
    text = f"{share_of(failed, rows)} rows failed ({by_kind}); {percent(settings.max_share)} may."
    if share > settings.max_share:
        text += " llm_failures has each with its reason and what would help; then materialize with only_failed."
    examples = [dict(row) for row in subject.answers.failure_examples(key, EXAMPLES)]
    return Finding(share <= settings.max_share, text, share, numbers, examples)


def confidence(settings: Confidence, subject: Subject) -> Finding:
    """Few answers have a low confidence."""
    key = subject.partition.key
    rows, mean = subject.answers.answers(key), subject.answers.mean("confidence", key)
    if mean is None:
        return nothing("No answer in this partition has a confidence.", rows=rows)
    low = subject.answers.below("confidence", settings.low, key)
    share = low / rows
    numbers = {"rows": rows, "low_rows": low, "low_share": share, "mean_confidence": float(mean)}
    text = (
        f"{share_of(low, rows)} answers have a confidence below {settings.low:g}; {percent(settings.max_share)} may. "
        f"The mean is {mean:.3f}."
    )
    if share > settings.max_share:
        text += " Read the rows of lowest confidence: the instruction may leave them open, or a label be missing."
    examples = list(_lowest(subject)) if low else []
    return Finding(share <= settings.max_share, text, share, numbers, examples)


def _lowest(subject: Subject) -> Iterator[dict[str, object]]:
    rows = subject.answers.lowest("confidence", subject.partition.key, EXAMPLES)
    texts = subject.texts([subject.answers.key_of(row) for row in rows])
    for row in rows:
        yield {**row, "text": texts.get(subject.answers.key_of(row))}
