"""Examples to learn from: weights, padding and batches."""

from cllm_bench_methods.recipes.examples import Answers, Example, collate


def test_answers_are_weighted_and_padding_is_not():
    batch = collate([Example([1, 2, 3], [4, 5]), Example([6], [7])], prompt_weight=0.25)
    padding = [0] * 3  # to a multiple of 8
    assert batch["ids"].tolist() == [[1, 2, 3, 4, 5, *padding], [6, 7, 0, 0, 0, *padding]]
    assert batch["weights"].tolist() == [[0, 0.25, 0.25, 1, 1, *padding], [0, 1, 0, 0, 0, *padding]]


def test_a_batch_is_the_same_whenever_it_is_asked_for():
    examples = [Example([1] * (1 + i % 9), [2] * (1 + i % 5)) for i in range(100)]
    answers = Answers(examples, tokens=50, seed=3)
    forward = [answers.batch(number) for number in range(60)]
    again = Answers(examples, tokens=50, seed=3)
    assert [again.batch(number) for number in reversed(range(60))] == forward[::-1]
    sizes = [max(e.length for e in batch) * len(batch) for batch in forward]
    assert max(sizes) <= 50
    epoch = []
    while len(epoch) < len(examples):
        epoch += forward.pop(0)
    assert sorted(epoch) == sorted(examples)
