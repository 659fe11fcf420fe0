"""Real Ray on this machine: replicas share the rows, and what is lost with one is answered by another."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from llm_assets.engines import DummyEngine, DummySettings, RayEngine, RaySettings, VllmEngine, VllmSettings
from llm_assets.engines.other_model import with_model
from llm_assets.errors import ConfigError, EngineError, ModelError
from llm_assets.records import Constraint, EngineInfo, FailureKind, GenerateText, Partition, Request, ScoreTokens
from tests.engines.ray_fixtures import DEADLY, at_once, slow, tells_key
from tests.tables.shop import NOTE, SENTIMENT, Shop, outcomes

ROOT = Path(__file__).resolve().parents[2]
ASK = ScoreTokens((7, 8))
DUMMY = DummySettings()


def requests(count: int, pulled: list[int] | None = None) -> Iterator[Request]:
    for number in range(count):
        if pulled is not None:
            pulled.append(number)
        yield Request(number, [1 + number % 200, 1 + number // 200], ASK)


def pids(engine: RayEngine) -> list[int]:
    """The processes of an engine's replicas."""
    assert engine._replicas is not None
    return [replica.pid for replica in engine._replicas.ready]


@pytest.fixture
def engine_of(ray_dummy_engine: RayEngine) -> Iterator:
    """Makes Ray engines that end with the test."""
    made = []

    def make(make_engine=at_once, **settings) -> RayEngine:
        engine = RayEngine(RaySettings(**{"engine": DUMMY, "num_cpus": 0.25, **settings}), make_engine)
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.close()


def test_replicas_give_the_answers_of_the_engine_that_they_hold(ray_dummy_engine: RayEngine) -> None:
    constraint = Constraint("json", '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}')
    asks = [ASK, GenerateText({"max_tokens": 9, "n": 2, "logprobs": 1}), GenerateText({"max_tokens": 9}, constraint)]
    asked = [Request(number * 3, [number], asks[number % 3]) for number in range(600)]
    found = sorted(ray_dummy_engine.run(iter(asked)), key=lambda completion: completion.id)
    assert found == list(DummyEngine().run(asked))


def test_both_replicas_get_rows(engine_of) -> None:
    engine = engine_of(slow, replicas=2)
    engine.load()
    before = time.monotonic()
    assert len(list(engine.run(requests(200)))) == 200
    together = time.monotonic() - before
    assert together < 200 * 0.01  # what one alone sleeps


def test_a_killed_actor_costs_only_what_it_had(engine_of) -> None:
    engine = engine_of(replicas=2)
    engine.load()
    known, found = pids(engine), Counter()
    for completion in engine.run(requests(5000)):
        found[completion.id] += 1
        assert completion.error is None
        if sum(found.values()) == 1500:
            os.kill(known[0], signal.SIGKILL)
    assert found == Counter(range(5000))
    # Another one has taken its place.
    assert len(list(engine.run(requests(500)))) == 500
    assert known[0] not in pids(engine)
    assert known[1] in pids(engine)


def test_a_lost_machine_costs_only_what_it_had_and_another_one_takes_its_replica() -> None:
    command = [sys.executable, "-m", "tests.engines.losing_node"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    [line] = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert json.loads(line) == {"whole": True, "errors": 0, "ready": 2}
    assert "was lost with" in done.stderr


def test_rows_are_pulled_only_as_places_come_free(engine_of) -> None:
    engine, pulled, most = engine_of(slow, replicas=2, max_in_flight=10), list[int](), 0
    for count, _ in enumerate(engine.run(requests(200, pulled))):
        most = max(most, len(pulled) - count)
    assert pulled == list(range(200))
    assert 10 < most <= 20


def test_closing_a_run_drops_what_is_in_flight_and_the_next_run_is_whole(engine_of) -> None:
    engine, pulled = engine_of(slow, replicas=2, max_in_flight=50), list[int]()
    run = engine.run(requests(1000, pulled))
    for _ in range(20):
        next(run)
    run.close()
    assert len(pulled) <= 20 + 2 * 50 + 64
    fresh = [Request(number, [9], ASK) for number in range(30)]
    assert sorted(c.id for c in engine.run(fresh)) == list(range(30))


def test_a_row_that_kills_its_replica_fails_and_the_others_are_answered(engine_of) -> None:
    engine = engine_of(replicas=2, max_in_flight=16)
    asked = [Request(number, [DEADLY if number == 77 else number % 200], ASK) for number in range(300)]
    found = {completion.id: completion for completion in engine.run(asked)}
    assert sorted(found) == list(range(300))
    assert [number for number, completion in found.items() if completion.error] == [77]
    assert found[77].error_kind is FailureKind.POISON
    assert "3 replicas died on this row" in str(found[77].error)


def test_when_all_replicas_are_lost_and_none_may_start_the_run_ends_and_the_next_one_starts_them(engine_of) -> None:
    engine = engine_of(slow, replicas=2, max_restarts=0)
    run = engine.run(requests(1000))
    next(run)
    for pid in pids(engine):
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(EngineError, match="All 2 replicas in Ray are lost"):
        list(run)
    assert len(list(engine.run(requests(10)))) == 10


@pytest.mark.parametrize("demand", [{"num_gpus": 3}, {"resources": {"teapot": 1}}, {"num_cpus": 1000}])
def test_a_cluster_without_room_is_said_with_what_was_asked_and_what_there_is(engine_of, demand) -> None:
    engine = engine_of(replicas=2, start_seconds=2, **demand)
    with pytest.raises(EngineError) as caught:
        engine.load()
    said = str(caught.value)
    assert "Ray has not placed 2 of 2 replicas within 2 seconds" in said
    assert {"num_gpus": "3 GPU", "resources": "1 teapot", "num_cpus": "1000 CPU"}[next(iter(demand))] in said
    assert f"the cluster has {os.cpu_count()} CPU and 0 GPU on 1 node(s)" in said


def test_a_cluster_that_is_not_there_is_said_with_its_address() -> None:
    code = (
        "from llm_assets.engines import *\n"
        "RayEngine(RaySettings(engine={'type': 'dummy'}, address='127.0.0.1:9')).load()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "EngineError: The Ray cluster '127.0.0.1:9' cannot be reached" in done.stderr


def test_a_model_that_cannot_be_loaded_there_is_an_error_of_the_model(engine_of, smollm2: Path, tmp_path: Path) -> None:
    for file in smollm2.iterdir():  # all but its weights
        if file.suffix != ".safetensors":
            (tmp_path / file.name).symlink_to(file)
    settings = VllmSettings(model=str(tmp_path), max_model_len=256, cpu_kv_cache_gib=1)
    engine = RayEngine(RaySettings(engine=settings, num_cpus=0.5))
    with pytest.raises(ModelError, match="vLLM cannot load model"):
        engine.load()


def test_a_directory_without_a_model_is_refused_before_ray_starts() -> None:
    with pytest.raises(ConfigError, match="Model directory '/nowhere' does not exist"):
        RayEngine(RaySettings(engine=VllmSettings(model="/nowhere")))


def test_vllm_in_an_actor_gives_the_answers_of_vllm_here(ray_vllm_engine: RayEngine, vllm_engine: VllmEngine) -> None:
    tokenizer = vllm_engine.tokenizer
    prompts = tokenizer.encode_literal([f"The number {number} is" for number in range(12)])
    choice = Constraint("choice", ("good", "bad"))
    asks = [ScoreTokens((5, 6)), GenerateText({"max_tokens": 8, "temperature": 0.0}, choice)]
    asked = [Request(number, prompt, asks[number % 2]) for number, prompt in enumerate(prompts)]
    there = {completion.id: completion for completion in ray_vllm_engine.run(asked)}
    here = {completion.id: completion for completion in vllm_engine.run(asked)}
    assert sorted(there) == sorted(here) == list(range(12))
    for number in range(12):
        assert there[number].error is None
        assert [c.text for c in there[number].candidates] == [c.text for c in here[number].candidates]
        assert there[number].scores == pytest.approx(here[number].scores, abs=0.1)
    assert ray_vllm_engine.identity == vllm_engine.identity
    assert (ray_vllm_engine.info.engine, ray_vllm_engine.info.device) == ("ray", "cpu")
    assert ray_vllm_engine.info.model == vllm_engine.info.model


@pytest.mark.parametrize(
    ("each", "settings", "gpus"),
    [
        (None, {"replicas": 2, "num_gpus": 0.5}, None),
        (1, {"replicas": 2, "num_gpus": 0.5}, 1),
        (1, {"replicas": 11, "num_gpus": 0.1}, 2),
        (1, {"replicas": 4, "num_gpus": 0.4}, 2),
        (1, {"replicas": 3, "num_gpus": 0.7}, 3),
        (1, {"replicas": 3}, 3),
        (2, {"replicas": 3, "num_gpus": 2}, 6),
    ],
)
def test_gpus_that_replicas_share_count_once(each: int | None, settings: dict, gpus: int | None) -> None:
    class OnGpus(DummyEngine):
        @property
        def info(self) -> EngineInfo:
            return replace(super().info, gpus=each)

    assert RayEngine(RaySettings(engine=DUMMY, **settings), lambda _: OnGpus()).info.gpus == gpus


def test_a_constraint_can_be_checked_in_an_actor(engine_of) -> None:
    engine = engine_of()
    engine._check_there(Constraint("choice", ("a", "b")))
    with pytest.raises(ConfigError, match="refuses this regex"):
        engine._check_there(Constraint("regex", "([a-z]"))


def test_secrets_reach_replicas_and_stay_out_of_what_they_say(engine_of, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_API_KEY", "open-sesame-123")
    engine = engine_of(tells_key, environment=("SHOP_API_KEY",))
    with pytest.raises(EngineError) as caught:
        engine.load()
    assert "the key is ***" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"replicas": 0}, "replicas"),
        ({"address": "https://cluster"}, "'https://cluster' is no address of a Ray cluster"),
        ({"replica": 2}, "replica"),
        ({"num_gpus": -1}, "num_gpus"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        RaySettings(engine=DUMMY, **settings)


def test_a_whole_pipeline_survives_a_killed_actor(engine_of, sqlite_url: str) -> None:
    shop = Shop(sqlite_url)
    shop.add([f"text {number}" for number in range(600)])
    engine = engine_of(slow, replicas=2, max_in_flight=32)
    engine.load()
    killed = []

    def listen(progress) -> None:
        if not killed and progress.rows_done > 100:
            killed.append(pids(engine)[0])
            os.kill(killed[0], signal.SIGKILL)

    result = shop.pipeline(SENTIMENT, NOTE, engine=engine).run(Partition(), "run-1", listen)
    assert [outcomes(counts) for counts in result.counts.values()] == [(600, 0, 0, 0)] * 2
    assert killed
    assert shop.rows("SELECT COUNT(*), COUNT(DISTINCT id) FROM reviews_sentiment") == [(600, 600)]


@pytest.mark.parametrize("is_killed", [False, True])
def test_nothing_of_ray_stays_behind_when_the_process_that_started_it_closes_it_or_is_killed(is_killed: bool) -> None:
    code = (
        "import psutil, sys\n"
        "from llm_assets.engines import *\n"
        "engine = RayEngine(RaySettings(engine={'type': 'dummy'}))\n"
        "engine.load()\n"
        "print(*[process.pid for process in psutil.Process().children(recursive=True)], flush=True)\n"
        "sys.stdin.readline()\n"
        "engine.close()\n"
        "sys.stdin.readline()"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdin is not None
        processes = [psutil.Process(int(pid)) for pid in driver.stdout.readline().split()]
        assert len(processes) > 3
        if is_killed:
            driver.kill()
        else:
            driver.stdin.write("\n")
            driver.stdin.flush()
        _, alive = psutil.wait_procs(processes, timeout=60)
        driver.kill()
    assert [process.cmdline() for process in alive] == []


@pytest.mark.parametrize("starts_again", [False, True])
def test_ray_may_be_shut_down_and_started_again_between_two_runs(starts_again: bool) -> None:
    code = (
        "import psutil, ray, sys\n"
        "from llm_assets.engines import *\n"
        "from llm_assets.records import *\n"
        "engines = [RayEngine(RaySettings(engine={'type': 'dummy'}, num_cpus=0.25)) for _ in range(3)]\n"
        "asked = [Request(number, [number], ScoreTokens((7, 8))) for number in range(9)]\n"
        "answers = lambda engine: sorted(completion.id for completion in engine.run(asked))\n"
        "before = [answers(engine) for engine in engines]\n"
        "ray.shutdown()\n"
        f"if {starts_again}: ray.init(include_dashboard=False, log_to_driver=False)\n"
        "engines[2].close()\n"
        "again = [answers(engine) for engine in engines[:2]]\n"
        "assert before[:2] == again == [list(range(9))] * 2\n"
        "engines[0].close()\n"
        "assert answers(engines[1]) == list(range(9))\n"
        "engines[1].close()\n"
        f"assert ray.is_initialized() is {starts_again}\n"
        f"assert {starts_again} or not psutil.Process().children(recursive=True), psutil.Process().children()\n"
        "ray.shutdown()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


def test_a_process_that_uses_ray_is_terminated_in_its_own_way() -> None:
    code = (
        "import os, signal\n"
        "from llm_assets.engines import *\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('terminated in its own way'))\n"
        "engine = RayEngine(RaySettings(engine={'type': 'dummy'}))\n"
        "engine.load()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "engine.close()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "terminated in its own way" in done.stdout


def test_the_model_of_replicas_can_be_another_one() -> None:
    engine = RayEngine(RaySettings(engine=VllmSettings(model="org/small", max_model_len=99), replicas=3))
    other = with_model(engine, "org/large")
    assert isinstance(other, RayEngine)
    assert (other.identity, other.max_model_len, other.settings.replicas) == ("org/large|main", 99, 3)
    assert with_model(engine, "small") is engine
    assert with_model(RayEngine(RaySettings(engine=DUMMY)), "other").identity == "other"
