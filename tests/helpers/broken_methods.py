"""A method that keeps the contract, and two decoders that break it; others derive theirs."""

from dataclasses import dataclass
from typing import ClassVar

from cllm_bench.contracts import Step
from cllm_bench.decoding.sampling import Chooser
from cllm_bench.testing.methods import MethodSuite


class Plain:
    """A decoder that guesses what followed the newest token last time; broken ones are below."""

    def __init__(self, settings, session):
        self.guesses, self.session, self.seen = settings.guesses, session, []

    def __call__(self, prompt_ids, sampling):
        self.choose = Chooser(sampling, prompt_ids.device)
        self.start(prompt_ids)
        self.seen.append(int(self.choose(self.first(prompt_ids), 0)))
        yield Step((self.seen[-1],))
        place = 1
        while True:
            rows = [self.seen[-1], *self.guess()][: self.longest()]
            settled, kept = self.settle(rows, self.session.forward(rows).logits, place)
            self.session.keep(kept)
            self.seen += settled
            yield self.step(settled, len(rows) - 1)
            place += len(settled)

    def start(self, prompt_ids):
        self.seen = prompt_ids.tolist()

    def first(self, prompt_ids):
        return self.session.prefill(prompt_ids).logits

    def longest(self):
        return max(1, self.session.room)

    def guess(self):
        found = [self.seen[-1]]
        for _ in range(self.guesses):
            earlier = [i for i, token in enumerate(self.seen[:-1]) if token == found[-1]]
            found += [self.seen[earlier[-1] + 1]] if earlier else []
        return found[1:]

    def settle(self, rows, logits, place):
        chosen = self.choose(logits, place).tolist()
        accepted = self.accepted(rows, chosen, logits)
        return chosen[: accepted + 1], accepted + 1

    def accepted(self, rows, chosen, logits):
        count = 0
        while count < len(rows) - 1 and rows[count + 1] == chosen[count]:
            count += 1
        return count

    def step(self, settled, drafted):
        return Step(tuple(settled), drafted)


@dataclass(frozen=True)
class Chain:
    """Guess what followed the newest token last time."""

    exactness: ClassVar[str] = "exact"
    sampled: ClassVar[str | None] = "exact"
    decoder: ClassVar[type] = Plain

    guesses: int = 3
    checkpoint: str = "target"

    def bind(self, family):
        return self.decoder(self, family.session(self.checkpoint))


def suite_of(decoder, **attributes):
    """The suite of the method that decodes so, and declares what is given."""
    namespace = {"__doc__": "A method.", "decoder": decoder, **attributes}
    return MethodSuite(type("Mine", (Chain,), namespace)(), [], None, None, None)


class KeepsOneMore(Plain):
    def settle(self, rows, logits, place):
        settled, kept = super().settle(rows, logits, place)
        return settled, min(kept + 1, len(rows))


class YieldsNothing(Plain):
    def step(self, settled, drafted):
        return Step(tuple(settled) if drafted else (), drafted)
