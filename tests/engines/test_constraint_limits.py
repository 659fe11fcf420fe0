"""Constraints that no compiler should be given are refused before a model is loaded; what people write is not."""

import json
import random
from enum import Enum
from typing import Literal

import pytest
from pydantic import BaseModel, Field, ValidationError

from llm_assets.engines import DummyEngine, VllmEngine, VllmSettings
from llm_assets.engines.compile_check import is_plain
from llm_assets.engines.derive import example_value
from llm_assets.errors import ConfigError
from llm_assets.records import Constraint
from llm_assets.tasks import Extract, Generate

pytestmark = pytest.mark.timeout(60)  # the processor time that a compiler gets, several times over


def obj(**properties):
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def nested(depth, inner=None, **wrap):
    schema = inner or {"type": "integer"}
    for _ in range(depth):
        schema = {**wrap, "items": schema} if wrap else obj(a=schema)
    return schema


def extract(field, **definitions):
    return Extract(name="facts", schema={**obj(a=field), "$defs": definitions})


def generate(**constraint):
    return Generate(name="text", instruction="Write.", **constraint)


def reference(name):
    return {"$ref": f"#/$defs/{name}"}


def doubling(levels):
    """Definitions of which each needs the next one twice."""
    chain = {f"d{n}": obj(x=reference(f"d{n + 1}"), y=reference(f"d{n + 1}")) for n in range(levels)}
    return {**chain, f"d{levels}": {"type": "integer"}}


def string(**bounds):
    return {"type": "string", **bounds}


def array(items, **bounds):
    return {"type": "array", "items": items, **bounds}


def cyclic():
    schema = obj(a={"type": "integer"})
    schema["properties"]["b"] = schema
    return schema


def shared(levels):
    """Few dicts in Python, and 2 to the power of `levels` in JSON."""
    schema = {"type": "integer"}
    for _ in range(levels):
        schema = {"anyOf": [schema, schema]}
    return schema


TWO_WAYS = "root ::= d0\n" + "\n".join(f"d{n} ::= d{n + 1} d{n + 1}" for n in range(40)) + '\nd40 ::= "x" | ""'
RULES = "root ::= r0\n" + "\n".join(f'r{n} ::= "a{n}" r{n + 1} | "b"' for n in range(80000)) + '\nr80000 ::= "x"'

# Each with what the message names, and what it says to write. Refused for a number, whichever the engine.
TOO_MUCH = {
    "long string": (lambda: extract(string(maxLength=10_000_000)), "maxLength is 10000000", "from 0 to 100000"),
    "long least": (lambda: extract(string(minLength=10**7)), "properties.a.minLength is 10000000", "0 to 100000"),
    "no digits left": (lambda: extract(string(maxLength=10**6000)), "a number of about 6000 digits", "0 to 100000"),
    "negative length": (lambda: extract(string(maxLength=-1)), "maxLength is -1", "a whole number from 0"),
    "length as text": (lambda: extract(string(maxLength="9")), "maxLength is '9'", "a whole number from 0"),
    "many items": (lambda: extract(array(string(), maxItems=10**6)), "maxItems is 1000000", "from 0 to 100000"),
    "many properties": (
        lambda: extract({"type": "object", "minProperties": 10**9}),
        "minProperties is 1000000000",
        "0 to 100000",
    ),
    "large integer": (lambda: extract({"type": "integer", "minimum": 10**400}), "minimum is a number", "leave it out"),
    "lists of lists": (
        lambda: extract(nested(4, type="array", minItems=100, maxItems=100)),
        "about 203,030,309 characters",
        "Lower minItems",
    ),
    "deep objects": (lambda: extract(nested(10_000)), "more than 100 levels deep, at $.properties.a", "flatter"),
    "deep lists": (lambda: extract(nested(10_000, type="array")), "more than 100 levels deep", "'$ref'"),
    "deep data": (lambda: extract({"const": nested(400)}), "more than 100 levels deep", "flatter"),
    "circle of dicts": (lambda: Extract(name="facts", schema=cyclic()), "more than 100 levels deep", "'$ref'"),
    "shared dicts": (lambda: extract(shared(16)), "more than 20000 values", "Define what repeats once"),
    "doubling references": (lambda: extract(reference("d0"), **doubling(40)), "characters", "out of 'required'"),
    "endless references": (
        lambda: extract(reference("b"), b=obj(c=reference("c")), c=obj(b=reference("b"))),
        "has no end",
        "out of 'required'",
    ),
    "endless parts": (
        lambda: extract(reference("b"), b={"allOf": [reference("c")]}, c=obj(b=reference("b"))),
        "has no end",
        "out of 'required'",
    ),
    "reference to itself": (lambda: extract(reference("b"), b=reference("b")), "has no end", "refer to their own"),
    "chain of references": (
        lambda: extract(reference("d0"), **{f"d{n}": reference(f"d{n + 1}") for n in range(500)}, d500={}),
        "follows more than 100 references",
        "Refer to what is meant",
    ),
    "long enum": (
        lambda: extract({"enum": [f"value {n}" for n in range(100_000)]}),
        "$.properties.a.enum has 100000 entries",
        "Write 5000 or less",
    ),
    "many options": (
        lambda: extract({"anyOf": [{"const": n} for n in range(5001)]}),
        "anyOf has 5001 entries",
        "Write 5000 or less",
    ),
    "many fields": (
        lambda: Extract(name="facts", schema=obj(**{f"f{n}": string(title="A", format="date") for n in range(5000)})),
        "more than 20000 values",
        "ask for less in each task",
    ),
    "repeating pattern": (
        lambda: extract(string(pattern="^((a{0,500}){0,500}){0,500}$")),
        "repeats something 250,000 times",
        "lower the numbers",
    ),
    "repeating regex": (lambda: generate(regex="(a{1000}){1000}"), "repeats something 1,000,000 times", "lower"),
    "long regex": (lambda: generate(regex="[a-z]{10000000}"), "repeats something 10,000,000 times", "lower"),
    "many choices": (
        lambda: generate(choice=tuple(f"label {n}" for n in range(100_000))),
        "100000 choices are given, beginning with 'label 0'",
        "Give 5000 or less",
    ),
}

# Refused because a compiler that tries does not come to an end, or an answer cannot be followed: what to write instead
# is said of each kind. Both engines compile these, but for unions, choices and definitions, which only vLLM compiles.
TOO_HARD = {
    "regex, stars in stars": (lambda: generate(regex="(a*)*" * 50), "(a*)*(a*)*", "out of one another"),
    "regex, small counts": (lambda: generate(regex="(.{0,20}){0,20}"), "(.{0,20}){0,20}", "out of one another"),
    "regex, sentences": (
        lambda: generate(regex="(([a-z]{1,30} ?){1,30}[.!?] ?){1,30}"),
        "(([a-z]{1,30} ?){1,30}",
        "out of one another",
    ),
    "pattern, sentences": (
        lambda: extract(string(pattern="^(([a-z]{1,30} ?){1,30}[.!?] ?){1,30}$")),
        "(([a-z]{1,30} ?){1,30}",
        "out of one another",
    ),
    "grammar, counts": (
        lambda: generate(grammar='root ::= ((("a"{0,50}){0,50}){0,50}){0,50}'),
        '"a"{0,50}',
        "out of one another",
    ),
    "grammar, two ways": (lambda: generate(grammar=TWO_WAYS), "root ::= d0", "in one way only"),
    "grammar, rules": (lambda: generate(grammar=RULES), "10 seconds of processor time", "fewer or shorter"),
}
TOO_HARD_FOR_VLLM = {
    "choices, long": (
        lambda: generate(choice=tuple(f"{n:05} {'lorem ipsum ' * 8}" for n in range(5000))),
        "('00000 lorem ipsum",
        "fewer or shorter choices",
    ),
    "union of objects": (
        lambda: extract({"anyOf": [obj(**{f"k{n}": string(maxLength=n + 5)}) for n in range(1000)]}),
        '"anyOf": [{"type": "object"',
        "fewer options",
    ),
    "definitions in a row": (
        lambda: extract(
            array(reference("d0")), **{f"d{n}": reference(f"d{n + 1}") for n in range(4000)}, d4000={"type": "integer"}
        ),
        '"$ref": "#/$defs/d0"',
        "Nest less",
    ),
}


@pytest.fixture(scope="module")
def vllm_engine(tmp_path_factory):
    """An engine that can check, but has no model to load."""
    return checking(tmp_path_factory)


@pytest.fixture(scope="module")
def xgrammar_engine(tmp_path_factory):
    """The same with vLLM's own choice of a compiler."""
    return checking(tmp_path_factory, structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True})


def checking(tmp_path_factory, **settings):
    directory = tmp_path_factory.mktemp("model")
    (directory / "config.json").write_text("{}")
    return VllmEngine(VllmSettings(model=str(directory), **settings))


def refusal(make, engine):
    """What is said when a task is made and its constraint checked. A task's own errors arrive inside pydantic's."""
    with pytest.raises((ConfigError, ValidationError)) as caught:
        engine.check(make().constraint)
    assert len(str(caught.value)) < 3000
    return str(caught.value)


@pytest.mark.parametrize(("make", "named", "fix"), TOO_MUCH.values(), ids=TOO_MUCH)
def test_what_asks_for_too_much_is_refused_by_vllm(vllm_engine, make, named, fix):
    message = refusal(make, vllm_engine)
    assert named in message
    assert fix in message


@pytest.mark.parametrize(("make", "named", "fix"), TOO_MUCH.values(), ids=TOO_MUCH)
def test_what_asks_for_too_much_is_refused_by_the_dummy(make, named, fix):
    message = refusal(make, DummyEngine())
    assert named in message
    assert fix in message


@pytest.mark.parametrize(
    ("make", "named", "fix"), (TOO_HARD | TOO_HARD_FOR_VLLM).values(), ids=TOO_HARD | TOO_HARD_FOR_VLLM
)
def test_what_xgrammar_does_not_come_to_an_end_with_is_refused_by_vllm(xgrammar_engine, make, named, fix):
    message = refusal(make, xgrammar_engine)
    assert "The constraint compiler xgrammar takes" in message
    assert named in message
    assert fix in message
    assert '"backend": "guidance"' in message


@pytest.mark.parametrize(
    "name",
    [
        *("regex, stars in stars", "regex, small counts", "regex, sentences", "pattern, sentences"),
        *("choices, long", "union of objects"),
    ],
)
def test_the_compiler_that_is_taken_by_default_comes_to_an_end_with_most_of_it(vllm_engine, name):
    make = (TOO_HARD | TOO_HARD_FOR_VLLM)[name][0]
    vllm_engine.check(make().constraint)


@pytest.mark.parametrize(("make", "named", "fix"), TOO_HARD.values(), ids=TOO_HARD)
def test_what_the_compiler_does_not_come_to_an_end_with_is_refused_by_the_dummy(make, named, fix):
    message = refusal(make, DummyEngine())
    assert "The constraint compiler xgrammar takes" in message
    assert named in message
    assert fix in message


@pytest.mark.parametrize("engine", ["vllm", "dummy"])
def test_a_schema_that_is_too_deep_to_be_read_is_refused(vllm_engine, engine):
    text = '{"type": "array", "items": ' * 100_000 + "{}" + "}" * 100_000
    with pytest.raises(ConfigError, match=r"nested too deep to be read: \{\"type\": \"array\""):
        {"vllm": vllm_engine, "dummy": DummyEngine()}[engine].check(Constraint("json", text))


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Tree(BaseModel):
    label: str = Field(max_length=80)
    children: list["Tree"] = []


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


class Everything(BaseModel):
    colour: Colour
    maybe: str | None
    either: int | str
    prices: dict[str, float]
    pet: Cat | Dog
    tree: Tree


FIELDS = {f"field{n}": string(maxLength=200) if n % 2 else {"type": "integer"} for n in range(8)}
GOOD = {
    "long string": lambda: extract(string(maxLength=2000)),
    "nested objects": lambda: extract(obj(b=obj(c=obj(d=obj(e=string()))))),
    "deep enough": lambda: extract(nested(40)),
    "tree": lambda: Extract(name="facts", schema=Tree),
    "whole schema in itself": lambda: Extract(
        name="facts", schema={**obj(a=string()), "properties": {"a": string(), "more": array({"$ref": "#"})}}
    ),
    "tree of options": lambda: extract(reference("t"), t={"anyOf": [string(), array(reference("t"))]}),
    "list of pairs": lambda: extract(reference("t"), t={"anyOf": [{"type": "null"}, obj(next=reference("t"))]}),
    "every kind of field": lambda: Extract(name="facts", schema=Everything),
    "enum of 500": lambda: extract({"enum": [f"value {n}" for n in range(500)]}),
    "list of 16 objects": lambda: extract(array(obj(**FIELDS), minItems=16, maxItems=16)),
    "lists of lists": lambda: extract(nested(6, string(maxLength=200), type="array")),
    "hundred fields": lambda: Extract(name="facts", schema=obj(**{f"f{n}": string() for n in range(100)})),
    "union of objects": lambda: extract({"anyOf": [obj(**{f"k{n}": string(maxLength=50)}) for n in range(20)]}),
    "pattern of a code": lambda: extract(string(pattern="^[A-Z]{2}-[0-9]{3,6}$")),
    "pattern of names": lambda: extract(string(pattern="^[A-Z][a-z]+( [A-Z][a-z]+){0,3}$")),
    "regex of a date": lambda: generate(regex=r"\d{4}-\d{2}-\d{2}"),
    "regex of words": lambda: generate(regex=r"(\w{1,20} ){1,100}"),
    "regex of an address": lambda: generate(regex=r"[\w.+-]+@[\w-]+\.[\w.-]+"),
    "regex of two lines": lambda: generate(regex=r"Answer: .{1,100}\nReason: .{1,300}"),
    "hundred choices": lambda: generate(choice=tuple(f"choice {n}" for n in range(100))),
    "thousands of choices": lambda: generate(choice=tuple(f"choice {n}" for n in range(5000))),
    "grammar": lambda: generate(grammar='root ::= item ("," item)*\nitem ::= "x" [0-9] | "(" root ")"'),
    "lark grammar": lambda: generate(grammar='start: ("good" | "bad") ":" STARS\nSTARS: /[1-5]/\n'),
}


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD)
def test_what_people_write_is_accepted_by_vllm(vllm_engine, make):
    vllm_engine.check(make().constraint)


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD)
def test_what_people_write_is_accepted_by_vllm_with_xgrammar(xgrammar_engine, make):
    xgrammar_engine.check(make().constraint)


@pytest.mark.parametrize(
    "make", [GOOD[name] for name in GOOD if name != "lark grammar"], ids=GOOD.keys() - {"lark grammar"}
)
def test_what_people_write_is_accepted_by_the_dummy(make):
    DummyEngine().check(make().constraint)


def test_guidance_is_tried_in_the_same_way(vllm_engine):
    words = "\n".join(f'  | "a {"b" * 20} {number}"' for number in range(4000))
    with pytest.raises(ConfigError, match=r"guidance refuses this grammar: (.|\n)*max is 2000(.|\n)*\"xgrammar\""):
        vllm_engine.check(generate(grammar=f'start: "c"\n{words}').constraint)
    chain = TOO_HARD_FOR_VLLM["definitions in a row"][0]().constraint
    with pytest.raises(ConfigError, match=r"llguidance is ended by SIGSEGV with this json(.|\n)*\"xgrammar\""):
        vllm_engine.check(chain)


def test_what_only_the_compiler_refuses_is_refused_with_its_words(xgrammar_engine):
    # vLLM's validator lets this pass, and every row would fail.
    constraint = extract(string(pattern="^[a-z]{1,200}$")).constraint
    with pytest.raises(ConfigError, match=r"xgrammar refuses this json: .*\n?It says: .*Check failed"):
        xgrammar_engine.check(constraint)


@pytest.mark.parametrize(
    ("constraint", "plain"),
    [
        (Constraint("regex", r"\d{4}-\d{2}-\d{2}"), True),
        (Constraint("regex", "(yes|no)"), True),
        (Constraint("regex", r"\(a\)+"), True),
        (Constraint("regex", "[a-z]{1,100}"), True),
        (Constraint("regex", "[a-z]{1,101}"), False),
        (Constraint("regex", "(ab)+"), False),
        (Constraint("regex", "a*b*"), False),
        (Constraint("regex", "a" * 201), False),
        (Constraint("choice", ("yes", "no")), True),
        (Constraint("choice", ("a" * 20_001,)), False),
        (Constraint("grammar", 'root ::= "a"'), False),
        (Constraint("json", json.dumps(obj(a=string(maxLength=9), b={"anyOf": [string(), {"type": "null"}]}))), True),
        (Constraint("json", json.dumps(obj(a={"anyOf": [string(), {"type": "integer"}]}))), False),
        (Constraint("json", json.dumps(obj(a={"type": "object", "additionalProperties": string()}))), False),
        (Constraint("json", json.dumps(obj(a={"allOf": [string()]}))), False),
        (Constraint("json", json.dumps(obj(**{f"f{n}": string(maxLength=n) for n in range(11)}))), False),
        (Constraint("json", json.dumps(obj(a=string(pattern="(ab)+")))), False),
    ],
)
def test_only_what_can_be_read_in_one_way_is_not_tried(constraint, plain):
    assert is_plain(constraint) == plain


@pytest.mark.parametrize("seed", range(20))
def test_examples_of_schemas_that_refer_to_themselves_often_end(seed):
    tree = {"anyOf": [obj(**{f"child{n}": reference("t") for n in range(5)}), obj(leaf={"type": "integer"})]}
    wide = {"type": "object", "properties": {f"child{n}": reference("w") for n in range(50)}}
    endless = obj(more=reference("e"))
    schema = {
        "type": "object",
        "properties": {"t": reference("t"), "w": reference("w"), "e": reference("e"), "es": array(reference("e"))},
        "required": ["t", "w", "es"],
        "$defs": {"t": tree, "w": wide, "e": endless},
    }
    value = example_value(schema, schema, random.Random(seed))
    assert "e" not in value
    assert value["es"] == []
    assert len(json.dumps(value)) < 1_000_000


def test_an_example_that_must_nest_too_deep_is_refused():
    chain = {f"d{n}": obj(x=reference(f"d{n + 1}")) for n in range(2000)}
    schema = {**obj(a=reference("d0")), "$defs": {**chain, "d2000": {"type": "integer"}}}
    with pytest.raises(ConfigError, match="out of 'required'"):
        DummyEngine().check(Constraint("json", json.dumps(schema)))
