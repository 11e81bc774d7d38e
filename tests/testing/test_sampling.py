"""Checks of sampled replies, token for token and by statistics."""

import pytest
import torch
from broken_methods import Plain, suite_of

from cllm_bench.decoding.sampling import probabilities


class ArgmaxAtTemperature(Plain):
    def start(self, prompt_ids):
        super().start(prompt_ids)
        self.choose = lambda logits, place: logits.argmax(-1)


class DrawsAlike(Plain):
    """The noise of place 0 at every place: fixed by the seed, and wrong."""

    def settle(self, rows, logits, place):
        return super().settle(rows, logits, 0)


class Draws(Plain):
    """Keeps a guess x with probability p(x), else draws from what is left; greedy as it should."""

    def __call__(self, prompt_ids, sampling):
        self.sampling = sampling
        self.generator = torch.Generator().manual_seed(sampling.seed)
        return super().__call__(prompt_ids, sampling)

    def settle(self, rows, logits, place):
        if self.sampling.temperature == 0:
            return super().settle(rows, logits, place)
        settled = []
        for guess, p in zip([*rows[1:], None], probabilities(logits, self.sampling), strict=True):
            if guess is not None and torch.rand((), generator=self.generator) < p[guess]:
                settled.append(guess)
                continue
            left = self.left(p, guess)
            settled.append(int(torch.multinomial(left, 1, generator=self.generator)))
            break
        return settled, len(settled)

    def left(self, p, guess):
        return p if guess is None else p.index_fill(0, torch.tensor([guess]), 0.0)


class DrawsARejectedGuess(Draws):
    def left(self, p, guess):
        return p


class DrawsFlatBonus(Draws):
    def guess(self):
        return super().guess()[:1]

    def left(self, p, guess):
        return super().left(p, guess) if guess is not None else torch.ones_like(p)


class DrawsUnseeded(Draws):
    def start(self, prompt_ids):
        super().start(prompt_ids)
        self.generator.seed()


@pytest.mark.parametrize(
    ("cls", "check", "message"),
    [
        (ArgmaxAtTemperature, "sampled_tokens", "Choose with `Chooser`"),
        (ArgmaxAtTemperature, "sampled_seeds", "20 seeds give one and the same reply"),
        (DrawsAlike, "sampled_tokens", "`place` is the index in the reply"),
        (DrawsAlike, "sampled_distribution", "begins"),
        (DrawsARejectedGuess, "sampled_distribution", "from the fourth on do not have"),
        (DrawsFlatBonus, "sampled_distribution", "from its likeliest token"),
        (DrawsUnseeded, "sampled_seeds", "and asked again"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
@pytest.mark.usefixtures("few_models")
def test_wrong_sampling_is_told(cls, check, message):
    declared = "distribution" if issubclass(cls, Draws) else "exact"
    found = suite_of(cls, sampled=declared).result(check)
    assert found.status == "failed"
    assert message in found.message


@pytest.mark.usefixtures("few_models")
def test_right_sampling_of_a_distribution_passes():
    suite = suite_of(Draws, sampled="distribution")
    assert suite.result("sampled_distribution").status == "passed"
    assert suite.result("sampled_seeds").status == "passed"
    assert "sampled = 'distribution'" in suite.result("sampled_tokens").message
