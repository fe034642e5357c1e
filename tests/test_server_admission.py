"""Whose turn it is, and which models are in memory: without a network."""

import asyncio
import contextlib

import pytest

from serving import chat_model  # noqa: F401 (skips without starlette)

from maskprobe.server.admission import Admission  # isort: skip
from maskprobe.server.errors import ApiError  # isort: skip


async def served(admission, requests, n_tokens):
    """The clients in the order in which their requests got a turn; each takes n_tokens[client] tokens in it."""
    order = []

    async def one(client):
        async with admission.turn(client) as place:
            order.append(client)
            await asyncio.sleep(0)
            place.tokens += n_tokens[client]

    tasks = []
    for client in requests:
        tasks.append(asyncio.create_task(one(client)))
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert admission.n_running == admission.n_waiting == 0
    return order


def test_the_client_that_had_fewest_tokens_is_next():
    async def crowd():
        admission = Admission(1, 100, n_extra=0)
        async with admission.turn("first"):
            return await asyncio.wait_for(served_behind(admission), 10)

    async def served_behind(admission):
        order = []

        async def one(client, n):
            async with admission.turn(client) as place:
                order.append(client)
                place.tokens += n

        tasks = [asyncio.create_task(one("greedy", 100)) for _ in range(5)]
        tasks += [asyncio.create_task(one("modest", 10)) for _ in range(5)]
        await asyncio.sleep(0)
        assert admission.n_waiting == 10
        admission._n_running_max = 2  # the block above keeps one place
        admission._next()
        await asyncio.gather(*tasks)
        return order

    order = asyncio.run(crowd())
    assert order[:2] in (["greedy", "modest"], ["modest", "greedy"])
    assert order[2:6] == ["modest"] * 4 and order[6:] == ["greedy"] * 4


def test_a_client_that_has_no_place_gets_one_though_all_are_taken():
    async def run():
        admission = Admission(2, 1)
        entered = []

        async def one(client):
            async with admission.turn(client):
                entered.append(client)
                await asyncio.sleep(3600)

        tasks = []
        for client in ["many", "many", "many", "new", "new", "other"]:
            tasks.append(asyncio.create_task(one(client)))
            await asyncio.sleep(0)
        assert (
            entered == ["many", "many", "new", "other"] and admission.n_waiting == 1
        )  # the second of "new" is refused
        tasks[0].cancel()
        tasks[1].cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert entered[4:] == ["many"] and admission.n_running == 3
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert admission.n_running == admission.n_waiting == 0

    asyncio.run(run())


def test_one_client_is_served_in_its_order():
    async def run():
        admission = Admission(2, 100, n_extra=0)
        order = []

        async def one(i):
            async with admission.turn("one"):
                order.append(i)
                await asyncio.sleep(0)

        await asyncio.gather(*(one(i) for i in range(20)))
        return order

    assert asyncio.run(run()) == list(range(20))


def test_nobody_saves_up_turns_while_he_asks_for_none():
    async def run():
        admission = Admission(1, 100, n_extra=0)
        await served(admission, ["a"] * 3, {"a": 1000})
        async with admission.turn("a"), contextlib.AsyncExitStack():
            new = admission._client("b")
            assert new.tokens == admission._client("a").tokens == 3000

    asyncio.run(run())


def test_a_full_queue_refuses_and_says_when_to_come_again():
    async def run():
        admission = Admission(1, 2, n_extra=0)
        async with admission.turn("a"):
            waiting = [asyncio.create_task(take(admission)) for _ in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(ApiError) as caught:
                await take(admission)
            assert caught.value.status == 429 and caught.value.headers["Retry-After"]
            with pytest.raises(ApiError) as caught:
                admission.check_room(4)
            assert caught.value.status == 400
        await asyncio.gather(*waiting)
        await take(admission)

    async def take(admission):
        async with admission.turn("b"):
            pass

    asyncio.run(run())


@pytest.mark.parametrize("moment", ["waiting", "admitted", "running"])
def test_who_goes_away_leaves_no_place_taken(moment):
    async def run():
        admission = Admission(1, 10, n_extra=0)
        entered = asyncio.Event()

        async def stay():
            async with admission.turn("gone"):
                entered.set()
                await asyncio.sleep(60)

        async with contextlib.AsyncExitStack() as stack:
            if moment != "running":
                await stack.enter_async_context(admission.turn("first"))
            task = asyncio.create_task(stay())
            await asyncio.sleep(0)
            if moment == "running":
                await entered.wait()
            if moment == "admitted":
                await stack.aclose()  # its turn has come, and it does not know yet
                assert not entered.is_set() and admission.n_running == 1
            task.cancel()
            others = [asyncio.create_task(pass_by(admission)) for _ in range(3)]
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await asyncio.wait_for(asyncio.gather(*others), 10)
        assert admission.n_running == admission.n_waiting == 0

    async def pass_by(admission):
        async with admission.turn("other"):
            await asyncio.sleep(0)

    asyncio.run(run())


def test_places_beyond_the_bound_take_none_of_the_queue():
    async def run():
        admission = Admission(1, 2)
        async with contextlib.AsyncExitStack() as stack:
            for i in range(5):
                await stack.enter_async_context(admission.turn(f"client {i}"))
            admission.check_room(2)
            with pytest.raises(ApiError) as caught:
                admission.check_room(3)
            assert caught.value.status == 429

    asyncio.run(run())
