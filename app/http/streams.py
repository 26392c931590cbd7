"""From a thread to the event loop: an iterator that blocks becomes one that can be awaited.

    async for event in threaded(lambda: service.ask(question)):
        ...

Each iterator runs in a thread of its own, so that hundreds of waiting questions do not use up the
pool in which the other requests run. Leaving the loop early, as a client does that hangs up, closes
the iterator at its next item. Knows nothing of what is iterated.
"""

import asyncio
import contextvars
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class _Item(Generic[Item]):
    value: Item


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None = None


async def threaded(start: Callable[[], Generator[Item, None, None]]) -> AsyncGenerator[Item, None]:
    """Yield what `start()` yields and raise what it raises; `start` itself runs in the thread."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[_Item[Item] | _End] = asyncio.Queue()
    stopped = threading.Event()

    def put(item: _Item[Item] | _End) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody is left to read
            loop.call_soon_threadsafe(arrived.put_nowait, item)

    def work() -> None:
        try:
            with closing(start()) as items:
                for item in items:
                    put(_Item(item))
                    if stopped.is_set():
                        return
            put(_End())
        except BaseException as error:  # handed over, never lost
            put(_End(error))

    context = contextvars.copy_context()  # with what a trace of the request left in it
    threading.Thread(target=context.run, args=(work,), name="answer", daemon=True).start()
    try:
        while isinstance(item := await arrived.get(), _Item):
            yield item.value
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
