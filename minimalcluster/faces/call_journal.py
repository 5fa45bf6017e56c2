"""A journal of submitted calls. A call has no position in a list, so its content is its key.

Of equal calls the first, in the order in which they are submitted, takes the first outcome of an earlier run, and
so on.
"""

import logging
from typing import Any, Dict, List, Tuple

from ..master import journal
from ..master.job import Failure, target_digest, with_failures
from ..payload import values
from ..payload.fingerprints import Contents, of_definition

log = logging.getLogger("minimalcluster")


class CallJournal:
    """An open journal and what earlier runs left in it. Raises JournalError, OSError.

    Keys are made and outcomes taken under the executor's lock; outcomes are written in the cluster's thread.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.file = journal.Journal(path)
        try:
            self._done, self._failed = self.file.calls()
        except BaseException:
            self.file.close()
            raise
        self._submitted: Dict[bytes, int] = {}  # key of a content -> how many equal calls were submitted
        self._fits = not (self._done or self._failed)  # an outcome of an earlier run was used, or there was none
        if not self._fits:
            text = "%s has the outcomes of %d calls, %d of them failures"
            log.info(text, path, len(self._done) + len(self._failed), len(self._failed))

    def key(self, about: str, content: bytes) -> bytes:
        """A call's key. content: its fingerprint; about: a digest of all else that its outcome depends on."""
        content = journal.content_key(about.encode("ascii"), content)
        times = self._submitted[content] = self._submitted.get(content, 0) + 1
        return journal.content_key(content, b"%d" % times)

    def take(self, key: bytes) -> Tuple[object, ...]:
        """(the outcome,) of an earlier run, which is given out once; () if there is none."""
        if key in self._done:
            self._fits = True
            return tuple(with_failures([self.file.result(*self._done.pop(key))], "the journal"))
        if key in self._failed:
            self._fits = True
            return (Failure(values.decode_exception(*self._failed.pop(key)), "an earlier run, says %s" % self.path),)
        return ()

    def close(self) -> None:
        if self._submitted and not self._fits:
            count = sum(self._submitted.values())
            log.warning("nothing in %s fits the calls that were submitted (%d): all of them ran", self.path, count)
        self.file.close()


class CallsLog(journal.OutcomeLog):
    """Writes the outcomes of one job of calls: the journal records calls in place of the job's tasks."""

    def __init__(self, kept: CallJournal, definition: Tuple[Dict[str, object], List[bytes]]) -> None:
        self.kept = kept
        self.keys: Dict[int, bytes] = {}  # task -> key, for tasks without an outcome
        info, buffers = definition
        self._content = Contents().of  # one for each job: after an edit, calls go into a new job
        self._about = target_digest(info, of_definition(buffers))

    def key(self, data: bytes) -> bytes:
        """The key of the call with this pickle."""
        return self.kept.key(self._about, self._content(data))

    def sync(self) -> None:
        self.kept.file.sync()

    def close(self) -> None:
        """The executor's end closes the file: other jobs may write to it."""

    def grant(self, attempt: int, first: int, count: int) -> None:
        """Attempts are not recorded: the next run cannot adopt them, since its tasks have other numbers."""

    def done(self, first: int, count: int, buffers: List[Any]) -> None:
        keys = [self.keys.pop(index, journal.NO_KEY) for index in range(first, first + count)]
        self.kept.file.calls_done(keys, buffers)

    def failed(self, first: int, info: Dict[str, Any], buffers: List[Any]) -> None:
        key = self.keys.pop(first, None)
        if key is not None:
            self.kept.file.call_failed(key, info, buffers)
