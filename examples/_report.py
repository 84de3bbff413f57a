"""What every example ends with: a table of claims, a `result.json`, its pictures."""

import importlib.metadata
import json
import pathlib
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Claim(NamedTuple):
    """One line of an example's table.

    Attributes:
      claim: what is said, in words.
      measured: what this run saw.
      expected: what the claim asks for, in words.
      holds: whether what was measured is what was expected.
      promised: whether the run fails when the claim does not hold.
    """

    claim: str
    measured: float | str
    expected: str
    holds: bool
    promised: bool = True


def open_folder(out: pathlib.Path) -> pathlib.Path:
    """Makes the output folder, or leaves with a sentence where it cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        sys.exit(f"Cannot write to {out}: {error.strerror}. Choose another --out.")
    return out


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a table whose numbers have four significant digits."""
    text = [[_cell(cell) for cell in row] for row in [header, *rows]]
    widths = [max(map(len, column)) for column in zip(*text, strict=True)]
    for i, row in enumerate(text):
        print("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())
        if i == 0:
            print("  ".join("-" * w for w in widths))


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _versions() -> dict[str, str]:
    packages = ("jaxdiv", "jax", "jaxlib", "flax", "optax", "numpy")
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), **found}


def finish(
    claims: Sequence[Claim],
    *,
    out: pathlib.Path,
    settings: Mapping[str, Any],
    pictures: Sequence[pathlib.Path],
    seconds: float,
    **more: Any,
) -> int:
    """Prints the claims, writes `result.json`, names the pictures.

    Args:
      claims: the example's claims.
      out: output folder.
      settings: what the run was asked to do.
      pictures: PNG files that the run wrote.
      seconds: wall time of the run.
      **more: further entries of `result.json`, such as a table of figures.

    Returns:
      Exit status: 1 when a promised claim does not hold, else 0.
    """
    print()
    print_table(
        ("claim", "measured", "expected", "holds"),
        [(c.claim, c.measured, c.expected, _verdict(c)) for c in claims],
    )
    result = {
        "claims": [{**c._asdict(), "holds": bool(c.holds)} for c in claims],
        "settings": {k: _plain(v) for k, v in settings.items()},
        "versions": _versions(),
        "seconds": round(seconds, 1),
        **more,
    }
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"\n{seconds:.0f} s. Figures: {out / 'result.json'}")
    for picture in pictures:
        print(f"Picture: {picture}")
    return int(any(c.promised and not c.holds for c in claims))


def _verdict(claim: Claim) -> str:
    if claim.holds:
        return "yes"
    return "NO" if claim.promised else "no (not promised)"


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, float, str, bool)) else str(value)
