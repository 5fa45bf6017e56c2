"""Which function unpickles results: the argument ``results`` of the faces."""
from __future__ import absolute_import, division, print_function

from . import values

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any, Callable  # noqa: F401 # novm


def loader(results, engine=None):
    # type: (str, object) -> Callable[[Any], Any]
    """What unpickles results, by the argument of the faces. An engine unpickles them itself, so none can be safe."""
    if results not in ("any", "safe") or (results == "safe" and engine is not None):
        raise ValueError("results must be 'any', or 'safe' without an engine, not %r" % (results,))
    if results == "any":
        return values.loads
    from . import safe  # its list of types needs decimal, fractions, uuid: few programs do

    return safe.loads
