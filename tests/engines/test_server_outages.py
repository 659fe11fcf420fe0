"""ServerEngine against servers that fail, go away and come back: real HTTP, on this machine."""

import asyncio
import logging
import threading
from collections import Counter
from itertools import count
from time import monotonic, sleep

import pytest
from aiohttp import web

from llm_assets.errors import ConfigError, EngineAwayError
from llm_assets.pipeline.restart import completions
from llm_assets.records import FailureKind, Request, ScoreTokens
from tests.engines.odd_servers import (
    ASK,
    OddServer,
    answer,
    behave,
    check_answers,
    error,
    requests,
)

pytestmark = pytest.mark.timeout(120)


async def slow(server, request, body):
    await asyncio.sleep(0.02)
    return answer(body)


def failing(status):
    async def fails(server, request, body):
        if status == "error in 200":
            return web.json_response({"error": {"message": "upstream 502", "code": 502}})
        if status == "page in 200":
            return web.Response(text="<html>a proxy</html>")
        if status == "null in 200":
            return web.json_response(None)
        return error(status, "not today")

    return fails


def endless():
    return (Request(n, [n % 1000] * (1 + n % 50), ASK) for n in count())


# Servers that fail, and requests that make them fail


@pytest.mark.parametrize("how", [500, 501, 502, 503, 504, 529, "error in 200", "page in 200", "null in 200"])
def test_a_server_that_only_fails_costs_no_row_while_another_is_well(make, how):
    with OddServer(slow) as well, OddServer(failing(how)) as sick:
        check_answers(list(make(well, sick, max_in_flight=16).run(requests(400))), 400)
        assert 0 < len(sick.asked) < 60


def test_a_server_that_fails_most_of_the_time_costs_no_row_while_another_is_well(make):
    async def fails_mostly(server, request, body):
        return answer(body) if len(server.asked) % 3 == 0 else error(500, "moody")

    with OddServer(slow) as well, OddServer(fails_mostly) as sick:
        check_answers(list(make(well, sick, max_in_flight=16).run(requests(400))), 400)


@pytest.mark.parametrize("how", [500, 503])
def test_a_server_that_failed_gets_requests_again_when_it_answers(make, how):
    with OddServer(slow) as well, OddServer(failing(how)) as sick:
        stream = make(well, sick, max_in_flight=4).run(endless())
        while not sick.asked:
            assert next(stream).error is None
        sick.behaviour = slow
        before = len(sick.asked)
        while len(sick.asked) < before + 100:
            assert next(stream).error is None
        stream.close()


def test_requests_that_every_server_fails_at_end_as_errors_and_the_servers_go_on(make):
    async def hates_tens(server, request, body):
        await asyncio.sleep(0.02)
        return error(500, "out of luck") if body["token_ids"][0] % 10 == 0 else answer(body)

    with OddServer(hates_tens) as one, OddServer(hates_tens) as other:
        engine = make(one, other, max_attempts=3, max_in_flight=4)
        found = {c.id: c for c in engine.run(requests(100))}
        assert [n for n, c in sorted(found.items()) if c.error] == list(range(0, 100, 10))
        assert {c.error_kind for c in found.values() if c.error} == {FailureKind.ENGINE_ERROR}
        assert all(Counter(one.asked + other.asked)[number] == 3 for number in range(0, 100, 10))
        one.behaviour = other.behaviour = slow
        before = len(one.asked), len(other.asked)
        check_answers(list(engine.run(requests(100))), 100)
        assert len(one.asked) > before[0]
        assert len(other.asked) > before[1]


def test_requests_that_fail_alone_are_found_when_nothing_else_is_asked(make):
    async def hates(server, request, body):
        return error(500, "out of luck") if body["token_ids"][0] in (3, 4) else answer(body)

    with OddServer(hates) as one, OddServer(hates) as other:
        engine = make(one, other, max_attempts=3, max_in_flight=1)
        found = {c.id: c for c in completions(engine, iter(requests(5)), max_deaths=10)}
    assert [n for n, c in sorted(found.items()) if c.error] == [3, 4]
    assert all("500 out of luck" in found[n].error for n in (3, 4))


def test_a_request_that_breaks_a_server_each_time_ends_as_an_error(make):
    async def hates_seven(server, request, body):
        await asyncio.sleep(0.02)
        if body["token_ids"][0] == 7:
            return error(502, "upstream died")
        return answer(body)

    with OddServer(hates_seven) as server:
        engine = make(server, max_attempts=3, max_in_flight=4, unavailable_seconds=3)
        found = {}
        for completion in engine.run(endless()):
            found[completion.id] = completion
            if 7 in found:
                break
    assert "502 upstream died" in found[7].error
    assert [c.id for c in found.values() if c.error] == [7]


# Outages


@pytest.mark.parametrize(
    ("status", "health"), [(502, 200), (503, 200), (504, 200), (503, 503), (500, 500), ("page in 200", 500)]
)
def test_rows_wait_for_the_end_of_an_outage_that_something_before_the_server_tells(make, status, health):
    with OddServer(slow) as server:
        engine = make(server, max_attempts=2, max_in_flight=8)
        found = []

        def end():
            server.behaviour, server.health_status = slow, 200

        for completion in completions(engine, iter(requests(60)), max_deaths=0):
            found.append(completion)
            if len(found) == 20:
                server.behaviour, server.health_status = failing(status), health
                threading.Timer(2.0, end).start()
        check_answers(found, 60)


@pytest.mark.parametrize(("status", "health"), [(503, 200), (503, 503), (500, 500)])
def test_an_outage_that_does_not_end_stops_the_run_and_fails_no_row(make, status, health):
    with OddServer(slow) as one, OddServer(slow) as other:
        engine = make(one, other, unavailable_seconds=1, max_attempts=2, max_in_flight=8)
        stream = completions(engine, endless(), max_deaths=0)
        assert next(stream).error is None
        one.behaviour = other.behaviour = failing(status)
        one.health_status = other.health_status = health
        found = []
        with pytest.raises(EngineAwayError, match=rf"No server has answered for 1 seconds .*{one.url} \(.*{status}"):
            found.extend(stream)
        assert all(completion.error is None for completion in found)


def test_a_server_that_is_unavailable_is_left_alone_as_long_as_it_wants(make):
    asked = []

    async def unavailable(server, request, body):
        asked.append(monotonic())
        return error(503, "starting", Retry_After="2") if len(asked) == 1 else answer(body)

    with OddServer(unavailable) as server:
        check_answers(list(make(server, max_in_flight=1).run(requests(2))), 2)
    assert asked[1] - asked[0] >= 2


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("header", ["3600", "inf", "Fri, 01 Jan 2100 00:00:00 GMT"])
def test_no_server_is_left_alone_for_longer_than_a_run_waits(make, status, header):
    async def unavailable(server, request, body):
        return error(status, "later", Retry_After=header)

    message = rf"1 seconds .*{status} later \(Retry-After: {header}\)"
    with OddServer(unavailable) as server, pytest.raises(EngineAwayError, match=message):
        list(make(server, unavailable_seconds=1).run(requests(2)))


@pytest.mark.parametrize("how", ["stopped", 503, 429])
def test_a_run_after_one_that_gave_up_waits_anew(make, how):
    seen = Counter()

    async def once(server, request, body):
        first = body["token_ids"][0]
        seen[first] += 1
        return error(429, "slow down", Retry_After="0") if seen[first] == 1 else answer(body)

    with OddServer() as server:
        engine = make(server, unavailable_seconds=1)
        engine.load()
        if how == "stopped":
            server.stop()
        else:
            server.behaviour = failing(how)
        with pytest.raises(EngineAwayError):
            list(engine.run(requests(5)))
        if how == "stopped":
            server.start()
        server.behaviour = once
        check_answers(list(engine.run(requests(5))), 5)


def test_a_run_after_one_that_was_closed_in_an_outage_waits_anew(server, make):
    engine = make(server, unavailable_seconds=2)
    aborted = threading.Event()

    async def only_the_first(server, request, body):
        if body["token_ids"][0] == 0:
            return answer(body)
        aborted.set()
        request.transport.abort()
        return answer(body)

    server.behaviour = only_the_first
    stream = engine.run(requests(3))
    assert next(stream).id == 0
    assert aborted.wait(20)
    stream.close()
    sleep(3)
    server.behaviour = behave
    check_answers(list(engine.run(requests(5))), 5)


def test_two_outages_are_waited_for_one_by_one_though_nothing_was_answered_between(make):
    returned = threading.Event()

    async def holds(server, request, body):
        returned.set()
        await asyncio.sleep(60)
        return answer(body)

    with OddServer() as server:
        engine = make(server, unavailable_seconds=4)
        engine.load()
        server.behaviour = holds
        server.stop()

        def up_and_down():
            sleep(2.5)
            server.start()
            assert returned.wait(20)
            server.stop()
            server.behaviour = behave
            sleep(2.5)
            server.start()

        thread = threading.Thread(target=up_and_down)
        thread.start()
        check_answers(list(engine.run(requests(3))), 3)
        thread.join()


def test_a_server_that_works_is_not_away_though_another_is_and_an_answer_takes_long(make):
    async def very_slow(server, request, body):
        await asyncio.sleep(2.5)
        return answer(body)

    with OddServer(very_slow) as one, OddServer(very_slow) as other:
        engine = make(one, other, unavailable_seconds=1, max_in_flight=4)
        engine.load()
        threading.Timer(0.5, one.stop).start()
        check_answers(list(engine.run(requests(12))), 12)


def test_a_server_that_comes_back_is_asked_though_it_still_holds_older_requests(make):
    released = threading.Event()

    async def holds_all_but_the_last(server, request, body):
        if body["token_ids"][0] < 7:
            while not released.is_set():
                await asyncio.sleep(0.01)
        elif server.asked.count(7) == 1:
            while server.in_flight < 8:
                await asyncio.sleep(0.01)
            request.transport.abort()
        return answer(body)

    with OddServer(holds_all_but_the_last) as server:
        stream = make(server, max_in_flight=8).run(requests(8))
        first = next(stream)
        assert first.id == 7
        released.set()
        check_answers([first, *stream], 8)


def test_calls_that_belong_to_one_that_failed_are_broken_off(make):
    others, broken_off = threading.Semaphore(0), threading.Semaphore(0)

    async def first_is_refused(server, request, body):
        if len(server.asked) == 1:
            while server.in_flight < 4:
                await asyncio.sleep(0.01)
            return error(404, "The model is gone.")
        others.release()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            broken_off.release()
            raise
        return answer(body)

    with OddServer(first_is_refused) as server:
        with pytest.raises(ConfigError, match="The model is gone"):
            list(make(server).run([Request(0, [1, 2], ScoreTokens(tuple(range(60))))]))
        for _ in range(3):
            assert others.acquire(timeout=20)
            assert broken_off.acquire(timeout=20)


# Which server it is


@pytest.mark.parametrize("served", [[{}], [None], None, {}, "model"])
def test_a_list_of_models_that_is_none_is_told_apart_from_a_server_that_is_away(server, make, served):
    server.served = served
    with pytest.raises(ConfigError, match="answers with 200 and no list of models"):
        make(server).load()


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_server_that_has_no_time_for_its_list_of_models_is_waited_for(server, make, status):
    server.models_status = status

    def end():
        server.models_status = 200

    threading.Timer(1.0, end).start()
    check_answers(list(make(server).run(requests(3))), 3)


@pytest.mark.parametrize(
    ("served", "message"),
    [
        ([{"id": "other"}], "does not serve a model 'model'"),
        ([{"id": "model", "max_model_len": 16}], "was started with max_model_len 16, and here it is 2048"),
    ],
)
def test_a_server_that_joins_late_is_asked_only_once_it_is_the_right_one(make, caplog, served, message):
    with OddServer(slow) as one, OddServer(slow) as late, caplog.at_level(logging.WARNING):
        late.served = served
        late.stop()
        stream = make(one, late, max_in_flight=4).run(endless())
        assert next(stream).error is None
        late.start()
        while message not in caplog.text:
            assert next(stream).error is None
        assert not late.asked
        late.served = [{"id": "model", "max_model_len": 2048}]
        while not late.asked:
            assert next(stream).error is None
        stream.close()
        assert caplog.text.count(message) == 1


@pytest.mark.parametrize("number", [1, 2])
def test_a_run_ends_when_every_server_comes_back_with_another_model(make, number):
    with OddServer(slow) as one, OddServer(slow) as other:
        servers = [one, other][:number]
        stream = make(*servers, max_in_flight=4).run(endless())
        assert next(stream).error is None
        for server in servers:
            server.stop()
            server.served = [{"id": "another"}]
            threading.Timer(1.0, server.start).start()
        with pytest.raises(ConfigError, match="does not serve a model 'model'") as caught:
            list(stream)
        assert all(server.url in str(caught.value) for server in servers)


def test_a_server_that_has_lost_the_model_is_left_out_and_its_requests_go_to_another(make, caplog):
    async def lost(server, request, body):
        return error(404, "The model `model` does not exist.")

    with OddServer(slow) as one, OddServer(lost) as other, caplog.at_level(logging.WARNING):
        check_answers(list(make(one, other, max_in_flight=4).run(requests(100))), 100)
        assert 0 < len(other.asked) < 20
    assert f"{other.url} is left out until it answers" in caplog.text
