"""Gradients in hyper-parameters side by side with jaxopt and optimistix.

    python -m benchmarks.hypergradients

The derivative alone: every library is handed the same solution, so the time is that of
the linear system and of the two loss gradients. Ridge has one penalty a coefficient and
n = 2000 rows; its system is symmetric, which optimistix is told and takes Cholesky, not
LU. The dual of a support vector machine has 200 simplexes of 5. Then the machine end to
end by accelerated projected gradient, at most 20,000 steps: jaxopt, whose momentum does
not restart, takes all of them and has not reached its tolerance by then. Iterative
solves are asked for a relative residual of 1e-10. Errors are relative: of ridge against
NumPy's closed form, of the machine against a central difference, which itself holds to
about 2e-7.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import jaxopt
import lineax as lx
import numpy as np
import optimistix as optx
from jaxopt import linear_solve as jaxopt_solve
from jaxopt.projection import projection_simplex
from jaxopt.prox import make_prox_from_projection

from examples._report import print_table
from examples._timing import best_of, compiled
from examples.implicit_svm import (
    LAMBDA,
    central_difference,
    load,
    machine,
    start,
    train,
)
from jaxdiv import implicit
from jaxdiv.implicit.projection import simplex
from jaxdiv.typing import Array

ROWS = 2000
SIZES = (100, 500, 2000)
TOL = 1e-10
ROUNDS = 7
LIBRARIES = ("jaxdiv", "jaxopt", "optimistix")
HEADER = [
    "problem",
    "solve",
    *(f"{library} ms" for library in LIBRARIES),
    *(f"time/{peer}" for peer in LIBRARIES[1:]),
    *(f"{library} compile s" for library in LIBRARIES),
    *(f"{library} error" for library in LIBRARIES),
]
SOLVES = {  # of jaxopt and of optimistix, for each of ours
    "lu": (jaxopt_solve.solve_lu, lx.LU()),
    "cholesky": (jaxopt_solve.solve_lu, lx.Cholesky()),
    "cg": (functools.partial(jaxopt_solve.solve_cg, tol=TOL), lx.CG(TOL, 0.0)),
    "gmres": (functools.partial(jaxopt_solve.solve_gmres, tol=TOL), lx.GMRES(TOL, 0.0)),
    "normal_cg": (functools.partial(jaxopt_solve.solve_normal_cg, tol=TOL), None),
}


def by_jaxdiv(
    T: Callable, x: Array, theta: Any, solve: str, *, definite: bool
) -> Array:
    residual = lambda x, theta: T(x, theta) - x  # noqa: E731
    return implicit.attach(residual, x, theta, solve=solve, symmetric=definite, tol=TOL)


def by_jaxopt(
    T: Callable, x: Array, theta: Any, solve: str, *, definite: bool
) -> Array:
    del definite
    attach = jaxopt.implicit_diff.custom_fixed_point(T, solve=SOLVES[solve][0])
    return attach(lambda x, theta: x)(x, theta)


def by_optimistix(
    T: Callable, x: Array, theta: Any, solve: str, *, definite: bool
) -> Array:
    """From the solution its iteration stops at the first step."""
    return optx.fixed_point(
        T,
        optx.FixedPointIteration(rtol=1e-6, atol=1e-6),
        jax.lax.stop_gradient(x),
        theta,
        adjoint=optx.ImplicitAdjoint(linear_solver=SOLVES[solve][1]),
        tags=frozenset({lx.negative_semidefinite_tag} if definite else ()),
    ).value


ATTACH = dict(zip(LIBRARIES, (by_jaxdiv, by_jaxopt, by_optimistix), strict=True))


def measured(
    ways: Mapping[str, Callable], arguments: tuple, exact: Any, rounds: int
) -> tuple[list[float], list[float], list[float]]:
    """Milliseconds, seconds to compile and relative errors; NaN where a peer is not."""
    programs, compiling, errors = {}, {}, {}
    for name, way in ways.items():
        programs[name], compiling[name] = compiled(way, *arguments)
        off = np.linalg.norm(programs[name](*arguments) - exact)
        errors[name] = float(off / np.linalg.norm(exact))
    times = best_of(programs, *arguments, rounds=rounds)
    return tuple(
        [column.get(name, np.nan) for name in LIBRARIES]
        for column in (times, compiling, errors)
    )


def row(problem: str, solve: str, columns: tuple) -> list:
    times, compiling, errors = columns
    ratios = [times[0] / peer for peer in times[1:]]
    return [problem, solve, *times, *ratios, *compiling, *errors]


def ridge(p: int, solve: str) -> list:
    rng = np.random.default_rng(0)
    X, X_val = rng.standard_normal((2, ROWS, p)) / np.sqrt(ROWS)
    truth = rng.standard_normal(p)
    y, y_val = (A @ truth + 0.1 * rng.standard_normal(ROWS) for A in (X, X_val))
    penalty = rng.uniform(-3, 0, p)
    H = X.T @ X + np.diag(np.exp(penalty))
    w = np.linalg.solve(H, X.T @ y)
    adjoint = np.linalg.solve(H, X_val.T @ (X_val @ w - y_val))
    exact = -np.exp(penalty) * w * adjoint
    step = 1 / np.linalg.norm(H, 2)

    def loss(attach: Callable, penalty: Array, w: Array, *data: Array) -> Array:
        X, y, X_val, y_val = data

        def T(w: Array, theta: tuple) -> Array:
            penalty, X, y = theta
            return w - step * (X.T @ (X @ w - y) + jnp.exp(penalty) * w)

        w = attach(T, w, (penalty, X, y), solve, definite=True)
        return jnp.sum((X_val @ w - y_val) ** 2) / 2

    ways = {
        library: jax.grad(functools.partial(loss, attach))
        for library, attach in ATTACH.items()
    }
    arguments = tuple(map(jnp.asarray, (penalty, w, X, y, X_val, y_val)))
    return row(f"ridge, p = {p}", solve, measured(ways, arguments, exact, ROUNDS))


def svm(solve: str) -> list:
    problem = machine(load())
    lam = jnp.array(LAMBDA)
    x = train(problem, lam, 1e-13).value
    T = implicit.projected_gradient(problem.dual, simplex, problem.step(lam))

    def loss(attach: Callable, lam: Array, x: Array) -> Array:
        return problem.loss(attach(T, x, lam, solve, definite=False), lam)

    ways = {
        library: jax.grad(functools.partial(loss, attach))
        for library, attach in ATTACH.items()
        if library == "jaxdiv" or SOLVES[solve][LIBRARIES.index(library) - 1]
    }
    exact = central_difference(problem)
    return row("SVM dual, 1000", solve, measured(ways, (lam, x), exact, ROUNDS))


def svm_whole() -> list:
    """Both stop when a step moves x by less than 1e-10."""
    problem = machine(load())
    lam = jnp.array(LAMBDA)
    rows = jax.vmap(projection_simplex)

    step = float(problem.step(lam))

    def by_jaxopt(lam: Array) -> Array:
        solver = jaxopt.ProximalGradient(
            problem.dual,
            make_prox_from_projection(lambda x, _: rows(x)),
            stepsize=step,
            tol=TOL / step,
            maxiter=20_000,
            implicit_diff_solve=SOLVES["gmres"][0],
        )
        return solver.run(start(), None, lam).params

    ways = {
        "jaxdiv": jax.grad(
            lambda lam: problem.loss(train(problem, lam, TOL).value, lam)
        ),
        "jaxopt": jax.grad(lambda lam: problem.loss(by_jaxopt(lam), lam)),
    }
    exact = central_difference(problem)
    return row("SVM, solved too", "gmres", measured(ways, (lam,), exact, 3))


def main() -> None:
    jax.config.update("jax_enable_x64", True)  # noqa: FBT003
    tasks = [
        *(
            functools.partial(ridge, p, solve)
            for p in SIZES
            for solve in ("cholesky", "cg")
        ),
        *(functools.partial(svm, solve) for solve in ("lu", "gmres", "normal_cg")),
        svm_whole,
    ]
    rows = []
    for task in tasks:
        rows.append(task())
        print(*rows[-1], sep=" | ", flush=True)
    print()
    print_table(HEADER, rows)


if __name__ == "__main__":
    main()
