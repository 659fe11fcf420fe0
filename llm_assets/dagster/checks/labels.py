"""Checks of labels: whether they are as frequent as before, and whether they are the right ones."""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation

from llm_assets.dagster.checks.finding import EXAMPLES, Finding, Subject, nothing, percent
from llm_assets.dagster.checks.settings import Accuracy, Drift
from llm_assets.tasks import Classify, Extract, Generate, Task

GOLD_ROWS = 100_000
"""Of more rows with a right label, the first so many are compared."""

BOOLEANS = {(True, "true"), (True, "t"), (False, "false"), (False, "f")}
"""Booleans as they are written in text."""

Z_95 = 1.959964
"""Quantile of the normal distribution for an interval that holds 95 % of it."""


def label_column(task: Task) -> tuple[str, tuple[str, ...]] | None:
    """Return the column of a task whose answer is one of some values, and those values as text; None for any other."""
    if isinstance(task, Classify):
        return "label", task.label_names
    if isinstance(task, Generate) and task.choice is not None:
        return "answer", task.choice
    if isinstance(task, Extract) and task.choice is not None:
        name, values = task.choice
        return name, tuple(map(str, values))
    return None


def drift(settings: Drift, subject: Subject) -> Finding:
    """Labels are as frequent as in the partitions before.

    The distance is the total variation: half the sum of the differences of the shares. It is the share of rows that
    would need another label for both to be equal.
    """
    found = label_column(subject.task)
    assert found is not None
    column, _ = found
    earlier = subject.earlier(settings.partitions)
    if not earlier:
        return nothing("There are no earlier partitions with answers: nothing to compare with.")
    now = _counts(subject.answers.value_counts(column, [subject.partition.key]))
    before = _counts(subject.answers.value_counts(column, earlier))
    rows, rows_before = sum(now.values()), sum(before.values())
    numbers: dict[str, int | float | str] = {
        "rows": rows,
        "earlier_rows": rows_before,
        "earlier_partitions": len(earlier),
    }
    if min(rows, rows_before) < settings.min_rows:
        return nothing(
            f"{rows:,} answers here and {rows_before:,} in {_partitions(len(earlier))} before are too few to compare: "
            f"min_rows is {settings.min_rows:,}.",
            **numbers,
        )
    names = dict.fromkeys([*now, *before])
    change = {name: now.get(name, 0) / rows - before.get(name, 0) / rows_before for name in names}
    distance = sum(map(abs, change.values())) / 2
    # Of two that moved alike, as two labels always do, the one that grew.
    movers = sorted(change, key=lambda name: (round(abs(change[name]), 9), change[name]), reverse=True)
    mover = movers[0]
    was, is_now = before.get(mover, 0) / rows_before, now.get(mover, 0) / rows
    numbers |= {"distance": distance, "biggest_mover": mover, "biggest_change": change[mover]}
    text = (
        f"The label shares are {distance:.3f} from those of {_partitions(len(earlier))} before "
        f"({_span(earlier)}); {settings.max_distance:g} is accepted. {mover!r} moved most: from {percent(was)} to "
        f"{percent(is_now)}."
    )
    if distance > settings.max_distance:
        text += " Read some of its rows: the texts have changed, or the model, the task or its labels have."
    shares = [
        {
            "label": name,
            "share": now.get(name, 0) / rows,
            "share before": before.get(name, 0) / rows_before,
            "change": change[name],
        }
        for name in movers[: 2 * EXAMPLES]
    ]
    return Finding(distance <= settings.max_distance, text, distance, numbers, shares)


def _counts(counts: Mapping[str | None, int]) -> dict[str, int]:
    return {str(name): count for name, count in counts.items()}


def _partitions(number: int) -> str:
    return "the partition" if number == 1 else f"the {number} partitions"


def _span(latest_first: Sequence[str]) -> str:
    first, last = latest_first[-1], latest_first[0]
    return first if first == last else f"{first} to {last}"


def accuracy(settings: Accuracy, subject: Subject) -> Finding:
    """Labels are those of a column with the right ones."""
    found = label_column(subject.task)
    assert found is not None
    column, gold_column = found[0], settings.gold[subject.task.name]
    gold = subject.source.known(subject.partition, gold_column, GOLD_ROWS)
    labels = subject.answers.by_key(list(gold), column)
    wrong = [(key, label) for key, label in labels.items() if not same_label(label, gold[key])]
    rows, right = len(labels), len(labels) - len(wrong)
    if not rows:
        return nothing(f"No answered row has a right label in column {gold_column!r}.", gold_rows=0)
    share, (low, high) = right / rows, wilson(right, rows)
    numbers = {"gold_rows": rows, "gold_right": right, "accuracy": share, "accuracy_low": low, "accuracy_high": high}
    text = (
        f"{right:,} of {rows:,} labels are those of column {gold_column!r}: {percent(share)}, and with 95 % confidence "
        f"between {percent(low)} and {percent(high)}. {percent(settings.min_accuracy)} is asked for."
    )
    values = subject.task.choice[1] if isinstance(subject.task, Extract) and subject.task.choice else found[1]
    missed = {gold[key] for key, _ in wrong}
    unknown = sorted(str(value).strip() for value in missed if not any(same_label(each, value) for each in values))
    if unknown:
        text += f" The column has values that are no labels, such as {unknown[0]!r}."
    passed = share >= settings.min_accuracy or rows < settings.min_rows
    if rows < settings.min_rows:
        text += f" That is too few rows to decide: min_rows is {settings.min_rows:,}."
    elif not passed:
        text += " Read the wrong ones: describe the labels, give examples, or take a larger model."
    texts = subject.texts([key for key, _ in wrong[:EXAMPLES]])
    examples = [
        subject.row(key, label=str(label), gold=str(gold[key]), text=texts.get(key)) for key, label in wrong[:EXAMPLES]
    ]
    return Finding(passed, text, 1 - share if rows >= settings.min_rows else 0.0, numbers, examples)


def same_label(label: object, gold: object) -> bool:
    """Return whether a value of the source means a stored label, by the label's type.

    A boolean is also 1 or 0, and true or false in any case or as t or f; a number is any spelling of it; all else is
    compared as text, exactly but for blanks around the source's.
    """
    if isinstance(label, bool):
        return _as_number(gold) == label or (label, str(gold).strip().lower()) in BOOLEANS
    if isinstance(label, int | float):
        return _as_number(gold) == Decimal(str(label))
    return isinstance(label, str) and label in (str(gold), str(gold).strip())


def _as_number(value: object) -> Decimal | None:
    """A database's value as an exact number; None if it is none."""
    try:
        number = Decimal(str(int(value) if isinstance(value, bool) else value).strip())
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def wilson(right: int, rows: int) -> tuple[float, float]:
    """Return the Wilson score interval of a share, which holds the true one with a confidence of 95 %.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    share, square = right / rows, Z_95**2 / rows
    middle = (share + square / 2) / (1 + square)
    half = Z_95 * math.sqrt(share * (1 - share) / rows + square / (4 * rows)) / (1 + square)
    return max(middle - half, 0.0), min(middle + half, 1.0)
