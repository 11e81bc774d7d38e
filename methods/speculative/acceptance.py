"""Drafting and acceptance of tokens in one reply of speculative decoding.

Both rules leave one small copy from the device to a pass. Places are indices in the reply.
Shapes: K drafted tokens, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from cllm_bench.contracts import Sampling
    from cllm_bench.decoding.sampling import Chooser
    from cllm_bench.engine.session import Output


class Acceptance(Protocol):
    """A rule for one reply."""

    @property
    def greedy(self) -> bool:
        """Whether the draft's choice is its likeliest token."""
        ...

    def draft(
        self,
        place: int,
        ahead: int,
        logits: Tensor,  # (1, V)
    ) -> Tensor:  # (1,)
        """Choose the draft's token for place + ahead; it stays on the device."""
        ...

    def settle(
        self,
        output: Output,  # of K + 1 rows
        guesses: Tensor,  # (K,)
        place: int,
    ) -> tuple[int, ...]:
        """Accept guesses, and choose the target's own token behind them.

        Args:
            output: Of the target: the row that the first guess is judged by, …, that behind the
                last guess.
            guesses: What the draft chose since the last call.
            place: Of the first guess.
        """
        ...


class Matching:
    """Both models choose alike, greedily or with the same noise; a guess is kept where they agree.

    Source of the latter: Daliri, Musco, Suresh 2024 (arXiv 2408.07978).
    """

    def __init__(self, choose: Chooser) -> None:
        self._choose = choose
        self.greedy = choose.greedy

    def draft(
        self,
        place: int,
        ahead: int,
        logits: Tensor,  # (1, V)
    ) -> Tensor:  # (1,)
        """Choose the draft's token for place + ahead."""
        return self._choose(logits, place + ahead)

    def settle(
        self,
        output: Output,  # of K + 1 rows
        guesses: Tensor,  # (K,)
        place: int,
    ) -> tuple[int, ...]:
        """Return the target's choices up to the first that the draft did not foresee."""
        import torch

        count = guesses.numel()
        ids = torch.cat([guesses, self._choose(output, place)]).tolist()
        pairs = zip(ids[:count], ids[count:], strict=False)
        matches = next((index for index, (a, b) in enumerate(pairs) if a != b), count)
        return tuple(ids[count : count + matches + 1])


class Rejection:
    """A guess x is kept with probability min(1, p(x)/q(x)), else norm(max(0, p - q)) is drawn from.

    p is the target's distribution and q the draft's, both after temperature and nucleus. What is
    settled has distribution p, whatever q is (Leviathan et al. 2023, arXiv 2211.17192, appendix A).
    """

    greedy = False

    def __init__(self, sampling: Sampling, device: torch.device) -> None:
        import torch

        self._sampling = sampling
        self._generator = torch.Generator(device)
        self._generator.manual_seed(sampling.seed)
        self._drafted: list[Tensor] = []  # q of every guess of this pass, each (1, V)

    def draft(
        self,
        place: int,
        ahead: int,
        logits: Tensor,  # (1, V)
    ) -> Tensor:  # (1,)
        """Draw the draft's token."""
        from cllm_bench.decoding.sampling import probabilities

        self._drafted.append(probabilities(logits, self._sampling))
        return self._draw(self._drafted[-1])

    def settle(
        self,
        output: Output,  # of K + 1 rows
        guesses: Tensor,  # (K,)
        place: int,
    ) -> tuple[int, ...]:
        """Return the guesses before the first rejected one, and a token drawn in its place."""
        import torch

        from cllm_bench.decoding.sampling import probabilities

        target = probabilities(output.logits, self._sampling)
        # Behind the last guess nothing was drafted: what is left of p there is all of it.
        draft = torch.cat([*self._drafted, torch.zeros_like(target[:1])])
        self._drafted.clear()
        at = guesses[:, None]
        draws = torch.rand(at.shape, generator=self._generator, device=at.device)
        kept = draws * draft[:-1].gather(1, at) < target[:-1].gather(1, at)  # (K, 1)
        accepted = kept[:, 0].long().cumprod(0).sum(0, keepdim=True)  # (1,)
        own = target.index_select(0, accepted)
        left = (own - draft.index_select(0, accepted)).clamp(min=0)
        # Rounding may leave nothing where p and q are as good as equal.
        token = self._draw(torch.where(left.sum() > 0, left, own))
        count, last, *ids = torch.cat([accepted, token, guesses]).tolist()
        return (*ids[:count], last)

    def _draw(
        self,
        weights: Tensor,  # (1, V)
    ) -> Tensor:  # (1,)
        """Draw in proportion to weights; `torch.multinomial` would wait for the device."""
        import torch

        noise = torch.empty_like(weights).exponential_(generator=self._generator)
        return (weights / noise.clamp_min(torch.finfo(noise.dtype).tiny)).argmax(-1)
