"""Checks that count rows: those without an outcome, those that failed, and answers of low confidence."""

from collections.abc import Iterator

from llm_assets.dagster.checks.finding import EXAMPLES, Finding, Subject, nothing, percent, share_of
from llm_assets.dagster.checks.settings import Confidence, Coverage, Failures


def coverage(settings: Coverage, subject: Subject) -> Finding:
    """Every source row is answered or failed."""
    found = subject.unanswered.outcomes(subject.task.name, subject.partition, EXAMPLES)
    share = found.missing / found.rows if found.rows else 0.0
    numbers = {
        "source_rows": found.rows,
        "rows_answered": found.answered,
        "rows_failed": found.failed,
        "rows_missing": found.missing,
        "missing_share": share,
    }
    if not found.rows:
        return nothing("The source has no rows in this partition.", **numbers)
    if not found.missing:
        return Finding(True, f"Each of {found.rows:,} source rows is answered or failed.", 0.0, numbers)
    text = (
        f"{share_of(found.missing, found.rows)} source rows are neither answered nor failed. They came in after the "
        "last run, or it was stopped or reached a limit: materialize the partition again, and only they are asked."
    )
    examples = [subject.row(key) for key in found.first_missing]
    return Finding(share <= settings.max_missing_share, text, share, numbers, examples)


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
