import inspect

import pytest
from pydantic import ValidationError

from llm_assets.sampling import REMOVED, SET_BY_TASK, RepetitionDetection, Sampling


def vllms_defaults(parameters_class):
    """Each parameter of a class of vLLM with its default; those it keeps to itself left out."""
    parameters = inspect.signature(parameters_class).parameters
    return {name: parameter.default for name, parameter in parameters.items() if not name.startswith("_")}


def test_every_parameter_of_vllm_is_either_offered_or_set_by_the_task(vllm):
    parameters = vllms_defaults(vllm.SamplingParams).keys()
    assert parameters - Sampling.model_fields.keys() - SET_BY_TASK.keys() == set()


def test_every_parameter_offered_or_explained_is_one_of_vllms(vllm):
    parameters = vllms_defaults(vllm.SamplingParams).keys()
    assert Sampling.model_fields.keys() - parameters == set()
    assert SET_BY_TASK.keys() - parameters == set()
    assert Sampling.model_fields.keys() & SET_BY_TASK.keys() == set()


def test_removed_parameters_are_gone_from_vllm(vllm):
    assert REMOVED.keys() & vllms_defaults(vllm.SamplingParams).keys() == set()


def test_defaults_are_vllms_but_for_temperature_and_max_tokens(vllm):
    theirs = vllms_defaults(vllm.SamplingParams)
    different = {name for name, value in Sampling().model_dump().items() if value != theirs[name]}
    assert different == {"temperature", "max_tokens"}


def test_repetition_detection_has_vllms_parameters_and_defaults(vllm):
    theirs = vllms_defaults(vllm.sampling_params.RepetitionDetectionParams)
    assert RepetitionDetection.model_fields.keys() == theirs.keys()
    ours = RepetitionDetection(max_pattern_size=1, min_count=2)
    assert ours.min_pattern_size == theirs["min_pattern_size"]


def test_vllm_accepts_all_parameters_at_once(vllm):
    sampling = Sampling(
        temperature=0.7,
        top_p=0.9,
        top_k=50,
        min_p=0.05,
        seed=1,
        max_tokens=20,
        min_tokens=2,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        repetition_penalty=1.1,
        stop=["\n"],
        stop_token_ids=[2],
        ignore_eos=True,
        bad_words=["bad"],
        include_stop_str_in_output=True,
        logprobs=3,
        logit_bias={5: 1.5},
        allowed_token_ids=[5, 6],
        skip_special_tokens=False,
        spaces_between_special_tokens=False,
        thinking_token_budget=10,
        skip_reading_prefix_cache=True,
        watermarking=False,
        extra_args={"plugin": 1},
    )
    arguments = sampling.arguments()
    assert arguments.keys() | {"repetition_detection"} == Sampling.model_fields.keys()
    made = vllm.SamplingParams(**arguments)
    assert {name: getattr(made, name) for name in arguments} == arguments


@pytest.mark.parametrize("name", sorted(REMOVED))
def test_a_removed_parameter_is_refused_and_its_replacement_named(name):
    with pytest.raises(ValidationError) as caught:
        Sampling(**{name: 1})
    assert f"{name!r} was removed from vLLM. Use {REMOVED[name]} instead." in str(caught.value)


@pytest.mark.parametrize("name", sorted(SET_BY_TASK))
def test_a_parameter_that_the_task_sets_is_refused_with_the_reason(name):
    with pytest.raises(ValidationError) as caught:
        Sampling(**{name: 1})
    assert f"{name!r} is not set on a task: {SET_BY_TASK[name]}." in str(caught.value)


@pytest.mark.parametrize(
    ("name", "meant"), [("temprature", "temperature"), ("max_token", "max_tokens"), ("topp", "top_p")]
)
def test_an_unknown_parameter_is_refused_and_the_closest_one_named(name, meant):
    with pytest.raises(ValidationError, match=f"Unknown sampling parameter '{name}'. Did you mean '{meant}'"):
        Sampling(**{name: 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0),
        ("top_p", 1.1),
        ("top_k", -2),
        ("min_p", 1.1),
        ("max_tokens", 0),
        ("min_tokens", -1),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("repetition_penalty", 0),
        ("repetition_penalty", float("inf")),
        ("seed", -1),
        ("seed", 2**63),
        ("stop", ""),
        ("stop", ["\n\n", ""]),
        ("bad_words", [""]),
        ("logprobs", -1),
        ("logprobs", 21),
        ("thinking_token_budget", -2),
        ("repetition_detection", {"max_pattern_size": 4, "min_count": 1}),
        ("repetition_detection", {"max_pattern_size": 4, "min_count": 2, "other": 1}),
        ("repetition_detection", {"max_pattern_size": 2, "min_pattern_size": 5, "min_count": 2}),
    ],
)
def test_a_value_out_of_bounds_is_refused(name, value):
    with pytest.raises(ValidationError, match=name):
        Sampling(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 0),
        ("seed", 2**63 - 1),
        ("stop", ["\n\n", " "]),
        ("repetition_detection", {"max_pattern_size": 2, "min_pattern_size": 2, "min_count": 2}),
    ],
)
def test_a_value_at_its_bound_is_taken_here_and_by_vllm(vllm, name, value):
    arguments = Sampling(**{name: value}).arguments()
    if name == "repetition_detection":
        arguments[name] = vllm.sampling_params.RepetitionDetectionParams(**arguments[name])
    vllm.SamplingParams(**arguments)


def test_min_tokens_above_max_tokens_are_refused():
    with pytest.raises(ValidationError, match=r"min_tokens \(5\) is more than max_tokens \(4\)"):
        Sampling(min_tokens=5, max_tokens=4)
    assert Sampling(min_tokens=4, max_tokens=4).min_tokens == 4


@pytest.mark.parametrize(
    ("sampling", "defaults", "arguments"),
    [
        ({}, {}, {"temperature": 0.0}),
        ({}, {"max_tokens": 9}, {"temperature": 0.0, "max_tokens": 9}),
        ({"max_tokens": 5}, {"max_tokens": 9}, {"temperature": 0.0, "max_tokens": 5}),
        ({"max_tokens": None}, {"max_tokens": 9}, {"temperature": 0.0, "max_tokens": 9}),
        ({"temperature": 0.5}, {"temperature": 0.7}, {"temperature": 0.5}),
        ({}, {"temperature": 0.7}, {"temperature": 0.7}),
        ({"top_p": 1.0}, {}, {"temperature": 0.0, "top_p": 1.0}),
    ],
)
def test_what_is_set_stands_over_the_tasks_defaults(sampling, defaults, arguments):
    assert Sampling(**sampling).arguments(**defaults) == arguments


@pytest.mark.parametrize(("temperature", "greedy"), [(0, True), (0.0, True), (0.01, False), (1, False)])
def test_only_temperature_0_is_greedy(temperature, greedy):
    assert Sampling(temperature=temperature).is_greedy is greedy
