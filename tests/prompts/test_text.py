import pytest

from llm_assets.errors import ConfigError
from llm_assets.prompts import TextTemplate
from llm_assets.prompts.text import content_hash


@pytest.mark.parametrize(
    ("template", "values", "text"),
    [
        ("{text}", {"text": "Good."}, "Good."),
        ("{title}\n{text}", {"title": "Film", "text": "Good."}, "Film\nGood."),
        ("{title}: {text}", {"title": None, "text": "Good."}, ": Good."),
        ("{text} {text}", {"text": "twice"}, "twice twice"),
        ("Stars: {stars}", {"stars": 4}, "Stars: 4"),
        ("Stars: {stars}", {"stars": 0}, "Stars: 0"),
        ("{{text}} is {text}", {"text": "it"}, "{text} is it"),
        ("{text}", {"text": "  space around \n"}, "space around"),
    ],
)
def test_columns_are_put_into_the_template(template, values, text):
    assert TextTemplate(template).render(values) == text


@pytest.mark.parametrize("value", ["{title}", "{0}", "{title.__class__}", "{{", "}", "%s", "{{ROW_TEXT}}"])
def test_braces_in_a_value_are_not_interpreted(value):
    assert TextTemplate("{title} / {text}").render({"title": value, "text": value}) == f"{value} / {value}"


@pytest.mark.parametrize("empty", [None, "", "  ", "\n\t"])
def test_a_row_whose_columns_are_all_blank_has_no_text(empty):
    assert TextTemplate("Title: {title}\nText: {text}").render({"title": None, "text": empty}) == ""


def test_columns_are_named_once_in_their_order():
    assert TextTemplate("{b} {a} {b}").columns == ("b", "a")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{text[0]}", "text\\[0\\]} is not a plain column name"),
        ("{text.upper}", "not a plain column name"),
        ("{text!r}", "not a plain column name"),
        ("{text:>10}", "not a plain column name"),
        ("{text:{width}}", "not a plain column name"),
        ("{}", "not a plain column name"),
        ("{0}", "not a plain column name"),
        ("{ text }", "not a plain column name"),
        ("no column", "names no column"),
        ("", "names no column"),
        ("{{text}}", "names no column"),
        ("{text", "does not parse"),
        ("text}", "does not parse"),
    ],
)
def test_a_template_of_anything_but_plain_columns_is_refused(template, reason):
    with pytest.raises(ConfigError, match=reason):
        TextTemplate(template)


def test_equal_texts_have_equal_hashes_and_others_do_not():
    assert content_hash("Good.") == content_hash("Good.")
    assert len({content_hash(text) for text in ("Good.", "Good. ", "good.", "", "\ud800", "\udfff", "?")}) == 7


def test_the_hash_of_a_text_never_changes():
    # Stored in users' tables: another value would have every row asked again.
    assert content_hash("Good. 日本") == "a22dfa9d83041b51a92059ef4586c559"
