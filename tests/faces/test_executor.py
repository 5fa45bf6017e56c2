"""ClusterExecutor beside the documentation of ``concurrent.futures`` and CPython's own tests of its executors.

Where the documentation's sentences are tested (Doc/library/concurrent.futures.rst, 3.14; CPython's test in brackets):

    Executor.submit: schedules fn(*args, **kwargs), returns a Future           test_calls.Submit
    Executor.map: collects immediately unless buffersize; concurrently;
        timeout from the original call; int or float; None: no limit; an
        exception is raised when its value is retrieved; chunksize             test_maps.Map
    map's buffersize: at most so many not yet yielded                          test_maps.Map.test_buffersize
    shutdown: RuntimeError afterwards; wait=False returns immediately and
        the program does not exit before all is done; with-statement;
        cancel_futures cancels what has not started, the rest completes        Shutdown
    Future.cancel/cancelled/running/done/result/exception/add_done_callback    test_futures.Futures
    Future callbacks: called with the future, in order, in a thread of the
        process; Exception is logged and ignored; at once if done              test_futures.Futures.test_callbacks
    wait, as_completed                                                         test_futures.Futures
    BrokenExecutor, InvalidStateError, CancelledError, TimeoutError            Broken, test_futures.Futures
    initializer, initargs; if it raises, BrokenProcessPool for what waits
        and for later submits [test_init]                                      Broken
    ProcessPoolExecutor: max_workers defaults to the processors, ValueError
        below 1; __main__ must be importable: here with or without it          Construction, Main
    max_tasks_per_child: processes are replaced after so many                  Workers.test_max_tasks_per_child
    "picklable objects can be executed and returned"                           test_calls.Pickling

Not applicable, and why:

    ThreadPoolExecutor's thread_name_prefix; InterpreterPoolExecutor           other executors' own
    mp_context; "fork" with max_tasks_per_child is refused                     worker processes are fresh interpreters, never forked
    max_workers <= 61 on Windows                                               a limit of WaitForMultipleObjects, which is not used
    the first example's deadlocks (a task that waits for another)              the same here, by construction
    ProcessPoolExecutor.terminate_workers, kill_workers (3.14)                 Pool.terminate; ClusterFuture.cancel_running for one call
    BrokenProcessPool for *every* future when one process dies                 on purpose not: only the culprit fails, see Broken
    Executor.map "if timeout": the rest "is cancelled" is 3.x's own            test_maps.Map.test_timeout_ends_the_rest
"""
from __future__ import absolute_import, division, print_function

import functools
import gc
import itertools
import os
import shutil
import signal
import sys
import threading
import time
import unittest
import weakref

from tests import support
from tests.sent import (
    PYTHON_3, SECONDS, die, die_at, faces, fail_to_initialize, initialize, leave, length, mul, pid_after, status,
    touch, touch_and_wait,
)
from tests.wire.independent_client import Client

if PYTHON_3:
    import concurrent.futures
    from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor  # noqa: F401 # in the coroutines

    from minimalcluster import ClusterError, ClusterExecutor, MasterNode, StartError, errors
    from minimalcluster.compat import as_bytes
    from minimalcluster.payload import shares
    from minimalcluster.brain import agent
    from minimalcluster.faces.executor import BrokenClusterExecutor, BrokenExecutor, WorkerDiedError


@faces
class Construction(unittest.TestCase):
    def test_it_is_an_executor(self):
        with ClusterExecutor(1) as executor:
            self.assertIsInstance(executor, Executor)
            self.assertIsInstance(executor.submit(abs, -1), Future)

    def test_max_workers_must_be_greater_than_0(self):
        for number in (0, -1):
            for arguments in ((number,), ()):
                with self.assertRaises(ValueError) as caught:
                    ClusterExecutor(*arguments, **({} if arguments else {"max_workers": number}))
                self.assertEqual("max_workers must be greater than 0", str(caught.exception))

    def test_encryption_is_as_a_masters(self):
        for encrypt in (None, True):
            with ClusterExecutor(1, encrypt=encrypt) as executor:
                client = Client(executor.address[1], as_bytes(executor.authkey))
                self.assertIs(bool(encrypt), client.tls)
                client.close()
        self.assertRaises(TypeError, ClusterExecutor, 1, encrypt="yes")
        with MasterNode(PORT=0) as master:
            master.start_master_server(if_join_as_worker=False)
            for wish in ({"encrypt": False}, {"encrypt": True}):  # what is the master's is not changed unnoticed
                self.assertRaises(ValueError, ClusterExecutor, master=master, **wish)

    def test_an_initializer_must_be_callable(self):
        self.assertRaises(TypeError, ClusterExecutor, 1, initializer=3)

    def test_a_refused_one_leaves_nothing(self):
        before, threads = support.descendants(), set(threading.enumerate())
        self.assertRaises(Exception, ClusterExecutor, 1, initializer=length, initargs=(threading.Lock(),))
        self.assertRaises(ValueError, ClusterExecutor, 1, max_tasks_per_child=0)
        self.assertRaises(ValueError, ClusterExecutor, 1, "0.0.0.0", 0, "short")
        # Of earlier tests something may still be ending.
        self.assertEqual(set(), support.descendants() - before)
        self.assertEqual(set(), set(threading.enumerate()) - threads)

    def test_exactly_as_many_workers_as_said(self):
        before = support.descendants()
        with ClusterExecutor(5) as executor:
            executor.submit(abs, -1).result(SECONDS)
            support.wait_until(lambda: len(support.descendants() - before) == 5, what="5 worker processes")

    def test_default_is_the_processors(self):
        from minimalcluster.compat import cpu_count

        with ClusterExecutor() as executor:
            info = executor._core.cluster.workers()
            self.assertEqual([cpu_count()], [each.nprocs for each in info])

    def test_other_nodes_join_by_address_and_key(self):
        with ClusterExecutor(0, join=False) as executor:
            future = executor.submit(os.getppid)
            self.assertFalse(future.running())
            node = support.start_node(executor.address[1], executor.authkey)
            with node:
                self.assertEqual(node.pid, future.result(SECONDS))
                self.assertEqual([0, 1, 4], list(executor.map(mul, range(3), range(3))))
                executor.shutdown()
                self.assertEqual(0, node.wait())

    def test_on_a_running_master(self):
        with MasterNode(PORT=0) as master:
            master.start_master_server()
            with ClusterExecutor(master=master) as executor, master.executor() as second:
                self.assertEqual((master.HOST, master.PORT), executor.address)
                self.assertEqual(master.AUTHKEY, executor.authkey)
                self.assertEqual([6, 8], [executor.submit(mul, 2, 3).result(SECONDS), second.submit(mul, 2, 4).result(SECONDS)])
            # Its end is not the master's.
            master.load_envir("def f(x): return -x", from_file=False)
            master.register_target_function("f")
            master.load_args([1])
            self.assertEqual({1: -1}, master.execute())
            third = ClusterExecutor(master=master)
            waiting = third.submit(time.sleep, 60)
        # The master's end is an executor's.
        self.assertIsInstance(waiting.exception(SECONDS), BrokenExecutor)
        self.assertRaises((BrokenExecutor, RuntimeError), third.submit, abs, 1)

    def test_a_master_that_does_not_run(self):
        self.assertRaises(errors.StateError, ClusterExecutor, master=MasterNode(PORT=0))

    def test_ten_one_after_another(self):
        before = support.descendants()
        for number in range(10):
            with ClusterExecutor(1) as executor:
                self.assertEqual(number, executor.submit(int, number).result(SECONDS))
        self.assertLessEqual(support.descendants(), before)

    def test_several_at_once_do_not_mix(self):
        with ClusterExecutor(1, initializer=initialize, initargs=("a",)) as one:
            with ClusterExecutor(1, initializer=initialize, initargs=("b",)) as two:
                self.assertEqual([["a"], ["b"]], [each.submit(status).result(SECONDS) for each in (one, two)])
        with ClusterExecutor(1) as executor, MasterNode(PORT=0) as master:
            master.start_master_server()
            riders = [ClusterExecutor(master=master, initializer=initialize, initargs=(name,)) for name in "ab"]
            for rider, name in zip(riders, "ab"):
                self.assertIn(name, rider.submit(status).result(SECONDS))
            self.assertEqual([], executor.submit(status).result(SECONDS))


@faces
class Broken(unittest.TestCase):
    def test_the_types(self):
        for kind in (BrokenClusterExecutor, WorkerDiedError):
            self.assertTrue(issubclass(kind, BrokenExecutor) and issubclass(kind, ClusterError))
            self.assertTrue(issubclass(kind, RuntimeError))
        self.assertTrue(issubclass(WorkerDiedError, errors.WorkerDied))

    def test_only_the_culprit_fails(self):
        with ClusterExecutor(2) as executor:
            futures = [executor.submit(abs, -number) for number in range(10)]
            culprit = executor.submit(die)
            futures += [executor.submit(abs, -number) for number in range(10, 20)]
            self.assertEqual(list(range(20)), [future.result(SECONDS) for future in futures])
            error = culprit.exception(SECONDS)
            self.assertIsInstance(error, WorkerDiedError)
            self.assertIn("SIGKILL", str(error))
            self.assertEqual(3, len(error.nodes))
            self.assertEqual(1, executor.submit(abs, 1).result(SECONDS))
            once = executor.options(attempts_max=1).submit(die).exception(SECONDS)
            self.assertEqual(1, len(once.nodes))

    def test_a_map_names_the_argument(self):
        large = b"x" * shares.LARGE_BYTES  # the second time it travels as a handle
        with ClusterExecutor(2) as executor:
            once = executor.options(attempts_max=1)
            for iterables, fatal, argument in (
                ((range(10, 50, 2),), 20, 20),
                ((list("abcdef"),), "d", "d"),
                ((iter("abcdef"),), "d", "d"),
                ((range(9), "abcdefghi"), "d", (3, "d")),
                (([large, large],), large, large),
            ):
                with self.assertRaises(WorkerDiedError) as caught:
                    list(once.map(functools.partial(die_at, fatal), *iterables))
                self.assertEqual(argument, caught.exception.argument)

    def test_cancelled_calls_end_where_no_node_is(self):
        for cancel_futures in (False, True):
            executor = ClusterExecutor(join=False, max_workers=0)
            futures = [executor.submit(abs, -number) for number in range(3)]
            self.assertTrue(cancel_futures or all([future.cancel() for future in futures]))
            support.Background(executor.shutdown, cancel_futures=cancel_futures).result()
            self.assertTrue(all(future.cancelled() for future in futures))
        executor = ClusterExecutor(join=False, max_workers=0)
        future = executor.submit(abs, -1)
        ended = support.Background(executor.shutdown)
        self.assertTrue(future.cancel())
        ended.result()

    def test_a_killed_worker_process_costs_nothing_but_time(self):
        with ClusterExecutor(2) as executor, support.directory() as folder:
            gate = os.path.join(folder, "gate")
            futures = [executor.submit(touch_and_wait, os.path.join(folder, str(number)), gate) for number in range(2)]
            support.wait_until(lambda: len(os.listdir(folder)) == 2, what="both running")
            support.wait_until(lambda: support.read(os.path.join(folder, "0")), what="its process id")
            os.kill(int(support.read(os.path.join(folder, "0"))), signal.SIGKILL)
            support.write(gate)
            self.assertEqual([os.path.join(folder, name) for name in "01"], [each.result(SECONDS) for each in futures])

    def test_an_initializer_runs_once_per_worker_process(self):
        # [InitializerMixin]
        with ClusterExecutor(2, initializer=initialize, initargs=("ready",)) as executor:
            futures = [executor.submit(status) for _ in range(20)]
            self.assertEqual([["ready"]] * 20, [future.result(SECONDS) for future in futures])
            self.assertEqual([["ready"]] * 3, list(executor.map(lambda_free_status, range(3))))

    def test_a_failing_initializer(self):
        # [FailingInitializerMixin]
        with ClusterExecutor(2, initializer=fail_to_initialize, initargs=("no license",)) as executor:
            futures = [executor.submit(status) for _ in range(3)]
            for future in futures:
                error = future.exception(SECONDS)
                self.assertIsInstance(error, BrokenExecutor)
                self.assertIn("fail_to_initialize", str(error))
                self.assertIn("ValueError: no license", str(error))
            for call in (lambda: executor.submit(status), lambda: executor.map(abs, [1])):
                with self.assertRaises(BrokenExecutor) as caught:
                    call()
                self.assertIn("no license", str(caught.exception))
        with ClusterExecutor(1, initializer=leave, initargs=(SystemExit,)) as executor:
            self.assertRaises(BrokenExecutor, list, executor.map(abs, [1]))
            self.assertRaises(BrokenExecutor, executor.submit, abs, 1)

    @unittest.skipUnless(hasattr(os, "fork"), "this system has no fork")
    def test_after_a_fork(self):
        code = """
import os
from minimalcluster import ClusterExecutor
ex = ClusterExecutor(1)
assert ex.submit(abs, -1).result() == 1
pid = os.fork()


if pid == 0:
    for call in (lambda: ex.submit(abs, 1), lambda: ex.map(abs, [1])):
        try:
            call()
        except RuntimeError as error:
            print("refused:", error, flush=True)
    ex.shutdown()
    os._exit(0)
os.waitpid(pid, 0)
print("and here", ex.submit(abs, -2).result())
ex.shutdown()
"""
        with support.Process(code, variables={"PYTHONWARNINGS": "ignore"}) as process:
            self.assertEqual(0, process.wait(), process.output())
            lines = process.output().splitlines()
            self.assertEqual(3, len(lines), lines)
            self.assertIn("fork", lines[0])
            self.assertEqual("and here 2", lines[2])


def lambda_free_status(_):
    return status()


#: Of this Python, whatever a test puts into sys.executable.
BEFORE = sys.executable


@faces
class Stuck(unittest.TestCase):
    """An interpreter with which no worker process ever starts: waiting and leaving end, calls fail with the reason."""

    def setUp(self):
        executable = shutil.which("false")
        if executable is None:
            self.skipTest("there is no program that does nothing but fail")
        patch = support.patched(sys, "executable", executable)
        patch.__enter__()
        self.addCleanup(patch.__exit__, None, None, None)

    def waiting(self, executor):
        """A call that nothing has begun with, when that is known."""
        future = executor.submit(abs, -1)
        support.wait_until(lambda: executor._core.cluster.snapshot()["nodes"][0]["leases"] == 0 and not future.running())
        return future

    def test_row_63_it_fails_with_the_reason(self):
        with support.patched(agent, "STUCK_SECONDS", 0.5), ClusterExecutor(2) as executor:
            for call in (executor.submit(abs, -1).result, lambda: list(executor.map(abs, [1]))):
                error = support.mistake(call)
                self.assertIn("worker processes cannot start", str(error))
                self.assertIn("exit code 1", str(error))
        with support.patched(agent, "STUCK_SECONDS", 0.5), MasterNode("127.0.0.1", 0) as master:
            master.start_master_server()
            self.assertIsInstance(support.mistake(master.map, abs, [1]), StartError)

    def test_row_63_it_is_not_running_and_can_be_cancelled(self):
        with ClusterExecutor(1) as executor:
            future = self.waiting(executor)
            self.assertFalse(future.running())
            self.assertTrue(future.cancel())

    def test_row_63_leaving_ends(self):
        executor = ClusterExecutor(1)
        future = self.waiting(executor)
        executor.shutdown(cancel_futures=True)
        self.assertTrue(future.cancelled())

    def test_row_63_it_goes_on_when_one_starts(self):
        with ClusterExecutor(1) as executor:
            future = self.waiting(executor)
            sys.executable = BEFORE
            self.assertEqual(1, future.result())


@faces
class Workers(unittest.TestCase):
    def test_max_tasks_per_child(self):
        # [test_max_tasks_per_child]
        with ClusterExecutor(1, max_tasks_per_child=3) as executor:
            pids = [executor.submit(os.getpid).result(SECONDS) for _ in range(9)]
            self.assertEqual([pids[0]] * 3 + [pids[3]] * 3 + [pids[6]] * 3, pids)
            self.assertEqual(3, len(set(pids)))
            self.assertEqual(list(range(10)), list(executor.map(abs, range(10), chunksize=1)))

    def test_max_tasks_per_child_at_once(self):
        # [test_max_tasks_early_shutdown]
        executor = ClusterExecutor(2, max_tasks_per_child=1)
        futures = [executor.submit(os.getpid) for _ in range(6)]
        executor.shutdown()
        self.assertEqual(6, len({future.result(0) for future in futures}))

    def test_leaving_runs_exit_handlers(self):
        with support.directory() as folder:
            with ClusterExecutor(1, max_tasks_per_child=1) as executor:
                executor.submit(at_exit_touch, os.path.join(folder, "left")).result(SECONDS)
                support.wait_until(lambda: os.path.exists(os.path.join(folder, "left")), what="the exit handler's file")


def at_exit_touch(path):
    import atexit

    atexit.register(touch, path)


@faces
class Shutdown(unittest.TestCase):
    def test_ctrl_c_ends_the_with_block_at_once(self):
        with support.directory() as folder:
            path, gate = os.path.join(folder, "path"), os.path.join(folder, "gate")
            with self.assertRaises(KeyboardInterrupt), ClusterExecutor(1) as executor:
                calls = [executor.submit(touch_and_wait, path, gate), executor.submit(abs, -1)]
                support.wait_until(lambda: os.path.exists(path))
                raise KeyboardInterrupt
            for call in calls:
                self.assertIn("Ctrl-C has ended the with block", str(call.exception(0)))

    def test_submit_afterwards(self):
        # [test_run_after_shutdown]
        executor = ClusterExecutor(1)
        executor.shutdown()
        for call in (lambda: executor.submit(pow, 2, 5), lambda: executor.map(abs, [1])):
            with self.assertRaises(RuntimeError) as caught:
                call()
            self.assertEqual("cannot schedule new futures after shutdown", str(caught.exception))

    def test_whoever_calls_it_returns_when_the_workers_have_left(self):
        # [shutdown(wait=True): "will not return until ... the resources associated with the executor have been freed"]
        executor, left = ClusterExecutor(1), []
        worker = executor.submit(os.getpid).result(SECONDS)

        def end():
            executor.shutdown(wait=True)
            left.append(bool(support.alive([worker])))

        for each in [support.Background(end) for _ in range(3)]:
            each.result()
        executor.shutdown()
        self.assertEqual([False] * 3, left)

    def test_it_finishes_what_waits_and_its_workers_leave(self):
        # [test_hang_issue12364, test_context_manager_shutdown]
        before = support.descendants()
        with ClusterExecutor(2) as executor:
            futures = [executor.submit(time.sleep, 0.01) for _ in range(50)]
            results = executor.map(abs, range(-5, 5))
        self.assertTrue(all(future.done() for future in futures))
        self.assertEqual([5, 4, 3, 2, 1, 0, 1, 2, 3, 4], list(results))
        self.assertLessEqual(support.descendants(), before)

    def test_cancel_futures(self):
        # [test_cancel_futures]
        executor = ClusterExecutor(2)
        futures = [executor.submit(time.sleep, 0.1) for _ in range(50)]
        executor.shutdown(cancel_futures=True)
        cancelled = [future for future in futures if future.cancelled()]
        self.assertGreater(len(cancelled), 40)
        others = [future for future in futures if not future.cancelled()]
        self.assertGreater(len(others), 0)
        for future in others:
            self.assertTrue(future.done())
            self.assertIsNone(future.exception())
        self.assertEqual(set(futures), concurrent.futures.wait(futures, 0).done)

    def test_cancel_futures_of_a_map(self):
        executor = ClusterExecutor(1)
        results = executor.map(time.sleep, [0.1] * 50)
        self.assertIsNone(next(results))
        executor.shutdown(cancel_futures=True)
        with self.assertRaises(CancelledError):
            while True:
                next(results)

    def test_a_later_call_still_cancels(self):
        with support.directory() as folder:
            gate = os.path.join(folder, "gate")
            executor = ClusterExecutor(1)
            running = executor.submit(touch_and_wait, gate + "1", gate)
            support.wait_until(lambda: os.listdir(folder), what="its start")
            waiting = [executor.submit(abs, number) for number in range(20)]
            executor.shutdown(wait=False)
            self.assertFalse(any(future.cancelled() for future in waiting))
            executor.shutdown(wait=False, cancel_futures=True)
            self.assertTrue(all(future.cancelled() for future in waiting[1:]))
            support.write(gate)
            executor.shutdown()
            executor.shutdown()
            self.assertEqual(gate + "1", running.result(0))

    def test_a_call_that_was_cancelled_a_moment_before(self):
        # [test_hang_gh94440]
        executor = ClusterExecutor(1)
        executor.submit(int).result(SECONDS)
        executor.submit(int).cancel()
        support.Background(executor.shutdown).result()

    def test_without_waiting(self):
        # [test_shutdown_no_wait]
        before = support.descendants()
        executor = ClusterExecutor(2)
        results = executor.map(abs, range(-5, 5))
        future = executor.submit(mul, 3, 4)
        executor.shutdown(wait=False)
        self.assertEqual([5, 4, 3, 2, 1, 0, 1, 2, 3, 4], list(results))
        self.assertEqual(12, future.result(SECONDS))
        support.wait_until(lambda: support.descendants() <= before, what="the workers' end")

    def test_from_a_callback(self):
        executor = ClusterExecutor(1)
        called = threading.Event()

        def end(_):
            executor.shutdown(wait=True)
            called.set()

        executor.submit(abs, 1).add_done_callback(end)
        self.assertTrue(called.wait(SECONDS))
        self.assertRaises(RuntimeError, executor.submit, abs, 1)
        support.Background(executor.shutdown).result()

    def test_input_that_is_still_to_be_read(self):
        executor = ClusterExecutor(1)
        listed = executor.map(abs, list(range(20)), buffersize=2)
        endless = executor.map(abs, itertools.count(), buffersize=2)
        self.assertEqual([0, 1], [next(endless), next(endless)])
        executor.shutdown()
        self.assertEqual(list(range(20)), list(listed))
        with self.assertRaises(RuntimeError) as caught:
            list(endless)
        self.assertIn("cannot schedule new futures", str(caught.exception))

    def test_a_dropped_executor_finishes_and_is_gone(self):
        # [test_del_shutdown]
        before = support.descendants()
        executor = ClusterExecutor(2)
        results = executor.map(abs, range(-5, 5))
        future = executor.submit(pid_after, 0.2)
        reference = weakref.ref(executor)
        del executor
        gc.collect()
        self.assertIsNone(reference())
        self.assertEqual([5, 4, 3, 2, 1, 0, 1, 2, 3, 4], list(results))
        self.assertIsInstance(future.result(SECONDS), int)
        support.wait_until(lambda: support.descendants() <= before, what="the workers' end")

    def test_a_view_keeps_its_executor(self):
        view = ClusterExecutor(1).options(retries=1)
        gc.collect()
        self.assertEqual(1, view.submit(abs, -1).result(SECONDS))
        view.shutdown()

    def test_its_threads_end(self):
        before = set(threading.enumerate())
        with ClusterExecutor(1) as executor:
            executor.submit(abs, 1).result(SECONDS)
            list(executor.map(abs, [1]))
        support.wait_until(lambda: set(threading.enumerate()) <= before, what="the end of its threads")


#: Scripts that end in some way; each prints what a later check wants, and their children's fate is looked at.


_SLOW = """
import os, sys, time
from minimalcluster import ClusterExecutor
from tests.sent import touch, pid_after
ex = ClusterExecutor(2)
print("worker", ex.submit(os.getpid).result(), flush=True)
"""


@faces
class Exit(unittest.TestCase):
    """[test_interpreter_shutdown and its like] Each in a process of its own."""

    def run_it(self, code, exit_code=0):
        with support.Process(_SLOW + code) as process:
            process.wait_for_output("worker")
            workers = support.descendants(process.pid)
            self.assertEqual(exit_code, process.wait(), process.output())
            support.wait_for_death(workers)
            return [line for line in process.output().splitlines() if not line.startswith("worker")]

    def test_queued_work_is_finished(self):
        code = "for number in range(6): ex.submit(print, 'apple', number)\n"
        for end in ("", "ex.shutdown(wait=False)\n", "del ex\n", "print('last', flush=True); sys.exit()\n"):
            lines = [line for line in self.run_it(code + end) if line != "last"]
            self.assertEqual(["apple %d" % number for number in range(6)], sorted(lines), end)

    def test_a_map_nobody_iterated_is_finished(self):
        code = "results = ex.map(print, range(6))\nex.map(print, (n for n in 'ab'))\n"
        self.assertEqual(list("012345ab"), sorted(self.run_it(code)))

    def test_an_error_at_the_end(self):
        lines = self.run_it("ex.submit(print, 'apple')\nraise ValueError('of the program')\n", 1)
        self.assertIn("apple", lines)
        self.assertIn("ValueError: of the program", lines)

    def test_a_half_read_endless_map(self):
        self.assertEqual(["0"], self.run_it("import itertools\nr = ex.map(str, itertools.count())\nprint(next(r))\n"))

    def test_cancelled_without_waiting(self):
        # [test_cancel_futures_wait_false]
        lines = self.run_it("for n in range(100): ex.submit(pid_after, 0.1)\nex.shutdown(wait=False, cancel_futures=True)\n")
        self.assertEqual([], lines)

    def test_submit_while_the_interpreter_ends(self):
        # [test_submit_after_interpreter_shutdown] On 3.6 to 3.8 exit handlers run in one order for all:
        # one that was registered before ours runs after it.
        code = """
import atexit


@atexit.register
def run_last():
    try:
        ex.submit(id, None)
    except RuntimeError as error:
        print(error, flush=True)
from minimalcluster import ClusterExecutor
ex = ClusterExecutor(1)
print(ex.submit(abs, -42).result(), flush=True)
"""
        with support.Process(code) as process:
            self.assertEqual(0, process.wait())
            self.assertEqual(["42", "cannot schedule new futures after shutdown"], process.output().splitlines())

    def test_killed(self):
        with support.Process(_SLOW + "for n in range(9): ex.submit(time.sleep, 600)\ntime.sleep(600)\n") as process:
            process.wait_for_output("worker")
            workers = support.descendants(process.pid)
            self.assertEqual(2, len(workers))
            process.kill()
            support.wait_for_death(workers)


_MAIN = """
import sys
from minimalcluster import ClusterExecutor


class Point:
    def __init__(self, x):
        self.x = x
    def __eq__(self, other):
        return type(self) is type(other) and self.x == other.x


class Oops(Exception):
    pass


def shift(point, by=1):
    return Point(point.x + by)


def oops(x):
    raise Oops(x)


READY = []


def ready(what):
    READY.append(what)


def state():
    return READY


def check(ex, steady):
    assert ex.submit(shift, Point(1), by=2).result() == Point(3)
    assert list(ex.map(shift, [Point(1), Point(2)])) == [Point(2), Point(3)]
    assert list(ex.map(str.upper, ["a"])) == ["A"]
    assert [type(p) for p in ex.map(vars, [Point(1)])] == [dict]
    try:
        ex.submit(oops, 5).result()
    except Oops as error:
        assert error.args == (5,), error
    assert ex.submit(state).result() == steady, ex.submit(state).result()
%(lambdas)s


if %(guard)s:
    assert ("cloudpickle" in sys.modules or True)
    with ClusterExecutor(1) as ex:
        check(ex, [])
    with ClusterExecutor(1, initializer=ready, initargs=("steady",)) as ex:
        check(ex, %(steady)s)
    print("all well")
"""


_WITH_LAMBDAS = """
    k = 10
    assert ex.submit(lambda x: x + k, 1).result() == 11
    assert list(ex.map(lambda x: x + k, range(3))) == [10, 11, 12]
    def local(point):
        return Point(point.x * k)
    assert ex.submit(local, Point(2)).result() == Point(20)
    assert ex.submit(lambda: (lambda x: x * 2)).result()(4) == 8
"""


_WITHOUT_LAMBDAS = """
    for call in (lambda: ex.submit(lambda x: x, 1).result(), lambda: next(ex.map(lambda x: x, [1]))):
        try:
            call()
        except Exception as error:
            assert "cloudpickle" in str(error), error
        else:
            raise AssertionError("a lambda travelled")
"""

#: In front of a script: as if cloudpickle were not installed, in it and in its worker processes.


_NO_CLOUDPICKLE = """
import sys
sys.modules["cloudpickle"] = None
"""


def _has_cloudpickle():
    try:
        import cloudpickle  # noqa: F401
    except ImportError:
        return False
    return True


@faces
class Main(unittest.TestCase):
    """Functions and classes of the script itself."""

    def run_script(self, text):
        with support.directory() as folder:
            with support.Process(file=support.write(os.path.join(folder, "script.py"), text)) as process:
                process.wait()
                return process.output()

    def test_without_cloudpickle_the_script_travels(self):
        text = _NO_CLOUDPICKLE + _MAIN % {"lambdas": _WITHOUT_LAMBDAS, "guard": "__name__ == '__main__'", "steady": ["steady"]}
        self.assertEqual("all well\n", self.run_script(text))

    def test_without_cloudpickle_and_guard_it_is_refused(self):
        text = _NO_CLOUDPICKLE + _MAIN % {"lambdas": _WITHOUT_LAMBDAS, "guard": "True", "steady": []}
        output = self.run_script(text)
        self.assertIn("if __name__ == '__main__'", output)
        self.assertNotIn("all well", output)

    def test_without_cloudpickle_and_script(self):
        code = _NO_CLOUDPICKLE + "from minimalcluster import ClusterExecutor\ndef f(x): return x\n" + (
            "with ClusterExecutor(1) as ex:\n"
            "    for call in (ex.submit(f, 1).result, ex.map(f, [1]).__next__):\n"
            "        try: call()\n"
            "        except Exception as error: print(error)\n"
        )
        with support.Process(code) as process:
            self.assertEqual(0, process.wait(), process.output())
            lines = process.output().splitlines()
            self.assertEqual(2, len(lines), lines)
            for line in lines:
                self.assertIn("pip install cloudpickle", line)

    @unittest.skipUnless(PYTHON_3 and _has_cloudpickle(), "cloudpickle is not installed here")
    def test_with_cloudpickle_by_value(self):
        # Neither a guard nor a file is needed.
        text = _MAIN % {"lambdas": _WITH_LAMBDAS, "guard": "True", "steady": []}
        self.assertEqual("all well\n", self.run_script(text))
        with support.Process(text) as process:
            process.wait()
            self.assertEqual("all well\n", process.output())

    @unittest.skipUnless(PYTHON_3 and _has_cloudpickle(), "cloudpickle is not installed here")
    def test_an_initializer_by_value_says_what_it_cannot_do(self):
        text = "import logging\nlogging.basicConfig()\n" + _MAIN.replace("    READY.append(what)", "    global READY\n    READY = [what]")
        text %= {"lambdas": "", "guard": "True", "steady": []}
        self.assertIn("sets the global variables ['READY'], and travels by value", self.run_script(text))

    def test_an_executor_inside_of_a_task(self):
        with ClusterExecutor(1) as executor:
            self.assertEqual([1, 2], executor.submit(nested, [-1, -2]).result(SECONDS))


def nested(numbers):
    with ClusterExecutor(1) as executor:
        return list(executor.map(abs, numbers))


if __name__ == "__main__":
    unittest.main()
