"""What vLLM's compilers are told, so that they allow the same answers."""

import json

import pytest

from llm_assets.engines import compile_check as compiling
from llm_assets.engines.compile_check import check_cost
from llm_assets.errors import ConfigError, EngineError
from llm_assets.records import Constraint

COMPILERS = ("xgrammar", "guidance")


def after(compiler, kind, value, beginning):
    """Return the bytes that may follow the beginning of an answer; None if it cannot begin so."""
    following = compiling._COMPILERS[compiler]()
    following.compile(kind, value)
    following.begin()
    for byte in beginning.encode():
        if byte not in following.allowed():
            return None
        following.accept(byte)
    return {chr(token) for token in following.allowed() if token < 128}


def schema(**properties):
    return json.dumps(
        {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    )


@pytest.mark.parametrize("compiler", COMPILERS)
def test_json_has_one_space_after_colons_and_commas(compiler):
    fields = schema(a={"type": "boolean"}, b={"type": "array", "items": {"type": "boolean"}})
    for beginning, following in {
        '{"a"': {":"},
        '{"a":': {" "},
        '{"a": true': {","},
        '{"a": true,': {" "},
        '{"a": true, "b": [true, false]': {"}"},
    }.items():
        assert after(compiler, "json", fields, beginning) == following


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("[A-Z]{2}", "AB"),
        ("^[A-Z]{2}", "AB"),
        ("[A-Z]{2}$", "AB"),
        ("^[A-Z]{2}$", "AB"),
        ("^ab|cd$", "ab"),
        ("^(ab|cd)$", "cd"),
        ("^ab$|^cd$", "cd"),
        ("^(a|x)b|c[|$]$", "c|"),
        (r"^a\$", "a$"),
    ],
)
def test_a_pattern_is_one_of_the_whole_string(compiler, pattern, text):
    fields = schema(a={"type": "string", "pattern": pattern})
    assert after(compiler, "json", fields, f'{{"a": "{text}') == {'"'}
    assert after(compiler, "json", fields, f'{{"a": "x{text}') is None


@pytest.mark.parametrize("compiler", COMPILERS)
def test_choices_are_taken_letter_by_letter(compiler):
    choices = ("a.b", "[c]", "{d}", "(e|f)", "g?", "h*", "i+", "^j$", "k\\l", "m\nn", 'o"p', "q r", "ü-~#&/%", "😀")
    for choice in choices:
        assert after(compiler, "choice", choices, choice) is not None
    assert after(compiler, "choice", choices, "") == {choice[0] for choice in choices if choice[0].isascii()}


@pytest.mark.parametrize("compiler", ["outlines", "lm-format-enforcer"])
def test_other_compilers_are_not_tried(compiler):
    assert check_cost(Constraint("regex", "(.{0,20}){0,20}"), compiler) == ""


def test_a_compiler_that_cannot_be_started_is_no_fault_of_the_constraint(monkeypatch):
    monkeypatch.setattr(compiling, "__name__", "no_such_module")
    with pytest.raises(EngineError, match=r"xgrammar cannot be started: (.|\n)*no_such_module"):
        check_cost(Constraint("regex", "a*b*c*"))


def test_memory_has_a_limit(monkeypatch):
    # A schema that would be refused for its depth takes gigabytes within a few seconds.
    deep = '{"type": "array", "maxItems": 3, "items": ' * 5000 + "{}" + "}" * 5000
    monkeypatch.setattr(compiling, "is_plain", lambda constraint: False)
    with pytest.raises(ConfigError, match="xgrammar needs more than 2 GiB with this json"):
        check_cost(Constraint("json", deep))
