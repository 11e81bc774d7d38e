"""Lookahead's pool holds the newest n-grams of the text and of the window."""

from cllm_bench_methods.lookahead.ngram_pool import NgramPool


def test_the_pool_keeps_the_newest_of_each_key():
    pool = NgramPool(3, 2)
    for gram in ((1, 2, 3), (1, 4, 5), (2, 0, 0), (1, 2, 3), (1, 6, 7)):
        pool.store(gram)
    assert pool.guesses(1, 9) == [(6, 7), (2, 3)]  # (4, 5) was seen longest ago
    assert pool.guesses(1, 1) == [(6, 7)]
    assert pool.guesses(2, 9) == [(0, 0)]
    assert pool.guesses(3, 9) == []


def test_settled_tokens_give_the_ngrams_of_the_text_however_they_come():
    text = [1, 2, 3, 1, 2, 4, 1, 5]
    for cut in range(len(text)):
        pool = NgramPool(3, 9)
        pool.read(text[:cut])
        pool.read(text[cut:])
        assert pool.guesses(1, 9) == [(2, 4), (2, 3)]
        assert pool.guesses(2, 9) == [(4, 1), (3, 1)]
        assert pool.guesses(4, 9) == [(1, 5)]
        assert pool.guesses(5, 9) == []
