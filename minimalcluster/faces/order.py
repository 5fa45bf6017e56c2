"""Lets calls and maps begin in the order in which they were submitted, where one worker process runs all of them.

Calls with other needs or options are in other jobs, and the scheduler serves jobs in turn. A program that has one
worker process may rely on the order, as with the standard library's executors: "write the file", "remove the file".
So the scheduler hears of a *run* of calls (consecutive ones of one job) when the runs before it are done. A map waits
in the same line; but no call and no map waits for its end, because it may be endless, or its results may be taken
slowly.
With more worker processes there is no such order, and no run waits.
"""

from collections import deque
from typing import Any, Deque


class Run:
    """Consecutive calls of one job. end: the job's tasks before this number are in this run or in earlier ones.

    Or a map, for which no other run waits: ``left`` is 0.
    """

    __slots__ = ("end", "is_map", "job", "left")

    def __init__(self, job: Any, is_map: bool = False) -> None:
        self.job, self.is_map = job, is_map
        self.end = self.left = 0


class Order:
    """For one thread at a time. A job here has ``release(end)``: its tasks before ``end`` may be handed out."""

    def __init__(self) -> None:
        self._runs: Deque[Run] = deque()  # the first one is released, the others wait

    def __len__(self) -> int:
        return len(self._runs)

    def add(self, job: Any, task: int) -> Run:
        """The run of a new call, which is the last of all. If that is the first run, the caller releases the call."""
        if not self._runs or self._runs[-1].job is not job:
            self._runs.append(Run(job))
        run = self._runs[-1]
        run.left += 1
        run.end = task + 1
        return run

    def hold(self, job: Any) -> bool:
        """Whether this map, which is the last of all, has to wait. Then its ``release`` is called later."""
        if self._runs:
            self._runs.append(Run(job, True))
        return bool(self._runs)

    def is_first(self, run: Run) -> bool:
        """Whether its calls wait for no earlier ones."""
        return self._runs[0] is run

    def done(self, run: Run) -> None:
        """A call of this run has an outcome, or nobody wants that any more."""
        run.left -= 1
        if not self._runs or self._runs[0].left:
            return
        while self._runs and not self._runs[0].left:
            over = self._runs.popleft()
            if over.is_map:
                over.job.release(over.end)
        if self._runs:
            self._runs[0].job.release(self._runs[0].end)

    def release_all(self) -> None:
        """There is more than one worker process now."""
        runs, self._runs = self._runs, deque()
        for run in runs:
            run.job.release(run.end)
