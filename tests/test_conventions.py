"""Every line of docs/conventions.md: the other's formula, recomputed, against ours.

The left sides are the definitions of papers and libraries, in NumPy on probabilities;
the right sides are what the page says they are here.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax.losses
import pytest
import scipy.spatial

from jaxdiv import divergence

PI = np.array([0.5, 0.3, 0.15, 0.05])  # the policy or student
REF = np.array([0.2, 0.25, 0.25, 0.3])  # the reference, target or teacher
log_pi, log_ref = np.log(PI), np.log(REF)


@pytest.fixture(autouse=True)
def _double(x64):
    del x64


def close(theirs, ours):
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def expect(law, values):
    return np.sum(law * values)


def js_unscaled(u):
    return u * np.log(u) - (u + 1) * np.log((u + 1) / 2)


def test_f_dpo():
    u = PI / REF  # D_f(pi, ref) = E_ref f(pi/ref)
    close(expect(REF, u * np.log(u)), divergence.kl(log_pi, log_ref))
    close(expect(REF, -np.log(u)), divergence.reverse_kl(log_pi, log_ref))
    close(expect(REF, js_unscaled(u)), 2 * divergence.js(log_pi, log_ref))
    a = 0.3
    f = (u ** (1 - a) - (1 - a) * u - a) / (a * (a - 1))
    close(expect(REF, f), divergence.alpha(log_pi, log_ref, 1 - a))


def test_trl_alpha_divergence():
    u, c = PI / REF, 0.7  # it is given by its derivative, (t^(c-1) - 1)/(c - 1)
    slope = (u ** (c - 1) - 1) / (c - 1)
    close(slope, divergence.get("alpha", a=c).f_prime(jnp.log(u)))


def test_f_dpg():
    t = PI / REF  # f'(t) of D_f(pi || p) = E_p f(pi/p), p the target
    ell = jnp.log(t)
    prime = lambda name: divergence.get(name).f_prime(ell)
    close(-1 / t, prime("reverse_kl"))  # its "forward KL"
    close(np.log(t) + 1, prime("kl"))  # its "reverse KL"
    close(np.log(2 * t / (t + 1)), 2 * prime("js"))
    close(np.sign(t - 1) / 2, prime("tv"))
    close(1 - t**-2, prime("neyman_chi2"))  # chi2(p || pi)
    close(2 * (t - 1), prime("pearson_chi2"))


def test_dph_rl():
    u = PI / REF  # sampled from pi0
    close(expect(REF, u - 1 - np.log(u)), divergence.reverse_kl(log_pi, log_ref))
    close(expect(REF, js_unscaled(u)), 2 * divergence.js(log_pi, log_ref))


def test_f_distill():
    r = REF / PI  # teacher over student
    ours = lambda name: divergence.f_divergence(log_ref, log_pi, name)
    close(expect(PI, r * np.log(r)), ours("fkl"))
    close(expect(PI, -np.log(r)), ours("rkl"))
    close(expect(PI, (r + 1) * np.log((r + 1) / (2 * r))), ours("srkl"))
    close(expect(PI, js_unscaled(r)), 2 * ours("js"))
    close(expect(PI, (1 - np.sqrt(r)) ** 2), 2 * ours("sq_hellinger"))
    close(expect(PI, (r - 1) ** 2 / (r + 1)), 2 * ours("lecam"))
    close(expect(PI, (r - 1) * np.log(r)), ours("jeffreys"))
    close(expect(PI, (r - 1) ** 2), ours("pearson"))
    close(expect(PI, (r - 1) ** 2 / r), ours("neyman"))


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_gkd_and_liger_jsd(beta):
    m = beta * REF + (1 - beta) * PI  # teacher, student
    theirs = beta * expect(REF, np.log(REF / m)) + (1 - beta) * expect(
        PI, np.log(PI / m)
    )
    close(theirs, divergence.generalized_js(log_ref, log_pi, beta))


def test_gkd_end_points():
    # Their beta = 0 and 1 are redefined as the KL divergences; ours are the limits of
    # the rescaled record.
    for w, limit in (
        (1e-8, expect(REF, np.log(REF / PI))),
        (1 - 1e-8, expect(PI, np.log(PI / REF))),
    ):
        record = divergence.rescale(divergence.get("gjs", w=w))
        ours = divergence.f_divergence(log_ref, log_pi, record)
        np.testing.assert_allclose(ours, limit, rtol=1e-7)


def test_torch_kl_div():
    # torch.nn.functional.kl_div(input=log q, target=p): sum p (log p - log q)
    theirs = np.sum(REF * (np.log(REF) - log_pi))
    close(theirs, divergence.kl(log_ref, log_pi))


def test_schulman_estimators():
    d = log_ref - log_pi  # log p - log q, samples of q = the policy: KL(q || p)
    estimate = lambda kind: divergence.mc_estimate(d, "reverse_kl", kind=kind)
    close(-d, estimate("k1"))
    close(d**2 / 2, estimate("k2"))
    close(np.expm1(d) - d, estimate("k3"))
    close(divergence.kl(log_pi, log_ref), expect(PI, estimate("k3")))


def test_amari_and_cressie_read():
    close(
        4 / (1 - 0.4**2) * (1 - np.sum(PI ** (1.4 / 2) * REF ** (0.6 / 2))),
        divergence.alpha(log_pi, log_ref, (1 + 0.4) / 2),
    )  # Amari's alpha = 0.4
    lam = 2 / 3
    close(
        2 / (lam * (lam + 1)) * np.sum(PI * ((PI / REF) ** lam - 1)),
        2 * divergence.alpha(log_pi, log_ref, lam + 1),
    )  # Cressie and Read, as scipy.stats.power_divergence has it


def test_jensenshannon_of_scipy():
    close(
        scipy.spatial.distance.jensenshannon(PI, REF) ** 2,
        divergence.js(log_pi, log_ref),
    )


def test_optax_argument_order():
    theirs = optax.losses.kl_divergence_with_log_targets(
        jnp.array(log_pi), jnp.array(log_ref)
    )
    close(theirs, divergence.kl(log_ref, log_pi))


def test_every_record_is_ours(x64):
    del x64
    for name in divergence.names():
        parameters = {"alpha": {"a": 0.3}}.get(name, {"w": 0.3})
        family = name in ("alpha", "gjs", "skew_kl", "skew_rkl")
        record = divergence.get(name, **(parameters if family else {}))
        terms = REF * record.f(jnp.array(log_pi - log_ref))
        close(jnp.sum(terms), divergence.f_divergence(log_pi, log_ref, record))
        value = jax.jit(lambda p, q, r=record: divergence.f_divergence(p, q, r))
        close(value(log_pi, log_ref), jnp.sum(terms))
