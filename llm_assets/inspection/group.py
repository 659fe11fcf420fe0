"""The rows as one group of tasks sees them: compared with the tables, and a sample of their texts tokenised."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from llm_assets.inspection.estimate import Estimator, Measured, histogram, quantile
from llm_assets.inspection.explanation import RowTexts, TaskForecast
from llm_assets.inspection.marks import hashes_of
from llm_assets.inspection.sample import Sample, Sampled
from llm_assets.inspection.tally import UNKNOWN, Tally, Texts
from llm_assets.pipeline import Pipeline
from llm_assets.pipeline.layout import Expected, shapes_of
from llm_assets.prompts import Tokenizer
from llm_assets.prompts.text import content_hash
from llm_assets.records import BeamSearch, GenerateText, Row, ScoreTokens
from llm_assets.tables import ReadOnlyStore
from llm_assets.tasks import Plan, Task

if TYPE_CHECKING:
    import numpy as np

EXACT_BYTES = 32 * 2**20
"""Texts that may be too long are tokenised as they are read, as long as there are no more of them than this."""

TOKENIZED_TOGETHER = 500

FEW_TEXTS = 200
"""If fewer sampled texts are to be asked by a task, those of the other tasks stand in for it."""


class GroupReader:
    """Reads the rows for tasks that ask about the same text."""

    def __init__(
        self, tasks: Sequence[Task], plans: dict[str, Plan], tallies: dict[str, Tally], tokenizer: Tokenizer
    ) -> None:
        self._plans = [plans[task.name] for task in tasks]
        self._tallies = [tallies[task.name] for task in tasks]
        self._tokenizer = tokenizer
        self._template = tasks[0].template
        self._limit = min(min(plan.max_text_tokens, plan.cut_tokens) for plan in self._plans)
        self._budget = EXACT_BYTES
        self._all, self._asked = Sample(), Sample()
        self._tokens: dict[str, int] = {}
        """Tokens of sampled texts by content hash."""
        self._rows = self._empty = self._longest = 0

    def read(self, rows: Sequence[Row]) -> None:
        import numpy as np

        keys = [row.key for row in rows]
        texts = [self._template.render(row.values) for row in rows]
        digests = [content_hash(text) for text in texts]
        sizes = np.fromiter(map(_size, texts), dtype=np.int64, count=len(texts))
        row_hashes = hashes_of(zip(keys, digests, strict=True), len(rows))
        chunk = Texts(keys, texts, digests, hashes_of(digests, len(rows)), row_hashes, sizes)
        open_by_task = [tally.compare(chunk) for tally in self._tallies]
        asking = np.zeros(len(rows), dtype=np.int64)
        for number, is_open in enumerate(open_by_task):
            asking |= is_open.astype(np.int64) << number
        tokens = self._count_long(chunk, asking)
        for tally, is_open in zip(self._tallies, open_by_task, strict=True):
            tally.add_open(chunk.digest_hashes[is_open], sizes[is_open], tokens[is_open])
        self._rows += len(rows)
        self._empty += int((sizes == 0).sum())
        self._longest = max(self._longest, int(sizes.max()))
        for digest, text, mask in zip(digests, texts, asking.tolist(), strict=True):
            if text:
                self._all.add(digest, text, 0)
                if mask:
                    self._asked.add(digest, text, mask)

    def _count_long(self, chunk: Texts, asking: "np.ndarray") -> "np.ndarray":
        """Return the tokens of those texts that may be too long: a token has one byte at least."""
        import numpy as np

        tokens = np.full(len(chunk.texts), UNKNOWN, dtype=np.int64)
        long = [
            int(place)
            for place in np.flatnonzero((asking != 0) & (chunk.sizes > self._limit))
            if self._spend(int(chunk.sizes[place]))
        ]
        for place, count in zip(long, _token_counts(self._tokenizer, [chunk.texts[i] for i in long]), strict=True):
            tokens[place] = count
        return tokens

    def _spend(self, size: int) -> bool:
        if size > self._budget:
            return False
        self._budget -= size
        return True

    def _measure(self, sample: Sample) -> None:
        """Count the tokens of a sample's texts."""
        missing = [digest for digest in sample.texts if digest not in self._tokens]
        counts = _token_counts(self._tokenizer, [sample.texts[digest].text for digest in missing])
        self._tokens.update(zip(missing, counts, strict=True))

    def row_texts(self) -> RowTexts:
        """Return the lengths of the texts of all rows."""
        self._measure(self._all)
        sample = [
            Measured(_size(item.text), self._tokens[digest], item.rows) for digest, item in self._all.texts.items()
        ]
        return RowTexts(
            self._template.template,
            tuple(plan.task.name for plan in self._plans),
            self._rows,
            self._empty,
            len(sample),
            tuple(histogram(sample, self._rows - self._empty)),
            quantile(sample, 0.5),
            quantile(sample, 0.95),
            self._longest,
        )

    def forecasts(self, store: ReadOnlyStore, pipeline: Pipeline, expected: Expected) -> dict[str, TaskForecast]:
        """Return the forecasts of the group's tasks."""
        self._measure(self._asked)
        shares = self._computed_shares(expected)
        return {
            plan.task.name: self._forecast(number, store, pipeline, shares[number])
            for number, plan in enumerate(self._plans)
        }

    def _sampled(self, number: int) -> dict[str, Sampled]:
        """Return the sampled texts that a task is to be asked about, or if those are few, any other is."""
        if self._has_few(number):
            return self._asked.texts
        return {digest: item for digest, item in self._asked.texts.items() if item.tasks >> number & 1}

    def _has_few(self, number: int) -> bool:
        found = sum(item.tasks >> number & 1 for item in self._asked.texts.values())
        return found < FEW_TEXTS and self._asked.bound is not None

    def _computed_shares(self, expected: Expected) -> list[float]:
        """Return the share of each task's prompt tokens that the sampled texts, asked in a run, leave to compute."""
        computed, prompts = [0.0] * len(self._plans), [0.0] * len(self._plans)
        few = [self._has_few(number) for number in range(len(self._plans))]
        for digest, item in self._asked.texts.items():
            for number, plan in enumerate(self._plans):
                tokens = self._tokens[digest]
                if (few[number] or item.tasks >> number & 1) and not _fails(plan, tokens):
                    computed[number] += expected.ask(plan.task.name, digest, tokens)
                    prompts[number] += _prompt_tokens(plan, 1, min(tokens, plan.cut_tokens))
        return [part / whole if whole else 1.0 for part, whole in zip(computed, prompts, strict=True)]

    def _forecast(self, number: int, store: ReadOnlyStore, pipeline: Pipeline, share: float) -> TaskForecast:
        import numpy as np

        plan, tally = self._plans[number], self._tallies[number]
        task = plan.task
        estimator = Estimator(
            [Measured(_size(item.text), self._tokens[digest]) for digest, item in self._sampled(number).items()],
            self._limit,  # beyond which most are counted
        )
        rows = tally.open_rows()
        known, unknown = rows.tokens[rows.tokens != UNKNOWN], rows.sizes[rows.tokens == UNKNOWN]
        doubtful = unknown[unknown > self._limit]
        too_long = int((known > plan.max_text_tokens).sum()) + round(
            estimator.count(doubtful, lambda tokens: tokens > plan.max_text_tokens)
        )
        fails = task.too_long == "fail"
        cut = int((known > plan.cut_tokens).sum()) + round(
            estimator.count(doubtful, lambda tokens: tokens > plan.cut_tokens)
        )
        first = np.unique(rows.hashes, return_index=True)[1] if task.reusable else np.arange(len(rows.hashes))
        tokens, sizes = rows.tokens[first], rows.sizes[first]
        exact, sizes = tokens[tokens != UNKNOWN], sizes[tokens == UNKNOWN]
        failing = 0
        if fails:
            failing = int((exact > plan.max_text_tokens).sum())
            exact = exact[exact <= plan.max_text_tokens]
            failing += round(estimator.count(sizes, lambda count: count > plan.max_text_tokens))
        to_ask = len(first) - failing
        in_text = int(np.minimum(exact, plan.cut_tokens).sum()) + estimator.total(
            sizes, lambda count: 0 if _fails(plan, count) else min(count, plan.cut_tokens)
        )
        prompt_tokens = _prompt_tokens(plan, to_ask, in_text)
        output, most = _output_tokens(plan, store, pipeline.fingerprints[task.name], to_ask)
        too_long_failed = too_long if fails else 0
        return TaskForecast(
            task=task.name,
            table=store.table_name(task.name),
            table_exists=store.has_table(task.name),
            layout=plan.layout,
            rows=tally.rows,
            to_ask=to_ask,
            duplicates=len(rows.hashes) - too_long_failed - to_ask,
            reused=tally.reused,
            skipped=tally.skipped,
            empty=tally.empty,
            failed_before=tally.failed_before,
            left=tally.left,
            too_long_failed=too_long_failed,
            too_long_cut=0 if fails else cut,
            too_long_is_exact=not len(doubtful),
            max_text_tokens=plan.max_text_tokens,
            prompt_tokens=round(prompt_tokens),
            computed_tokens=round(prompt_tokens * share),
            output_tokens=output,
            most_output_tokens=most,
        )


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _fails(plan: Plan, tokens: int) -> bool:
    return plan.task.too_long == "fail" and tokens > plan.max_text_tokens


def _token_counts(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterable[int]:
    """Yield the tokens of texts, not too many of which are held at a time."""
    for start in range(0, len(texts), TOKENIZED_TOGETHER):
        yield from map(len, tokenizer.encode_literal(texts[start : start + TOKENIZED_TOGETHER]))


def _prompt_tokens(plan: Plan, questions: int, in_texts: float) -> float:
    """Return the tokens of the prompts of some questions whose texts have so many tokens together."""
    [shape] = shapes_of([plan])
    answers = [answer for answer, _ in shape.answers]
    return len(answers) * (questions * (shape.before + shape.behind) + in_texts) + questions * sum(answers)


def _output_tokens(plan: Plan, store: ReadOnlyStore, fingerprint: str, questions: int) -> tuple[int | None, int]:
    """Return the tokens that some questions will have generated, if that can be told, and the most that they can."""
    most = 0
    for query in plan.queries:
        match query.ask:
            case ScoreTokens(most_tokens=limit):
                most += limit
            case BeamSearch(max_tokens=limit):
                most += limit  # of the best beam, which is what is counted
            case GenerateText(sampling=sampling):
                most += int(str(sampling["max_tokens"])) * int(str(sampling.get("n", 1)))
    if all(isinstance(query.ask, ScoreTokens) and query.ask.most_tokens == 1 for query in plan.queries):
        return questions * most, questions * most
    stored = store.stored_answers(plan.task.name)
    like = [item for item in stored if item.fingerprint == fingerprint] or stored
    rows = sum(item.rows for item in like)
    if not rows:
        return None, questions * most
    mean = sum(item.output_tokens * item.rows for item in like) / rows
    return round(questions * mean), questions * most
