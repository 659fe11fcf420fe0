"""Coroutines that run in the background of ordinary code, and whose results are taken one by one as they come."""

import asyncio
import queue
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")
Other = TypeVar("Other")


class Background(Generic[Result]):
    """An event loop in a thread of its own.

    What is submitted runs at once; `get` gives the results in the order in which they are there. All methods are for
    one and the same thread.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._finished: queue.SimpleQueue[Future[Result]] = queue.SimpleQueue()
        self._running: set[Future[Result]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def submit(self, coroutine: Coroutine[Any, Any, Result]) -> None:
        """Run a coroutine; its result is for `get`."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        self._running.add(future)
        future.add_done_callback(self._finished.put)

    def get(self) -> Result:
        """Wait until something submitted is done, and return its result or raise its error."""
        future = self._finished.get()
        self._running.discard(future)
        return future.result()

    def run(self, coroutine: Coroutine[Any, Any, Other]) -> Other:
        """Run a coroutine and wait for its own result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def cancel_all(self) -> None:
        """Stop everything submitted, and forget results that were not taken; nothing after `close`."""
        if self._loop.is_closed():
            return
        for future in self._running:
            future.cancel()
        while self._running:
            self._running.discard(self._finished.get())
        # A future is done when it is cancelled, its coroutine a moment later.
        self.run(_others_to_end())

    def close(self) -> None:
        """Stop everything, and the loop."""
        self.cancel_all()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _others_to_end() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task() and task.cancelling()]
    await asyncio.gather(*others, return_exceptions=True)
