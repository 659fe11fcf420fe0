"""Rows asked on trial: in one way or several, and against the answers from before an edit."""

from typing import ClassVar

import pytest
from pydantic import ValidationError

from llm_assets.engines import DummyEngine
from llm_assets.engines.other_model import with_model
from llm_assets.engines.vllm.engine import VllmEngine, VllmSettings
from llm_assets.errors import ConfigError, EngineError, SourceError
from llm_assets.inspection.asking import random_rows
from llm_assets.inspection.canary import canary, wilson
from llm_assets.inspection.canary_view import print_canary
from llm_assets.inspection.preview import Preview, preview
from llm_assets.inspection.preview_view import print_preview
from llm_assets.inspection.variants import make_variants
from llm_assets.records import Completion, Failure, FailureKind, Partition, Request
from llm_assets.tasks import Classify, Extract, Generate, Summarize
from tests.inspection.looking import ACTING, HOSTILE, MARKUP, contents, looking, printed
from tests.tables.shop import NOTE, SENTIMENT, FaultyEngine, RecordingEngine, Shop, changed, day

TEXTS = [f"text {number}" for number in range(40)]


class Models(RecordingEngine):
    """Answers that depend on the model, of which only one may be loaded at a time."""

    loaded: ClassVar[list[str]] = []
    order: ClassVar[list[str]] = []

    def __init__(self, max_model_len: int = 32768, identity: str = "dummy") -> None:
        super().__init__(max_model_len=max_model_len, identity=identity)

    def run(self, requests):
        if self.identity not in self.loaded:
            self.loaded.append(self.identity)
            self.order.append(self.identity)
        assert self.loaded == [self.identity]
        yield from super().run(requests)

    def close(self) -> None:
        if self.identity in self.loaded:
            self.loaded.remove(self.identity)

    def answer(self, request: Request) -> Completion:
        salted = Request(request.id, [*request.prompt_token_ids, *self.identity.encode()], request.ask)
        return super().answer(salted)


def tried(shop: Shop, *vary: str, task=NOTE, count: int = 10, engine: DummyEngine | None = None) -> Preview:
    pipeline = looking(shop, task, engine=engine)
    return preview(pipeline, make_variants(task, vary), random_rows(pipeline, [Partition()], count, 0))


def test_the_answers_are_those_of_a_run_and_nothing_is_written(shop: Shop) -> None:
    shop.add([*TEXTS, None])
    before = contents(shop)
    found = tried(shop, count=100)
    assert contents(shop) == before
    shop.run(NOTE, engine=DummyEngine())
    stored = dict(shop.rows("SELECT id, answer FROM reviews_note"))
    shown = {row.key[0]: row.outcomes[0] for row in found.rows}
    assert {key: answer.columns["answer"] for key, answer in shown.items() if not isinstance(answer, Failure)} == stored
    assert [answer.kind for answer in shown.values() if isinstance(answer, Failure)] == [FailureKind.EMPTY_TEXT]
    assert found.columns[0].failed == 1
    assert found.columns[0].confidence == pytest.approx(0.9)


def test_the_rows_are_random_and_the_same_for_the_same_seed(shop: Shop) -> None:
    shop.add(TEXTS[:20], day="monday")
    shop.add(TEXTS[20:], first_id=21, day="tuesday")
    pipeline = looking(shop, column="day")
    keys = [[row.key for row in random_rows(pipeline, [Partition()], 8, seed)] for seed in (1, 1, 2)]
    assert keys[0] == keys[1] != keys[2]
    assert len(set(keys[0])) == 8
    both = random_rows(pipeline, [day("monday"), day("tuesday")], 100, 0)
    assert [row.key[0] for row in both] == list(range(1, 41))
    assert {row.key[0] for row in random_rows(pipeline, [day("tuesday")], 5, 0)} <= set(range(21, 41))
    with pytest.raises(SourceError, match="'reviews' has no rows in partition friday"):
        random_rows(pipeline, [day("friday")], 5, 0)


def test_an_answer_that_is_cut_off_is_asked_again_as_in_a_run(shop: Shop) -> None:
    shop.add(["a", "b"])
    task = Generate(name="note", instruction="Say.", regex="[a-z]{3}")
    engine = FaultyEngine(cut_off={"a"})
    found = tried(shop, task=task, engine=engine)
    assert engine.texts.count("a") == 2
    assert engine.texts.count("b") == 1
    [failure] = [row.outcomes[0] for row in found.rows if isinstance(row.outcomes[0], Failure)]
    assert failure.kind is FailureKind.TRUNCATED


def test_models_are_loaded_one_after_another_and_stand_side_by_side(shop: Shop) -> None:
    shop.add(TEXTS)
    Models.loaded.clear()
    Models.order.clear()
    found = tried(shop, "max_words=5,9", "model=dummy,b", task=Summarize(name="summary"), engine=Models())
    assert Models.order == ["dummy", "b"]
    assert [column.variant.label for column in found.columns] == [
        "max_words=5, model=dummy",
        "max_words=5, model=b",
        "max_words=9, model=dummy",
        "max_words=9, model=b",
    ]
    assert found.differing == sum(row.differs for row in found.rows) > 5
    same = tried(shop, "model=dummy,c")  # the dummy engine's answers depend on the prompt alone
    assert same.differing == 0
    assert "differ in 0 of 10 rows (0%)" in printed(lambda console: print_preview(console, same, "dummy"))


class Dying(Models):
    """Dies of the first request."""

    def answer(self, request: Request) -> Completion:
        raise EngineError("The engine died.")


def test_one_other_model_is_closed_and_the_pipelines_own_stays_loaded(shop: Shop) -> None:
    shop.add(TEXTS)
    Models.loaded.clear()
    tried(shop, engine=Models())
    assert Models.loaded == ["dummy"]
    Models.loaded.clear()
    tried(shop, "model=b", engine=Models())
    assert Models.loaded == []


def test_models_are_closed_when_one_of_them_dies(shop: Shop) -> None:
    shop.add(TEXTS)
    for models in ("b", "dummy,b"):
        Models.loaded.clear()
        with pytest.raises(EngineError, match="The engine died"):
            tried(shop, f"model={models}", engine=Dying())
        assert Models.loaded == []


@pytest.mark.parametrize(
    ("listed", "values"),
    [
        ('"Be brief, and precise", Do not be brief', ["Be brief, and precise", "Do not be brief"]),
        ("'Note: it''s brief, or not'", ["Note: it's brief, or not"]),
        ("Don't be brief,Don't be long", ["Don't be brief", "Don't be long"]),
        (r"""'"a, b\\"'""", [r'"a, b\\"']),
        ('"a" or "b, c"', ['"a" or "b', 'c"']),
        ('"7"', ["7"]),
    ],
)
def test_quotes_protect_the_commas_of_a_value(listed: str, values: list[str]) -> None:
    variants = make_variants(NOTE, [f"instruction={listed}"])
    assert [variant.task.instruction for variant in variants] == values
    assert [variant.model for variant in make_variants(NOTE, ['model="/models/a, b",c'])] == ["/models/a, b", "c"]


def test_another_model_keeps_the_settings_but_what_belongs_to_the_model() -> None:
    settings = VllmSettings.model_validate(
        {
            "model": "a/one",
            "revision": "abc",
            "max_model_len": 512,
            "gpu_memory_utilization": 0.5,
            "code_revision": "abc",
            "tokenizer_revision": "abc",
            "tokenizer_mode": "mistral",
            "hf_overrides": {"num_experts": 4},
            "hf_config_path": "a/config",
            "logits_processors": ["mine:Processor"],
            "block_size": 32,
        }
    )
    engine = VllmEngine(settings)
    other = with_model(engine, "b/two")
    assert isinstance(other, VllmEngine)
    assert other.settings.model_dump(exclude_unset=True) == {
        "model": "b/two",
        "max_model_len": 512,
        "gpu_memory_utilization": 0.5,
        "engine_args": {"logits_processors": ["mine:Processor"], "block_size": 32},
    }
    assert with_model(engine, "a/one") is with_model(engine, "one") is engine
    with pytest.raises(ConfigError, match="does not exist"):
        with_model(engine, "/no/such/model")


def test_what_is_varied_is_checked_by_name_and_by_value() -> None:
    [one, two] = make_variants(NOTE, ["temperature=0,0.7"])
    assert (one.task.sampling.temperature, two.task.sampling.temperature) == (0, 0.7)
    assert [variant.task for variant in make_variants(NOTE, [])] == [NOTE]
    assert [v.label for v in make_variants(NOTE, ["temperature=0", "temperature=1"])] == [
        "temperature=0",
        "temperature=1",
    ]
    for varied, message in [
        ("temprature=1", "no setting 'temprature' to vary. Did you mean 'temperature'"),
        ("temperature", "varies nothing"),
        ("temperature=1,", "varies nothing"),
        ("name=x", "no setting 'name'"),
        (r'regex="\d{1,3}"', r"does not parse as YAML: .*unknown escape character .*Write a backslash twice"),
        ("guided_json=x", "an Extract task"),
    ]:
        with pytest.raises((ConfigError, ValidationError), match=message):
            make_variants(NOTE, [varied])
    for task, varied, message in [
        (NOTE, "temperature=hot", "valid number"),
        (SENTIMENT, "temperature=1", "labels are scored, not sampled"),
    ]:
        with pytest.raises(ValidationError, match=message):
            make_variants(task, [varied])
    schema = {"type": "object", "properties": {"size": {"type": "integer"}}}
    [varied] = make_variants(Extract(name="facts", schema=schema), ["max_tokens=9"])
    assert isinstance(varied.task, Extract)
    assert varied.task.sampling.max_tokens == 9


@pytest.mark.parametrize("width", [40, 80, 160])
def test_row_text_and_answers_are_shown_and_never_act(shop: Shop, width: int) -> None:
    shop.add([HOSTILE, "plain"])

    class Echo(FaultyEngine):
        def answer(self, request):
            self.faults.answers[self.text_of(request)] = HOSTILE
            return super().answer(request)

    pipeline = looking(shop, NOTE, engine=Echo())
    variants = make_variants(NOTE, ["temperature=0,1"])
    found = preview(pipeline, variants, random_rows(pipeline, [Partition()], 5, 0))
    shown = printed(lambda console: print_preview(console, found, "[red]model"), width)
    assert max(map(len, shown.splitlines())) <= width
    assert not [character for character in ACTING if character in shown]
    if width == 160:
        assert all(words in shown for words in MARKUP)
    colored = printed(lambda console: print_preview(console, found, "m"), width, color=True)
    assert "\x1b[31mred" not in colored


LABELS = Classify(name="sentiment", labels=("positive", "negative"), instruction="Other words.")


def test_a_canary_counts_what_flips(shop: Shop) -> None:
    shop.add([*TEXTS, None])
    shop.run(engine=DummyEngine())
    stored = dict(shop.rows("SELECT id, label FROM reviews_sentiment"))
    before = contents(shop)
    found = canary(looking(shop, LABELS), make_variants(LABELS, [])[0], 200, 0)
    assert contents(shop) == before
    shop.run(LABELS, engine=DummyEngine())
    edited = dict(shop.rows("SELECT id, label FROM reviews_sentiment"))
    flipped = {key for key in stored if stored[key] != edited[key]}
    assert {flip.key[0] for flip in found.flips} == flipped != set()
    assert found.compared == len(TEXTS)
    assert found.low < found.rate < found.high
    assert sum(found.categories.values()) == len(TEXTS)
    assert sum(count for (old, new), count in found.categories.items() if old != new) == len(flipped)
    shown = printed(lambda console: print_canary(console, found))
    assert f"{len(flipped)} of 40 rows are answered otherwise" in shown
    assert max(map(len, printed(lambda console: print_canary(console, found), 40).splitlines())) <= 40


def test_a_canary_leaves_out_rows_that_changed_and_counts_failures(shop: Shop) -> None:
    shop.add(["a", "b", "c", "d"])
    shop.run(NOTE, engine=FaultyEngine(answers=dict.fromkeys("abcd", "old")))
    shop.execute("UPDATE reviews SET text = 'other' WHERE id = 3", "DELETE FROM reviews WHERE id = 4")
    edited = changed(NOTE, instruction="Other words.")
    engine = FaultyEngine(answers={"a": "old"}, errors={"b": FailureKind.REFUSED_REQUEST})
    found = canary(looking(shop, edited, engine=engine), make_variants(edited, [])[0], 200, 0)
    assert (found.compared, found.changed, found.failed, len(found.flips)) == (2, 2, 1, 1)


def test_answers_of_every_type_are_compared_as_they_are_stored(shop: Shop) -> None:
    properties = {
        "count": {"type": "integer"},
        "share": {"type": "number"},
        "when": {"type": "string", "format": "date-time"},
        "day": {"type": "string", "format": "date"},
        "is": {"type": "boolean"},
        "parts": {"type": "array", "items": {"type": "string", "maxLength": 5}, "maxItems": 2},
    }
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    task = Extract(name="facts", schema=schema)
    shop.add(TEXTS)
    shop.run(task, engine=DummyEngine())
    shop.execute("UPDATE reviews_facts SET fingerprint = 'before an edit'")
    found = canary(looking(shop, task), make_variants(task, [])[0], 200, 0)
    assert (found.compared, found.flips) == (40, ())
    shop.execute("UPDATE reviews_facts SET count = 12345 WHERE id <= 3")
    found = canary(looking(shop, task), make_variants(task, [])[0], 200, 0)
    assert (len(found.flips), found.by_column) == (3, {"count": 3})


def test_a_canary_says_what_it_lacks(shop: Shop) -> None:
    shop.add(TEXTS)
    [variant] = make_variants(SENTIMENT, [])
    with pytest.raises(ConfigError, match="no stored answers in reviews_sentiment to compare with"):
        canary(looking(shop), variant, 20, 0)
    shop.run(engine=DummyEngine())
    with pytest.raises(ConfigError, match=r"All 40 stored answers .* no edit to compare"):
        canary(looking(shop), variant, 20, 0)
    shop.execute("UPDATE reviews SET text = 'all new'")
    with pytest.raises(ConfigError, match="nothing to compare"):
        canary(looking(shop, LABELS), make_variants(LABELS, [])[0], 20, 0)


def test_an_interval_by_hand() -> None:
    # 10 of 100: 0.0552 to 0.1744, as tables of Wilson's interval have it.
    low, high = wilson(10, 100)
    assert (round(low, 4), round(high, 4)) == (0.0552, 0.1744)
    assert wilson(0, 200)[0] == 0
    assert wilson(0, 200)[1] == pytest.approx(0.0188, abs=1e-4)
    assert wilson(5, 5)[1] == 1
    assert wilson(0, 0) == (0, 1)
