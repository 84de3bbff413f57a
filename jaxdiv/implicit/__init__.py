"""Implicit differentiation: solutions that know their own derivative.

The one derivative rule of the library lives here, for what the rooms above find by
iteration. The room has no public names yet.
"""

__all__ = []
