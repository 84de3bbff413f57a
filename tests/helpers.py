"""Checks that every public function goes through, whatever it computes."""

import jax
import jax.numpy as jnp
import numpy as np

# Central differences in float64: step and what agreement they can show.
_STEP = 1e-5


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

    Args:
      f: function of floating arrays; its floating outputs are summed under weights.
      args: tuple of arrays, made float64.
      order: 1 for first derivatives only.
      in_scan: also differentiate `f` as the body of a `lax.scan`, in every mode.
      rtol: relative tolerance against the central difference.
      atol: absolute tolerance.
    """
    with jax.enable_x64(True):
        args = tuple(jnp.asarray(x, jnp.float64) for x in args)
        v, w = _directions(args, 0), _directions(args, 1)
        g = jax.jit(_scalar(f))
        names = tuple(range(len(args)))
        high, low = g(*_shift(args, v, _STEP)), g(*_shift(args, v, -_STEP))
        expected = (high - low) / (2 * _STEP)
        scale = rtol * max(1.0, abs(float(g(*args)))) + atol

        def close(actual, expected, name):
            np.testing.assert_allclose(
                actual, expected, rtol=rtol, atol=scale, err_msg=name
            )

        close(jax.jvp(g, args, v)[1], expected, "jvp")
        grad = jax.grad(g, names)
        close(_dot(grad(*args), v), expected, "vjp")
        if order == 1:
            return

        def along_reverse(*args):
            return _dot(jax.grad(g, names)(*args), v)

        def along_forward(*args):
            return jax.jvp(g, args, v)[1]

        step = 10 * _STEP
        plus, minus = _shift(args, w, step), _shift(args, w, -step)
        second = (jax.jit(along_reverse)(*plus) - jax.jit(along_reverse)(*minus)) / (
            2 * step
        )
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
            for name in ("forward over reverse", "reverse over reverse"):
                close(jax.jit(modes[name], static_argnums=0)(g, *args), second, name)
            return

        def scanned(*args):
            return jax.lax.scan(lambda c, _: (c + g(*args), None), 0.0, None, 2)[0] / 2

        for name, mode in modes.items():
            close(jax.jit(mode, static_argnums=0)(g, *args), second, name)
            close(
                jax.jit(mode, static_argnums=0)(scanned, *args),
                second,
                f"{name} inside a scan",
            )


def check_transforms(f, args, *, rtol=1e-5, atol=1e-6):
    """Checks that jit, vmap and scan give what the plain call gives."""
    args = tuple(jnp.asarray(x) for x in args)
    expected = f(*args)

    def close(actual, name):
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(
                x, y, rtol=rtol, atol=atol, err_msg=name
            ),
            actual,
            expected,
        )

    close(jax.jit(f)(*args), "jit")
    stacked = jax.vmap(f)(*(jnp.stack([x, x]) for x in args))
    close(jax.tree.map(lambda x: x[1], stacked), "vmap")
    _, scanned = jax.lax.scan(lambda c, _: (c, f(*args)), None, None, length=2)
    close(jax.tree.map(lambda x: x[1], scanned), "scan")


def check_dtypes(f, args, *, rtol=1e-3, atol=1e-4):
    """Checks that float32 and float64 stay what they are, and that they agree."""
    with jax.enable_x64(True):
        outputs = []
        for dtype in (jnp.float32, jnp.float64):
            out = f(*(jnp.asarray(x, dtype) for x in args))
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
