"""How a job is run: the one set of options that every face takes, and the scheduler reads."""
from __future__ import absolute_import, division, print_function

from collections import namedtuple

from ..compat import integer_types, text_type

#: on_error.
FINISH, STOP, RETURN = "finish", "stop", "return"


def checked_chunksize(chunksize):
    # type: (int | None) -> int | None
    if chunksize is not None and (not isinstance(chunksize, integer_types) or chunksize < 1):
        raise ValueError(
            "chunksize must be a whole number from 1 on, or None to let the cluster measure, not %r" % (chunksize,)
        )
    return chunksize


class Options(namedtuple("Options", "on_error chunksize retries attempts_max timeout deadline journal idempotent")):
    """on_error: "finish" runs everything, then raises; "stop" hands out nothing
    more after the first failure; "return" gives exceptions as results. chunksize: tasks shipped
    together, None lets the cluster measure. retries: how often a task that raises is tried again
    (0). attempts_max: how many worker processes a task may take with it (3). timeout: seconds for
    each task's own code (none); then its process is ended. deadline: seconds for the whole job (none).
    journal: path of a file that keeps every outcome (none). idempotent: at the job's end a task that
    takes too long may run on a second node too (False). After a loss a task runs again either way.

    Raises ValueError that names the option and what it may be; ``_replace`` checks nothing.
    """

    __slots__ = ()

    def __new__(
        cls, on_error=FINISH, chunksize=None, retries=0, attempts_max=3, timeout=None, deadline=None, journal=None,
        idempotent=False,
    ):  # fmt: skip
        # type: (str, int | None, int, int, float | None, float | None, str | None, bool) -> Options
        if on_error not in (FINISH, STOP, RETURN):
            raise ValueError("on_error must be 'finish', 'stop' or 'return', not %r" % (on_error,))
        checked_chunksize(chunksize)
        for name, number, least in (("retries", retries, 0), ("attempts_max", attempts_max, 1)):
            if not isinstance(number, integer_types) or number < least:
                raise ValueError("%s must be a whole number from %d on, not %r" % (name, least, number))
        for name, seconds in (("timeout", timeout), ("deadline", deadline)):
            is_number = isinstance(seconds, integer_types + (float,)) and not isinstance(seconds, bool)
            if seconds is not None and not (is_number and seconds > 0):
                raise ValueError("%s must be a number of seconds greater than 0, not %r" % (name, seconds))
        is_path = isinstance(journal, (bytes, text_type)) or hasattr(journal, "__fspath__")
        if journal is not None and (not is_path or not journal):
            raise ValueError("journal must be the path of a file, not %r" % (journal,))
        if not isinstance(idempotent, bool):
            raise ValueError("idempotent must be True or False, not %r" % (idempotent,))
        return super(Options, cls).__new__(
            cls, on_error, chunksize, retries, attempts_max, timeout, deadline, journal, idempotent
        )

    @property
    def stop_on_error(self):
        # type: () -> bool
        return bool(self.on_error == STOP)

    def changed(self, **changes):
        # type: (object) -> Options
        """With those changes that are not None, which are checked."""
        given = self._replace(**{name: value for name, value in changes.items() if value is not None})
        Options(*given._replace(on_error=FINISH if given.on_error is None else given.on_error))
        return given

    def one_by_one(self):
        # type: () -> Options
        """The same, with each task in a chunk of its own."""
        return self._replace(chunksize=1)

    def scheduled(self):
        # type: () -> Options
        """As the scheduler is to see them: a limit in time is for one task, since its chunk is ended with it."""
        return self if self.timeout is None else self.one_by_one()


DEFAULTS = Options()
#: on_error None is the way of what a face stands in for: concurrent.futures', multiprocessing's, joblib's.
STANDARD = DEFAULTS._replace(on_error=None)
