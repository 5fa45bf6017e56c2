"""A program with arguments in a process of its own, as a person or a terminal starts it."""
from __future__ import absolute_import, division, print_function

import os
import signal
import subprocess
import sys

from tests import support


class Command(support.Process):
    """``python *arguments``; what it writes is one stream, as on a terminal.

    directory: where it is started. bare: without this checkout on its path.
    """

    def __init__(self, arguments, given=b"", variables=None, directory=None, bare=False, python=None):
        environment = dict(os.environ, PYTHONUNBUFFERED="1", **(variables or {}))
        environment.pop("PYTHONPATH", None)
        if not bare:
            environment["PYTHONPATH"] = support.ROOT
        self._popen = subprocess.Popen(
            [python or sys.executable] + list(arguments),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, cwd=directory,
            close_fds=True, preexec_fn=_as_from_a_terminal if os.name == "posix" else None,
        )  # fmt: skip
        self.pid = self._popen.pid
        self._read = []
        try:
            self._popen.stdin.write(given)
            self._popen.stdin.close()
        except (IOError, OSError):
            pass  # it ended without reading
        self._reader = support.Background(self._read_all)

    def interrupt_alone(self):
        """SIGINT to this process only, not to its group."""
        os.kill(self.pid, signal.SIGINT)


def _as_from_a_terminal():
    os.setsid()
    # A test run started in the background of a shell script ignores SIGINT, and its children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def run(arguments, **options):
    """(exit code, what it wrote) of a program that ends by itself."""
    with Command(arguments, **options) as command:
        return command.wait(2 * support.SECONDS), command.output()


def minimalcluster(*arguments):
    return ["-m", "minimalcluster"] + list(arguments)
