"""Checks that compare answers with the texts they are about: extracted strings and numbers, and summaries."""

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any
from unicodedata import normalize

from llm_assets.dagster.checks.finding import EXAMPLES, Finding, Subject, nothing, percent, share_of
from llm_assets.dagster.checks.settings import Grounded, Summaries
from llm_assets.json_schema import resolve
from llm_assets.tasks import Extract, Summarize

MAX_DEPTH = 20
"""Values inside one another that are looked at."""

# Scripts that are written without spaces: each of their characters counts as a word.
_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+"
)

_NUMBER = re.compile(r"\d{1,3}(?: \d{3})+(?:[.,]\d+)?(?![\d.,]*\d)|\d+(?:[.,'\u2019]\d+)*")
"""Digits, with signs between them that may group or be the decimal one."""
_READINGS = (
    (re.compile(r"(?:\d{1,3}(?:[,'\u2019 ]\d{3})+|\d+)(?:\.\d+)?"), str.maketrans("", "", ",'\u2019 ")),
    (re.compile(r"(?:\d{1,3}(?:[.'\u2019 ]\d{3})+|\d+)(?:,\d+)?"), str.maketrans(",", ".", ".'\u2019 ")),
)
"""How numbers are written with a decimal point, and with a decimal comma: what becomes of the other signs."""


def words(text: str) -> list[str]:
    """Return the words of a text, without case and punctuation; in Chinese and Japanese, each character is one."""
    return _WORD.findall(normalize("NFKC", text).casefold())


def stands_in(part: str, text: str) -> bool:
    """Return whether the words of one text stand in another in a row. The last one may go on: `lamp` is in `lamps`."""
    return " " + " ".join(words(part)) in " " + " ".join(words(text))


def numbers_in(text: str) -> set[Decimal]:
    """Return the numbers that stand in a text, without their signs, in every reading: 1,200 is 1200 and 1.2.

    What is no number as a whole, such as 05.11.2026, is one for each of its parts.
    """
    found: set[Decimal] = set()
    for written in _NUMBER.findall(normalize("NFKC", text)):
        read = [Decimal(written.translate(signs)) for form, signs in _READINGS if form.fullmatch(written)]
        found.update(read or map(Decimal, re.findall(r"\d+", written)))
        if " " in written:  # or several numbers beside each other
            found |= numbers_in(written.replace(" ", "; "))
    return found


def free_fields(task: Extract, skip: tuple[str, ...]) -> tuple[str, ...]:
    """Return the fields of a task that hold any strings or numbers, less those to skip: `field` or `task.field`."""
    schema = task.json_schema
    properties = resolve(schema, schema)["properties"]
    skipped = {name.removeprefix(f"{task.name}.") for name in skip}
    return tuple(name for name in properties if name not in skipped and _is_free(properties[name], schema, 0))


_READ = {"string", "integer", "number"}
"""JSON types whose values are read from the text."""


def _is_free(declared: Any, root: dict[str, Any], depth: int) -> bool:
    """Whether a schema allows strings of any wording or numbers of any size, at any depth.

    One of some values, a string of a format, and a number between two bounds, as of a scale from 1 to 5, are none.
    """
    if not isinstance(declared, dict) or depth > MAX_DEPTH:
        return False
    node = resolve(declared, root)
    if node.keys() & {"enum", "const", "format"}:
        return False
    if node.keys() & {"minimum", "exclusiveMinimum"} and node.keys() & {"maximum", "exclusiveMaximum"}:
        return False
    kinds = node.get("type")
    if _READ & set(kinds if isinstance(kinds, list) else [kinds]):
        return True
    children = [*node.get("anyOf", ()), *node.get("oneOf", ()), *node.get("prefixItems", ()), node.get("items")]
    children += node.get("properties", {}).values()
    return any(_is_free(child, root, depth + 1) for child in children)


def _free_values(value: Any, declared: Any, root: dict[str, Any], depth: int = 0) -> Iterator[str | float]:
    """The strings and numbers in a value whose schema lets them be any."""
    if not isinstance(declared, dict) or depth > MAX_DEPTH or not _is_free(declared, root, 0):
        return
    node = resolve(declared, root)
    options = [*node.get("anyOf", ()), *node.get("oneOf", ())]
    if options:
        fixed = {item for option in options for item in _values(option, root)}
        if not (_is_read(value) and value in fixed):
            found = [list(_free_values(value, option, root, depth + 1)) for option in options]
            yield from max(found, key=len)
    elif _is_read(value):
        yield value
    elif isinstance(value, list):
        fixed_items = node.get("prefixItems", ())
        for index, item in enumerate(value):
            schema = fixed_items[index] if index < len(fixed_items) else node.get("items")
            yield from _free_values(item, schema, root, depth + 1)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _free_values(item, node.get("properties", {}).get(name), root, depth + 1)


def _is_read(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _values(option: Any, root: dict[str, Any]) -> list[str | float]:
    node = resolve(option, root) if isinstance(option, dict) else {}
    found = node.get("enum", [node["const"]] if "const" in node else [])
    return [value for value in found if _is_read(value)]


def grounded(settings: Grounded, subject: Subject) -> Finding:
    """Extracted strings and numbers stand in the text that they were extracted from."""
    task = subject.task
    assert isinstance(task, Extract)
    schema = task.json_schema
    properties = resolve(schema, schema)["properties"]
    fields = free_fields(task, settings.skip)
    rows = subject.answers.sample(subject.partition.key, settings.sample_rows)
    texts = subject.texts([subject.answers.key_of(row) for row in rows])
    values, absent = dict.fromkeys(fields, 0), dict.fromkeys(fields, 0)
    examples: list[Mapping[str, object]] = []
    for row in rows:
        key = subject.answers.key_of(row)
        if key not in texts:
            continue
        for name in fields:
            for value in _free_values(row[name], properties[name], schema):
                values[name] += 1
                text = texts[key]
                stands = (
                    stands_in(value, text) if isinstance(value, str) else abs(Decimal(str(value))) in numbers_in(text)
                )
                if not stands:
                    absent[name] += 1
                    if len(examples) < EXAMPLES:
                        examples.append(subject.row(key, field=name, value=value, text=text))
    total, wrong = sum(values.values()), sum(absent.values())
    if not total:
        return nothing(f"No string or number was extracted in the {len(rows):,} rows looked at.", rows=len(rows))
    share = wrong / total
    numbers: dict[str, int | float | str] = {
        "rows": len(rows),
        "values": total,
        "absent_values": wrong,
        "absent_share": share,
    }
    numbers |= {f"absent_share_{name}": absent[name] / values[name] for name in fields if values[name]}
    text = (
        f"{share_of(wrong, total)} extracted values do not stand in their text, of {len(rows):,} rows looked at; "
        f"{percent(settings.max_share)} may."
    )
    if share > settings.max_share:
        worst = max((name for name in fields if values[name]), key=lambda name: absent[name] / values[name])
        text += (
            f" Most often those of {worst!r} ({share_of(absent[worst], values[worst])}): the model makes them up, or "
            "puts them in other words. Let the field be null, give examples, or, where other words are right, name it "
            "in skip."
        )
    return Finding(share <= settings.max_share, text, share, numbers, examples)


def summaries(settings: Summaries, subject: Subject) -> Finding:
    """Summaries are neither empty, nor copies of the text, nor far too long, nor cut off."""
    task = subject.task
    assert isinstance(task, Summarize)
    rows = subject.answers.sample(subject.partition.key, settings.sample_rows)
    if not rows:
        return nothing("There are no summaries in this partition.", rows=0)
    keys = [subject.answers.key_of(row) for row in rows]
    texts, finish_reasons = subject.texts(keys), subject.answers.by_key(keys, "finish_reason")
    longest = settings.longer_than * task.max_words
    counts = {"empty": 0, "copied": 0, "too long": 0, "cut": 0}
    examples: list[Mapping[str, object]] = []
    lengths = 0
    for key, row in zip(keys, rows, strict=True):
        summary, text = str(row["summary"] or ""), texts.get(key)
        length = len(words(summary))
        lengths += length
        if length < settings.min_words:
            problem = "empty"
        elif length >= settings.copied_words and text is not None and stands_in(summary, text):
            problem = "copied"
        elif length > longest:
            problem = "too long"
        elif finish_reasons.get(key) == "length":
            problem = "cut"
        else:
            continue
        counts[problem] += 1
        if len(examples) < EXAMPLES:
            examples.append(subject.row(key, problem=problem, summary=summary, text=text))
    wrong = sum(counts.values())
    share = wrong / len(rows)
    numbers = {
        "rows": len(rows),
        "mean_words": lengths / len(rows),
        "empty_rows": counts["empty"],
        "copied_rows": counts["copied"],
        "too_long_rows": counts["too long"],
        "cut_rows": counts["cut"],
        "wrong_share": share,
    }
    text = (
        f"{share_of(wrong, len(rows))} summaries looked at are empty, copied, too long or cut off; "
        f"{percent(settings.max_share)} may."
    )
    if wrong:
        text += (
            f" {counts['empty']:,} have fewer than {settings.min_words} words, {counts['copied']:,} are a part of the "
            f"text of {settings.copied_words} words or more, {counts['too long']:,} have more than {longest:g} words, "
            f"{counts['cut']:,} were cut off at the limit of tokens."
        )
    if share > settings.max_share:
        text += " Give examples of good summaries, or take a larger model."
        if counts["cut"]:
            text += " So that none is cut off, raise sampling.max_tokens, or lower max_words."
    return Finding(share <= settings.max_share, text, share, numbers, examples)
