import jax
import pytest

from tests import helpers
from tests.registry import CASES


def parametrize(select):
    """Every selected case; slow are solvers, and later cases of one function."""
    names, params = set(), []
    for i, case in enumerate(filter(select, CASES)):
        slow = case.slow or case.in_scan or case.name in names
        marks = [pytest.mark.slow] if slow else []
        name = f"{case.name.removeprefix('jaxdiv.')}-{i}"
        params.append(pytest.param(case, id=name, marks=marks))
        names.add(case.name)
    return pytest.mark.parametrize("case", params)


@parametrize(lambda case: case.order > 0)
def test_derivatives(case):
    helpers.check_derivatives(case.call, case.args, order=1, rtol=case.rtol)


@pytest.mark.slow
@parametrize(lambda case: case.order > 1)
def test_second_derivatives(case):
    helpers.check_derivatives(
        case.call, case.args, in_scan=case.in_scan, rtol=case.rtol
    )


@parametrize(lambda case: case.transforms)
def test_transforms(case):
    helpers.check_transforms(case.call, case.args)


@parametrize(lambda case: case.dtypes)
def test_dtypes(case):
    call = jax.jit(case.call) if case.transforms else case.call
    helpers.check_dtypes(call, case.args)


BAD = [(case.name, bad) for case in CASES for bad in case.bad]


@pytest.mark.parametrize(
    ("name", "bad"), BAD, ids=[f"{name}-{i}" for i, (name, _) in enumerate(BAD)]
)
def test_bad_input(name, bad):
    helpers.check_bad_input(bad.call, bad.error, *bad.words)
