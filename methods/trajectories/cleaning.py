"""Filters and augments collected trajectories.

Source: Kou et al. 2024 (arXiv 2403.00835), sections 3.2 and 4; the original looks for ten identical
tokens only, and counts those of the prompt too.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

from cllm_bench.decoding.repetition import RUN, is_repetitive
from cllm_bench.errors import UserError

from .shards import Record

Decode = Callable[[Sequence[int]], str]

EXAMPLES = 20  # sample ids that a report names for each reason
SENTENCE_WORDS = 4  # shorter ones repeat in good answers too
SENTENCE_REPEATS = 3
# A full stop ends a sentence only before a space or the end: not in 3.14 nor in singer.name.
_SENTENCE_END = re.compile(r"[!?;\n]|\.(?=\s|$)")


@dataclass
class Dropped:
    """What was dropped for one reason.

    Attributes:
        answers: Whole answers.
        records: Their blocks.
        samples: Ids of the first of them.
    """

    answers: int = 0
    records: int = 0
    samples: list[str] = field(default_factory=list)


@dataclass
class CleaningReport:
    """What became of the records.

    Attributes:
        answers: Those that came in.
        records: Their blocks.
        kept_answers: Those that were left.
        kept_records: Their blocks.
        dropped: For each reason. An answer counts once, at the first of its reasons.
        augmented_records: Blocks in whose states something was overwritten.
        augmented_tokens: How many tokens were overwritten.
    """

    answers: int = 0
    records: int = 0
    kept_answers: int = 0
    kept_records: int = 0
    dropped: dict[str, Dropped] = field(default_factory=dict)
    augmented_records: int = 0
    augmented_tokens: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, fit for JSON."""
        return asdict(self)


def prepare(
    records: Sequence[Record],
    *,
    augment: float,
    clean: bool,
    unfinished: bool,
    seed: int,
    decode: Decode,
) -> tuple[list[Record], dict[str, Any]]:
    """Drop answers that would spoil a model, then augment what is left.

    Args:
        records: Of a collection.
        augment: Share of the wrong tokens to overwrite; 0 leaves the states as they are.
        clean: Whether to drop answers that repeat themselves.
        unfinished: Whether to drop answers that were cut by the limit.
        seed: Of the augmentation.
        decode: Turns ids into text.

    Returns:
        The records to learn from, and the report.

    Raises:
        UserError: `augment` is no share.
    """
    if not 0 <= augment <= 1:
        raise UserError(f"augment is a share of tokens between 0 and 1, not {augment}")
    kept, report = clean_records(records, decode, repetitive=clean, unfinished=unfinished)
    if augment:
        kept = augment_records(kept, seed, augment, report)
    return kept, report.as_dict()


def clean_records(
    records: Sequence[Record],
    decode: Decode,
    *,
    repetitive: bool = True,
    unfinished: bool = False,
) -> tuple[list[Record], CleaningReport]:
    """Drop whole answers: of one bad block the others are bad too, or lead into it.

    Args:
        records: Of a collection, all blocks of an answer among them.
        decode: Turns ids into text.
        repetitive: Whether to drop answers whose generated text repeats itself.
        unfinished: Whether to drop answers that were cut by the limit.
    """
    answers: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        answers.setdefault((record.task, record.sample), []).append(record)
    report = CleaningReport(len(answers), len(records))
    bad = set()
    for name, blocks in answers.items():
        reason = _reason(blocks, decode, repetitive=repetitive, unfinished=unfinished)
        if reason is not None:
            bad.add(name)
            _count(report.dropped.setdefault(reason, Dropped()), blocks)
    kept = [record for record in records if (record.task, record.sample) not in bad]
    report.kept_answers, report.kept_records = len(answers) - len(bad), len(kept)
    return kept, report


def _count(dropped: Dropped, blocks: Sequence[Record]) -> None:
    dropped.answers += 1
    dropped.records += len(blocks)
    if len(dropped.samples) < EXAMPLES:
        dropped.samples.append(blocks[0].sample)


def _reason(
    blocks: Sequence[Record], decode: Decode, *, repetitive: bool, unfinished: bool
) -> str | None:
    """Say why an answer is to be dropped, if it is."""
    if unfinished and not blocks[0].finished:
        return "unfinished"
    if not repetitive:
        return None
    ordered = sorted(blocks, key=lambda record: record.block)
    return repetition([token for record in ordered for token in record.fixed_point], decode)


def repetition(token_ids: Sequence[int], decode: Decode) -> str | None:
    """Name the way in which an answer repeats itself, if it does."""
    if any(sum(1 for _ in run) >= RUN for _, run in groupby(token_ids)):
        return "token_run"
    if is_repetitive(token_ids):
        return "ngram_loop"
    if _repeats_a_sentence(decode(token_ids)):
        return "sentence_loop"
    return None


def _repeats_a_sentence(text: str) -> bool:
    """Tell whether a sentence of some length comes three times, case and spacing aside."""
    sentences = (tuple(part.casefold().split()) for part in _SENTENCE_END.split(text))
    counts = Counter(words for words in sentences if len(words) >= SENTENCE_WORDS)
    return max(counts.values(), default=0) >= SENTENCE_REPEATS


def augment(record: Record, rng: random.Random, share: float = 0.5) -> Record:
    """Put right tokens among the wrong ones: a model then learns to keep what is right by luck.

    In every state but the last two, each wrong token behind the first wrong one is overwritten
    with probability `share`.
    """
    early = tuple(_overwrite(state, record.fixed_point, rng, share) for state in record.states[:-2])
    return record._replace(states=early + record.states[-2:])


def _overwrite(
    state: tuple[int, ...], right: tuple[int, ...], rng: random.Random, share: float
) -> tuple[int, ...]:
    wrong = [index for index, token in enumerate(state) if token != right[index]]
    tokens = list(state)
    for index in wrong[1:]:
        if rng.random() < share:
            tokens[index] = right[index]
    return tuple(tokens)


def augment_records(
    records: Sequence[Record], seed: int, share: float, report: CleaningReport
) -> list[Record]:
    """Augment every record, each by a random source of its own, and note it in the report."""
    found = []
    for record in records:
        name = f"{seed}/{record.task}/{record.sample}/{record.block}"
        changed = augment(record, random.Random(name), share)
        touched = _differences(record, changed)
        report.augmented_records += touched > 0
        report.augmented_tokens += touched
        found.append(changed)
    return found


def _differences(one: Record, other: Record) -> int:
    return sum(
        token != changed
        for state, after in zip(one.states, other.states, strict=True)
        for token, changed in zip(state, after, strict=True)
    )
