"""The two brains: what a master and a node decide. Pure: events and time come in, effects go out."""
from __future__ import absolute_import, division, print_function
