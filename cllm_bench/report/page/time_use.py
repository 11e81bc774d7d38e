"""Where the time of a reply goes: prefill, passes of the verifying model, drafting, the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cllm_bench.engine.passes import parse_shape
from cllm_bench.results.rows import Row


@dataclass(frozen=True, kw_only=True)
class TimeUse:
    """Mean seconds of one reply.

    Prefill and decoding are measured. What decoding is made of is estimated: how often a method ran
    passes of a shape, times how long such a pass takes alone.

    Attributes:
        replies: Replies with a time, over all repeats.
        prefill: To the end of the first step.
        decode: From there to the last token.
        passes: Of `decode`, passes of the checkpoint whose output the method settles; None where
            passes were not timed.
        draft: Of `decode`, passes of other weights, such as a draft model's; None likewise.
    """

    replies: int
    prefill: float
    decode: float
    passes: float | None = None
    draft: float | None = None

    @property
    def total(self) -> float:
        """Seconds from the prompt to the last token."""
        return self.prefill + self.decode

    @property
    def rest(self) -> float | None:
        """What passes do not explain; below 0 where passes in the run were faster than alone."""
        if self.passes is None or self.draft is None:
            return None
        return self.decode - self.passes - self.draft


def time_use(rows: Sequence[Row], seconds: Mapping[str, float]) -> TimeUse | None:
    """Return where the time of one method's replies on one task goes, or None without a time.

    Args:
        rows: Of the method and the task.
        seconds: Of a pass alone, by shape.
    """
    timed = [row for row in rows if row.token_ids and row.prefill_seconds is not None]
    if not timed:
        return None
    count = len(timed)
    found = TimeUse(
        replies=count,
        prefill=sum(row.prefill_seconds or 0.0 for row in timed) / count,
        decode=sum(row.decode_seconds or 0.0 for row in timed) / count,
    )
    shapes = Counter[str]()
    for row in timed:
        shapes.update(row.pass_shapes)
    unknown = any(row.passes and not row.pass_shapes for row in timed)
    if unknown or not shapes or any(shape not in seconds for shape in shapes):
        return found
    by_role = Counter[str]()
    for shape, number in shapes.items():
        by_role[parse_shape(shape).role] += number * seconds[shape] / count  # type: ignore[assignment]
    own = by_role.pop(timed[0].checkpoint, 0.0)
    return TimeUse(
        replies=count,
        prefill=found.prefill,
        decode=found.decode,
        passes=own,
        draft=float(sum(by_role.values())),
    )
