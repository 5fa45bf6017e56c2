"""``await ex.run(...)``, ``async for ... in ex.amap(...)`` and ``async with``: what asyncio's users expect of them."""
from __future__ import absolute_import, division, print_function

import os
import threading
import unittest

from tests import support
from tests.sent import PYTHON_3, SECONDS, faces, fail, fail_on, mul, touch_and_wait  # noqa: F401 # in the coroutines

if PYTHON_3:
    import asyncio
    from concurrent.futures import ThreadPoolExecutor  # noqa: F401 # in the coroutines

    from minimalcluster import ClusterExecutor, RemoteTraceback  # noqa: F401
    from minimalcluster.faces import awaiting

#: 2.7 cannot parse it.
_COROUTINES = """
async def run_all(ex):
    assert await ex.run(mul, 6, y=7) == 42
    assert await asyncio.gather(*[ex.run(abs, -n) for n in range(10)]) == list(range(10))
    try:
        await ex.run(fail, StopIteration("from afar"))
    except RuntimeError as error:
        assert error.__cause__.args == ("from afar",)
    try:
        await ex.run(fail, ValueError("from afar"))
    except ValueError as error:
        assert isinstance(error.__cause__, RemoteTraceback)
    else:
        raise AssertionError("no error")
    assert await asyncio.wrap_future(ex.submit(abs, -3)) == 3
    loop = asyncio.get_event_loop()
    assert await loop.run_in_executor(ex, mul, 2, 3) == 6

async def map_all(ex):
    got = []
    async for result in ex.amap(str, range(100)):
        got.append(result)
    assert got == [str(n) for n in range(100)]
    import itertools
    got = []
    iterator = ex.amap(mul, itertools.count(), itertools.count(), buffersize=4)
    async for result in iterator:
        got.append(result)
        if len(got) == 5:
            break
    await iterator.aclose()
    assert got == [0, 1, 4, 9, 16]
    try:
        async for result in ex.amap(fail_on, [1, 2], [2, 2]):
            assert result == 1
    except ValueError:
        pass
    else:
        raise AssertionError("no error")

async def signs(ex):
    # What a task raises is no sign to whoever waits for it.
    import concurrent.futures
    for error in (StopIteration("s"), asyncio.CancelledError("c"), concurrent.futures.CancelledError("f"), GeneratorExit("g")):
        for name in ("amap", "run") if not isinstance(error, GeneratorExit) else ("amap",):
            try:
                if name == "run":
                    await ex.run(fail, error)
                else:
                    [result async for result in ex.amap(fail, [error])]
            except RuntimeError as caught:
                assert (type(caught.__cause__), caught.__cause__.args) == (type(error), error.args), caught
            else:
                raise AssertionError("no error")

async def wait_without_threads(ex, gate):
    # Forty loops wait, and asyncio's only thread is free; the input, which gives nothing yet, holds up nobody.
    loop = asyncio.get_event_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))

    async def collected(items):
        return [result async for result in ex.amap(touch_and_wait, items, [gate] * 2)]

    late = threading.Event()
    paths = [gate + str(number) for number in range(40)]
    loops = [asyncio.ensure_future(collected([path])) for path in paths]
    slow = asyncio.ensure_future(collected(path for path in [gate + "slow"] if late.wait(60)))
    assert await loop.run_in_executor(None, abs, -1) == 1
    assert not any(each.done() for each in loops)
    await loop.run_in_executor(None, support.write, gate)
    assert await asyncio.gather(*loops) == [[path] for path in paths]
    late.set()
    assert await slow == [gate + "slow"]

async def others_run(ex):
    # Results that are there are taken without waiting; all the same the loop's other coroutines have their turns.
    async def count():
        while True:
            turns.append(None)
            await asyncio.sleep(0)

    turns = []
    counting = asyncio.ensure_future(count())
    seen = [len(turns) async for _ in ex.amap(abs, range(1000))]
    counting.cancel()
    assert len(set(seen)) == 1000, seen

async def cancelled_when_there(coroutine, path):
    task = asyncio.ensure_future(coroutine)
    while not os.path.exists(path):
        await asyncio.sleep(0.01)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return
    raise AssertionError("not cancelled")

async def cancel(ex, path, gate):
    await cancelled_when_there(ex.run(touch_and_wait, path, gate), path)
    # The only worker process is free, though nobody opened the gate.
    assert await ex.run(abs, -1) == 1

async def cancelled_block(path, gate):
    calls = []

    async def block():
        async with ClusterExecutor(1) as ex:
            calls.append(ex.submit(touch_and_wait, path, gate))
            await asyncio.wrap_future(calls[0])

    await cancelled_when_there(block(), path)
    assert "block of the executor was cancelled" in str(calls[0].exception(0)), calls

async def context():
    async with ClusterExecutor(1) as ex:
        assert await ex.run(abs, -1) == 1
    try:
        await ex.run(abs, 1)
    except RuntimeError:
        return
    raise AssertionError("still open")
"""


if PYTHON_3:
    exec(_COROUTINES)


@faces
class Asyncio(unittest.TestCase):
    def run_it(self, name, *arguments):
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(asyncio.wait_for(globals()[name](*arguments), 2 * SECONDS))
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    def test_run(self):
        with ClusterExecutor(2) as executor:
            self.run_it("run_all", executor)

    def test_amap(self):
        with ClusterExecutor(2) as executor:
            self.run_it("map_all", executor)

    def test_a_tasks_error_is_no_sign(self):
        with ClusterExecutor(1) as executor:
            self.run_it("signs", executor)

    def test_row_70_a_loop_that_waits_holds_no_thread(self):
        with ClusterExecutor(2) as executor, support.directory() as folder:
            self.run_it("wait_without_threads", executor, os.path.join(folder, "gate"))
        support.wait_until(lambda: not [each for each in threading.enumerate() if each.name == "minimalcluster-maps"])

    def test_who_takes_what_is_there_lets_others_run(self):
        with support.patched(awaiting, "HOLD_LOOP_SECONDS", 0.0), ClusterExecutor(1) as executor:
            self.run_it("others_run", executor)

    def test_cancellation_reaches_the_running_task(self):
        with ClusterExecutor(1) as executor, support.directory() as folder:
            self.run_it("cancel", executor, os.path.join(folder, "path"), os.path.join(folder, "gate"))

    def test_async_with(self):
        self.run_it("context")

    def test_what_cancels_the_async_with_block_ends_its_calls(self):
        with support.directory() as folder:
            self.run_it("cancelled_block", os.path.join(folder, "path"), os.path.join(folder, "gate"))


if __name__ == "__main__":
    unittest.main()
