"""Imports of the packages that only some users of this room need."""

import importlib
from types import ModuleType


def load(module: str) -> ModuleType:
    """The module, or an ImportError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f'{module} is not installed: pip install "jaxdiv[train]"'
        ) from error
