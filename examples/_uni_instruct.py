"""What `uni_instruct` needs beside its story: the exact identities, the particles."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from examples._report import Claim
from jaxdiv import diffusion, divergence
from jaxdiv.distributions import GaussianMixture
from jaxdiv.typing import Array, Key

NAMES = (
    "reverse_kl",
    "kl",
    "js",
    "softened_rkl",
    "squared_hellinger",
    "jeffreys",
    "pearson_chi2",
)
STUDENT, SIGMA = (0.2, 1.05), 0.6  # the student is 0.2 + 1.05 z
NODES = np.linspace(-8.5, 8.5, 97)
DENSITY = np.exp(-(NODES**2) / 2) / np.exp(-(NODES**2) / 2).sum()
LEVELS = np.geomspace(0.3, 3.0, 300)


# --- Part 1: on the line, by quadrature ----------------------------------------------


def teacher() -> GaussianMixture:
    """The law .3 N(-1.5, .5^2) + .7 N(1, .7^2)."""
    return GaussianMixture(
        jnp.array([0.3, 0.7]), jnp.array([[-1.5], [1.0]]), jnp.array([0.25, 0.49])
    )


def scores(params: Array, x: Array, sigma: Array | float) -> tuple[Array, ...]:
    """Scores of teacher and student and the log-ratio at the points x (n, 1)."""
    student = GaussianMixture(
        jnp.ones(1), params[0].reshape(1, 1), params[1].reshape(1) ** 2
    )
    laws = teacher(), student
    log_p, log_q = (law.log_prob(x, sigma=sigma) for law in laws)
    return *(law.score(x, sigma=sigma) for law in laws), log_p - log_q, log_q


def pseudo_losses(params: Array, *, h_through: bool) -> Array:
    """The mean of the three-term loss over all z and eps, for each divergence."""
    z, noise = (x.reshape(-1, 1) for x in np.meshgrid(NODES, NODES))
    mass = np.outer(DENSITY, DENSITY).ravel()
    x0 = params[0] + params[1] * z
    xt = x0 + SIGMA * noise
    # Networks are frozen functions for the student: constant parameters, moving x_t.
    s_p, s_q, log_ratio, _ = scores(jax.lax.stop_gradient(params), xt, SIGMA)
    arrays = x0, xt, xt + SIGMA**2 * s_p, xt + SIGMA**2 * s_q, log_ratio

    def one(f: str) -> Callable:
        def loss(x0: Array, xt: Array, d_p: Array, d_q: Array, ell: Array) -> Array:
            return diffusion.uni_instruct_loss(
                *(x[None] for x in (x0, xt)),
                SIGMA,
                *(x[None] for x in (d_p, d_q, ell)),
                f=f,
                omega="sigma4",
                h_through=h_through,
            )

        return loss

    return jnp.stack([mass @ jax.vmap(one(f))(*arrays) for f in NAMES])


def functionals(params: Array) -> Array:
    """E_q[h |s_p - s_q|^2] at the level SIGMA, for each divergence."""
    x = jnp.linspace(-16, 16, 4001)[:, None]
    s_p, s_q, log_ratio, log_q = scores(params, x, SIGMA)
    u2 = ((s_p - s_q) ** 2).sum(-1)
    weights = [divergence.get(f).log_weight(log_ratio) for f in NAMES]
    return jnp.stack([jnp.trapezoid(jnp.exp(log_q + w) * u2, x[:, 0]) for w in weights])


def divergences(sigma: Array) -> Array:
    """D_f of the noised laws, for each divergence."""
    x = jnp.linspace(-30, 30, 8001)[:, None]
    *_, log_ratio, log_q = scores(jnp.array(STUDENT), x, sigma)
    values = [divergence.get(f).f(log_ratio) for f in NAMES]
    return jnp.stack([jnp.trapezoid(jnp.exp(log_q) * v, x[:, 0]) for v in values])


def expansions() -> Array:
    """The integral over LEVELS of the same laws' score distances."""
    params = jnp.array(STUDENT)

    def quadrature(sigma: Array) -> tuple[Array, Array]:
        x = params[0] + jnp.sqrt(params[1] ** 2 + sigma**2) * NODES
        return x[:, None], jnp.asarray(DENSITY)

    return jnp.stack(
        [
            diffusion.diffusion_expansion(
                lambda x, sigma: scores(params, x, sigma)[2],
                lambda x, sigma: scores(params, x, sigma)[0],
                lambda x, sigma: scores(params, x, sigma)[1],
                quadrature,
                jnp.asarray(LEVELS),
                f,
            )
            for f in NAMES
        ]
    )


def integral_kl() -> tuple[Array, Array]:
    """Both sides of int w KL = int sigma W E|u|^2 + W(T) KL_T with w = exp(-sigma)."""
    levels = jnp.asarray(LEVELS)
    density, mass = jnp.exp(-levels), jnp.exp(-levels[0]) - jnp.exp(-levels)
    params, x = jnp.array(STUDENT), jnp.linspace(-30, 30, 4001)[:, None]

    def at(sigma: Array) -> tuple[Array, Array]:
        s_p, s_q, log_ratio, log_q = scores(params, x, sigma)
        u2 = ((s_p - s_q) ** 2).sum(-1)
        law = jnp.exp(log_q)
        return tuple(jnp.trapezoid(law * g, x[:, 0]) for g in (-log_ratio, u2))

    kl, fisher = jax.lax.map(at, levels)
    over = lambda g: jnp.trapezoid(g * levels, jnp.log(levels))  # noqa: E731
    return over(density * kl), over(levels * mass * fisher) + mass[-1] * kl[-1]


def off_the_wrappers() -> Array:
    """Largest relative difference between a named loss's gradient and the unified."""
    keys = jax.random.split(jax.random.key(0), 3)
    x0, noise = jax.random.normal(keys[0], (2, 8, 3))
    matrices = jax.random.normal(keys[1], (2, 3, 3))
    sigma = jnp.linspace(0.3, 2.0, 8)

    def arguments(x0: Array) -> tuple[Array, ...]:
        xt = x0 + sigma[:, None] * noise
        return x0, xt, sigma, jnp.tanh(xt @ matrices[0]), jnp.sin(xt @ matrices[1])

    def unified(*terms: str) -> Callable:
        return lambda x: diffusion.uni_instruct_loss(
            *arguments(x), None, f="reverse_kl", terms=terms
        )

    def integral(x: Array) -> Array:
        x0, _, _, *denoised = arguments(x)
        weight = diffusion.f_distill_weight("reverse_kl", sigma)
        return diffusion.f_distill_loss(x0, *denoised, weight, dmd_normalise=False)

    def diff_instruct(x: Array) -> Array:
        x0, _, _, *denoised = arguments(x)
        return diffusion.diff_instruct_loss(x0, *denoised)

    pairs = [
        (lambda x: 2 * diffusion.sid_loss(*arguments(x)), unified("sim")),
        (lambda x: diffusion.sim_loss(*arguments(x)), unified("sim")),
        (
            lambda x: 2 * diffusion.sid_loss(*arguments(x), alpha=0.5),
            unified("sim", "fgm"),
        ),
        (diff_instruct, integral),
    ]
    grads = [[jax.grad(f)(x0) for f in pair] for pair in pairs]
    return jnp.stack([jnp.abs(a - b).max() / jnp.abs(b).max() for a, b in grads]).max()


def exact_claims() -> list[Claim]:
    """All identities of the theory, by one program in double precision."""

    @jax.jit
    def compute(params: Array) -> dict[str, Array]:
        through, stopped = (
            jax.jacfwd(lambda p, h=h: pseudo_losses(p, h_through=h))(params)
            for h in (True, False)
        )
        ends = [divergences(jnp.asarray(LEVELS[i])) for i in (0, -1)]
        left, right = integral_kl()
        return {
            "expansion": expansions() / (ends[0] - ends[1]) - 1,
            "gradient": through / jax.jacfwd(functionals)(params) - 1,
            "bias": stopped / through - 1,
            "kl": left / right - 1,
            "wrappers": off_the_wrappers(),
        }

    with jax.enable_x64(True):  # noqa: FBT003 - identities to more than four digits
        found = {k: np.abs(v) for k, v in compute(jnp.array(STUDENT)).items()}
    lines = []
    for claim, key, most in [
        ("expansion = difference of D_f, worst of 7, relative", "expansion", 1e-4),
        ("three terms = gradient of the functional, worst of 7", "gradient", 1e-5),
        ("integral KL = integral of score distances", "kl", 1e-4),
        ("SiD, SIM, DI = the unified losses, gradients", "wrappers", 1e-12),
    ]:
        worst = float(found[key].max())
        lines.append(Claim(claim, worst, f"<= {most:g}", worst <= most))
    bias = dict(zip(NAMES, found["bias"].tolist(), strict=True))
    for f, least in [("js", 0.3), ("kl", 0.5)]:
        lines += [
            Claim(
                f"{f}, h stopped: bias in the student's scale",
                bias[f][1],
                f"> {least:g}",
                bias[f][1] > least,
            ),
            Claim(
                f"{f}, h stopped: bias in the student's mean",
                bias[f][0],
                "< 0.02",
                bias[f][0] < 0.02,
            ),
        ]
    return lines


# --- Part 3: particles that are seen from all sides ----------------------------------

CAMERAS = 8  # a step
PARTICLES = 64
VIEW_LEVELS = (0.1, 3.0)  # of the noise on a view
RULES = ("SDS", "VSD", "kl")


def view_teacher(mixture: GaussianMixture, camera: Array) -> GaussianMixture:
    """The law of a view: the projection of the plane's law on the camera's axis."""
    return mixture._replace(means=(mixture.means @ camera)[:, None])


def view_loss(particles: Array, mixture: GaussianMixture, key: Key, rule: str) -> Array:
    """The loss of all particles seen by one camera.

    The law of the views is known: one point for each particle. Noised it is a mixture,
    which stands for the fake denoiser and, against the teacher's, for the ratio.
    """
    keys = jax.random.split(key, 3)
    angle = jax.random.uniform(keys[0], (), maxval=2 * math.pi)
    camera = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    low, high = (math.log(level) for level in VIEW_LEVELS)
    sigma = jnp.exp(jax.random.uniform(keys[1], (), minval=low, maxval=high))
    views = particles @ camera[:, None]
    law = view_teacher(mixture, camera)
    noised = views + sigma * jax.random.normal(keys[2], views.shape)
    noised = jax.lax.stop_gradient(noised)
    d_teacher = law.denoise(noised, sigma=sigma)
    if rule == "SDS":
        return diffusion.sds_loss(views, d_teacher)
    n = len(particles)
    crowd = GaussianMixture(
        jnp.full(n, 1 / n), jax.lax.stop_gradient(views), jnp.full(n, 1e-6)
    )
    d_fake = crowd.denoise(noised, sigma=sigma)
    if rule == "VSD":
        return diffusion.vsd_loss(views, d_teacher, d_fake)
    log_ratio = law.log_prob(noised, sigma=sigma) - crowd.log_prob(noised, sigma=sigma)
    weight = diffusion.f_distill_weight(rule, diffusion.ratio_from_logits(log_ratio))
    return diffusion.f_distill_loss(
        views, d_teacher, d_fake, weight, dmd_normalise=False
    )


def distil_particles(
    mixture: GaussianMixture,
    rule: str,
    key: Key,
    *,
    steps: int,
    rate: float = 0.05,
) -> Array:
    """Moves particles down the loss of random views, with a falling rate."""
    key_start, key_steps = jax.random.split(key)
    start = 0.5 * jax.random.normal(key_start, (PARTICLES, 2))

    def total(particles: Array, key: Key) -> Array:
        keys = jax.random.split(key, CAMERAS)
        each = jax.vmap(view_loss, (None, None, 0, None))
        # The mean over particles is for networks; a particle moves by itself.
        return PARTICLES * each(particles, mixture, keys, rule).mean()

    def move(particles: Array, i: Array) -> tuple[Array, None]:
        gradient = jax.grad(total)(particles, jax.random.fold_in(key_steps, i))
        return particles - rate * (1 - i / steps) * gradient, None

    return jax.lax.scan(move, start, jnp.arange(steps))[0]
