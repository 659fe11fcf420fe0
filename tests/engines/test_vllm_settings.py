import re

import pytest
from pydantic import ValidationError

from llm_assets.engines import VllmEngine, VllmSettings
from llm_assets.engines.vllm.settings import OURS, REFUSED, directory_hash, engine_argument_names
from llm_assets.errors import ConfigError

MODEL = "Qwen/Qwen2.5-0.5B-Instruct"


@pytest.fixture(scope="module")
def vllms_arguments(vllm):
    """The fields of vLLM's EngineArgs with their defaults."""
    from vllm.engine.arg_utils import EngineArgs

    return EngineArgs.__dataclass_fields__


def test_the_names_read_from_vllms_source_are_those_of_its_class(vllms_arguments):
    assert engine_argument_names() == {name for name in vllms_arguments if not name.startswith("_")}


def test_every_setting_but_our_own_is_an_argument_of_vllms_engine(vllms_arguments):
    assert VllmSettings.model_fields.keys() - vllms_arguments.keys() == OURS


def test_settings_that_are_left_alone_change_none_of_vllms_defaults(vllms_arguments):
    passed = VllmSettings(model=MODEL).arguments()
    changed = {name: value for name, value in passed.items() if value != vllms_arguments[name].default}
    # Prefix caching is vLLM's default too, which it decides when it starts.
    assert changed == {"model": MODEL, "enable_prefix_caching": True}


def test_arguments_of_vllm_are_accepted_flat_and_in_engine_args(vllms_arguments):
    flat = VllmSettings(model=MODEL, block_size=32, max_model_len=100)
    inside = VllmSettings(model=MODEL, engine_args={"block_size": 32}, max_model_len=100)
    assert flat == inside
    assert flat.arguments()["block_size"] == 32
    assert flat.arguments()["max_model_len"] == 100
    assert flat.arguments().keys() <= vllms_arguments.keys()


def test_settings_read_back_from_their_own_dump_are_equal():
    settings = VllmSettings(model=MODEL, block_size=32, seed=3)
    assert VllmSettings.model_validate(settings.model_dump()) == settings


@pytest.mark.parametrize("engine_args", [None, {}])
def test_empty_engine_args_are_none(engine_args):
    assert VllmSettings(model=MODEL, engine_args=engine_args) == VllmSettings(model=MODEL)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    ("name", "meant"),
    [("max_modellen", "max_model_len"), ("blocksize", "block_size"), ("quantisation", "quantization")],
)
def test_an_unknown_argument_is_refused_and_the_closest_one_named(name, meant, inside):
    arguments = {"engine_args": {name: 1}} if inside else {name: 1}
    with pytest.raises(ValidationError, match=f"no engine argument '{name}'. Did you mean '{meant}'"):
        VllmSettings(model=MODEL, **arguments)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("name", sorted(REFUSED))
def test_an_argument_that_would_do_harm_is_refused_with_the_reason(name, inside):
    arguments = {"engine_args": {name: "x"}} if inside else {name: "x"}
    with pytest.raises(ValidationError) as caught:
        VllmSettings(model=MODEL, **arguments)
    assert f"{name!r} cannot be set. {REFUSED[name]}" in str(caught.value)


def test_a_refused_token_is_told_where_it_belongs():
    with pytest.raises(ValidationError, match="Set HF_TOKEN in the environment"):
        VllmSettings(model=MODEL, hf_token="hf_abc")


def test_an_argument_with_a_setting_of_its_own_is_not_hidden_in_engine_args():
    with pytest.raises(ValidationError, match="'max_model_len' has a setting of its own: write it outside engine_args"):
        VllmSettings(model=MODEL, engine_args={"max_model_len": 100})


def test_code_that_comes_with_a_model_is_not_run_by_default():
    assert VllmSettings(model=MODEL).arguments()["trust_remote_code"] is False


@pytest.mark.parametrize(
    "arguments",
    [{"gpu_memory_utilization": 1.1}, {"tensor_parallel_size": 0}, {"max_in_flight": 0}, {"cpu_kv_cache_gib": 0}, {}],
    ids=str,
)
def test_a_value_out_of_bounds_is_refused(arguments):
    with pytest.raises(ValidationError):
        VllmSettings(**({"model": MODEL} if arguments else {}), **arguments)


@pytest.mark.parametrize(
    "path", ["/no/such/model", "./no/such/model", "../no/such/model", "~/no/such/model", ".no/model"]
)
def test_a_path_to_no_model_is_refused_before_anything_is_loaded(path):
    with pytest.raises(ConfigError, match=re.escape(f"Model directory {path!r} does not exist")):
        VllmEngine(VllmSettings(model=path))


def test_a_directory_without_a_config_is_no_model(tmp_path):
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        VllmEngine(VllmSettings(model=str(tmp_path)))


# What names the weights.


def model_directory(path, config=b"{}", weights=b"w" * 10_000_000, **files):
    path.mkdir()
    (path / "config.json").write_bytes(config)
    (path / "model.safetensors").write_bytes(weights)
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def test_equal_directories_have_equal_hashes(tmp_path):
    one, other = (model_directory(tmp_path / name) for name in ("one", "other"))
    assert directory_hash(one) == directory_hash(other)


@pytest.mark.parametrize("start", [0, 4_900_000, 9_930_000])
def test_the_hash_differs_when_one_block_of_the_weights_differs(tmp_path, start):
    changed = bytearray(b"w" * 10_000_000)
    changed[start : start + 70_000] = b"x" * 70_000
    one = model_directory(tmp_path / "one")
    assert directory_hash(one) != directory_hash(model_directory(tmp_path / "other", weights=bytes(changed)))


@pytest.mark.parametrize(
    "changed",
    [{"config": b"{ }"}, {"tokenizer": b""}, {"weights": b"w" * 10_000_001}],
    ids=["a small file", "one file more", "a byte more"],
)
def test_the_hash_differs_when_any_file_differs(tmp_path, changed):
    one = model_directory(tmp_path / "one")
    assert directory_hash(one) != directory_hash(model_directory(tmp_path / "other", **changed))


def test_one_byte_of_a_small_file_changes_the_hash(tmp_path):
    one = model_directory(tmp_path / "one", weights=b"w" * 1000)
    other = model_directory(tmp_path / "other", weights=b"w" * 999 + b"x")
    assert directory_hash(one) != directory_hash(other)


def test_the_revision_of_a_hub_model_is_what_was_given():
    assert VllmSettings(model=MODEL, revision="abc").weights_revision == "abc"
    assert VllmSettings(model=MODEL).weights_revision == "main"


def identity(**arguments):
    return VllmEngine(VllmSettings(**{"model": MODEL, **arguments})).identity


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "Qwen/Qwen2.5-1.5B-Instruct"},
        {"revision": "abc"},
        {"quantization": "fp8"},
        {"kv_cache_dtype": "fp8"},
        {"tokenizer": "other/tokenizer"},
        {"chat_template": "{{ messages }}"},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"load_format": "dummy"},
        {"hf_overrides": {"rope_theta": 1e6}},
        {"logits_processors": ["shop.tokens:NoSwearing"]},
        {"tokenizer_revision": "abc"},
        {"engine_args": {"code_revision": "abc"}},
        {"quantization_config": {"linear": "fp8_per_tensor"}},
        {"generation_config": "other/model"},
        {"model_weights": "s3://bucket/other"},
    ],
    ids=str,
)
def test_the_identity_changes_with_what_changes_answers(changed):
    assert identity(**changed) != identity()


@pytest.mark.parametrize(
    "changed",
    [{"gpu_memory_utilization": 0.5}, {"max_num_seqs": 8}, {"tensor_parallel_size": 2}, {"max_in_flight": 4}],
    ids=str,
)
def test_the_identity_does_not_change_with_how_fast_it_runs(changed):
    assert identity(**changed) == identity()


def test_a_model_that_moves_to_another_directory_keeps_its_identity(tmp_path):
    one, other = (model_directory(tmp_path / name) for name in ("one", "other"))
    assert identity(model=str(one)) == identity(model=str(other)) != identity()


def test_the_tables_name_a_local_model_by_its_directory(tmp_path, monkeypatch):
    model_directory(tmp_path / "my-model")
    monkeypatch.chdir(tmp_path)
    for model in (str(tmp_path / "my-model"), "./my-model", "my-model"):
        assert VllmEngine(VllmSettings(model=model)).info.model == "my-model"
    assert VllmEngine(VllmSettings(model=MODEL)).info.model == MODEL


def test_each_copy_of_the_model_may_hold_as_many_prompt_tokens() -> None:
    settings = {"model": MODEL, "max_in_flight_tokens": 1000}
    assert VllmEngine(VllmSettings(**settings)).most_tokens_in_flight == 1000
    assert VllmEngine(VllmSettings(**settings, data_parallel_size=8)).most_tokens_in_flight == 8000
    assert VllmEngine(VllmSettings(**settings, copies_per_gpu=2)).most_tokens_in_flight == 2000


@pytest.mark.parametrize("parallel", ["data_parallel_size", "tensor_parallel_size", "pipeline_parallel_size"])
def test_copies_on_a_gpu_that_is_not_the_only_one_are_refused_with_what_to_set(parallel):
    with pytest.raises(ValidationError, match=r"over 4 GPUs\. Copies share one GPU: leave data_parallel_size"):
        VllmSettings(model=MODEL, copies_per_gpu=2, **{parallel: 4})
