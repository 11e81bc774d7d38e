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
from cllm_bench.engine.session import Output

BLOCK = 32  # places whose noise is made at once
KEPT = 8  # blocks kept
AT_ONCE = (KEPT - 1) * BLOCK  # places that are sure to be among these, wherever they begin


class Chooser:
    """Chooses the tokens of one reply.

    Args:
        sampling: Temperature, nucleus and seed. At temperature 0 the choice is the argmax.
        device: The device of the logits.
    """

    def __init__(self, sampling: Sampling, device: torch.device) -> None:
        self._sampling = sampling
        self._device = device
        self._ring = torch.empty(0)  # (KEPT * BLOCK, V): of place p in row p % (KEPT * BLOCK)
        self._blocks = [-1] * KEPT  # whose noise lies there

    @property
    def greedy(self) -> bool:
        """Whether no noise is added."""
        return self._sampling.temperature == 0

    def __call__(
        self,
        output: Output | Tensor,  # of T rows; or their logits, (T, V)
        place: int,
        depth: Tensor | None = None,  # (T,)
    ) -> Tensor:  # (T,)
        """Return the token chosen by each row, on the device.

        Args:
            output: The output of a pass, or its logits.
            place: The index, in the reply, of the token that follows the first row.
            depth: The distance of each row from the first; by default a chain, 0 … T-1.
        """
        if isinstance(output, Tensor):
            return self.scores(output, place, depth).argmax(-1)
        if self.greedy:
            return output.choices
        return self.scores(output.logits, place, depth).argmax(-1)

    def tokens(
        self,
        output: Output,
        place: int,
        depth: Tensor | None = None,  # (T,)
    ) -> list[int]:
        """Return the token chosen by each row, read back in one copy; arguments as above."""
        if self.greedy:
            return output.tokens()
        found: list[int] = self(output.logits, place, depth).tolist()
        return found

    def scores(
        self,
        logits: Tensor,  # (T, V)
        place: int,
        depth: Tensor | None = None,  # (T,)
    ) -> Tensor:  # (T, V)
        """Return the scores whose argmax is the choice: logits, with noise where sampled."""
        if self.greedy:
            return logits
        return log_probabilities(logits, self._sampling) + self._noise(logits, place, depth)

    def _noise(
        self,
        logits: Tensor,  # (T, V)
        place: int,
        depth: Tensor | None,  # (T,)
    ) -> Tensor:  # (T, V)
        rows, vocabulary = logits.shape
        if rows > AT_ONCE:
            if depth is not None:
                raise ValueError(f"drawn trees have at most {AT_ONCE} rows, not {rows}")
            starts = range(0, rows, AT_ONCE)
            parts = [self._noise(logits[at : at + AT_ONCE], place + at, None) for at in starts]
            return torch.cat(parts)
        # No row is deeper than there are rows before it: so the device need not be asked.
        for block in range(place // BLOCK, (place + rows - 1) // BLOCK + 1):
            self._draw(block, vocabulary)
        if depth is None:
            depth = torch.arange(rows, device=self._device)
        found: Tensor = self._ring[(depth.to(self._device) + place) % (KEPT * BLOCK)]
        return found

    def _draw(self, block: int, vocabulary: int) -> None:
        """Make the noise of a block, unless it is there."""
        slot = block % KEPT
        if self._blocks[slot] == block:
            return
        if not self._ring.numel():
            self._ring = torch.empty(KEPT * BLOCK, vocabulary, device=self._device)
        generator = torch.Generator(self._device)
        generator.manual_seed((self._sampling.seed << 20) + block)
        noise = self._ring[slot * BLOCK : (slot + 1) * BLOCK]
        noise.exponential_(generator=generator)
        noise.clamp_min_(torch.finfo(noise.dtype).tiny).log_().neg_()
        self._blocks[slot] = block


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
