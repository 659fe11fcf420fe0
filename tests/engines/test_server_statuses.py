"""What ServerEngine makes of a server's statuses: whose fault they are, and where the request goes next."""

import asyncio
from collections.abc import Iterator

import pytest

from llm_assets.errors import ConfigError, LLMAssetsError
from llm_assets.pipeline.restart import completions
from llm_assets.records import Completion, FailureKind, Request
from tests.engines.odd_servers import ASK, OddServer, answer, check_answers, error, requests

pytestmark = pytest.mark.timeout(120)


def until_it_ends(stream: Iterator[Completion]) -> tuple[list[Completion], LLMAssetsError]:
    """Return the completions before a run's error, and the error."""
    found = []
    try:
        found.extend(stream)
    except LLMAssetsError as error:
        return found, error
    raise AssertionError("The run ended well.")


def test_an_account_without_credit_ends_the_run_and_fails_no_row(make):
    async def pays_five(server, request, body):
        return answer(body) if len(server.asked) <= 5 else error(402, "Insufficient Balance")

    with OddServer(pays_five) as server:
        found, reason = until_it_ends(make(server, max_in_flight=1).run(requests(20)))
    assert [completion.error for completion in found] == [None] * 5
    assert isinstance(reason, ConfigError)
    assert str(reason) == f"{server.url} answers with 402: Insufficient Balance. The account has no credit left."


def test_a_text_that_a_host_forbids_fails_alone_and_is_asked_again_next_time(make):
    async def forbids_five(server, request, body):
        await asyncio.sleep(0.02)
        return error(403, "your input was flagged") if body["token_ids"][0] == 5 else answer(body)

    def endless():
        number = 0
        while not is_known:
            yield Request(number, [number % 1000], ASK)
            number += 1

    is_known = []
    with OddServer(forbids_five) as server:
        for completion in make(server, max_in_flight=4, max_attempts=2).run(endless()):
            if completion.id == 5:
                is_known.append(completion)
            else:
                assert completion.error is None
    assert is_known[0].error_kind is FailureKind.ENGINE_ERROR
    assert "your input was flagged" in is_known[0].error


def test_a_key_that_is_taken_back_in_the_middle_ends_the_run(make):
    async def takes_it_back(server, request, body):
        return answer(body) if len(server.asked) <= 5 else error(403, "the key is no longer valid")

    with OddServer(takes_it_back) as server:
        found, reason = until_it_ends(make(server, max_in_flight=1, max_attempts=2).run(requests(20)))
    assert [completion.error for completion in found] == [None] * 5
    assert isinstance(reason, ConfigError)
    assert str(reason).endswith("The server says: the key is no longer valid")


def test_an_address_with_too_many_requests_gets_no_more_while_another_has_room(make):
    async def full(server, request, body):
        return error(429, "slow down", Retry_After="3")

    with OddServer() as free, OddServer(full) as busy:
        check_answers(list(make(free, busy, max_in_flight=8).run(requests(400))), 400)
        assert 0 < len(busy.asked) < 60
        assert len(free.asked) == 400


def test_an_address_that_had_too_many_requests_gets_some_again_while_another_takes_long(make):
    answered = []

    async def full_at_first(server, request, body):
        if len(server.asked) <= 2:
            return error(429, "slow down", Retry_After="0.2")
        answered.append(body)
        return answer(body)

    async def waits_for_the_other(server, request, body):
        while len(answered) < 6:
            await asyncio.sleep(0.02)
        return answer(body)

    with OddServer(waits_for_the_other) as long, OddServer(full_at_first) as busy:
        check_answers(list(make(long, busy, max_in_flight=2).run(requests(8))), 8)


def test_no_row_is_said_to_kill_a_server_that_fails_at_all_rows(make):
    async def fails_later(server, request, body):
        return answer(body) if len(server.asked) <= 50 else error(500, "out of order")

    with OddServer(fails_later) as server:
        engine = make(server, max_in_flight=8, max_attempts=1)
        found, reason = until_it_ends(completions(engine, iter(requests(400)), 10))
    assert "answers no request: 500 out of order" in str(reason)
    failed = [completion for completion in found if completion.error]
    assert failed
    assert {completion.error_kind for completion in failed} == {FailureKind.ENGINE_ERROR}
