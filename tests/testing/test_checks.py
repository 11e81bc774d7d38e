"""Each check of greedy decoding says what is wrong with a decoder that breaks it."""

import random

import pytest
import torch
from broken_methods import KeepsOneMore, Plain, YieldsNothing, suite_of

from cllm_bench.contracts import Step
from cllm_bench.testing.methods import CHECKS


class KeepsOneLess(Plain):
    def settle(self, rows, logits, place):
        settled, kept = super().settle(rows, logits, place)
        return settled, max(1, kept - 1)


class LosesTheLastToken(Plain):
    def settle(self, rows, logits, place):
        settled, kept = super().settle(rows, logits, place)
        if len(settled) == len(rows) > 1:
            return settled[:-1], kept
        return settled, kept


class DropsTheBonus(Plain):
    """It stays exact: the token comes with the next pass."""

    def settle(self, rows, logits, place):
        settled, kept = super().settle(rows, logits, place)
        return (settled[:-1], kept - 1) if len(settled) == len(rows) > 1 else (settled, kept)


class ForgetsToReset(Plain):
    def first(self, prompt_ids):
        logits = self.session.forward(prompt_ids).logits[-1:]
        self.session.keep(len(prompt_ids))
        return logits


class LearnsFromEarlierPrompts(Plain):
    def start(self, prompt_ids):
        self.seen += prompt_ids.tolist()


class GuessesUnseeded(Plain):
    def guess(self):
        return random.sample(self.seen, min(len(self.seen), self.guesses))


class AcceptsTheSecondBest(Plain):
    def accepted(self, rows, chosen, logits):
        best = logits.topk(2).indices.tolist()
        count = 0
        while count < len(rows) - 1 and rows[count + 1] in best[count]:
            chosen[count] = rows[count + 1]
            count += 1
        return count


class TakesTheWrongRow(Plain):
    def settle(self, rows, logits, place):
        settled, kept = super().settle(rows, logits, place)
        if len(settled) > 1:
            settled[-1] = int(logits[0].argmax())
        return settled, kept


class BeginsWithTheSecondBest(Plain):
    def first(self, prompt_ids):
        logits = super().first(prompt_ids)
        return logits.scatter(1, logits.argmax(-1, keepdim=True), -100.0)


class YieldsTensors(Plain):
    def step(self, settled, drafted):
        return Step(tuple(torch.tensor(settled)), drafted)


class YieldsTuples(Plain):
    def step(self, settled, drafted):
        return tuple(settled)


class HidesGuesses(Plain):
    def step(self, settled, drafted):
        return Step(tuple(settled))


class HidesPasses(Plain):
    """Two passes of one row each, sold as one that settled a guess."""

    def __call__(self, prompt_ids, sampling):
        steps = super().__call__(prompt_ids, sampling)
        yield next(steps)
        while True:
            yield Step(next(steps).tokens + next(steps).tokens, drafted=1)

    def guess(self):
        return []

    def step(self, settled, drafted):
        self.session.forward(settled)
        self.session.keep(0)
        return Step(tuple(settled), drafted)


class SplitsPasses(Plain):
    def __call__(self, prompt_ids, sampling):
        for step in super().__call__(prompt_ids, sampling):
            for token in step.tokens:
                yield Step((token,), step.drafted)


class EndsEarly(Plain):
    def __call__(self, prompt_ids, sampling):
        steps = super().__call__(prompt_ids, sampling)
        for _ in range(3):
            yield next(steps)


class ReachesTooFar(Plain):
    def longest(self):
        return 100


class Raises(Plain):
    def guess(self):
        return [self.seen.index(-1)]


class CountsTensors(Plain):
    def counters(self):
        return {"rate": torch.tensor(1.0)}


@pytest.mark.parametrize(
    ("cls", "check", "message"),
    [
        (KeepsOneMore, "exactness", "`session.keep` committed 1 row too many"),
        (KeepsOneLess, "exactness", "`session.keep` committed 1 row too few"),
        (LosesTheLastToken, "exactness", "`session.keep` committed 1 row too many"),
        (ForgetsToReset, "exactness", "A fresh decoder gets it right"),
        (AcceptsTheSecondBest, "exactness", "It is a guess that was accepted"),
        (TakesTheWrongRow, "exactness", "It is the last of its step"),
        (BeginsWithTheSecondBest, "exactness", "Step 0 (the prefill) settled"),
        (DropsTheBonus, "bonus_token", "the last row gives a further token"),
        (LearnsFromEarlierPrompts, "fresh_start", "Everything starts anew with each prompt"),
        (GuessesUnseeded, "fresh_start", ": other steps. Step"),
        (YieldsNothing, "steps", "settles no token"),
        (YieldsTensors, "steps", "tokens must be a tuple of int, not (tensor("),
        (YieldsTuples, "steps", "is a tuple; yield cllm_bench.contracts.Step"),
        (HidesGuesses, "steps", "tokens with drafted=0"),
        (HidesPasses, "steps", "forward passes of the 'target' model"),
        (SplitsPasses, "steps", "comes without a forward pass of the 'target' model"),
        (EndsEarly, "steps", "the steps end after"),
        (Raises, "steps", "raised ValueError: -1 is not in list (test_checks.py, line"),
        (ReachesTooFar, "last_position", "at most `session.room` rows"),
        (CountsTensors, "counters", "counters() has 'rate': tensor(1.); not a name and a number"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
@pytest.mark.usefixtures("few_models")
def test_what_is_wrong_is_told(cls, check, message):
    random.seed(0)
    found = suite_of(cls).result(check)
    assert found.status == "failed"
    assert message in found.message


@pytest.mark.usefixtures("few_models")
def test_a_failure_names_prompt_step_and_tokens():
    text = suite_of(AcceptsTheSecondBest).result("exactness").message
    for part in ("Llama", "a prompt of", "token", "plain autoregressive decoding gives", "Step"):
        assert part in text


@pytest.mark.usefixtures("few_models")
def test_a_lossy_method_need_not_be_exact():
    suite = suite_of(AcceptsTheSecondBest, exactness="lossy", sampled=None)
    results = {check: suite.result(check) for check in CHECKS}
    assert not [each for each in results.values() if each.status == "failed"]
    assert "declares itself lossy" in results["exactness"].message
    assert "decodes greedily only" in results["sampled_tokens"].message
    assert results["rollback"].status == results["last_position"].status == "passed"
