"""Checks that every public function goes through, whatever it computes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

# Central differences in float64: step and what agreement they can show.
_STEP = 1e-5

# A rule of differentiation or batching is right or wrong whatever LLVM makes of it.
# Values are checked with the programs that users get.
_quickly_compiled = partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)


def _weights(tree):
    """Fixed, unequal weights that turn an output pytree into one number."""
    leaves, treedef = jax.tree.flatten(tree)
    weights = [
        np.cos(np.arange(1, leaf.size + 1)).reshape(leaf.shape) for leaf in leaves
    ]
    return jax.tree.unflatten(treedef, weights)


def _scalar(f):
    """`f` with its floating outputs summed under fixed weights."""

    def scalar(*args):
        out = jax.tree.leaves(f(*args))
        out = [x for x in out if jnp.issubdtype(x.dtype, jnp.floating)]
        return sum(jnp.sum(w * x) for w, x in zip(_weights(out), out, strict=True))

    return scalar


def _directions(args, seed):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.standard_normal(np.shape(x))) for x in args)


def _shift(args, directions, step):
    return tuple(x + step * v for x, v in zip(args, directions, strict=True))


def _dot(a, b):
    return sum(jnp.vdot(x, y) for x, y in zip(a, b, strict=True))


def check_derivatives(f, args, *, order=2, in_scan=False, rtol=1e-6, atol=1e-8):
    """Compares jvp, vjp and the second-order modes with central differences.

    These tests spend most of their time compiling: each order is one program, run at
    several points.

    Args:
      f: function of floating arrays; its floating outputs are summed under weights.
      args: tuple of arrays, made float64.
      order: 1 for first derivatives only.
      in_scan: take the second derivatives of `f` as the body of a `lax.scan`, and in
        all four modes.
      rtol: relative tolerance against the central difference.
      atol: absolute tolerance.
    """
    with jax.enable_x64(True):
        args = tuple(jnp.asarray(x, jnp.float64) for x in args)
        v, w = _directions(args, 0), _directions(args, 1)
        names = tuple(range(len(args)))
        g = _scalar(f)

        @_quickly_compiled
        def first(*args):
            value, along = jax.jvp(g, args, v)
            return value, along, _dot(jax.grad(g, names)(*args), v)

        value, along, along_reverse = first(*args)
        scale = rtol * max(1.0, abs(float(value))) + atol

        def close(actual, expected, name):
            np.testing.assert_allclose(
                actual, expected, rtol=rtol, atol=scale, err_msg=name
            )

        def difference(directions, step, which):
            high = first(*_shift(args, directions, step))[which]
            low = first(*_shift(args, directions, -step))[which]
            return (high - low) / (2 * step)

        expected = difference(v, _STEP, 0)
        close(along, expected, "jvp")
        close(along_reverse, expected, "vjp")
        if order == 1:
            return

        second = difference(w, 10 * _STEP, 2)
        modes = {
            "forward over reverse": lambda h, *a: jax.jvp(
                lambda *b: _dot(jax.grad(h, names)(*b), v), a, w
            )[1],
            "reverse over reverse": lambda h, *a: _dot(
                jax.grad(lambda *b: _dot(jax.grad(h, names)(*b), v), names)(*a), w
            ),
            "forward over forward": lambda h, *a: jax.jvp(
                lambda *b: jax.jvp(h, b, v)[1], a, w
            )[1],
            "reverse over forward": lambda h, *a: _dot(
                jax.grad(lambda *b: jax.jvp(h, b, v)[1], names)(*a), w
            ),
        }
        if not in_scan:
            modes = dict(list(modes.items())[:2])

        def scanned(*args):
            return jax.lax.scan(lambda c, _: (c + g(*args), None), 0.0, None, 2)[0] / 2

        @_quickly_compiled
        def all_modes(*args):
            h = scanned if in_scan else g
            return {name: mode(h, *args) for name, mode in modes.items()}

        for name, actual in all_modes(*args).items():
            close(actual, second, name)


def check_transforms(f, args, *, rtol=1e-5, atol=1e-6):
    """Checks that jit, vmap and scan give what the plain call gives."""
    args = tuple(jnp.asarray(x) for x in args)
    expected = f(*args)

    @_quickly_compiled
    def transformed(*args):
        stacked = jax.vmap(f)(*(jnp.stack([x, x]) for x in args))
        scanned = jax.lax.scan(lambda c, _: (c, f(*args)), None, None, length=2)[1]
        last = [jax.tree.map(lambda x: x[1], out) for out in (stacked, scanned)]
        return {"jit": f(*args), "vmap": last[0], "scan": last[1]}

    for name, actual in transformed(*args).items():
        jax.tree.map(
            lambda x, y, name=name: np.testing.assert_allclose(
                x, y, rtol=rtol, atol=atol, err_msg=name
            ),
            actual,
            expected,
        )


def check_dtypes(f, args, *, rtol=1e-3, atol=1e-4):
    """Checks that float32 and float64 stay what they are, and that they agree."""
    with jax.enable_x64(True):
        outputs = []
        for dtype in (jnp.float32, jnp.float64):
            out = _quickly_compiled(f)(*(jnp.asarray(x, dtype) for x in args))
            for leaf in jax.tree.leaves(out):
                if jnp.issubdtype(leaf.dtype, jnp.floating):
                    assert leaf.dtype == dtype, f"{dtype} in, {leaf.dtype} out"
            outputs.append(jax.tree.leaves(out))
        for single, double in zip(*outputs, strict=True):
            np.testing.assert_allclose(single, double, rtol=rtol, atol=atol)


def check_bad_input(call, error, *words):
    """Checks that a call raises `error` with every word in its message."""
    try:
        call()
    except error as raised:
        message = str(raised)
        missing = [word for word in words if word not in message]
        assert not missing, f"{missing} not in the message {message!r}"
    else:
        raise AssertionError(f"no {error.__name__} was raised")
