"""The benchmarks' own arithmetic and frame, without a model."""

import importlib.util
import json

import pytest

from benchmarks import common, duplicates, matrix, plot, prompts
from benchmarks.__main__ import NAMES, command_of
from benchmarks.common import Bench, Options, Turn
from benchmarks.defaults import cases
from benchmarks.host import by_stage, write_tiny_model
from llm_assets.engines import DummyEngine
from llm_assets.tasks import Classify

TASK = Classify(name="mood", labels=("good", "bad"))


def turns(**seconds):
    return {name: [Turn(second, 0.0, 1) for second in some] for name, some in seconds.items()}


def test_rows_differ_and_can_be_stored_anywhere():
    texts = common.demo_texts(700)
    assert len(texts) == len(set(texts)) == 700
    assert not any("\0" in text for text in texts)
    assert common.demo_texts(10) == texts[:10]


def test_rows_have_the_length_that_was_asked_for():
    tokenizer = DummyEngine().tokenizer
    texts = common.texts_of(tokenizer, 5, 1000)
    assert len(set(texts)) == 5
    assert all(950 <= len(ids) <= 1010 for ids in tokenizer.encode_literal(texts))


def test_sides_take_turns_in_both_orders_after_a_warm_up():
    seen = []

    def side(name):
        def answer(texts):
            seen.append((name, len(texts)))
            return Turn(1.0, 0.0, len(texts))

        return answer

    found = common.compare({"a": side("a"), "b": side("b")}, ["x"] * 16, 2, lambda: seen.append("reset"))
    assert seen[:2] == [("a", 2), ("b", 2)]
    assert seen[2:] == ["reset", ("a", 16), "reset", ("b", 16), "reset", ("b", 16), "reset", ("a", 16)]
    assert [len(some) for some in found.values()] == [2, 2]


def test_a_ratio_is_the_median_of_the_rounds_own_ratios():
    found = turns(ours=[1, 2, 4], theirs=[3, 3, 4])
    assert common.ratios(found, "ours") == {"ours / theirs": 1.5}
    assert common.speeds(found, 30) == {"ours": 15.0, "theirs": 10.0}


def test_numbers_keep_three_digits():
    assert [common.rounded(number) for number in (0.012345, 1.2345, 123.45, 12345.6)] == [0.0123, 1.23, 123.0, 12346]


def test_the_pipeline_side_counts_what_it_asked():
    with Bench(Options()) as bench:
        side = bench.pipeline(DummyEngine(), [TASK])
        found = side(duplicates.repeated(common.demo_texts(40), 0.3))
        report = bench.report("some", {"a / b": 2.0}, {}, {"pipeline": [found]}, rows=40)
    assert (found.asked, found.failed) == (28, 0)
    assert list(report)[:2] == ["benchmark", "ratios"]
    assert set(by_stage([found], 40)) == {"read", "prompt", "generate", "write"}


def test_failed_rows_are_refused_unless_weights_are_random():
    failed = {"pipeline": [Turn(1.0, 0.0, 1, failed=1)]}
    with pytest.raises(AssertionError, match="Rows failed"):
        Bench(Options()).report("some", {}, {}, failed)
    assert Bench(Options(load_format="dummy")).report("some", {}, {}, failed)["failed"] == {"pipeline": 1}


def test_a_task_that_may_not_reuse_asks_about_every_row():
    with Bench(Options()) as bench:
        texts = duplicates.repeated(common.demo_texts(20), 0.3)
        assert bench.pipeline(DummyEngine(), [duplicates.ASK_ALL])(texts).asked == 20
        with bench.database() as database:
            common.insert_rows(database, texts)
            common.run_pipeline(database, DummyEngine(), [TASK])
            duplicates.change(database, 0.01, "rows")
            assert common.run_pipeline(database, DummyEngine(), [TASK]).asked == 1


def test_duplicates_are_that_share_of_the_rows():
    texts = duplicates.repeated(common.demo_texts(100), 0.3)
    assert (len(texts), len(set(texts))) == (100, 70)


def test_no_json_answer_can_be_cut_off():
    assert len(prompts.LONGEST_ANSWER) < prompts.JSON_TOKENS
    fields = json.loads(prompts.LONGEST_ANSWER)
    properties = prompts.LONG_FIELDS["properties"]
    assert list(fields) == list(properties)
    assert properties["item"]["pattern"] == f"^[a-z]{{3,{len(fields['item'])}}}$"
    assert properties["order"]["pattern"] == f"^[0-9]{{6,{len(fields['order'])}}}$"
    assert max(map(len, properties["mood"]["enum"])) == len(fields["mood"])


def test_long_tasks_share_about_250_tokens(smollm2_tokenizer):
    for task in (prompts.LONG_CHOICE, prompts.LONG_EXTRACT, prompts.LONG_TEXT):
        assert prompts.check_shared(task, smollm2_tokenizer) in prompts.SHARED_TOKENS
    for task in (prompts.LONG_CHOICE, *prompts.THREE):
        assert len(task.plan(smollm2_tokenizer, 2048).queries) == 1


def test_work_counted_by_hand():
    config = {
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 100,
    }
    # A layer: queries and output 8 x 8 each, keys and values 8 x 4 each, three matrices of 8 x 16.
    assert matrix.layer_parameters(config) == 2 * (64 + 64 + 32 + 32 + 3 * 128)
    # Two prompts of 4 tokens, one of them cached: 3 computed tokens look at 2, 3 and 4 positions.
    found = matrix.work(config, prompts=2, prompt_tokens=8, cached_tokens=2)
    assert found.layers == 2 * 1152 * 6
    assert found.attention == 4 * 2 * 8 * (2 + 3 + 4) * 2
    assert found.lm_head == 2 * 8 * 100 * 2
    assert found.total == found.layers + found.attention + found.lm_head


def test_the_parameters_of_qwen2_5_7b():
    config = {
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18944,
    }
    assert matrix.layer_parameters(config) == pytest.approx(6.53e9, rel=0.001)  # as its model card says, but embeddings


def test_a_sweep_changes_one_setting_at_a_time():
    sweep = {"max_num_seqs": (1, 2), "enforce_eager": (True,)}
    assert cases(sweep) == [{}, {"max_num_seqs": 1}, {"max_num_seqs": 2}, {"enforce_eager": True}]
    assert cases(sweep, ["enforce_eager"]) == [{}, {"enforce_eager": True}]


def test_the_tiny_model_has_the_tokenizer_s_vocabulary(tmp_path):
    model, tiny = tmp_path / "model", tmp_path / "tiny"
    model.mkdir()
    tiny.mkdir()
    tokenizer = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 64}]}
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    (model / "model.safetensors").write_text("")
    write_tiny_model(tiny, model)
    assert sorted(file.name for file in tiny.iterdir()) == ["config.json", "tokenizer.json"]
    assert json.loads((tiny / "config.json").read_text())["vocab_size"] == 128


def test_every_benchmark_can_be_run_by_name():
    for name in NAMES:
        module = importlib.import_module(f"benchmarks.{name}")
        assert module.__doc__
        assert callable(getattr(module, "run", getattr(module, "main", None)))


def test_a_benchmark_apart_gets_the_options():
    options = Options(rows=5, rounds=2, model="m", load_format="dummy", database="postgres")
    words = command_of("host", options)[2:]
    assert words[0] == "benchmarks.host"
    assert common.options_of(common.parser("").parse_args(words[1:])) == options
    assert command_of("incremental", options)[3:] == ["--rows", "5", "--postgres"]


LINES = [
    {"benchmark": "choice", "model": "m", "device": "d", "ratios": {"a / b": 1.0}},
    {"benchmark": "choice", "model": "m", "device": "d", "ratios": {"a / b": 2.0, "a / c": 0.5}},
    {"benchmark": "choice", "model": "n", "device": "d", "ratios": {"a / b": 3.0}},
    {"benchmark": "incremental", "peak_memory_mib_by_rows": {}},
]


def test_the_newest_line_of_a_model_is_drawn():
    assert plot.bars(LINES) == {"m, d": {"choice: a / b": 2.0, "choice: a / c": 0.5}, "n, d": {"choice: a / b": 3.0}}


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_the_chart_is_a_small_png(tmp_path):
    plot.draw(plot.bars(LINES), tmp_path / "chart.png")
    content = (tmp_path / "chart.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) < 60 * 1024
