"""Sums over texts of which only the bytes are known, and the sample they are scaled from."""

import numpy as np
import pytest

from llm_assets.inspection.estimate import Bin, Estimator, Measured, histogram, quantile
from llm_assets.inspection.marks import Marks, hashes_of
from llm_assets.inspection.sample import Sample
from llm_assets.prompts.text import content_hash


def test_tokens_grow_with_the_bytes_of_a_class_of_lengths() -> None:
    estimator = Estimator([Measured(10, 5), Measured(12, 6), Measured(1000, 100)])
    assert estimator.total(np.array([8, 14]), float) == 11
    assert estimator.total(np.array([900]), float) == pytest.approx(90)
    assert estimator.total(np.array([100_000]), float) == pytest.approx(10_000)  # as the nearest class
    assert estimator.count(np.array([8, 9, 1000]), lambda tokens: tokens > 5) == 2
    assert Estimator([]).total(np.array([8]), float) == 0
    assert estimator.total(np.array([], dtype=int), float) == 0


def test_a_histogram_is_scaled_to_all_rows() -> None:
    sample = [Measured(1, 1), Measured(9, 5, 3)]
    assert histogram(sample, 40) == [Bin(1, 2, 10), Bin(2, 4, 0), Bin(4, 8, 30)]
    assert histogram([], 0) == []
    assert (quantile(sample, 0.2), quantile(sample, 0.5), quantile([], 0.5)) == (1, 5, 0)


def test_a_sample_stays_small_and_counts_the_rows_of_what_it_keeps() -> None:
    sample = Sample(most_texts=100)
    texts = [f"text {number}" for number in range(5000)]
    for text in texts * 2:
        sample.add(content_hash(text), text, 1)
    assert 25 <= len(sample.texts) <= 100
    assert {item.rows for item in sample.texts.values()} == {2}
    other = Sample(most_texts=100)
    for text in reversed(texts):
        other.add(content_hash(text), text, 1)
    assert other.texts.keys() == sample.texts.keys()


def test_a_sample_of_enormous_texts_keeps_one_at_least() -> None:
    sample = Sample(most_characters=10)
    for text in ("a" * 100, "b" * 100, "c" * 100):
        sample.add(content_hash(text), text, 1)
    assert len(sample.texts) == 1


def test_marks_are_a_set() -> None:
    from array import array

    known = array("q", [hash("a"), hash(("b", 1)), -5])
    found = Marks(known).has(hashes_of(["a", "c", ("b", 1), "d"], 4))
    assert found.tolist() == [True, False, True, False]
    assert not Marks(array("q")).has(hashes_of(["a"], 1)).any()
