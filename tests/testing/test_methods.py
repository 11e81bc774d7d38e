"""The suite passes methods that keep the contract, by pytest and by call."""

import pytest
from broken_methods import Chain, KeepsOneMore, Plain, YieldsNothing, suite_of
from families import write_family

from cllm_bench.errors import UserError
from cllm_bench.testing.methods import CHECKS, check_method, method_suite

test_the_baseline_keeps_the_contract = method_suite("ar")


test_jacobi_keeps_the_contract = method_suite("jacobi:block_size=5,refill=sliding")


UNBROKEN = suite_of(Plain)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.usefixtures("few_models")
def test_the_unbroken_chain_keeps_the_contract(check):
    assert UNBROKEN.result(check).status == "passed", UNBROKEN.result(check).message


@pytest.mark.usefixtures("few_models")
def test_what_builds_on_a_failure_is_not_tried():
    suite = suite_of(YieldsNothing)
    assert suite.result("sampled_distribution").message == "not tried, for 'steps' failed"
    assert suite_of(KeepsOneMore).result("rollback").message == "not tried, for 'exactness' failed"


def test_pytest_is_told():
    test = method_suite(suite_of(YieldsNothing).method)
    with pytest.raises(pytest.fail.Exception, match="settles no token"):
        test("steps")
    with pytest.raises(pytest.skip.Exception, match="not tried"):
        test("exactness")


def test_an_author_s_family(tmp_path):
    family = write_family(tmp_path)
    results = {each.check: each for each in check_method(Chain, model=str(family))}
    assert not [each for each in results.values() if each.status == "failed"]
    assert results["exactness"].message == "5 replies of 32 tokens"
    for name in ("last_position", "sampled_distribution"):
        assert "only on the suite's own" in results[name].message
    with pytest.raises(UserError, match="no model 'nowhere'"):
        check_method(Chain, model="nowhere")
