"""A journal of calls submitted one by one: what is known is not made again, also after a kill of the program."""
from __future__ import absolute_import, division, print_function

import os
import random
import time
import unittest

from tests import commands, support
from tests.sent import (
    PYTHON_3, SECONDS, CannotPickle, Journaled, Two, die_at, faces, fail, fail_on, long_text, mul, note_and_return, touch_and_wait,
)

if PYTHON_3:
    from minimalcluster import ClusterExecutor, JournalError, errors
    from minimalcluster.master import journal
    from minimalcluster.faces.call_journal import CallJournal, CallsLog
    from minimalcluster.faces.executor import WorkerDiedError


@faces
class Calls(Journaled):
    def made(self, values, **terms):
        view = self.view(**terms)
        futures = [view.submit(note_and_return, self.ran, value) for value in values]
        found = [future.result(SECONDS) for future in futures]
        view.shutdown()
        return found, self.executed()

    def test_what_is_known_is_not_made_again(self):
        self.assertEqual(([1, 2, 3], [1, 2, 3]), self.made([1, 2, 3]))
        self.assertEqual(([4, 3, 2, 1], [4]), self.made([4, 3, 2, 1]))
        self.assertEqual(([1, 2, 3, 4], []), self.made([1, 2, 3, 4], retries=2))

    def test_equal_calls_have_an_outcome_each(self):
        self.assertEqual(([1, 1], [1]), self.made([1, 1]))
        self.assertEqual(([1, 1], []), self.made([1, 1]))
        self.assertEqual(([1, 1, 1], [1]), self.made([1, 1, 1]))
        self.assertEqual(([1], []), self.made([1]))

    def test_failures_stay_what_they_were(self):
        for known in (False, True):
            view = self.view(attempts_max=1)
            log = support.Log()
            log.__enter__()
            self.addCleanup(log.__exit__)
            failed, died = view.submit(fail, Two("a", 1)), view.submit(die_at, "x", "x")
            error = failed.exception(SECONDS)
            self.assertEqual((Two, "a"), (type(error), error.a))
            error = died.exception(SECONDS)
            self.assertEqual((WorkerDiedError, ("x", "x")), (type(error), error.argument))
            self.assertEqual(3, view.submit(fail_on, 3, 2).result(SECONDS))
            view.shutdown()
            self.assertEqual(known, "3 calls, 2 of them failures" in "".join(log.messages))

    def test_another_function_or_argument_is_another_call(self):
        self.made([1])
        view = self.view()
        self.assertEqual([6, 8], [view.submit(mul, 2, 3).result(SECONDS), view.submit(mul, 2, y=4).result(SECONDS)])
        self.assertEqual(2, view.submit(note_and_return, self.ran, 2).result(SECONDS))
        self.assertEqual([2], self.executed())

    def test_an_edited_module_makes_its_calls_again(self):
        folder = support.directory_for(self)
        script = os.path.join(folder, "program.py")
        support.write(script, PROGRAM % (support.ROOT, self.path))
        # Of another length: bytecode of the same second and length would be taken for the source's.
        for number, ran in ((1, "ran 2\n"), (1, ""), (50, "ran 51\n"), (50, "")):
            support.write(os.path.join(folder, "helper.py"), "def more(x):\n    return x + %d\n" % number)
            code, told = commands.run([script], variables={"HOME": self.folder})
            lines = [line for line in told.splitlines(True) if not line.startswith("nothing in ")]
            self.assertEqual((0, ran + "got %d\n" % (1 + number)), (code, "".join(lines)))

    def test_cancelled_calls_have_no_outcome(self):
        gate, view = os.path.join(self.folder, "gate"), self.view()
        waiting = [view.submit(touch_and_wait, os.path.join(self.folder, str(n)), gate) for n in range(40)]
        self.assertTrue(waiting[-1].cancel())
        self.assertTrue(waiting[0].cancel_running())
        late = view.options(deadline=0.2).submit(note_and_return, self.ran, 7)
        self.assertIsInstance(late.exception(SECONDS), errors.DeadlineExceeded)
        support.write(gate)
        for future in waiting[1:-1]:
            future.result(SECONDS)
        for job in list(view._core.delivering):
            self.assertEqual({}, job.journal.keys)
        view.shutdown()
        self.executed()
        view = self.view()
        self.assertEqual((7, [7]), (view.submit(note_and_return, self.ran, 7).result(SECONDS), self.executed()))
        view.shutdown()
        kept = CallJournal(self.path)
        self.addCleanup(kept.file.close)
        self.assertEqual((39, {}), (len(kept._done), kept._failed))

    def test_what_cannot_be_pickled_is_its_futures_error(self):
        view = self.view()
        self.assertIn("made not to be", str(view.submit(mul, CannotPickle(), 2).exception(SECONDS)))

    def test_a_file_has_one_user(self):
        view = self.view()
        self.assertEqual(6, view.submit(mul, 2, 3).result(SECONDS))
        for refused in (lambda: view.map(abs, [1]), lambda: self.view().submit(mul, 2, 3)):
            self.assertRaisesRegex(JournalError, "in use", refused)
        view.shutdown()
        self.assertEqual([1], list(self.view().map(abs, [1])))
        self.assertEqual(6, self.view().submit(mul, 2, 3).result(SECONDS))
        self.assertRaises(OSError, ClusterExecutor(1).options(journal=self.folder).submit, mul, 2, 3)

    def test_calls_and_maps_do_not_mix(self):
        self.made([1, 2])
        view = self.view()
        self.assertEqual([0, 1, 2], list(view.map(note_and_return, [self.ran] * 3, range(3))))
        self.assertEqual([0, 1, 2], self.executed())
        view.shutdown()
        self.assertEqual(([1, 2], []), self.made([1, 2]))

    def test_results_that_are_large_or_many(self):
        for _ in range(2):
            view = self.view()
            futures = [view.submit(long_text, number) for number in range(20)] + [view.submit(mul, n, 1) for n in range(2000)]
            self.assertEqual(["%d" % n * 16384 for n in range(20)] + list(range(2000)), [f.result(SECONDS) for f in futures])
            view.shutdown()

    def test_cut_at_every_byte_it_is_torn_or_whole(self):
        self.made([1, 2])
        with open(self.path, "rb") as file:
            data = file.read()
        found = set()
        for size in range(len(data) + 1):
            with open(self.path, "wb") as file:
                file.write(data[:size])
            if size >= 40 or size == 0:  # a torn header of what has begun is a new journal
                kept = CallJournal(self.path)
                found.add(len(kept._done))
                kept.file.close()
        self.assertEqual({0, 1, 2} if 1 in found else {0, 2}, found)

    def test_each_equal_call_has_a_key_of_its_own(self):
        kept = CallJournal(self.path)
        self.addCleanup(kept.close)
        log = CallsLog(kept, ({"kind": "calls", "initializer": "once"}, []))
        keys = [log.key(b"data") for _ in range(50)]
        self.assertEqual((50, {16}), (len(set(keys)), set(map(len, keys))))
        kept.file.calls_done([journal.NO_KEY, keys[0]], support.encoded(["nobody's", "first"]))
        kept.close()
        again = CallJournal(self.path)
        self.addCleanup(again.close)
        self.assertEqual([keys[0]], list(again._done))
        log = CallsLog(again, ({"kind": "calls", "initializer": "twice"}, []))
        self.assertEqual(("first",), again.take(log.key(b"data")))
        self.assertEqual((), again.take(log.key(b"data")))

    def test_a_journal_that_fits_nothing_says_so(self):
        with support.Log() as log:
            self.made([1, 2])
            self.made([1, 2])
            self.assertEqual([], log.having("fits"))
            view = self.view()
            self.assertEqual(6, view.submit(mul, 2, 3).result(SECONDS))
            view.shutdown()
        self.assertIn("the calls that were submitted (1): all of them ran", "".join(log.having("fits")))

    def test_large_arguments_are_known_in_any_order(self):
        large = "x" * (2 << 20)
        for numbers, ran in (([1, 2, 3], [1, 2, 3]), ([3, 1, 2], [])):
            view = self.view()
            for future in [view.submit(note_and_return, self.ran, number, large) for number in numbers]:
                future.result(SECONDS)
            view.shutdown()
            self.assertEqual(ran, self.executed())

    def test_a_file_that_cannot_be_read_is_closed(self):
        self.made([1])
        with support.patched(journal.Journal, "calls", lambda opened: 1 // 0):
            self.assertRaises(ZeroDivisionError, CallJournal, self.path)
        CallJournal(self.path).close()

    def test_row_33_killed_at_random_moments(self):
        count, choose = 60, random.Random(33).random
        log = os.path.join(self.folder, "log")
        code = KILLED % {"root": support.ROOT, "path": self.path, "log": log, "count": count}

        def runs():
            return len(support.read(log)) if os.path.exists(log) else 0

        for _ in range(6):
            with support.Process(code) as script:
                wanted = runs() + 1 + int(choose() * count / 5)
                support.wait_until(lambda: runs() >= wanted or not script.running(), what="some more calls")  # noqa: B023
                time.sleep(choose() * 0.02)  # at any moment
                script.kill()
        with support.Process(code) as script:
            self.assertEqual(0, script.wait(), script.output())
            self.assertEqual("right\n", script.output())
        # What ran when the program was killed runs again: two worker processes, six kills, a chunk each.
        self.assertGreaterEqual(runs(), count)
        opened = journal.Journal(self.path, reading=True)
        self.addCleanup(opened.close)
        self.assertEqual(count, len(opened.calls()[0]))


PROGRAM = """
import sys
sys.path[:0] = [%r]
import helper
from minimalcluster import ClusterExecutor

def work(x):
    print("ran %%d" %% helper.more(x))
    return helper.more(x)

if __name__ == "__main__":
    with ClusterExecutor(1) as executor:
        got = executor.options(journal=%r).submit(work, 1).result()
    print("got %%d" %% got)
"""

KILLED = """
import sys
sys.path.insert(0, %(root)r)
from minimalcluster import ClusterExecutor
from tests.faces.test_call_journal import logged
executor = ClusterExecutor(2)
view = executor.options(journal=%(path)r)
futures = [view.submit(logged, %(log)r, number) for number in range(%(count)d)]
found = [future.result() for future in futures]
print("right" if found == [number * 2 for number in range(%(count)d)] else "WRONG %%r" %% found)
sys.stdout.flush()
executor.shutdown()
"""


def logged(path, number):
    time.sleep(0.01)
    with open(path, "a") as file:
        file.write(".")
    return number * 2


if __name__ == "__main__":
    unittest.main()
