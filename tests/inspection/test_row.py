"""One row, token by token."""

import html.parser

import pytest

from llm_assets.engines import DummyEngine
from llm_assets.inspection.row import Inspection, inspect_row, tokens_of
from llm_assets.inspection.row_html import inspection_page
from llm_assets.inspection.row_view import print_inspection
from llm_assets.records import Failure, FailureKind
from llm_assets.tasks import Classify, Extract, Summarize
from tests.inspection.looking import ACTING, HOSTILE, MARKUP, contents, looking, printed
from tests.tables.shop import NOTE, SENTIMENT, FaultyEngine, Shop, changed


def inspected(shop: Shop, task=NOTE, key: str = "1", engine: DummyEngine | None = None) -> Inspection:
    pipeline = looking(shop, task, engine=engine)
    return inspect_row(pipeline, task, pipeline.source.find([key]))


def test_the_tokens_are_those_of_the_request(shop: Shop) -> None:
    shop.add(["one row"])

    class Remembering(DummyEngine):
        def answer(self, request):
            self.asked = request.prompt_token_ids
            return super().answer(request)

    for task in (NOTE, SENTIMENT, Summarize(name="summary", beam_width=2)):
        engine = Remembering()
        found = inspected(shop, task, engine=engine)
        assert [token.id for token in (*found.prefix, *found.row, *found.suffix)] == engine.asked
        assert "".join(token.text for token in found.row) == "one row"
        assert any(token.is_special for token in found.prefix)
        assert not any(token.is_special for token in found.row)


def test_a_generated_answer_has_its_steps(shop: Shop) -> None:
    shop.add(["one row"])
    before = contents(shop)
    found = inspected(shop)
    assert contents(shop) == before
    assert not isinstance(found.outcome, Failure)
    assert "".join(step.token.text for step in found.steps) == found.outcome.columns["answer"]
    assert {round(step.probability or 0, 3) for step in found.steps} == {0.9}
    assert all(step.top[0][0].id == step.token.id for step in found.steps)
    assert "logprobs" not in found.outcome.columns
    assert found.stored_is == "none"


def test_the_steps_of_scored_labels_multiply_to_their_probabilities(shop: Shop) -> None:
    shop.add(["one row"])
    task = Classify(name="kind", labels=("bad", "bat", "good", "good one"))
    found = inspected(shop, task)
    assert not isinstance(found.outcome, Failure)
    assert len(found.branches) == 3
    for label, probability in found.probabilities.items():
        product = 1.0
        for branch in found.branches:
            for way in branch.ways:
                if label in way.answers:
                    product *= way.share
        assert product == pytest.approx(probability)
    assert found.probabilities == pytest.approx(found.outcome.columns["scores"])
    for branch in found.branches:
        assert sum(way.share for way in branch.ways) == pytest.approx(1)
        assert sum(way.probability for way in branch.ways) < 1
    schema = {"type": "object", "properties": {"is": {"type": "boolean"}}, "required": ["is"]}
    assert len(inspected(shop, Extract(name="facts", schema=schema)).probabilities) == 2


def test_the_stored_answer_stands_beside(shop: Shop) -> None:
    shop.add(["one row", None])
    shop.run(NOTE, engine=DummyEngine())
    found = inspected(shop)
    assert not isinstance(found.outcome, Failure)
    assert found.stored["answer"] == found.outcome.columns["answer"]
    assert found.stored_is == "current"
    edited = changed(NOTE, instruction="Other words.")
    assert inspected(shop, edited).stored_is == "other task"
    shop.execute("UPDATE reviews SET text = 'other' WHERE id = 1")
    assert inspected(shop).stored_is == "other text"
    empty = inspected(shop, key="2")
    assert isinstance(empty.outcome, Failure)
    assert empty.outcome.kind is FailureKind.EMPTY_TEXT
    assert empty.stored_failure is not None
    assert empty.stored_failure.startswith("empty_text")


def test_a_text_that_is_cut_is_shown_as_it_is_asked(shop: Shop) -> None:
    shop.add(["x" * 100])
    found = inspected(shop, changed(NOTE, max_text_tokens=20))
    assert found.is_cut
    assert len(found.row) == 20
    assert "[...]" in "".join(token.text for token in found.row)
    assert "cut to fit" in printed(lambda console: print_inspection(console, found))


class Page(html.parser.HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


def test_hostile_text_is_text_on_the_terminal_and_on_the_page(shop: Shop) -> None:
    shop.add([HOSTILE])
    engine = FaultyEngine(answers={HOSTILE.strip(): HOSTILE})
    shop.run(NOTE, engine=engine)
    found = inspected(shop, engine=FaultyEngine(answers={HOSTILE.strip(): HOSTILE}))
    for width in (40, 100):
        shown = printed(lambda console: print_inspection(console, found), width)
        assert not [character for character in ACTING if character in shown]
        assert max(map(len, shown.splitlines())) <= width
    wide = printed(lambda console: print_inspection(console, found), 400)
    assert all(words in wide for words in MARKUP)
    text = inspection_page(found)
    assert not [character for character in ACTING if character in text]
    page = Page(text)
    assert not {"script", "link", "img", "a"} & set(page.tags)
    assert not [name for name in page.attributes if name.startswith("on") or name in ("src", "href")]
    assert page.open == []
    assert MARKUP[0] in page.text
    assert "http://" not in text.replace("http://example.org", "")


def test_unlikely_tokens_stand_out_with_colour_and_without(shop: Shop) -> None:
    shop.add(["one row"])

    class Unsure(DummyEngine):
        def _candidate(self, text, index, top):
            candidate = super()._candidate(text, index, top)
            logprobs = tuple((-0.1, -1.0, -4.0)[place % 3] for place in range(len(candidate.token_ids)))
            return type(candidate)(candidate.text, candidate.token_ids, "stop", logprobs, candidate.top_logprobs)

    found = inspected(shop, engine=Unsure())
    plain = printed(lambda console: print_inspection(console, found), 400)
    assert "D|u!|m!!|m|y!|·!!|" in plain
    colored = printed(lambda console: print_inspection(console, found), color=True)
    assert "\x1b[37;48;" in colored
    page = inspection_page(found)
    assert "rgba(var(--low), 0.05)" in page
    assert "rgba(var(--low), 0.54)" in page
    assert page.count('<span class="bang">!!</span>') == 2 * sum(
        1 for step in found.steps if step.probability is not None and step.probability < 0.1
    )


def test_tokens_keep_the_spaces_between_them(smollm2_tokenizer) -> None:
    ids = smollm2_tokenizer.encode_literal(["Two words, 表 and <|im_end|>"])[0]
    tokens = tokens_of(smollm2_tokenizer, ids)
    assert "".join(token.text for token in tokens[:3]) == "Two words,"
    assert not any(token.is_special for token in tokens)
    markup = tokens_of(smollm2_tokenizer, smollm2_tokenizer.encode_markup("<|im_start|>user\nhi<|im_end|>"))
    assert [token.text for token in markup if token.is_special] == ["<|im_start|>", "<|im_end|>"]
