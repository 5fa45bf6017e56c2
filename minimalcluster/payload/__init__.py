"""What the user hands over, and how it travels: arguments, results, functions, modules, shared objects."""
from __future__ import absolute_import, division, print_function
