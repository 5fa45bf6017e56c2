"""How the user's things travel: arguments, results, functions, modules, shared objects."""
from __future__ import absolute_import, division, print_function
