import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv import diffusion, divergence
from tests.test_distill import (
    FITS,
    GRADIENTS,
    PAPER_SCALE,
    Mixture,
    divergence_by_quadrature,
    gaussian_log_prob,
)

# h, h - r h' and -r^2 h'' as the Uni-Instruct paper scales them.
PAPER_TABLE = {
    "rkl": lambda r: (r**0, r**0, 0 * r),
    "fkl": lambda r: (r, 0 * r, 0 * r),
    "jeffreys": lambda r: (1 + r, r**0, 0 * r),
    "js": lambda r: (r / (1 + r), r**2 / (1 + r) ** 2, 2 * r**2 / (1 + r) ** 3),
    "srkl": lambda r: (
        1 / (1 + r),
        (1 + 2 * r) / (1 + r) ** 2,
        -2 * r**2 / (1 + r) ** 3,
    ),
    "sq_hellinger": lambda r: (r**0.5 / 2, r**0.5 / 4, r**0.5 / 8),
    "pearson": lambda r: (2 * r**2, -2 * r**2, -4 * r**2),
    "neyman": lambda r: (2 / r, 4 / r, -4 / r),
}
ALPHAS = (-0.5, 0.3, 2.5)

# The student 0.2 + 1.05 z and the teacher of tests/test_distill.py, noised to 0.6:
# F = E_q[h |s_p - s_q|^2] and its derivative in the student's mean and scale.
FISHER = {
    "rkl": (0.389339, -0.241142, -0.730610),
    "fkl": (0.367044, -0.046753, -0.846538),
    "js": (0.183679, -0.075944, -0.366095),
    "srkl": (0.205660, -0.165199, -0.364515),
    "sq_hellinger": (0.186338, -0.074134, -0.379906),
    "jeffreys": (0.756383, -0.287895, -1.577149),
    "pearson": (0.780682, 0.491134, -2.544999),
}
EXPANSION = {  # the integral of sigma F over [0.3, 3]
    "rkl": 0.18195,
    "fkl": 0.17094,
    "js": 0.085424,
    "srkl": 0.09653,
    "sq_hellinger": 0.086785,
    "jeffreys": 0.352887,
    "pearson": 0.364735,
}
STUDENT = (0.2, 1.05)
NODES = np.linspace(-8.5, 8.5, 121)
DENSITY = np.exp(-(NODES**2) / 2)
Z, EPS = (x.ravel() for x in np.meshgrid(NODES, NODES))
MASS = np.outer(DENSITY, DENSITY).ravel() / DENSITY.sum() ** 2


def teacher(sigma):
    return Mixture([0.3, 0.7], [-1.5, 1.0], [0.25, 0.49], sigma)


def scores(x, sigma, params):
    """Scores of both laws and the log-ratio, where x is; params are the student's."""
    mean, variance = params[0], params[1] ** 2 + sigma**2
    law = teacher(sigma)
    log_ratio = law.log_prob(x) - gaussian_log_prob(x, mean, variance)
    return law.score(x), -(x - mean) / variance, log_ratio


def fisher_by_quadrature(record, params, sigma):
    x = jnp.linspace(-16, 16, 8001)
    s_p, s_q, log_ratio = scores(x, sigma, params)
    log_q = gaussian_log_prob(x, params[0], params[1] ** 2 + sigma**2)
    return jnp.trapezoid(
        jnp.exp(log_q + record.log_weight(log_ratio)) * (s_p - s_q) ** 2, x
    )


def one_by_one(loss, *args):
    """The loss of every sample alone."""
    return jax.vmap(lambda *sample: loss(*(x[None] for x in sample)))(*args)


def mean_over_nodes(params, loss, sigma=0.6):
    """The mean of a loss over all z and eps, the networks being frozen functions."""
    frozen = jax.lax.stop_gradient(jnp.stack(params))
    x0 = params[0] + params[1] * Z
    xt = x0 + sigma * EPS
    s_p, s_q, log_ratio = scores(xt, sigma, frozen)
    d_p, d_q = xt + sigma**2 * s_p, xt + sigma**2 * s_q
    columns = (x[:, None] for x in (x0, xt))
    denoised = (x[:, None] for x in (d_p, d_q))
    level = jnp.full_like(x0, sigma)
    return MASS @ one_by_one(loss, *columns, level, *denoised, log_ratio)


def three_terms(f, **switches):
    options = {"omega": "sigma4", "h_through": True} | switches
    return lambda *args: diffusion.uni_instruct_loss(*args, f=f, **options)


def records():
    named = {name: divergence.get(name) for name in FISHER}
    return named | {f"alpha {a}": divergence.get("alpha", a=a) for a in ALPHAS[1:]}


def params():
    return tuple(map(jnp.float64, STUDENT))


def scaled(name, values):
    return np.array(values) / PAPER_SCALE.get(name, 1.0)


def weights(named, log_ratio):
    """The weights of all the divergences as (3, n), by one program."""

    @jax.jit
    def compute(log_ratio):
        return {
            name: jnp.stack(diffusion.uni_weights(record, log_ratio))
            for name, record in named.items()
        }

    return compute(log_ratio)


def test_weights_are_those_of_the_paper(x64):
    log_ratio = jnp.linspace(-6, 6, 25)
    r = np.exp(log_ratio)
    found = weights({name: name for name in PAPER_TABLE}, log_ratio)
    for name, table in PAPER_TABLE.items():
        paper = scaled(name, table(r))
        np.testing.assert_allclose(
            found[name], paper, rtol=1e-9, atol=1e-13, err_msg=name
        )
    found = weights({a: divergence.get("alpha", a=a) for a in ALPHAS}, log_ratio)
    for a in ALPHAS:
        paper = (r**a, (1 - a) * r**a, a * (1 - a) * r**a)
        np.testing.assert_allclose(found[a], paper, rtol=1e-12)


INF = np.inf
LIMITS = {  # of h, c_fgm, c_di at r = 0 and at r = inf
    "rkl": ((1, 1, 0), (1, 1, 0)),
    "fkl": ((0, 0, 0), (INF, 0, 0)),
    "jeffreys": ((1, 1, 0), (INF, 1, 0)),
    "js": ((0, 0, 0), (0.5, 0.5, 0)),
    "srkl": ((1, 1, 0), (0, 0, 0)),
    "sq_hellinger": ((0, 0, 0), (INF, INF, INF)),
    "pearson": ((0, 0, 0), (INF, -INF, -INF)),
    "neyman": ((INF, INF, -INF), (0, 0, 0)),
    "lecam": ((0, 0, 0), (0, 0, 0)),
}


@pytest.mark.slow
def test_weights_at_the_ends_are_the_limits():
    named = {name: name for name in LIMITS}
    path = np.linspace(-100, 100, 41, dtype=np.float32)
    for name, found in weights(named, np.append(path, path[[0, -1]] * INF)).items():
        ends = np.array(LIMITS[name])
        np.testing.assert_allclose(found[:, -2:].T, ends, atol=1e-12, err_msg=name)
        # On the way there nothing is NaN, and far out the limits are reached.
        assert not jnp.isnan(found).any()
        bounded = np.isfinite(ends)
        far = np.array(found)[:, [0, 40]].T
        np.testing.assert_allclose(far[bounded], ends[bounded], atol=1e-6, err_msg=name)
    for found in weights(named, jnp.array([jnp.nan])).values():
        assert jnp.isnan(found).all()


def test_weights_in_float32_have_the_rounding_of_h():
    log_ratio = jnp.linspace(-9.0, 9.0, 19)
    r = np.exp(np.float64(log_ratio))
    for name, found in weights({n: n for n in PAPER_TABLE}, log_ratio).items():
        paper = scaled(name, PAPER_TABLE[name](r))
        assert (np.abs(found - paper) < 4e-6 * paper[0]).all(), name


@pytest.mark.slow
def test_gradient_of_the_integral_family_is_that_of_the_divergence(x64):
    sigma = 0.6

    def loss(record):
        def f_distill(x0, xt, level, d_teacher, d_fake, log_ratio):
            del xt
            weight = diffusion.f_distill_weight(
                record, jnp.exp(log_ratio), normalise=False
            )
            return diffusion.f_distill_loss(
                x0, d_teacher, d_fake, weight / level**2, dmd_normalise=False
            )

        return f_distill

    @jax.jit
    def both(params):
        return {
            name: (
                jax.grad(mean_over_nodes)(params, loss(record)),
                jax.grad(
                    lambda p, r=record: divergence_by_quadrature(
                        r, teacher(sigma), p[0], p[1] ** 2 + sigma**2
                    )
                )(params),
            )
            for name, record in records().items()
        }

    for name, (ours, exact) in both(params()).items():
        np.testing.assert_allclose(ours, exact, atol=1e-6, err_msg=name)
        if name in GRADIENTS:
            paper = scaled(name, GRADIENTS[name])
            np.testing.assert_allclose(ours, paper, atol=2e-6, err_msg=name)


@pytest.mark.slow
def test_gradient_of_three_terms_is_that_of_the_functional(x64):
    @jax.jit
    def both(params):
        return {
            name: (
                jax.grad(mean_over_nodes)(params, three_terms(record)),
                *jax.value_and_grad(
                    lambda p, r=record: fisher_by_quadrature(r, p, 0.6)
                )(params),
            )
            for name, record in records().items()
        }

    for name, (ours, value, exact) in both(params()).items():
        np.testing.assert_allclose(ours, exact, rtol=1e-5, err_msg=name)
        if name in FISHER:
            paper = scaled(name, FISHER[name])
            np.testing.assert_allclose((value, *ours), paper, atol=2e-6, err_msg=name)


@pytest.mark.slow
def test_the_stopped_weight_biases_a_scale_and_not_a_translation(x64):
    @jax.jit
    def grads(params):
        return {
            (name, through): jnp.stack(
                jax.grad(mean_over_nodes)(params, three_terms(name, h_through=through))
            )
            for name in ("js", "fkl", "rkl")
            for through in (True, False)
        }

    found = grads(params())
    for name, least in {"js": 0.3, "fkl": 0.5}.items():
        exact, stopped = found[name, True], found[name, False]
        assert abs(stopped[1] / exact[1] - 1) > least
        assert abs(stopped[0] / exact[0] - 1) < 0.02
        np.testing.assert_allclose(exact, scaled(name, FISHER[name][1:]), atol=1e-5)
    np.testing.assert_allclose(found["fkl", False][1], -0.318, atol=2e-3)
    np.testing.assert_allclose(2 * found["js", False][1], -0.2301, atol=2e-3)
    np.testing.assert_array_equal(found["rkl", True], found["rkl", False])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["l2", "pseudo_huber", "js"])
def test_the_first_term_moves_the_students_score_under_held_points(x64, name):
    sigma, c = 0.6, 0.3

    def loss(x0, xt, level, d_teacher, d_fake, log_ratio):
        if name == "js":
            return three_terms("js", terms=("sim",), omega=None)(
                x0, xt, level, d_teacher, d_fake, log_ratio
            )
        return diffusion.sim_loss(
            x0, xt, level, d_teacher, d_fake, distance=name, omega=None, huber_c=c
        )

    def held(moved):
        x = jnp.linspace(-14, 14, 8001)
        mean, scale = STUDENT
        q = jnp.exp(gaussian_log_prob(x, mean, scale**2 + sigma**2))
        s_p, _, log_ratio = scores(x, sigma, STUDENT)
        gap = sigma**2 * (s_p - scores(x, sigma, moved)[1])
        h = divergence.get("js").weight(log_ratio) if name == "js" else 1.0
        cost = jnp.sqrt(gap**2 + c**2) if name == "pseudo_huber" else gap**2
        return jnp.trapezoid(q * h * cost, x)

    ours, exact = jax.jit(
        lambda p: (jax.grad(mean_over_nodes)(p, loss), jax.grad(held)(p))
    )(params())
    np.testing.assert_allclose(ours, exact, rtol=1e-6)


def quadrature_of_student(sigma):
    std = jnp.sqrt(STUDENT[1] ** 2 + sigma**2)
    return (STUDENT[0] + std * NODES)[:, None], jnp.asarray(DENSITY / DENSITY.sum())


def expand(f, sampler=quadrature_of_student, sigmas=(0.3, 3.0), levels=300):
    return diffusion.diffusion_expansion(
        lambda x, sigma: scores(x[:, 0], sigma, STUDENT)[2],
        lambda x, sigma: scores(x[:, 0], sigma, STUDENT)[0][:, None],
        lambda x, sigma: scores(x[:, 0], sigma, STUDENT)[1][:, None],
        sampler,
        jnp.geomspace(*sigmas, levels),
        f,
    )


@pytest.mark.slow
def test_the_expansion_is_the_difference_of_the_divergence(x64):
    both = records()

    @jax.jit
    def values():
        ends = [
            jnp.stack(
                [
                    divergence_by_quadrature(
                        record, teacher(s), STUDENT[0], STUDENT[1] ** 2 + s**2
                    )
                    for record in both.values()
                ]
            )
            for s in (0.3, 3.0)
        ]
        return jnp.stack([expand(r) for r in both.values()]), ends[0] - ends[1]

    found, exact = values()
    np.testing.assert_allclose(found, exact, rtol=1e-4)
    for name, value in zip(both, found, strict=True):
        if name in EXPANSION:
            paper = scaled(name, EXPANSION[name])
            np.testing.assert_allclose(value, paper, rtol=1e-4, err_msg=name)


def test_the_expansion_takes_samples_too(x64, key):
    z = jax.random.normal(key, (4000, 1))

    def sampler(sigma):
        return STUDENT[0] + jnp.sqrt(STUDENT[1] ** 2 + sigma**2) * z

    sampled = jax.jit(lambda: expand("js", sampler, levels=40))()
    np.testing.assert_allclose(sampled, EXPANSION["js"] / 2, rtol=0.05)


def test_the_integral_of_the_kl_is_one_of_score_distances(x64):
    levels = jnp.geomspace(0.3, 3.0, 400)
    density = jnp.exp(-levels)  # w; its integral from 0.3 is W
    mass = jnp.exp(-0.3) - density

    def at(sigma):
        variance = STUDENT[1] ** 2 + sigma**2
        kl = divergence_by_quadrature("rkl", teacher(sigma), STUDENT[0], variance)
        return kl, fisher_by_quadrature(divergence.get("rkl"), STUDENT, sigma)

    kl, fisher = jax.jit(lambda: jax.lax.map(at, levels))()
    integral = jnp.trapezoid(density * kl * levels, jnp.log(levels))
    expanded = jnp.trapezoid(levels**2 * mass * fisher, jnp.log(levels))
    np.testing.assert_allclose(integral, expanded + mass[-1] * kl[-1], rtol=1e-4)


@pytest.mark.slow
def test_integrated_over_noise_the_fits_are_stationary(x64):
    # Between two levels the expanded gradient is the difference of the divergence's;
    # at the closest Gaussian only that of the far end is left, and it is small.
    law = lambda s: Mixture([0.6, 0.4], [-1.5, 1.5], [0.36, 0.36], s)
    levels = jnp.geomspace(0.02, 30.0, 120)

    def fisher(p, record, sigma):
        x = jnp.linspace(-1, 1, 4001) * 10 * (1.5 + sigma)
        variance = p[1] ** 2 + sigma**2
        log_q = gaussian_log_prob(x, p[0], variance)
        weight = record.log_weight(law(sigma).log_prob(x) - log_q)
        u = law(sigma).score(x) + (x - p[0]) / variance
        return jnp.trapezoid(jnp.exp(log_q + weight) * u**2, x)

    @jax.jit
    def gradients():
        return {
            name: jnp.trapezoid(
                jax.lax.map(
                    lambda s, n=name: (
                        s**2
                        * jnp.stack(
                            jax.grad(fisher)(
                                tuple(map(jnp.float64, FITS[n])), divergence.get(n), s
                            )
                        )
                    ),
                    levels,
                ),
                jnp.log(levels),
                axis=0,
            )
            for name in ("rkl", "js")
        }

    for name, gradient in gradients().items():
        np.testing.assert_allclose(gradient, 0, atol=2e-3, err_msg=name)


# --- The wrappers, on random networks of two dimensions ------------------------------


def toy_arguments(seed=0, batch=5):
    keys = jax.random.split(jax.random.key(seed), 4)
    x0, eps = jax.random.normal(keys[0], (2, batch, 2))
    sigma = jax.random.uniform(keys[1], (batch,), minval=0.3, maxval=2.0)
    teacher, fake = jax.random.normal(keys[2], (2, 2, 2))

    def arguments(x0):
        xt = x0 + sigma[:, None] * eps
        return x0, xt, sigma, jnp.tanh(xt @ teacher), jnp.sin(xt @ fake)

    return x0, arguments, jnp.sin(jnp.arange(batch * 1.0))


def same(one, other, x0):
    ours, theirs = jax.jit(lambda x: [jax.value_and_grad(f)(x) for f in (one, other)])(
        x0
    )
    for x, y in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6)
    assert jnp.abs(ours[1]).max() > 1e-3


@pytest.mark.parametrize("omega", ["abs", "sigma4", None])
def test_sid_and_sim_are_corners_of_the_unified_loss(omega):
    x0, arguments, _ = toy_arguments()
    uni = lambda *terms: (
        lambda x: diffusion.uni_instruct_loss(
            *arguments(x), None, f="rkl", terms=terms, omega=omega
        )
    )
    sid = lambda alpha: (
        lambda x: diffusion.sid_loss(*arguments(x), alpha=alpha, omega=omega)
    )
    sim = lambda x: diffusion.sim_loss(*arguments(x), omega=omega)
    same(sim, uni("sim"), x0)
    same(lambda x: 2 * sid(1.0)(x), uni("sim"), x0)
    same(lambda x: 2 * sid(0.5)(x), uni("sim", "fgm"), x0)


def test_sid_is_its_formula():
    x0, arguments, _ = toy_arguments()

    def formula(x):
        x0, _, _, d_p, d_q = arguments(x)
        omega = jax.lax.stop_gradient(jnp.abs(x0 - d_p).mean(1))
        inner = ((d_p - d_q) * (d_p - x0) - 1.2 * (d_p - d_q) ** 2).sum(1)
        return (inner / omega).mean()

    same(lambda x: diffusion.sid_loss(*arguments(x), alpha=1.2), formula, x0)


def test_unified_loss_is_its_formula():
    x0, arguments, log_ratio = toy_arguments()

    def formula(x):
        x0, xt, sigma, d_p, d_q = arguments(x)
        stop = jax.lax.stop_gradient
        r, gap = jnp.exp(log_ratio), d_p - d_q
        h, fgm, di = (w / 2 for w in PAPER_TABLE["js"](r))
        norm = (gap**2).sum(1)
        loss = 2 * h * (gap * (d_q - x0)).sum(1) / sigma**4 + fgm * norm / sigma**4
        push = stop(di * norm / sigma**6)[:, None] * stop(gap)
        return (loss + (push * xt).sum(1)).mean()

    unified = lambda x: diffusion.uni_instruct_loss(
        *arguments(x), log_ratio, f="js", omega="sigma4"
    )
    same(unified, formula, x0)


def test_the_integral_family_under_its_names():
    x0, arguments, _ = toy_arguments()
    weight = jnp.linspace(0.5, 2.0, 5)

    def f_distill(x, **options):
        x0, _, _, d_p, d_q = arguments(x)
        return diffusion.f_distill_loss(x0, d_p, d_q, weight, **options)

    bare = lambda x: f_distill(x, dmd_normalise=False)
    dmd = lambda x: f_distill(x)

    def named(loss):
        def call(x):
            x0, _, _, d_p, d_q = arguments(x)
            return loss(x0, d_p, d_q, weight)

        return call

    same(named(diffusion.diff_instruct_loss), bare, x0)
    same(named(diffusion.vsd_loss), bare, x0)
    same(named(diffusion.dmd_loss), dmd, x0)
    # SDS: the fake score is the noise, (x_t - x_0)/sigma^2 with the sign of a score.
    x, xt, sigma, d_p, _ = arguments(x0)
    noise_score = -(xt - x) / sigma[:, None] ** 2
    fake = xt + sigma[:, None] ** 2 * noise_score
    ours = jax.grad(diffusion.sds_loss)(x, d_p)
    np.testing.assert_allclose(
        ours, jax.grad(diffusion.vsd_loss)(x, d_p, fake), rtol=1e-4, atol=1e-6
    )


def test_sida_is_sid_and_a_gan():
    x0, arguments, _ = toy_arguments()
    logits = lambda xt: jnp.tanh(xt).sum(1)

    def sida(x):
        args = arguments(x)
        fake = logits(args[1])
        generator = diffusion.gan_losses(jnp.zeros_like(fake), fake).generator
        return diffusion.sid_loss(*args) + 0.1 * generator.mean()

    gradient = jax.grad(sida)(x0)
    gan = jax.grad(lambda x: jax.nn.softplus(-logits(arguments(x)[1])).mean())(x0)
    sid = jax.grad(lambda x: diffusion.sid_loss(*arguments(x)))(x0)
    np.testing.assert_allclose(gradient, sid + 0.1 * gan, rtol=1e-4, atol=1e-6)


def test_small_constants_of_pseudo_huber_give_unit_steps():
    x0, arguments, _ = toy_arguments()
    args = arguments(x0)
    gap, error = args[3] - args[4], args[4] - args[0]
    length = jnp.sqrt((gap**2).sum(1))
    unit = ((gap * error).sum(1) / length).mean()
    found = diffusion.sim_loss(*args, distance="pseudo_huber", omega=None)
    np.testing.assert_allclose(found, unit, rtol=1e-3)
    wide = diffusion.sim_loss(*args, distance="pseudo_huber", omega=None, huber_c=1e3)
    l2 = diffusion.sim_loss(*args, omega=None)
    np.testing.assert_allclose(2e3 * wide, l2, rtol=1e-4)


def test_a_sample_that_is_the_teachers_own_is_finite():
    x = jnp.ones((2, 3))
    loss = lambda x0: diffusion.uni_instruct_loss(
        x0, x, 0.5, x0, x * 0.5, jnp.zeros(2), f="js"
    )
    value, gradient = jax.value_and_grad(loss)(x)
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()


def test_what_is_not_a_number_stays_so():
    x0, arguments, log_ratio = toy_arguments()
    args = arguments(x0)
    poisoned = log_ratio.at[0].set(jnp.nan)
    assert jnp.isnan(diffusion.uni_instruct_loss(*args, poisoned, f="js"))
    traced = jax.jit(
        lambda s: diffusion.uni_instruct_loss(*args[:2], s, *args[3:], None, f="rkl")
    )
    assert jnp.isnan(traced(args[2].at[1].set(-1.0)))


def test_low_precision_is_computed_in_float32():
    x0, arguments, log_ratio = toy_arguments()
    half = [x.astype(jnp.bfloat16) for x in (*arguments(x0), log_ratio)]
    single = [x.astype(jnp.float32) for x in half]
    loss = diffusion.uni_instruct_loss(*half, f="kl")
    assert loss.dtype == jnp.float32
    np.testing.assert_array_equal(loss, diffusion.uni_instruct_loss(*single, f="kl"))
