"""The training step of one-step distillation, on laws that are known."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiv import diffusion, divergence
from jaxdiv.diffusion._noise import spaced_time

# --- The step of three nets, on data N(1, 0.5^2) -------------------------------------

TEACHER = {"mean": jnp.array([1.0]), "log_std": jnp.array([np.log(0.5)])}
HEAD = {"w": jnp.zeros((2, 3))}
T_INIT = 3.0
TERMS = ("sim", "fgm", "di")


def gaussian_denoise(params, x, t):
    """E[x_0 | x_t] of the law N(mean, std^2); any Gaussian law is within its reach."""
    s2, t2 = jnp.exp(2 * params["log_std"]), t[..., None] ** 2
    return (s2 * x + t2 * params["mean"]) / (s2 + t2)


def quadratic_logits(head, fake, x, t):
    """Two heads, quadratic in x: the log-ratio of two Gaussians."""
    del fake
    scaled = x / jnp.sqrt(1 + t[:, None] ** 2)
    features = jnp.concatenate([jnp.ones_like(x), scaled, scaled**2], 1)
    return features @ head["w"].T


def config(**options):
    adam = lambda rate: optax.adam(rate, b1=0.0)
    defaults = {
        "law": diffusion.edm(0.05, 5.0),
        "t_init": T_INIT,
        "aux_updates": 2,
        "ema_decay": 0.98,
        "gan_weight": 0.0,
        "dmd_normalise": False,  # in one dimension the normaliser has heavy tails
    }
    return diffusion.DistillConfig(
        gaussian_denoise,
        quadratic_logits,
        adam(0.01),
        adam(0.03),
        adam(0.01),
        **{**defaults, **options},
    )


def start(cfg):
    return diffusion.distill_state(cfg, TEACHER, HEAD)


def train(cfg, steps, seed=0):
    data = 1 + 0.5 * jax.random.normal(jax.random.key(7), (1024, 1))
    step = diffusion.make_step(cfg)

    def body(state, i):
        key, pick = jax.random.split(jax.random.fold_in(jax.random.key(seed), i))
        batch = jax.random.choice(pick, data, (128,))
        return step(state, batch, key)

    run = jax.jit(lambda state: jax.lax.scan(body, state, jnp.arange(steps)))
    return run(start(cfg))


def student_law(params):
    z = jnp.linspace(-1, 1, 3)[:, None]
    low, middle, high = gaussian_denoise(params, T_INIT * z, jnp.full((3,), T_INIT))
    return float(middle[0]), float(high[0] - low[0]) / 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "gan_weight"), [("js", 0.1), ("reverse_kl", 0.0), ("kl", 0.0)]
)
def test_three_nets_find_the_teachers_law(name, gan_weight):
    cfg = config(divergence=name, gan_weight=gan_weight)
    before = student_law(TEACHER)
    assert before[1] < 0.1  # undistilled, one step gives nearly the mean
    state, metrics = train(cfg, 600)
    mean, std = student_law(state.ema)
    assert abs(mean - 1) < 0.06
    assert abs(std - 0.5) < 0.06
    # The fake denoiser has followed the student, and the ratio is near 1.
    assert abs(jnp.exp(state.fake["log_std"][0]) - std) < 0.08
    assert abs(state.fake["mean"][0] - mean) < 0.08
    assert abs(metrics["ratio"][-100:].mean() - 1) < 0.1
    assert all(jnp.isfinite(metric).all() for metric in metrics.values())
    for name in TEACHER:
        np.testing.assert_array_equal(state.teacher[name], TEACHER[name])


@pytest.mark.slow
def test_step_is_decided_by_its_key():
    cfg = config(gan_weight=0.1)
    first, again, other = train(cfg, 5), train(cfg, 5), train(cfg, 5, seed=1)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert first[0].student["mean"] != other[0].student["mean"]


@pytest.mark.slow
def test_step_is_its_parts():
    # One step with one auxiliary update, taken apart by hand with SGD.
    sgd = optax.sgd(0.1)
    cfg = config(aux_updates=1, gan_weight=0.3)._replace(
        student_optimizer=sgd, fake_optimizer=sgd, head_optimizer=sgd
    )
    state, key = start(cfg), jax.random.key(3)
    batch = jnp.linspace(0, 2, 6)[:, None]
    new, metrics = jax.jit(diffusion.make_step(cfg))(state, batch, key)
    # Fake and head move first; the student sees the moved ones.
    moved = state._replace(fake=new.fake, head=new.head)
    frozen = cfg._replace(fake_optimizer=optax.sgd(0.0), head_optimizer=optax.sgd(0.0))
    alone, _ = jax.jit(diffusion.make_step(frozen))(moved, batch, key)
    jax.tree.map(np.testing.assert_array_equal, alone.student, new.student)
    average = jax.tree.map(
        lambda old, now: 0.98 * old + 0.02 * now, state.ema, new.student
    )
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), average, new.ema
    )
    np.testing.assert_allclose(
        metrics["loss"], metrics["distill_loss"] + 0.3 * metrics["gan_loss"], rtol=1e-6
    )
    np.testing.assert_allclose(
        metrics["student_grad_norm"],
        optax.tree.norm(optax.tree.sub(state.student, new.student)) / 0.1,
        rtol=1e-4,
    )


@pytest.mark.slow
def test_state_owns_its_arrays_and_may_be_donated():
    cfg = config()
    state = start(cfg)
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    owned = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((TEACHER, HEAD))]
    assert len(set(pointers)) == len(pointers)
    assert not set(pointers) & set(owned)
    step = jax.jit(diffusion.make_step(cfg), donate_argnums=0)
    batch = jnp.ones((4, 1))
    for i in range(2):
        state, _ = step(state, batch, jax.random.key(i))
    np.testing.assert_allclose(TEACHER["mean"], 1.0)
    assert jnp.isfinite(state.student["mean"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("net", ["teacher", "student", "fake", "head"])
def test_a_nan_in_any_net_shows_in_the_metrics(net):
    cfg = config(gan_weight=0.1)
    state = start(cfg)
    poisoned = jax.tree.map(lambda x: x * jnp.nan, getattr(state, net))
    _, metrics = jax.jit(diffusion.make_step(cfg))(
        state._replace(**{net: poisoned}), jnp.ones((4, 1)), jax.random.key(0)
    )
    assert not all(jnp.isfinite(metric) for metric in metrics.values())


@pytest.mark.slow
def test_the_discriminator_trains_the_fake_denoiser_only_where_it_may():
    def mean_after_a_step(**options):
        cfg = config(aux_updates=1, **options)._replace(
            fake_optimizer=optax.sgd(0.1),
            discriminate=lambda head, fake, x, t: jnp.full(len(x), fake["mean"][0]),
        )
        state = diffusion.distill_state(cfg, TEACHER, {})
        run = jax.jit(diffusion.make_step(cfg))
        return run(state, jnp.ones((8, 1)), jax.random.key(0))[0].fake["mean"][0]

    pull = mean_after_a_step() - mean_after_a_step(shared_encoder=True)
    # Logits d for real and fake: d/dd of softplus(d) + softplus(-d), here at d = 1.
    np.testing.assert_allclose(pull, 0.1 * np.tanh(0.5), rtol=1e-4)


@pytest.mark.slow
def test_nets_in_low_precision_keep_losses_in_float32():
    half = lambda params, x, t: gaussian_denoise(params, x, t).astype(jnp.bfloat16)
    logits = lambda *args: quadratic_logits(*args).astype(jnp.bfloat16)
    cfg = config()._replace(denoise=half, discriminate=logits)
    state, metrics = jax.jit(diffusion.make_step(cfg))(
        start(cfg), jnp.ones((8, 1), jnp.bfloat16), jax.random.key(0)
    )
    losses = [k for k in metrics if k.endswith("loss") or k == "ratio"]
    assert all(metrics[k].dtype == jnp.float32 for k in losses)
    assert state.ratio_bins.dtype == jnp.float32


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxdiv import diffusion
from tests import test_distill_step as toy

mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
cfg = toy.config(gan_weight=0.1, **OPTIONS)
step = jax.jit(diffusion.make_step(cfg))
batch = 1 + 0.5 * jax.random.normal(jax.random.key(1), (64, 1))
spread = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
assert len(spread.sharding.device_set) == 8
for given in (batch, spread):
    state = toy.start(cfg)
    for i in range(3):
        state, metrics = step(state, given, jax.random.key(i))
    leaves = jax.tree.leaves((state, metrics))
    print(*np.concatenate([np.ravel(x) for x in leaves]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"family": "expanded", "h_through": True, "ratio_after": 1}],
)
def test_eight_devices_give_what_one_gives(options):
    flag = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", f"OPTIONS = {options}\n{SHARDED}"],
        env={**os.environ, "XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    one, eight = (np.array(line.split(), float) for line in done.stdout.splitlines())
    np.testing.assert_allclose(eight, one, rtol=1e-4, atol=1e-5)


# --- The expanded family, and what both families share -------------------------------


def stepped(cfg, steps=2, batch=None, state=None):
    """States and metrics of a few steps, from one compiled function."""
    state = start(cfg) if state is None else state
    batch = jnp.linspace(-0.2, 2.0, 8)[:, None] if batch is None else batch
    step = jax.jit(diffusion.make_step(cfg))
    found = []
    for i in range(steps):
        state, metrics = step(state, batch, jax.random.key(i))
        found.append((state, metrics))
    return found


def assert_same(one, other, rtol=1e-5):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-7), one, other
    )


def judged(**options):
    """The toy with a discriminator that has an opinion, so that ratios differ."""
    cfg = config(family="expanded", aux_updates=1, **options)
    w = jnp.array([[0.1, 0.8, -0.3], [0.2, 0.5, -0.2]])
    return cfg, diffusion.distill_state(cfg, TEACHER, {"w": w})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "gan_weight", "options"),
    [
        ("reverse_kl", 0.0, {}),
        ("js", 0.1, {"terms": TERMS, "h_through": True}),
    ],
)
def test_the_expanded_family_finds_the_teachers_law(name, gan_weight, options):
    cfg = config(divergence=name, gan_weight=gan_weight, family="expanded", **options)
    state, metrics = train(cfg, 600)
    mean, std = student_law(state.ema)
    assert abs(mean - 1) < 0.06
    assert abs(std - 0.5) < 0.06
    assert all(jnp.isfinite(metric).all() for metric in metrics.values())
    assert int(state.step) == 600


@pytest.mark.slow
def test_the_expanded_step_descends_its_loss():
    # The student's gradient by hand, on the step's own draws.
    cfg, state = judged(divergence="js", gan_weight=0.3, h_through=True, terms=TERMS)
    sgd = optax.sgd(0.1)
    cfg = cfg._replace(
        student_optimizer=sgd,
        fake_optimizer=optax.sgd(0.0),
        head_optimizer=optax.sgd(0.0),
        bin_rate=1.0,  # the ratio stays as it is
    )
    state = diffusion.distill_state(cfg, TEACHER, state.head)
    [(new, metrics)] = stepped(cfg, 1, state=state)
    _, key = jax.random.split(jax.random.key(0))
    key_x0, key_t = jax.random.split(key)
    key_u, key_noise = jax.random.split(key_t)
    ends = np.array([0.05, 5.0]) ** (1 / 7)
    t = (ends[0] + jax.random.uniform(key_u, (8,)) * (ends[1] - ends[0])) ** 7
    z, noise = (jax.random.normal(k, (8, 1)) for k in (key_x0, key_noise))

    def loss(student):
        x0 = gaussian_denoise(student, T_INIT * z, jnp.float32(T_INIT))
        xt = x0 + t[:, None] * noise
        logits = quadratic_logits(state.head, None, xt, t)
        log_ratio = jnp.clip(logits.mean(1), np.log(0.1), np.log(20.0))
        mean_h = jax.lax.stop_gradient(divergence.get("js").weight(log_ratio).mean())
        denoised = (gaussian_denoise(p, xt, t) for p in (state.teacher, state.fake))
        distill = diffusion.uni_instruct_loss(
            x0, xt, t, *denoised, log_ratio, f="js", h_through=True
        )
        gan = jax.nn.softplus(-logits).mean()
        return distill / mean_h + 0.3 * gan, distill / mean_h

    gradient, distill = jax.grad(loss, has_aux=True)(state.student)
    np.testing.assert_allclose(metrics["distill_loss"], distill, rtol=1e-4)
    moved = jax.tree.map(lambda x, y: (x - y) / 0.1, state.student, new.student)
    for name in TEACHER:
        np.testing.assert_allclose(moved[name], gradient[name], rtol=2e-3, atol=1e-5)


@pytest.mark.slow
def test_switches_of_the_expanded_step():
    run = lambda **options: stepped(*first(judged(**options)))[-1]
    first = lambda pair: (pair[0], 2, None, pair[1])
    plain = run(divergence="rkl")
    # SiD at alpha = 1/2 is both terms of reverse KL; recomputing changes nothing.
    half = run(divergence="rkl", sid_alpha=0.5)
    assert_same(half, run(divergence="rkl", terms=("sim", "fgm")), rtol=1e-4)
    assert_same(plain, run(divergence="rkl", remat=True))
    assert abs(half[0].student["mean"] - plain[0].student["mean"]) > 1e-6
    # Ratios that do not count yet make every divergence reverse KL.
    early = run(divergence="kl", ratio_after=10)
    assert_same(early[0].student, plain[0].student)
    counted = run(divergence="kl", ratio_after=1)[0].student
    assert abs(counted["mean"] - plain[0].student["mean"]) > 1e-6


@pytest.mark.slow
def test_ratios_that_do_not_count_yet_in_the_integral_family():
    _, state = judged()
    cfg = config(aux_updates=1)
    end = lambda cfg: stepped(cfg, 2, None, state)[-1][0].student
    early = end(cfg._replace(ratio_after=10))
    assert_same(early, end(cfg._replace(divergence="rkl")))
    assert abs(end(cfg)["mean"] - early["mean"]) > 1e-6


@pytest.mark.slow
def test_the_student_waits_while_the_others_learn():
    cfg = config(student_after=2)
    before = start(cfg)
    first, second, third = stepped(cfg, 3)
    for state, metrics in (first, second):
        for name in ("student", "ema", "student_opt"):
            assert_same(getattr(state, name), getattr(before, name))
        assert metrics["loss"] == 0
        assert metrics["fake_loss"] > 0
    assert abs(first[0].fake["mean"] - before.fake["mean"]) > 1e-4
    assert abs(third[0].student["mean"] - before.student["mean"]) > 1e-4
    assert [int(s.step) for s, _ in (first, second, third)] == [1, 2, 3]


@pytest.mark.slow
def test_an_analytic_teacher_has_its_own_function():
    # The teacher of no parameters; the student starts elsewhere.
    cfg = config(divergence="rkl")
    analytic = cfg._replace(
        teacher_denoise=lambda params, x, t: gaussian_denoise(TEACHER, x, t)
    )
    other = {"mean": jnp.array([0.3]), "log_std": jnp.array([0.2])}
    state = diffusion.distill_state(analytic, (), HEAD, student_params=other)
    assert_same(state.fake, other)
    assert_same(state.ema, other)
    whole = diffusion.distill_state(
        cfg, TEACHER, HEAD, student_params=other, fake_params=other
    )
    ours = stepped(analytic, 2, state=state)[-1][0]
    theirs = stepped(cfg, 2, state=whole)[-1][0]
    assert_same(ours._replace(teacher=()), theirs._replace(teacher=()))
    apart = diffusion.distill_state(
        cfg, TEACHER, HEAD, student_params=other, fake_params=TEACHER
    )
    assert_same(apart.fake, TEACHER)


@pytest.mark.slow
def test_the_expanded_step_in_other_units_is_the_same():
    # Scaled by 1/2, x_t holds what it held: alpha and sigma go together.
    cfg, state = judged()
    law = cfg.law
    halved = cfg._replace(
        law=law._replace(
            alpha=lambda t: law.alpha(t) / 2, sigma=lambda t: law.sigma(t) / 2
        ),
        denoise=lambda params, x, t: gaussian_denoise(params, 2 * x, t),
        discriminate=lambda head, fake, x, t: quadratic_logits(head, fake, 2 * x, t),
    )
    assert_same(stepped(cfg, 1, None, state), stepped(halved, 1, None, state), 1e-4)


def test_the_time_law_of_uni_instruct():
    # sigma = (80^(1/7) + (1 - t)(.002^(1/7) - 80^(1/7)))^7 with t uniform in [0, .8]
    u = np.linspace(0, 1, 11)
    high, low = 80 ** (1 / 7), 0.002 ** (1 / 7)
    theirs = (high + (1 - 0.8 * u) * (low - high)) ** 7
    ours = spaced_time(diffusion.edm(), jnp.asarray(0.8 * u, jnp.float32), 7.0)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert ours.max() < 26  # not t_max: small noise is what the student needs


@pytest.mark.slow
def test_the_other_nets_may_see_log_normal_times():
    cfg = config(aux_log_time=(float(np.log(0.7)), 1e-6), aux_updates=1)
    cfg = cfg._replace(discriminate=lambda head, fake, x, t: t)
    [(_, metrics)] = stepped(cfg, 1)
    expected = np.logaddexp(0, 0.7) + np.logaddexp(0, -0.7)
    np.testing.assert_allclose(metrics["discriminator_loss"], expected, rtol=1e-5)
    assert abs(metrics["abs_logit"] - 0.7) > 0.01  # the student's are spread


@pytest.mark.slow
def test_optimizers_may_zero_what_is_not_a_number():
    cfg, state = judged()
    chain = optax.chain(optax.zero_nans(), optax.sgd(0.1))
    poisoned = jax.tree.map(lambda x: x * jnp.nan, TEACHER)
    state = diffusion.distill_state(
        cfg._replace(student_optimizer=chain),
        poisoned,
        HEAD,
        student_params=TEACHER,
        fake_params=TEACHER,
    )
    [(new, metrics)] = stepped(cfg._replace(student_optimizer=chain), 1, state=state)
    assert_same(new.student, TEACHER)
    assert jnp.isnan(metrics["student_grad_norm"])


@pytest.mark.slow
def test_the_expanded_step_in_low_precision():
    half = lambda params, x, t: gaussian_denoise(params, x, t).astype(jnp.bfloat16)
    logits = lambda *args: quadratic_logits(*args).astype(jnp.bfloat16)
    cfg, state = judged(h_through=True, terms=TERMS)
    cfg = cfg._replace(denoise=half, discriminate=logits)
    [(_, metrics)] = stepped(cfg, 1, jnp.ones((8, 1), jnp.bfloat16), state)
    for name, metric in metrics.items():
        assert jnp.isfinite(metric), name
        assert metric.dtype == jnp.float32, name


@pytest.mark.slow
def test_the_gan_loss_may_have_the_divisor_of_the_other():
    # With a learning rate of 1 the student moves by its gradient: in one dimension,
    # for one sample, the part of the GAN loss is divided by |x0 - D_teacher|.
    def moved(gan_weight, *, gan_omega, omega="abs"):
        cfg, state = judged(gan_weight=gan_weight, gan_omega=gan_omega, omega=omega)
        cfg = cfg._replace(student_optimizer=optax.sgd(1.0))
        state = state._replace(student_opt=optax.sgd(1.0).init(TEACHER))
        ((new, metrics),) = stepped(cfg, 1, jnp.array([[0.3]]), state)
        return new.student["mean"] - state.student["mean"], metrics["gan_loss"]

    without, loss = moved(0.0, gan_omega=False)
    plain = (moved(1.0, gan_omega=False)[0] - without) / loss
    divided, by_omega = moved(1.0, gan_omega=True)
    assert not 0.9 < by_omega / loss < 1.1
    np.testing.assert_allclose((divided - without) / by_omega, plain, rtol=1e-4)
    same = moved(1.0, gan_omega=True, omega=None)[1]
    np.testing.assert_allclose(same, loss, rtol=1e-5)
    with pytest.raises(ValueError, match="gan_omega is True"):
        diffusion.make_step(config(gan_omega=True))


# --- Conditions ----------------------------------------------------------------------

CLASSES = jnp.array([[1.0], [-0.5], [0.3]])


def of_class(params, labels):
    return {"mean": labels @ params["mean"], "log_std": params["log_std"]}


def conditional(**options):
    """The toy with a mean for each of three classes, given as one-hot labels."""
    cfg = config(**options)
    return cfg._replace(
        denoise=lambda params, x, t, labels: gaussian_denoise(
            of_class(params, labels), x, t
        ),
        discriminate=lambda head, fake, x, t, labels: quadratic_logits(
            head, fake, x - labels @ CLASSES, t
        ),
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", ["integral", "expanded"])
def test_one_student_finds_the_law_of_every_class(family):
    cfg = conditional(family=family)
    teacher = TEACHER | {"mean": CLASSES}
    labels = jnp.eye(3)[jnp.arange(96) % 3]
    data = labels @ CLASSES + 0.5 * jax.random.normal(jax.random.key(7), (96, 1))
    step = diffusion.make_step(cfg)

    def body(state, key):
        return step(state, (data, labels), key)

    state = diffusion.distill_state(
        cfg, teacher, HEAD, student_params=teacher | {"mean": jnp.zeros((3, 1))}
    )
    keys = jax.random.split(jax.random.key(0), 800)
    state, _ = jax.jit(lambda state: jax.lax.scan(body, state, keys))(state)
    found = [student_law(of_class(state.ema, row)) for row in jnp.eye(3)]
    means, stds = np.array(found).T
    np.testing.assert_allclose(means, CLASSES[:, 0], atol=0.1)
    np.testing.assert_allclose(stds, 0.5, atol=0.1)


@pytest.mark.slow
def test_a_condition_is_what_a_closure_over_it_is():
    cfg = conditional(family="expanded", gan_weight=0.1, remat=True)
    cfg = cfg._replace(teacher_denoise=lambda *seen: 1.1 * cfg.denoise(*seen))
    labels = jnp.eye(3)[jnp.array([0, 2, 1, 1])]
    closed = cfg._replace(
        denoise=lambda *seen: cfg.denoise(*seen, labels),
        teacher_denoise=lambda *seen: cfg.teacher_denoise(*seen, labels),
        discriminate=lambda *seen: cfg.discriminate(*seen, labels),
    )
    state = diffusion.distill_state(cfg, TEACHER | {"mean": CLASSES}, HEAD)
    x = jnp.linspace(-0.2, 2.0, 4)[:, None]
    given = stepped(cfg, batch=(x, labels), state=state)
    assert_same(given, stepped(closed, batch=x, state=state), rtol=1e-6)


def test_a_condition_has_a_row_for_each_sample():
    step = diffusion.make_step(conditional())
    state = diffusion.distill_state(conditional(), TEACHER | {"mean": CLASSES}, HEAD)
    x, key = jnp.ones((4, 1)), jax.random.key(0)
    with pytest.raises(ValueError, match=r"condition has an array of shape \(3, 3\)"):
        step(state, (x, jnp.eye(3)), key)
    with pytest.raises(ValueError, match="condition has an array of shape"):
        step(state, (x, jnp.float32(0)), key)
    with pytest.raises(ValueError, match="batch is a tuple of 3"):
        step(state, (x, x, x), key)
