"""``map``: one function over many items, as a job.

Where the input is read: an input in memory is pickled in the caller's thread for a moment, then in a thread of the
executor (``Core.packing``). For ``imap`` and ``amap`` each input has a thread. An executor's ``map`` reads in the
threads that ask for results, and only when no result is there.
"""

from concurrent.futures import CancelledError
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

from ..brain.options import FINISH, STOP, Options
from ..compat import Mailbox, monotonic
from ..master.job import Job, target_digest
from ..master.window import Window
from ..payload import functions, values
from ..payload.fingerprints import of_definition
from . import inputs
from .core import AFTER_SHUTDOWN, Core
from .turns import Turns

#: How long ``map`` reads at a time in the caller's thread. Tasks that were read run meanwhile.
READ_SECONDS = 0.05


class MapJob(Job):
    """One function over many items, which are read a window ahead."""

    held = False  # it waits for calls that were submitted before it: see order.py
    started = False  # somebody has asked for a result
    abandoned = False  # the results object was dropped unread
    watcher: Any = None  # a weak reference to a member of ``Core.collecting``, called at each arrival
    cut_short = False  # ended before all of the input was read

    def __init__(
        self, core: "Core", function: Callable[..., Any], iterables: Tuple[Iterable[Any], ...], options: Options,
        window: Optional[int] = None, star: Optional[bool] = None, lazy: bool = True, own_thread: bool = False,
        apart: bool = True,
    ) -> None:  # fmt: skip
        """lazy=False, as multiprocessing: all of a finite input is run, even if the results are dropped.

        own_thread: an input that is not in memory is read in a thread of its own.
        apart: each call has the function as it is now, and sees nothing that another one changes in it.
        """
        super().__init__()
        self._core = core
        self.options = options.scheduled()
        self._lazy = lazy
        self.window = Window()
        self._keeps_arguments = options.on_error in (FINISH, STOP)
        self._let_go: Dict[int, Tuple[int, Any]] = {}  # first -> (bytes, items) of results that wait to be taken
        star = len(iterables) != 1 if star is None else star
        self._finite = inputs.is_in_memory(iterables, star) or any(hasattr(each, "__len__") for each in iterables)
        self.input = inputs.of(iterables, star, window, self._packed, own_thread)
        self._reader: Optional[Turns] = None  # the thread that reads; None: the threads that ask for results
        if self.input.in_memory:
            self._reader = core.packing
        elif own_thread:
            self._reader = Turns("minimalcluster-input")
        self.function_name = values.name_of(function)
        self.name = "map of %s" % self.function_name
        self._read_first()
        self._define(function, star, apart)
        if options.journal is not None:
            self._go_on(iterables)

    @property
    def total(self) -> int:
        return self.input.total

    @property
    def taken(self) -> int:
        return self.input.taken

    @property
    def closed(self) -> bool:
        return self.input.closed

    def release(self, end: int) -> None:
        """The calls that were submitted before it are done."""
        self.held = False
        self.grew()

    def submit(self) -> None:
        try:
            self._core.submit_map(self)
            if self._reader is not None and not self.closed:
                self._reader.add(self)
        except BaseException:
            self.close_journal()
            raise

    def _define(self, function: Callable[..., Any], star: bool, apart: bool) -> None:
        """If the function cannot be pickled, the first result is that error."""
        try:
            packed = self._core.pack(function)
            info, buffers = self._core.definition("function", packed.needs, self.options.timeout)
            if apart and functions.has_state(function):
                info["state"] = True
            self._definition = dict(info, star=star), buffers + [packed.data]
        except Exception as error:
            self._definition = {}, []
            self.input, self._reader = inputs.none(error), None

    def _go_on(self, iterables: Tuple[Iterable[Any], ...]) -> None:
        """Open the journal: outcomes of earlier runs arrive first."""
        if not self.input.in_memory or not {list, tuple, range}.issuperset(map(type, iterables)):
            raise ValueError("journal= needs an input of known length, a list, tuple or range, and no buffersize")
        if self.input.error is not None:
            return  # the function cannot be sent: there is nothing to run
        info, buffers = self._definition
        self.resume(target_digest(info, of_definition(buffers)), self.input.given())

    def definition(self) -> Tuple[Dict[str, object], List[bytes]]:
        return self._definition

    def encode(self, first: int, count: int) -> List[bytes]:
        return self.input.encode(first, count)

    # -- in the cluster's thread ------------------------------------------------------------------

    def deliver(self, first: int, count: int, skip: int, buffers: List[Any]) -> None:
        self._has_results(first + skip, count - skip, self._keeps_arguments)
        super().deliver(first, count, skip, buffers)

    def deliver_failure(self, first: int, node: str, info: Dict[str, Any], buffers: List[Any]) -> None:
        self._has_results(first, 1, True)
        super().deliver_failure(first, node, info, buffers)

    def deliver_poison(self, first: int, deaths: Any) -> None:
        self._has_results(first, 1, True)
        super().deliver_poison(first, deaths)

    def _has_results(self, first: int, count: int, keep: bool) -> None:
        """These items have results; no node will need them again. keep: errors may still name them."""
        size, items = self.input.let_go(first, count)
        if self.abandoned:
            self.input.took(count, size)
        elif self.input.in_memory:
            self.input.took(0, size)
            size = 0
        if not self.abandoned and (size or keep):
            self._let_go[first] = size, items if keep else None
        self._call_reader()

    def argument(self, index: int) -> object:
        return self.argument_in(index, index)

    def arrive(self, *arrival: Any) -> None:
        if not self.abandoned:
            super().arrive(*arrival)
            if self.watcher is not None:
                self._core.collecting.call(self.watcher())

    def limit(self, slots: int) -> Optional[int]:
        """As Job's; but a finite input runs on until a result is asked for, as concurrent.futures' does."""
        if self.held:
            return 0
        return super().limit(slots) if self.started or not self._finite else None

    def blocked_reason(self) -> Optional[str]:
        if self.held:
            return "it waits for calls that were submitted before it"
        pending, why = self.total - self.taken, super().blocked_reason()
        if why is not None or self.closed or self.abandoned or not pending:
            return why
        if self._outcomes_count < self.total or (self._reader is not None and self.input.room() > 0):
            return None
        return "%d results wait to be taken; the input is read no further meanwhile" % pending

    def finished(self, unfit: Optional[Dict[str, Any]]) -> None:
        self._core.maps.discard(self)
        self._end_input(None)
        super().finished(unfit)

    def crashed(self, error: BaseException) -> None:
        self._core.maps.discard(self)
        self._end_input(None)
        super().crashed(error)

    # -- reading ----------------------------------------------------------------------------------

    def _packed(self, item: Any, star: bool) -> values.Packed:
        if self.options.journal is not None:  # the key of an item must not depend on earlier items
            return self._core.pack(item)
        return self._core.packed_item(item, star)

    def _read_first(self) -> None:
        """Read before ``submit``, so that work begins at once. Raises what the input of an executor's map raises."""
        if self.closed or (self._reader is not None and not self.input.in_memory):
            return
        if self.options.journal is not None:
            self.input.limited = False
        until: Optional[float] = monotonic() + READ_SECONDS
        if self.options.journal is not None or (self._finite and not self.input.in_memory):
            until = None  # concurrent.futures reads all of it here
        self.announced = True  # the cluster does not know the job yet
        self.input.read(self, until, lambda: True)
        self.announced = False
        if self.input.error is not None and self._lazy:
            raise self.input.error

    def read_ahead(self) -> None:
        """In a thread that waits for a result: read some input, and stop early when a result comes."""
        super().read_ahead()
        if self._reader is None and not self.closed:
            self.input.read(self, monotonic() + READ_SECONDS, self._is_enough)
            self.grew()

    def _is_enough(self) -> bool:
        return not self._arrivals.empty() or self.total - self.taken >= max(1, 2 * self._core.cluster.slots)

    def turn(self) -> bool:
        """In the thread that reads. Returns whether the input has ended."""
        try:
            self.input.read(self, monotonic() + READ_SECONDS if self.input.in_memory else None, lambda: True)
        except BaseException as error:  # a SystemExit of the input must not end this thread
            self._end_input(error)
        self.grew()
        self._call_reader()
        return self.closed

    def _call_reader(self) -> None:
        if self._reader is not None and (self.closed or self.input.room() > 0):
            self._reader.call(self)

    def _end_input(self, error: Optional[BaseException]) -> None:
        self.input.end(error)
        self._call_reader()

    # -- in the user's threads --------------------------------------------------------------------

    def argument_in(self, first: int, index: int) -> object:
        """The argument of the task ``index``, whose outcome came with that of the task ``first``."""
        _, items = self._let_go.get(first, (0, None))
        return self.input.item(index) if items is None else self.input.shown(items[index - first])

    def wanted(self) -> None:
        if not self.started:
            self.started = True
            self.grew()

    def error_of(self, error: BaseException) -> BaseException:
        told = self._core.ended(self, error)
        return error if told is None else told

    def error_behind(self) -> Optional[BaseException]:
        if self.taken < self.total or self.cut_short:
            return self._core.ended(self, None) or CancelledError()
        return self.input.error

    def took(self, first: int, count: int) -> None:
        size, _ = self._let_go.pop(first, (0, None))
        self.input.took(count, size)
        self._call_reader()
        super().took(first, count)

    def dropped(self) -> None:
        """The results object was dropped. As in concurrent.futures, work is done anyway if no result was asked for."""
        if self.cancelled:
            return
        if self.started and (self._lazy or not self._finite):
            self.cancel()
            return
        self.abandoned = True
        self._arrivals = Mailbox()  # forget the outcomes that have come
        for first in list(self._let_go):
            self.took(first, 0)
        self.input.limited = self.input.in_memory  # no result is taken any more, so the window must not count them
        self._call_reader()
        self.wait_for_nobody()

    def cancel(self) -> None:
        self._cut_short()
        super().cancel()

    def stop(self) -> None:
        self._cut_short()
        super().stop()

    def _cut_short(self) -> None:
        """Stop reading."""
        self.cut_short = self.cut_short or not self.closed
        self._end_input(None)

    def wait_for_nobody(self) -> None:
        """Do not wait for results to be taken: the thread that would take them may be waiting for the job's end."""
        self.window = None
        self.grew()

    def finish_reading(self) -> None:
        """At the executor's shutdown: finish a finite or unread input; refuse the rest of a half-read endless one."""
        if self._finite or not self.started or not self._lazy:
            self._read_the_rest()
        else:
            self._end_input(RuntimeError(AFTER_SHUTDOWN))
        self.grew()

    def _read_the_rest(self) -> None:
        self.input.limited = self.input.in_memory  # pickling goes on as results come
        self._call_reader()
        if self._reader is None:
            try:
                self.input.read(self, None, lambda: True)
            except BaseException as error:  # also a SystemExit of the input
                self._end_input(error)
