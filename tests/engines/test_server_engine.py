"""ServerEngine against servers that misbehave: real HTTP, on this machine."""

import asyncio
import logging
import threading
from collections import Counter
from dataclasses import replace
from email.utils import formatdate
from itertools import count
from time import time

import pytest
from aiohttp import web
from pydantic import ValidationError

from llm_assets.engines import ServerSettings
from llm_assets.errors import ConfigError, EngineAwayError, EngineError
from llm_assets.pipeline.restart import completions
from llm_assets.records import Constraint, FailureKind
from tests.engines.odd_servers import OddServer, answer, behave, check_answers, error, requests

pytestmark = pytest.mark.timeout(120)

KEY = "sk-very-secret-0123456789"


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"urls": []}, "urls is empty"),
        ({"urls": ["gpu1:8000"]}, "no address of a server. Write it with http://"),
        ({"urls": ["http://gpu1", "http://gpu1/"]}, "stands in urls twice"),
        ({"urls": ["http://gpu1:8000/v1"]}, "ends in /v1, which is for api='chat'"),
        ({"urls": ["http://gpu1?key=1"]}, "has more behind it"),
        ({"prices": {"promt": 1}}, "Did you mean 'prompt'"),
        ({"prices": {"prompt": 1}}, "needs 'prompt' and 'output'"),
        ({"prices": {"prompt": -1, "output": 1}}, "is -1. Give 0 or more"),
        ({"max_in_flight": 0}, "greater than or equal to 1"),
        ({"max_inflight": 5}, "Extra inputs are not permitted"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(settings, message):
    with pytest.raises(ValidationError, match=message.replace("?", r"\?")):
        ServerSettings(**{"urls": "http://gpu1:8000", "model": "model", **settings})


def test_a_password_and_a_key_are_refused_in_settings_and_not_repeated():
    for settings in ({"urls": [f"http://me:{KEY}@gpu1"]}, {"urls": ["http://gpu1"], "api_key_env": KEY}):
        with pytest.raises(ValidationError) as caught:
            ServerSettings(model="model", **settings)
        assert KEY not in str(caught.value)


def test_a_server_of_another_model_is_refused_with_those_it_has(server, make):
    server.served = [{"id": "modell"}, {"id": "other"}]
    with pytest.raises(
        ConfigError, match=r"does not serve a model 'model'\. Did you mean 'modell'\? Valid: modell, ot"
    ):
        make(server).load()


def test_a_server_with_less_room_is_refused_with_both_lengths(server, make):
    server.served[0]["max_model_len"] = 1024
    with pytest.raises(
        ConfigError, match=r"started with max_model_len 1024, and here it is 2048\. Set max_model_len=10"
    ):
        make(server).load()


# Requests


def test_two_servers_share_the_requests_and_no_more_are_in_flight_than_allowed(make):
    async def slow(server, request, body):
        await asyncio.sleep(0.02)
        return answer(body)

    with OddServer(slow) as one, OddServer(slow) as other:
        check_answers(list(make(one, other, max_in_flight=4).run(requests(100))), 100)
        assert one.most_in_flight <= 4
        assert other.most_in_flight <= 4
        assert min(len(one.asked), len(other.asked)) >= 30


def test_the_requests_about_a_row_go_to_the_same_server(make):
    async def uneven(server, request, body):
        await asyncio.sleep(0.001 * (body["token_ids"][0] % 7))
        return answer(body)

    asked = [replace(request, row=request.id // 3) for request in requests(600)]
    with OddServer(uneven) as one, OddServer(uneven) as other:
        engine = make(one, other, max_in_flight=64)
        while not (one.asked and other.asked):  # one may be found well before the other, and is full then
            check_answers(list(engine.run(requests(20))), 20)
        one.asked.clear()
        other.asked.clear()
        check_answers(list(engine.run(asked)), 600)
        rows, others = ({first_token // 3 for first_token in server.asked} for server in (one, other))
    assert not rows & others
    assert min(len(rows), len(others)) >= 60


def test_no_more_requests_are_pulled_than_may_be_in_flight(server, make):
    pulled = count()
    stream = make(server, max_in_flight=4).run(request for request in requests(100) if next(pulled) >= 0)
    next(stream)
    assert next(pulled) <= 5
    stream.close()


def test_closing_the_iterator_breaks_off_what_is_in_flight(make):
    broken_off, in_flight = threading.Event(), asyncio.Event()

    async def only_the_first(server, request, body):
        if body["token_ids"][0]:
            in_flight.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                broken_off.set()
                raise
        await in_flight.wait()
        return answer(body)

    with OddServer(only_the_first) as server:
        engine = make(server)
        stream = engine.run(requests(4))
        assert next(stream).id == 0
        stream.close()
        assert broken_off.wait(20)
        server.behaviour = behave
        check_answers(list(engine.run(requests(20))), 20)


def test_errors_of_the_server_and_broken_connections_are_tried_again(make):
    seen = Counter()

    async def moody(server, request, body):
        first = body["token_ids"][0]
        seen[first] += 1
        if seen[first] == 1:
            if first % 4 == 0:
                return error(503, "busy")
            if first % 4 == 1:
                return web.Response(text="<html>a proxy</html>")
            if first % 4 == 2:
                request.transport.abort()
        return answer(body)

    with OddServer(moody) as server:
        check_answers(list(make(server).run(requests(40))), 40)
    assert all(seen[number] >= 2 for number in range(40) if number % 4 < 3)


@pytest.mark.parametrize("header", ["1", "date", "nonsense", "nan", "-1"])
def test_too_many_requests_are_asked_again_when_the_server_wants_them(make, header):
    seen = Counter()

    async def limited(server, request, body):
        first = body["token_ids"][0]
        seen[first] += 1
        if seen[first] <= 7:  # more often than max_attempts
            return error(429, "slow down", Retry_After="0" if seen[first] > 1 else after)
        return answer(body)

    after = formatdate(time() + 1, usegmt=True) if header == "date" else header
    with OddServer(limited) as server:
        check_answers(list(make(server, max_attempts=2).run(requests(2))), 2)


def test_a_request_that_only_fails_ends_as_an_error_and_the_others_do_not(make):
    async def hates_seven(server, request, body):
        await asyncio.sleep(0.05)
        return error(500, "out of luck") if body["token_ids"][0] == 7 else answer(body)

    with OddServer(hates_seven) as server:
        found = {c.id: c for c in make(server, max_attempts=3, max_in_flight=4).run(requests(40))}
        assert server.asked.count(7) == 3
    assert found[7].error_kind is FailureKind.ENGINE_ERROR
    assert "failed 3 times, the last one with: 500 out of luck" in found[7].error
    assert [c.id for c in found.values() if c.error] == [7]


def test_a_request_that_takes_too_long_is_tried_again_and_ends_as_an_error(make):
    async def hangs_on_three(server, request, body):
        await asyncio.sleep(60 if body["token_ids"][0] == 3 else 0.05)
        return answer(body)

    with OddServer(hangs_on_three) as server:
        found = {c.id: c for c in make(server, timeout_seconds=0.5, max_attempts=2, max_in_flight=2).run(requests(30))}
        assert server.asked.count(3) == 2
    assert found[3].error_kind is FailureKind.ENGINE_ERROR
    assert "no answer within 0.5 seconds" in found[3].error
    assert [c.id for c in found.values() if c.error] == [3]


def test_a_server_that_has_nothing_but_errors_is_an_error_of_the_engine(make):
    async def broken(server, request, body):
        return error(500, "CUDA is sad")

    with OddServer(broken) as server, pytest.raises(EngineError, match="answers no request: 500 CUDA is sad"):
        list(make(server, max_attempts=2).run(requests(5)))


def test_a_request_that_the_server_does_not_take_is_refused_alone(make):
    async def picky(server, request, body):
        return error(400, "five is too much.") if body["token_ids"][0] == 5 else answer(body)

    with OddServer(picky) as server:
        found = {c.id: c for c in make(server).run(requests(10))}
        assert server.asked.count(5) == 1
    assert found[5].error == "The server refused the request: five is too much"
    assert found[5].error_kind is FailureKind.REFUSED_REQUEST
    assert sum(c.error is None for c in found.values()) == 9


def test_an_answer_of_another_form_fails_its_row_alone(make):
    async def odd(server, request, body):
        return web.json_response({"choices": [{"index": 0}]}) if body["token_ids"][0] == 5 else answer(body)

    with OddServer(odd) as server:
        found = {c.id: c for c in make(server).run(requests(10))}
    assert "has another form" in found[5].error
    assert sum(c.error is None for c in found.values()) == 9


@pytest.mark.parametrize("when", ["at the beginning", "in the middle"])
@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_missing_or_wrong_is_named_by_its_variable(make, monkeypatch, caplog, status, when):
    async def locked(server, request, body):
        return error(status, f"not with {request.headers.get('Authorization')}")

    monkeypatch.setenv("SHOP_KEY", KEY)
    with OddServer(locked) as server, caplog.at_level(logging.DEBUG):
        if when == "at the beginning":
            server.models_status = status
        with pytest.raises(ConfigError, match=r"environment variable SHOP_KEY, which has another one") as caught:
            list(make(server, api_key_env="SHOP_KEY").run(requests(3)))
        if when == "in the middle":
            assert set(server.keys) == {f"Bearer {KEY}"}
    assert KEY not in str(caught.value)
    assert KEY not in caplog.text


def test_the_key_is_in_no_error_though_the_server_repeats_it(make, monkeypatch):
    async def talkative(server, request, body):
        return error(400, f"hello {request.headers['Authorization']}")

    monkeypatch.setenv("SHOPS_PASS", KEY)  # a name that does not say that it is secret
    with OddServer(talkative) as server:
        (completion,) = make(server, api_key_env="SHOPS_PASS").run(requests(1))
    assert KEY not in completion.error
    assert "hello Bearer ***" in completion.error


def test_a_server_without_the_route_is_told_what_starts_it(make):
    async def unknown(server, request, body):
        return web.json_response({"detail": "Not Found"}, status=404)

    with OddServer(unknown) as server, pytest.raises(ConfigError, match=r"vLLM 0\.25 or later\?.*--enable-scale-out"):
        list(make(server).run(requests(1)))


# Servers that go away


def test_a_server_that_dies_is_left_out_and_taken_back(make):
    async def slow(server, request, body):
        await asyncio.sleep(0.01)
        return answer(body)

    with OddServer(slow) as one, OddServer(slow) as other:
        found = []
        for completion in make(one, other, max_in_flight=4).run(requests(600)):
            found.append(completion)
            if len(found) == 100:
                one.stop()
                before = len(one.asked)
            if len(found) == 200:
                assert len(one.asked) == before
                one.start()
        check_answers(found, 600)
        assert len(one.asked) > before


def test_all_requests_wait_for_the_only_server_to_come_back(server, make):
    found = []
    for completion in make(server, max_in_flight=8).run(requests(60)):
        found.append(completion)
        if len(found) == 20:
            server.stop()
            threading.Timer(2.0, server.start).start()
    check_answers(found, 60)


@pytest.mark.parametrize("when", ["at the beginning", "in the middle"])
def test_a_run_waits_so_long_and_then_says_where_it_asked(server, make, when):
    engine = make(server, unavailable_seconds=1)
    stream = completions(engine, iter(requests(2000)), max_deaths=10)
    if when == "in the middle":
        next(stream)
    server.stop()
    with pytest.raises(EngineAwayError, match=rf"No server has answered for 1 seconds .*{server.url}"):
        list(stream)


def test_seconds_without_a_request_in_flight_are_counted(server, make):
    def late():
        for request in requests(3):
            threading.Event().wait(0.2)
            yield request

    engine = make(server, max_in_flight=1)
    engine.load()
    assert engine.idle_seconds == 0
    list(engine.run(late()))
    assert engine.idle_seconds >= 0.6
    before = engine.idle_seconds
    threading.Event().wait(0.1)
    assert engine.idle_seconds == before


def test_a_constraint_is_checked_before_a_server_is_there(make, server):
    engine = make(server)
    server.stop()
    with pytest.raises(ConfigError, match="refuses this regex"):
        engine.check(Constraint("regex", "([a-z]"))
