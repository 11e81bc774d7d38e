"""Guess by what has followed each token so far, most often: a table of pairs, and chains of it."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import pairwise

from cllm_bench.contracts import Step
from cllm_bench.errors import UserError


@dataclass(frozen=True)
class Bigram:
    """Guess a chain of each token's most frequent successor in the prompt and the reply so far.

    Attributes:
        guesses: The longest chain that one pass checks.
        checkpoint: The role in the family that decodes.
    """

    exactness = "exact"
    sampled = "exact"

    guesses: int = 4
    checkpoint: str = "target"

    def __post_init__(self):
        if self.guesses < 1:
            raise UserError(f"guesses must be at least 1, not {self.guesses}")

    def bind(self, family):
        """Open a session on the checkpoint."""
        session = family.session(self.checkpoint)

        def decode(prompt_ids, sampling):
            from cllm_bench import Chooser

            choose = Chooser(sampling, prompt_ids.device)
            settled = choose.tokens(session.prefill(prompt_ids), 0)
            yield Step(tuple(settled))
            successors = defaultdict(Counter)
            pairs = [*prompt_ids.tolist(), *settled]  # whose tokens are still to be counted
            place = 1  # in the reply, of the token that the next pass gives
            while True:
                for token, successor in pairwise(pairs):
                    successors[token][successor] += 1
                chain = [pairs[-1]]
                while chain[-1] in successors and len(chain) < min(self.guesses + 1, session.room):
                    chain.append(successors[chain[-1]].most_common(1)[0][0])
                chosen = choose.tokens(session.forward(chain), place)
                accepted = 0
                while accepted < len(chain) - 1 and chain[accepted + 1] == chosen[accepted]:
                    accepted += 1
                settled = chosen[: accepted + 1]
                session.keep(len(settled))
                yield Step(tuple(settled), drafted=len(chain) - 1)
                pairs = [chain[0], *settled]
                place += len(settled)

        return decode
