import os
import re

import jax
import pytest


def pytest_configure(config):
    # Nearly all the time of these tests is XLA's: what one of them has compiled, the
    # other worker, the programs that they start and the next run read from here.
    cache = str(config.rootpath / ".cache" / "jax")
    for name, value in {
        "jax_compilation_cache_dir": os.environ.get("JAX_COMPILATION_CACHE_DIR", cache),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }.items():
        os.environ[name.upper()] = str(value)
        jax.config.update(name, value)


def pytest_collection_modifyitems(items):
    # The Makefile compiles these in another way than the rest.
    bessel = re.compile("bessel|special|vmf|von_mises|spher|expfam|exponential_family")
    for item in items:
        if bessel.search(item.nodeid):
            item.add_marker(pytest.mark.bessel)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(autouse=True, scope="module")
def _compiled_programs_do_not_pile_up():
    yield
    jax.clear_caches()
