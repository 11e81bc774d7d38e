"""All that a package needs to test a method."""

from cllm_bench_bigram import Bigram

from cllm_bench.testing.methods import method_suite

test_contract = method_suite(Bigram())
test_contract_with_one_guess = method_suite(Bigram(guesses=1))
