"""A journal of calls submitted one by one. They have no places in a list: each is known by its content.

A call's key is a digest of its pickle, of the function's source and of the project's modules that it uses. Of equal
calls the first, in the order in which they are submitted, takes the first outcome of an earlier run, and so on.
"""

import logging
from functools import lru_cache
from typing import Any, Callable, Dict, Iterable, List, Tuple

from . import functions, journal, values
from .jobs import Failure, target_digest

log = logging.getLogger("minimalcluster")

_NOBODYS = bytes(16)


class CallJournal:
    """An open journal and what earlier runs left in it. Raises JournalError, OSError.

    Keys are made and outcomes taken under the executor's lock; outcomes are written in the cluster's thread.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.file = journal.Journal(path)
        known = self.file.calls()
        self.file.forget()
        self._done: Dict[bytes, object] = journal.results_of(known)
        self._failed: Dict[bytes, Tuple[Any, Any]] = known.failed
        self._submitted: Dict[bytes, int] = {}  # how often an equal call has come
        if known.done or known.failed:
            text = "%s has the outcomes of %d calls, %d of them failures"
            log.info(text, path, len(known.done) + len(known.failed), len(known.failed))

    def key(self, data: bytes, code: bytes) -> bytes:
        """Of a call: its pickle, and a digest of all else that its outcome depends on."""
        content = journal.content_key(code, data)
        times = self._submitted[content] = self._submitted.get(content, 0) + 1
        return journal.content_key(content, b"%d" % times)

    def take(self, key: bytes) -> Tuple[object, ...]:
        """(the outcome,) that an earlier run has left, once; else nothing."""
        if key in self._done:
            result = self._done.pop(key)
            return (Failure(result.error, "the journal") if isinstance(result, values.Misfit) else result,)
        if key in self._failed:
            return (Failure(values.decode_exception(*self._failed.pop(key)), "an earlier run, says %s" % self.path),)
        return ()


class StreamJournal:
    """What one stream's job writes: the journal's calls in place of its tasks."""

    def __init__(self, kept: CallJournal, needs: str, definition: Tuple[Dict[str, object], List[bytes]]) -> None:
        self.kept = kept
        self.keys: Dict[int, bytes] = {}  # of the tasks that have no outcome yet
        self.sync = kept.file.sync
        self._needs, (info, self._buffers) = needs, definition
        # An executor's initializer has another token each time; it is code like the function.
        self._info = {name: value for name, value in info.items() if name != "initializer"}
        self._imported = lru_cache(maxsize=None)(functions.code_imported)  # an edit makes a new stream

    def key(self, data: bytes, run: Iterable[Callable[..., Any]]) -> bytes:
        """Of the call that ``data`` is the pickle of, and that runs these functions."""
        code = b"".join(functions.code_behind(each, self._needs, self._imported) for each in run)
        return self.kept.key(data, target_digest(self._info, code, self._buffers).encode("ascii"))

    @property
    def dirty(self) -> bool:
        return self.kept.file.dirty

    def grant(self, attempt: int, first: int, count: int) -> None:
        """What ran when the master was killed runs again: its place in the next run is not known."""

    def done(self, first: int, count: int, buffers: List[Any]) -> None:
        keys = [self.keys.pop(index, _NOBODYS) for index in range(first, first + count)]
        self.kept.file.calls_done(keys, buffers)

    def failed(self, first: int, info: Dict[str, Any], buffers: List[Any]) -> None:
        key = self.keys.pop(first, None)
        if key is not None:
            self.kept.file.call_failed(key, info, buffers)
