"""One list of all public functions, so that none misses the common checks.

A room's cases live in `tests/cases_<room>.py` as `CASES`.
"""

import importlib
import pathlib

CASES = [
    case
    for path in sorted(pathlib.Path(__file__).parent.glob("cases_*.py"))
    for case in importlib.import_module(f"tests.{path.stem}").CASES
]
