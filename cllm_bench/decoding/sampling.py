"""Chooses the next token: greedily, or sampled reproducibly from the model's distribution.

A draw is the Gumbel-max one: the token with the highest `logit / temperature + g`, where g is
standard Gumbel noise; it has exactly the distribution softmax(logits / temperature). The noise
belongs to the place in the reply: it is fixed by the seed before anything is decoded. So a method
that settles, at every place, what is chosen behind the settled tokens before it gives the reply of
autoregressive sampling token for token, however it came by its guesses. That makes sampling as
checkable as greedy decoding: a method for which only the distribution is kept must be tested by
statistics, and this needs none.

Source of the coupling: Daliri, Musco, Suresh 2024 (arXiv 2408.07978), there between two models.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cllm_bench.contracts import Sampling

BLOCK = 32  # places whose noise is made at once
KEPT = 8  # blocks kept


class Chooser:
    """Chooses the tokens of one reply.

    Args:
        sampling: Temperature, nucleus and seed. At temperature 0 the choice is the argmax.
        device: The device of the logits.
    """

    def __init__(self, sampling: Sampling, device: torch.device) -> None:
        self._sampling = sampling
        self._device = device
        self._blocks: dict[int, Tensor] = {}

    @property
    def greedy(self) -> bool:
        """Whether no noise is added."""
        return self._sampling.temperature == 0

    def __call__(
        self,
        logits: Tensor,  # (T, V)
        place: int,
        depth: Tensor | None = None,  # (T,)
    ) -> Tensor:  # (T,)
        """Return the token chosen by each row, on the device.

        Args:
            logits: The logits of the rows.
            place: The index, in the reply, of the token that follows the first row.
            depth: The distance of each row from the first; by default a chain, 0 … T-1.
        """
        return self.scores(logits, place, depth).argmax(-1)

    def scores(
        self,
        logits: Tensor,  # (T, V)
        place: int,
        depth: Tensor | None = None,  # (T,)
    ) -> Tensor:  # (T, V)
        """Return the scores whose argmax is the choice: logits, with noise where sampled."""
        if self.greedy:
            return logits
        noise = self._noise(place, logits.shape[0] if depth is None else None, depth, logits)
        return log_probabilities(logits, self._sampling) + noise

    def _noise(
        self, place: int, rows: int | None, depth: Tensor | None, logits: Tensor
    ) -> Tensor:  # (T, V)
        if depth is not None:
            rows = int(depth.max()) + 1
        assert rows is not None
        first, last = place // BLOCK, (place + rows - 1) // BLOCK
        blocks = [self._block(index, logits.shape[-1]) for index in range(first, last + 1)]
        start = place - first * BLOCK
        noise = torch.cat(blocks)[start : start + rows] if len(blocks) > 1 else blocks[0][start:]
        return noise[:rows] if depth is None else noise[depth.to(noise.device)]

    def _block(self, index: int, vocabulary: int) -> Tensor:  # (BLOCK, V)
        if index not in self._blocks:
            while len(self._blocks) >= KEPT:
                del self._blocks[min(self._blocks)]
            generator = torch.Generator(self._device)
            generator.manual_seed((self._sampling.seed << 20) + index)
            noise = torch.empty(BLOCK, vocabulary, device=self._device)
            noise.exponential_(generator=generator)
            self._blocks[index] = noise.clamp_min_(torch.finfo(noise.dtype).tiny).log_().neg_()
        return self._blocks[index]


def log_probabilities(
    logits: Tensor,  # (T, V)
    sampling: Sampling,
) -> Tensor:  # (T, V), float32
    """Return the logarithm of the distribution that is drawn from, up to a constant.

    Outside the nucleus (the fewest most likely tokens whose probabilities reach top_p) it is -inf.

    Raises:
        ValueError: The temperature is 0: greedy decoding draws nothing.
    """
    if sampling.temperature <= 0:
        raise ValueError("temperature 0 has no distribution")
    scaled = logits.float() / sampling.temperature
    if sampling.top_p >= 1:
        return scaled
    ordered, order = scaled.softmax(-1).sort(-1, descending=True)
    outside = ordered.cumsum(-1) - ordered >= sampling.top_p
    return scaled.masked_fill(outside.scatter(-1, order, outside), -torch.inf)


def probabilities(
    logits: Tensor,  # (T, V)
    sampling: Sampling,
) -> Tensor:  # (T, V), float32
    """Return the distribution that is drawn from, after temperature and nucleus."""
    return log_probabilities(logits, sampling).softmax(-1)
