"""SIGTERM as Ctrl-C: once, in the main thread, and never at the cost of processes that are forked."""
from __future__ import absolute_import, division, print_function

import os
import signal
import unittest

from minimalcluster.master.terminable import Terminable
from tests import support

_KILL = "import os, signal, sys, time, threading\nfrom minimalcluster.master.terminable import Terminable\n"


@unittest.skipUnless(hasattr(os, "register_at_fork"), "this Python tells nobody of forks: SIGTERM ends it, as ever")
class TerminableTest(unittest.TestCase):
    def run_it(self, code, expected=0):
        with support.Process(_KILL + code, variables={"PYTHONWARNINGS": "ignore"}) as process:
            self.assertEqual(expected, process.wait(), process.output())
            return process.output()

    def test_once_it_is_as_ctrl_c(self):
        code = (
            "try:\n"
            "    with Terminable():\n"
            "        os.kill(os.getpid(), signal.SIGTERM)\n"
            "        time.sleep(100)\n"
            "except KeyboardInterrupt:\n"
            "    print('as Ctrl-C', flush=True)\n"
            "assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL\n"
        )
        self.assertEqual("as Ctrl-C\n", self.run_it(code).replace("\r", ""))
        self.assertIn("as Ctrl-C", self.run_it(code + "os.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(100)\n", -signal.SIGTERM))

    def test_other_handlers_and_other_threads_are_left_alone(self):
        before = signal.getsignal(signal.SIGTERM)
        self.addCleanup(signal.signal, signal.SIGTERM, before)

        def own(number, frame):
            pass

        signal.signal(signal.SIGTERM, own)
        with Terminable():
            self.assertIs(own, signal.getsignal(signal.SIGTERM))
        self.assertIs(own, signal.getsignal(signal.SIGTERM))
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

        def in_a_thread():
            with Terminable():
                return signal.getsignal(signal.SIGTERM)

        self.assertEqual(signal.SIG_DFL, support.Background(in_a_thread).result())
        with Terminable():
            self.assertNotEqual(signal.SIG_DFL, signal.getsignal(signal.SIGTERM))
            with Terminable():
                pass
            self.assertNotEqual(signal.SIG_DFL, signal.getsignal(signal.SIGTERM))
        self.assertEqual(signal.SIG_DFL, signal.getsignal(signal.SIGTERM))

    def test_what_is_forked_meanwhile_ends_at_once(self):
        """Pools end their processes so, and wait for that: one lost signal, and they wait for ever."""
        code = (
            "def forks():\n"
            "    for number in range(300):\n"
            "        pid = os.fork()\n"
            "        if pid == 0:\n"
            "            time.sleep(1000)\n"
            "            os._exit(1)\n"
            "        os.kill(pid, signal.SIGTERM)\n"
            "        until = time.monotonic() + 20\n"
            "        while not os.waitpid(pid, os.WNOHANG)[0]:\n"
            "            if time.monotonic() > until:\n"
            "                os.kill(pid, signal.SIGKILL)\n"
            "                print('lost at', number, flush=True)\n"
            "                os._exit(3)\n"
            "            time.sleep(0.0005)\n"
            "with Terminable():\n"
            "    thread = threading.Thread(target=forks)\n"
            "    thread.start()\n"
            "    while thread.is_alive(): thread.join(0.01)\n"
            "    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])\n"
        )
        self.assertEqual("", self.run_it(code))


if __name__ == "__main__":
    unittest.main()
