"""What implicit differentiation must do, as cases that any library can be put through.

A case is a function of `root`, where `root(F, **options)` decorates a function
`solver(init, *theta)`. It returns pairs of what came out and what is right.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize

Pairs = Iterator[tuple[Any, Any]]
Root = Callable[..., Callable[[Callable], Callable]]

CASES: dict[str, Callable[[Root], Pairs]] = {}
RTOL = 1e-6

# x^3 = t at t = 2, and its derivatives.
X, X1, X2, X3 = (
    1.2599210498948732,
    0.20998684164914553,
    -0.0699956138830,
    0.0583296782358,
)
ORDERS = {
    "forward over reverse": lambda f: jax.jacfwd(jax.jacrev(f)),
    "reverse over reverse": lambda f: jax.jacrev(jax.jacrev(f)),
    "forward over forward": lambda f: jax.jacfwd(jax.jacfwd(f)),
    "reverse over forward": lambda f: jax.jacrev(jax.jacfwd(f)),
}
TWO = np.ones(2)
PLACES = {
    "scan": lambda f, t: (
        jax.lax.scan(lambda c, s: (c + f(s * t), None), 0.0, TWO)[0] / 2
    ),
    "fori_loop": lambda f, t: jax.lax.fori_loop(
        0, 2, lambda i, c: (c[0] + f(c[1]) / 2, c[1]), (0.0, t)
    )[0],
    "map": lambda f, t: jax.lax.map(f, jnp.stack([t, t]))[1],
    "cond": lambda f, t: jax.lax.cond(t > 0, f, lambda t: t, t),
    "checkpoint": lambda f, t: jax.checkpoint(f)(t),
    "scan of checkpoint": lambda f, t: (
        jax.lax.scan(lambda c, s: (c + jax.checkpoint(f)(s * t), None), 0.0, TWO)[0] / 2
    ),
}


def case(name: str) -> Callable:
    def add(f: Callable[[Root], Pairs]) -> Callable[[Root], Pairs]:
        CASES[name] = f
        return f

    return add


def iterate(step: Callable[[Any], Any], init: Any, most: int = 60) -> Any:
    """A loop with a bound that is not static, which reverse mode cannot enter."""

    def go_on(state: tuple[Any, Any, Any]) -> Any:
        x, before, k = state
        moved = jax.tree.map(lambda a, b: jnp.any(a != b), x, before)
        return (k < most) & jnp.any(jnp.array(jax.tree.leaves(moved)))

    def once(state: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        return step(state[0]), state[0], state[2] + 1

    first = step(init), init, 0
    return jax.lax.while_loop(go_on, once, first)[0]


def cube(x: Any, t: Any) -> Any:
    return x**3 - t


def newton_cube(init: Any, t: Any, *rest: Any, **kw: Any) -> Any:
    del rest, kw
    start = jnp.broadcast_to(init, jnp.shape(t)).astype(jnp.result_type(init))
    return iterate(lambda x: x - (x**3 - t) / (3 * x**2), start)


def cube_root(root: Root, **options: Any) -> Callable[[Any], Any]:
    solve = root(cube, **options)(newton_cube)
    return lambda t: solve(jnp.array(1.5), t)


def scalar_modes() -> None:
    modes = {
        "reverse": (jax.grad, X1),
        "forward": (jax.jacfwd, X1),
        "jit of grad": (lambda f: jax.jit(jax.grad(f)), X1),
        "third derivative": (lambda f: jax.grad(jax.jacfwd(jax.jacrev(f))), X3),
        "linearize": (lambda f: lambda t: jax.linearize(f, t)[1](1.0), X1),
        **{name: (order, X2) for name, order in ORDERS.items()},
    }
    for name, (mode, want) in modes.items():

        @case(name)
        def _(root: Root, mode: Callable = mode, want: float = want) -> Pairs:
            yield mode(cube_root(root))(2.0), want

    for place, wrap in PLACES.items():
        for name, order in ORDERS.items():

            @case(f"{name}, in {place}")
            def _(root: Root, order: Callable = order, wrap: Callable = wrap) -> Pairs:
                f = cube_root(root)
                yield order(lambda t: wrap(f, t))(2.0), X2


scalar_modes()
MANY = np.array([0.5, 2.0, 8.0])


@case("vmap of grad")
def _(root: Root) -> Pairs:
    yield jax.vmap(jax.grad(cube_root(root)))(MANY), MANY ** (-2 / 3) / 3


@case("grad of vmap")
def _(root: Root) -> Pairs:
    f = cube_root(root)
    yield jax.grad(lambda t: jax.vmap(f)(t).sum())(MANY), MANY ** (-2 / 3) / 3


@case("jit of vmap of hessian")
def _(root: Root) -> Pairs:
    hessians = jax.jit(jax.vmap(jax.hessian(cube_root(root))))
    yield hessians(MANY), -2 / 9 * MANY ** (-5 / 3)


W, B = np.array([[0.3, -0.2], [0.1, 0.4]]), np.array([0.5, -0.3])
SLOPE = [
    [0.695558067825641, -0.184920812367173],
    [0.092460406183587, 1.304716673403735],
]


def tanh_net(x: Any, W: Any, b: Any) -> Any:
    return jnp.tanh(W @ x + b) - x


def tanh_root(root: Root) -> Callable:
    solve = root(tanh_net)(
        lambda init, W, b: iterate(lambda x: jnp.tanh(W @ x + b), init, 200)
    )
    return lambda W, b: solve(jnp.zeros(2), W, b)


def central(f: Callable, x: Any, v: Any, step: float = 1e-5) -> Any:
    return (f(x + step * v) - f(x - step * v)) / (2 * step)


@case("non-symmetric system")
def _(root: Root) -> Pairs:
    yield jax.jacrev(tanh_root(root), 1)(W, B), SLOPE


@case("Hessian-vector product")
def _(root: Root) -> Pairs:
    f, v = tanh_root(root), np.array([0.7, -0.4])

    def loss(b: Any) -> Any:
        return jnp.sum(f(W, b) ** 3)

    def gradient(b: np.ndarray) -> np.ndarray:
        x = np.zeros(2)
        for _ in range(200):
            x = np.tanh(W @ x + b)
        d = 1 - x**2
        return np.linalg.solve((np.eye(2) - d[:, None] * W).T, 3 * x**2) * d

    yield jax.jvp(jax.grad(loss), (B,), (v,))[1], central(gradient, B, v)


def tree_root(root: Root) -> Callable:
    def F(x: dict, theta: dict) -> dict:
        a, b = theta["a"], theta["pair"][0]
        return {"u": x["u"] ** 3 - a * x["v"].sum(), "v": x["v"] - b * a}

    def solver(init: dict, theta: dict) -> dict:
        v = theta["pair"][0] * theta["a"]
        return {"u": (theta["a"] * v.sum()) ** (1 / 3), "v": v}

    solve = root(F)(solver)
    init = {"u": jnp.array(1.0), "v": jnp.ones(2)}
    return lambda a, b: solve(init, {"a": a, "pair": (b, jnp.array(0.0))})["u"]


@case("pytrees, reverse")
def _(root: Root) -> Pairs:
    # u = (a^2 sum b)^(1/3)
    b = np.array([1.0, 2.0])
    got = jax.grad(tree_root(root), (0, 1))(2.0, b)
    yield got[0], 2 / 3 * 2 ** (-1 / 3) * 3 ** (1 / 3)
    yield got[1], 2 ** (2 / 3) / 3 * 3 ** (-2 / 3) * np.ones(2)


@case("pytrees, forward")
def _(root: Root) -> Pairs:
    b = np.array([1.0, 2.0])
    got = jax.jacfwd(tree_root(root))(2.0, b)
    yield got, 2 / 3 * 2 ** (-1 / 3) * 3 ** (1 / 3)


def with_argument(argument: Any, scale: Callable[[Any], Any], mode: Callable) -> Any:
    """x^3 = scale(argument) t for an argument that has no derivative."""

    def F(x: Any, t: Any, argument: Any) -> Any:
        return x**3 - scale(argument) * t

    def run(root: Root) -> Pairs:
        solve = root(F)(
            lambda init, t, argument: newton_cube(init, scale(argument) * t)
        )
        got = mode(lambda t: solve(jnp.array(1.5), t, argument))(2.0)
        yield got, X1 * float(scale(argument)) ** (1 / 3)

    return run


ARGUMENTS = {
    "integer": (lambda: np.array(3), lambda n: n),
    "boolean": (lambda: np.array(1, bool), lambda yes: jnp.where(yes, 2.0, 1.0)),
    "random key": (lambda: jax.random.key(0), lambda k: 1 + jax.random.uniform(k)),
    "string": (lambda: "double", lambda name: {"double": 2.0}[name]),
    "callable": (lambda: jnp.exp, lambda f: f(0.5)),
    "None": (lambda: None, lambda nothing: 2.0 if nothing is None else 1.0),
}
for _name, (_argument, _scale) in ARGUMENTS.items():
    for _mode in (jax.grad, jax.jacfwd):
        _way = {jax.grad: "reverse", jax.jacfwd: "forward"}[_mode]

        @case(f"{_name} argument, {_way}")
        def _(
            root: Root, make: Any = _argument, scale: Any = _scale, mode: Any = _mode
        ) -> Pairs:
            yield from with_argument(make(), scale, mode)(root)


def closed_over(root: Root) -> Callable[[Any], Any]:
    def f(t: Any) -> Any:
        solve = root(lambda x: x**3 - t)(lambda init: newton_cube(init, t))
        return solve(jnp.array(1.5))

    return f


@case("closed-over parameter, reverse")
def _(root: Root) -> Pairs:
    yield jax.grad(closed_over(root))(2.0), X1


@case("closed-over parameter, forward")
def _(root: Root) -> Pairs:
    yield jax.jacfwd(closed_over(root))(2.0), X1


@case("closed-over parameter, vmap of hessian")
def _(root: Root) -> Pairs:
    yield jax.vmap(jax.hessian(closed_over(root)))(MANY), -2 / 9 * MANY ** (-5 / 3)


@case("auxiliary dict of the solver")
def _(root: Root) -> Pairs:
    solve = root(cube, has_aux=True)(
        lambda init, t: (newton_cube(init, t), {"steps": jnp.array(7), "t": 2 * t})
    )

    def loss(t: Any) -> Any:
        x, aux = solve(jnp.array(1.5), t)
        return x + 0 * aux["t"]

    yield jax.grad(loss)(2.0), X1
    yield solve(jnp.array(1.5), 2.0)[1]["steps"], 7


@case("keyword parameter")
def _(root: Root) -> Pairs:
    def F(x: Any, *, t: Any) -> Any:
        return x**3 - t

    solve = root(F)(lambda init, *, t: newton_cube(init, t))
    yield jax.grad(lambda t: solve(jnp.array(1.5), t=t))(2.0), X1


@case("condition 1e6, non-symmetric")
def _(root: Root) -> Pairs:
    rng = np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.standard_normal((8, 8)))[0] for _ in range(2))
    A = U @ np.diag(np.logspace(0, -6, 8)) @ V.T
    b, g = rng.standard_normal((2, 8))
    solve = root(lambda x, b: A @ x - b)(lambda init, b: jnp.linalg.solve(A, b))
    got = jax.grad(lambda b: g @ solve(jnp.zeros(8), b))(b)
    yield got, np.linalg.solve(A.T, g)


@case("rank 2")
def _(root: Root) -> Pairs:
    # X^2 = T, at T = diag(1, 4) + small: dX solves X dX + dX X = dT.
    T = np.array([[2.0, 0.5], [0.5, 3.0]])
    values, vectors = np.linalg.eigh(T)
    roots = np.sqrt(values)
    V = np.array([[0.3, -0.2], [-0.2, 0.5]])
    inner = vectors.T @ V @ vectors / (roots[:, None] + roots)

    def solver(init: Any, T: Any) -> Any:
        return iterate(lambda x: (x + jnp.linalg.solve(x, T)) / 2, jnp.eye(2), 40)

    solve = root(lambda x, T: x @ x - T)(solver)
    got = jax.grad(lambda s: jnp.trace(solve(jnp.eye(2), T + s * V)))(0.0)
    yield got, np.trace(vectors @ inner @ vectors.T)


@case("rank 3")
def _(root: Root) -> Pairs:
    t = np.arange(1.0, 13).reshape(2, 3, 2)
    solve = root(cube)(newton_cube)
    got = jax.grad(lambda t: solve(jnp.full((2, 3, 2), 1.5), t).sum())(t)
    yield got, t ** (-2 / 3) / 3


@case("no unknown at all")
def _(root: Root) -> Pairs:
    solve = root(lambda x, t: x * t)(lambda init, t: init)
    got = jax.grad(lambda t: solve(jnp.zeros((0,)), t).sum() + t)(2.0)
    yield got, 1.0


@case("complex root")
def _(root: Root) -> Pairs:
    solve = root(lambda z, t: z**2 - t)(lambda init, t: jnp.sqrt(t))
    t = 1.0 + 2.0j
    got = jax.grad(lambda t: solve(jnp.array(1.0 + 1.0j), t), holomorphic=True)(t)
    yield got, 0.5 / np.sqrt(t)


@case("derivative in the start is 0")
def _(root: Root) -> Pairs:
    yield jax.grad(root(cube)(newton_cube))(jnp.array(1.5), 2.0), 0.0


@case("SciPy inside a callback")
def _(root: Root) -> Pairs:
    def on_host(t: np.ndarray) -> np.ndarray:
        found = scipy.optimize.brentq(lambda x: x**3 - float(t), 0, 4, xtol=1e-14)
        return np.asarray(found, t.dtype)

    def solver(init: Any, t: Any) -> Any:
        t = jax.lax.stop_gradient(jnp.asarray(t))
        shape = jax.ShapeDtypeStruct((), t.dtype)
        return jax.pure_callback(on_host, shape, t, vmap_method="sequential")

    solve = root(cube)(solver)
    yield jax.jit(jax.grad(lambda t: solve(jnp.array(1.5), t)))(2.0), X1


@case("optax loop")
def _(root: Root) -> Pairs:
    A = np.array([[2.0, 0.5], [0.5, 1.0]])
    optimizer = optax.sgd(0.5, momentum=0.3)

    def objective(x: Any, t: Any) -> Any:
        return x @ A @ x / 2 - t * x.sum() + (x**4).sum() / 4

    def solver(init: Any, t: Any) -> Any:
        def step(_: Any, carry: tuple) -> tuple:
            x, state = carry
            update, state = optimizer.update(jax.grad(objective)(x, t), state)
            return optax.apply_updates(x, update), state

        return jax.lax.fori_loop(0, 200, step, (init, optimizer.init(init)))[0]

    solve = root(jax.grad(objective))(solver)
    got = jax.grad(lambda t: solve(jnp.zeros(2), t).sum())(0.7)

    def by_numpy(t: float) -> float:
        x = np.zeros(2)
        for _ in range(50):
            slope = A @ x - t + x**3
            x = x - np.linalg.solve(A + np.diag(3 * x**2), slope)
        return x.sum()

    yield got, central(by_numpy, 0.7, 1.0)


@case("loop of dynamic bound in F, forward")
def _(root: Root) -> Pairs:
    def F(x: Any, t: Any, n: Any) -> Any:
        power = jax.lax.fori_loop(0, n, lambda _, p: p * x, jnp.ones_like(x))
        return power - t

    solve = root(F)(lambda init, t, n: newton_cube(init, t))
    got = jax.jit(jax.jacfwd(lambda t, n: solve(jnp.array(1.5), t, n)))(2.0, 3)
    yield got, X1


@case("unused parameter")
def _(root: Root) -> Pairs:
    solve = root(lambda x, t, unused: x**3 - t)(newton_cube)
    got = jax.grad(lambda u: solve(jnp.array(1.5), 2.0, u).sum())(np.ones(3))
    yield got, np.zeros(3)


@case("float32 unknown, float64 residual")
def _(root: Root) -> Pairs:
    solve = root(cube)(lambda init, t: newton_cube(init, t.astype(jnp.float32)))
    one = jnp.array(1.5, jnp.float32)
    got = jax.grad(lambda t: solve(one, t).astype(jnp.float64))(np.array(2.0))
    # Right to the precision of the unknown; the gradient has the parameter's dtype.
    yield float(got.dtype == jnp.float64), 1.0
    yield np.round(got, 6), np.round(X1, 6)


def verdict(run: Callable[[Root], Pairs], root: Root) -> str:
    """How a library fares: ok, how far off, or the name of the error."""
    try:
        worst = max(_error(got, want) for got, want in run(root))
    except Exception as error:  # noqa: BLE001 - whatever a library raises is its answer
        return type(error).__name__
    return "ok" if worst <= RTOL else f"off by {worst:.0e}"


def _error(got: Any, want: Any) -> float:
    got, want = np.asarray(got), np.asarray(want)
    scale = max(np.abs(want).max(initial=0), 1e-3)
    worst = np.abs(got - want).max(initial=0) / scale
    return np.inf if np.isnan(worst) else float(worst)
