"""The input of a map: each item is read, pickled at once, and kept until its result has come.

::

    iterator ──read──> plain values, and pickles of all else ──encode, in the cluster's thread──> chunks
                ^ as far as the window allows: so many items, so many bytes

Each call gets its item as the iterator gave it, whatever changes later. No code of the user runs where chunks are made.
"""

import itertools
import sys
import threading
from collections import deque
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple, Union

from ..compat import SCALARS, monotonic
from ..payload import functions, shares, values

#: How far ``map`` reads ahead of the results that were taken, unless ``buffersize`` is given.
WINDOW_ITEMS = 1 << 18
WINDOW_BYTES = 64 << 20
#: The window is checked after so many items.
READ_ITEMS = 1 << 8
#: A longer range is read like other iterators: its positions do not fit into a message.
RANGE_MAX = 1 << 62
#: Each item of these types counts as so many bytes.
NUMBER_BYTES = 32
_CHANGEABLE = (list, dict)
_NUMBERS = frozenset([bool, int, float, complex, type(None)])
#: Inputs in memory: listing their items is quick and runs no code of the user.
_VIEWS = frozenset([type({}.keys()), type({}.values()), type({}.items())])
_HERE = frozenset([list, tuple, set, frozenset, dict, deque, str, bytes, bytearray]) | _VIEWS
#: Listing these runs no code of the user either, but they may have any number of items.
_BESIDE = frozenset([range, itertools.repeat, itertools.count])


#: Pickles an item. The second argument: whether the item is the tuple of its call's arguments.
Pack = Callable[[Any, bool], values.Packed]


class Range:
    """A range as input: nothing has to be read or pickled."""

    closed, error, in_memory = True, None, True
    limited = True

    def __init__(self, numbers: range) -> None:
        self._numbers = numbers
        self._arguments = values.RangeArguments(numbers)
        self.total = len(numbers)
        self.taken = 0

    def encode(self, first: int, count: int) -> List[bytes]:
        return self._arguments.encode(first, count)

    def item(self, index: int) -> object:
        return self._numbers[index]

    def given(self) -> range:
        return self._numbers

    def let_go(self, first: int, count: int) -> Tuple[int, range]:
        return 0, self._numbers[first : first + count]

    def shown(self, entry: object) -> object:
        return entry

    def took(self, count: int, size: int) -> None:
        self.taken += count

    def room(self) -> int:
        return 0

    def read(self, job: Any, until: Optional[float], enough: Callable[[], bool]) -> None:
        pass

    def end(self, error: Optional[BaseException]) -> None:
        pass


class Items:
    """Any other input. One thread at a time reads and appends; only the cluster's thread makes chunks and removes."""

    def __init__(self, source: Iterator[Any], star: bool, pack: Pack, window: Optional[int], in_memory: bool) -> None:
        """in_memory: the input is. Then only the bytes of pickles are limited, until the results have come."""
        self._source, self._star, self._pack = source, star, pack
        self._window, self.in_memory = window, in_memory
        self._items: List[Any] = []  # from the item ``_base`` on; None when the result has come
        self._pickles: List[Optional[bytes]] = []  # of each item; None for plain ones
        self._beside: Dict[int, values.Packed] = {}  # pickles with needs, or that hold shared objects
        self._base = self._count = 0
        self._frontier = 0
        self._covered: Dict[int, int] = {}  # runs with results behind the frontier: first -> end
        self._final: Optional[int] = None  # the number of items, once no more follow
        self.taken = 0  # the number of items whose results were taken
        self._bytes_in = self._bytes_out = 0
        self.limited = True
        self.error: Optional[BaseException] = None  # of the input: raised behind the last result
        self._read_lock = threading.Lock()
        self._end_lock = threading.Lock()

    @classmethod
    def of_plain(cls, items: List[Any], star: bool) -> "Items":
        """A complete input of plain items, which are pickled by the chunk."""
        made = cls(iter(()), star, _none_to_pack, None, True)
        made._items, made._count, made._final = items, len(items), len(items)
        return made

    @property
    def total(self) -> int:
        final = self._final
        return self._count if final is None else final

    @property
    def closed(self) -> bool:
        return self._final is not None

    def end(self, error: Optional[BaseException]) -> None:
        """No more items follow. Another thread may be reading meanwhile."""
        with self._end_lock:
            if self._final is None:
                self.error, self._final = error, self._count

    # -- in the thread that reads -----------------------------------------------------------------

    def read(self, job: Any, until: Optional[float], enough: Callable[[], bool]) -> None:
        """Read until the window is full. From the moment ``until`` on, stop when ``enough`` returns True.

        job.grew() is called at each item that is not announced, since the next may come late; not for input in memory.
        """
        with self._read_lock:
            most = self.room()
            while most > 0 and not self.closed:
                if not self._read(min(most, READ_ITEMS), job, until, enough):
                    break
                most = self.room()

    def _read(self, count: int, job: Any, until: Optional[float], enough: Callable[[], bool]) -> bool:
        """Read so many items. Returns whether to go on. This must cost less for each item than its pickle does."""
        keep, kept, before = self._items.append, self._pickles.append, self._count
        silent, star = self.in_memory, self._star
        size, most = 0, WINDOW_BYTES - (self._bytes_in - self._bytes_out) if self._counts_bytes() else sys.maxsize
        try:
            for item in itertools.islice(self._source, count):
                if type(item) in _NUMBERS:
                    size += NUMBER_BYTES
                    kept(None)
                    keep(item)
                else:
                    plain = None if star and type(item) in _CHANGEABLE else _plain(item)
                    if plain is not None:
                        size += _size(plain)
                        kept(None)
                        keep(plain)
                    else:
                        shown, pickled = self._packed(item)
                        size += len(pickled)
                        kept(pickled)
                        keep(shown)
                self._count += 1
                if not (silent or job.announced):
                    job.grew()
                if size >= most or (until is not None and monotonic() > until and enough()):
                    return False
        except Exception as error:
            self.end(error)
            return False
        finally:
            self._bytes_in += size
        if self._count - before < count:
            self.end(None)
        return True

    def _packed(self, item: Any) -> Tuple[Any, bytes]:
        """(the item, its pickle). Pickled at once: the iterator may change the item when it gives the next one."""
        try:
            item = tuple(item) if self._star else item
            packed = self._pack(item, self._star)
        except (Exception, SystemExit) as error:  # pickling runs code of the item's class
            packed = functions.pack(_Unsendable(error))
        if packed.needs or packed.held:
            self._beside[self._count] = packed._replace(data=b"")
        return item, packed.data

    # -- the window -------------------------------------------------------------------------------

    def room(self) -> int:
        """How many more items may be read now, if they are small."""
        if self.closed or self._is_full():
            return 0
        if not self.limited or self.in_memory:
            return READ_ITEMS
        return (self._window or WINDOW_ITEMS) - (self.total - self.taken)

    def _is_full(self) -> bool:
        return self._counts_bytes() and self._bytes_in - self._bytes_out >= WINDOW_BYTES

    def _counts_bytes(self) -> bool:
        return self.limited and self._window is None

    def took(self, count: int, size: int) -> None:
        """Results of so many items were taken, whose pickles had so many bytes."""
        self.taken += count
        self._bytes_out += size

    # -- in the cluster's thread ------------------------------------------------------------------

    def encode(self, first: int, count: int) -> List[Any]:
        start = first - self._base
        items, pickles = self._items[start : start + count], self._pickles[start : start + count]
        if not any(pickles):
            return [b"P", values.dumps_plain(items)]
        datas = [values.dumps(item) if data is None else data for item, data in zip(items, pickles)]
        beside = [self._beside[index] for index in range(first, first + count) if index in self._beside]
        return [b"E" + values.with_version(values.all_needs(each.needs for each in beside)).encode("ascii")] + datas

    def given(self) -> List[Any]:
        """All items; valid while none has a result."""
        return self._items

    def item(self, index: int) -> object:
        return self.shown(self._items[index - self._base])

    def let_go(self, first: int, count: int) -> Tuple[int, List[Any]]:
        """(bytes of their pickles, the items). These have results, so no node will need them again."""
        span = slice(first - self._base, first - self._base + count)
        items, size = self._items[span], 0
        self._items[span] = [None] * count
        if self._pickles:
            size = _sizes(items, self._pickles[span])
            self._pickles[span] = [None] * count
            for index in range(first, first + count) if self._beside else ():
                self._beside.pop(index, None)
        self._covered[first] = first + count
        while self._frontier in self._covered:
            self._frontier = self._covered.pop(self._frontier)
        behind = self._frontier - self._base
        if 2 * behind > len(self._items):  # not each time: the deletion moves all later items
            del self._items[:behind], self._pickles[:behind]
            self._base = self._frontier
        return size, items

    def shown(self, item: Any) -> object:
        """The item as the user gave it."""
        return tuple(map(_as_given, item)) if self._star and type(item) is tuple else _as_given(item)


Input = Union[Range, Items]


def _none_to_pack(item: Any, star: bool) -> values.Packed:
    raise AssertionError("all of it is plain")


def none(error: BaseException) -> Items:
    """An input without items, which raises the error."""
    made = Items.of_plain([], False)
    made.error = error
    return made


def of(iterables: Tuple[Iterable[Any], ...], star: bool, window: Optional[int], pack: Pack, later: bool) -> Input:
    """later: leave what may be slow, ``iter`` included, to the thread that reads. Raises what ``iter`` raises."""
    if window is None and is_in_memory(iterables, star):
        only = iterables[0]
        if not star and type(only) is range:
            return Range(only)
        items = list(only if len(iterables) == 1 else zip(*iterables))
        if _are_plain(items):
            return Items.of_plain(items, star)
        return Items(iter(items), star, pack, None, True)
    source: Iterator[Any]
    if later:
        lists = iterables if len(iterables) == 1 else itertools.starmap(zip, [iterables])
        source = itertools.chain.from_iterable(lists)
    else:
        source = iter(iterables[0]) if len(iterables) == 1 else iter(zip(*iterables))
    return Items(source, star, pack, window, False)


def is_in_memory(iterables: Tuple[Iterable[Any], ...], star: bool = False) -> bool:
    """Whether the input is in memory: listing it is quick and needs little more memory."""
    kinds = set(map(type, iterables))
    if not kinds or not kinds <= _HERE | _BESIDE:
        return False
    if kinds & _HERE:
        return True
    if kinds == {range} and len(iterables) == 1 and not star:
        return _length(iterables[0]) <= RANGE_MAX
    return min([_length(each) for each in iterables if type(each) is range], default=RANGE_MAX) <= WINDOW_ITEMS


def _length(numbers: Any) -> int:
    try:
        return len(numbers)
    except OverflowError:
        return RANGE_MAX + 1


def _plain(item: Any) -> Any:
    """The item as it is now, if it is small and can be pickled at any time without code of the user; else None."""
    if type(item) in SCALARS:
        return item if sys.getsizeof(item) < shares.LARGE_BYTES else None
    copy = values.plain_copy(item)
    return copy if copy is None or _size(copy) < shares.LARGE_BYTES else None


def _are_plain(items: List[Any]) -> bool:
    """Whether all are small and cannot be changed; quick for numbers and tuples of numbers."""
    kinds = set(map(type, items))
    if kinds == {tuple}:
        kinds = set(map(type, itertools.chain.from_iterable(items)))
    return kinds <= _NUMBERS or (kinds <= SCALARS and all(item is None or _plain(item) is not None for item in items))


def _sizes(items: List[Any], pickles: List[Optional[bytes]]) -> int:
    if _NUMBERS.issuperset(map(type, items)):
        return NUMBER_BYTES * len(items)
    return sum(_size(item) if data is None else len(data) for item, data in zip(items, pickles))


def _size(item: Any) -> int:
    if type(item) in _NUMBERS:
        return NUMBER_BYTES
    kind = type(item)
    if kind is tuple or kind is list:
        return sum(map(sys.getsizeof, item))
    if kind is dict:
        return sum(map(sys.getsizeof, item)) + sum(map(sys.getsizeof, item.values()))
    return sys.getsizeof(item)


def _as_given(item: object) -> object:
    return item.get() if isinstance(item, shares.Shared) else item


class _Unsendable:
    """Sent in place of an argument that cannot be pickled: unpickling it raises the error of the pickling."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> Tuple[Any, ...]:
        return _raise_unsendable, values.encode_exception(self._error, 0)


def _raise_unsendable(info: Any, buffers: List[bytes]) -> None:
    raise values.decode_exception(info, buffers)
