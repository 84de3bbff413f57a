"""Implicit differentiation side by side with its peers: who passes which case.

    python -m benchmarks.implicit

Every case of `benchmarks._capabilities`, which are also the tests of `jaxdiv.implicit`,
goes through `jaxdiv.implicit.root`, through `jaxopt.implicit_diff.custom_root` with its
three solvers, through `jax.lax.custom_root` with a dense tangent solve and through
optimistix, which has no decorator: its Newton's method starts from the solution. A cell
says "ok", how far off the derivative is, or which error was raised.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jaxopt
import optimistix as optx
from jax.flatten_util import ravel_pytree
from jaxopt.linear_solve import solve_gmres, solve_lu, solve_normal_cg

from benchmarks._capabilities import CASES, verdict
from examples._report import print_table
from jaxdiv import implicit


def by_jaxopt(solve: Callable, F: Callable, *, has_aux: bool = False) -> Callable:
    return jaxopt.implicit_diff.custom_root(F, has_aux=has_aux, solve=solve)


def by_custom_root(F: Callable, *, has_aux: bool = False) -> Callable:
    """The theta of a solver is closed over, as `jax.lax.custom_root` asks."""

    def decorate(solver: Callable) -> Callable:
        def solved(init: Any, *theta: Any, **kw_theta: Any) -> Any:
            return jax.lax.custom_root(
                lambda x: F(x, *theta, **kw_theta),
                init,
                lambda f, x0: solver(x0, *theta, **kw_theta),
                dense,
                has_aux=has_aux,
            )

        return solved

    return decorate


def stopped(leaf: Any) -> Any:
    return jax.lax.stop_gradient(leaf) if hasattr(leaf, "dtype") else leaf


def by_optimistix(F: Callable, *, has_aux: bool = False) -> Callable:
    def decorate(solver: Callable) -> Callable:
        def solved(init: Any, *theta: Any, **kw_theta: Any) -> Any:
            still = functools.partial(jax.tree.map, stopped)
            x = solver(still(init), *still(theta), **still(kw_theta))
            found = optx.root_find(
                lambda x, given: F(x, *given[0], **given[1]),
                optx.Newton(rtol=1e-12, atol=1e-12),
                still(x[0] if has_aux else x),
                (theta, kw_theta),
                throw=False,
            )
            return (found.value, x[1]) if has_aux else found.value

        return solved

    return decorate


def dense(linear: Callable, b: Any) -> Any:
    flat, unravel = ravel_pytree(b)
    columns = jax.vmap(lambda v: ravel_pytree(linear(unravel(v)))[0], out_axes=1)
    return unravel(
        jnp.linalg.solve(columns(jnp.eye(flat.size, dtype=flat.dtype)), flat)
    )


LIBRARIES = {
    "jaxdiv": implicit.root,
    "jaxopt normal CG": functools.partial(by_jaxopt, solve_normal_cg),
    "jaxopt LU": functools.partial(by_jaxopt, solve_lu),
    "jaxopt GMRES": functools.partial(by_jaxopt, solve_gmres),
    "lax.custom_root": by_custom_root,
    "optimistix": by_optimistix,
}


def main() -> None:
    jax.config.update("jax_enable_x64", True)  # noqa: FBT003
    warnings.filterwarnings("ignore")
    rows = []
    for name, case in CASES.items():
        row = [verdict(case, root) for root in LIBRARIES.values()]
        rows.append([name, *row])
        print(name, *row, sep=" | ", flush=True)
    print()
    print_table(("case", *LIBRARIES), rows)
    passed = [sum(row[i + 1] == "ok" for row in rows) for i in range(len(LIBRARIES))]
    print_table(("passed of", *LIBRARIES), [[len(rows), *passed]])


if __name__ == "__main__":
    main()
