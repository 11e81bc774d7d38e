"""Trajectories of Jacobi decoding, collected as training data: block by block, in shards.

Source: Kou et al. 2024 (arXiv 2403.00835), Algorithm 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cllm_bench.contracts import Listen, Sampling
from cllm_bench.core.files import writing
from cllm_bench.errors import UserError

from ..jacobi.method import Jacobi, JacobiDecoder
from . import shards
from .known_answer import ReferenceDecoder
from .shards import CollectionSettings, Counts, Question, Record, read_records

if TYPE_CHECKING:
    from cllm_bench.decoding.loop import Generation
    from cllm_bench.engine.family import ModelFamily

    from ..jacobi.mechanism import Iterate

__all__ = [
    "CollectionSettings",
    "Question",
    "Record",
    "collect",
    "decoder_for",
    "read_records",
    "records_of",
]


def decoder_for(family: ModelFamily, role: str, settings: CollectionSettings) -> JacobiDecoder:
    """Return a decoder on a role's weights that suits the settings."""
    return Jacobi(block_size=settings.block_size, checkpoint=role).bind(family)


def collect(
    questions: Sequence[Question],
    decoder: JacobiDecoder,
    *,
    folder: Path,
    settings: CollectionSettings,
    listen: Listen,
    rank: int = 0,
    world_size: int = 1,
) -> None:
    """Decode every question and leave its records in shards; go on from the shards found there.

    Every answer depends on its own question only, so an interrupted collection, or one divided
    among processes, leaves the same records as one that ran through. The process that finds the
    last shard in place writes the manifest.

    Args:
        questions: All of them, whatever the rank.
        decoder: With blocks as the settings say, where trajectories are kept in full; else its
            session alone is used.
        folder: Made where it is missing; shared by all processes.
        settings: The same in every process.
        listen: Told how many of the questions that are this process's are done.
        rank: This process: it takes every shard whose number leaves this rest.
        world_size: Processes in all.

    Raises:
        UserError: The decoder does not fit, a prompt fills the model's positions, or the folder
            holds the shards of another collection.
    """
    _check_decoder(decoder, settings)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    groups = [
        questions[start : start + settings.shard_size]
        for start in range(0, len(questions), settings.shard_size)
    ]
    keys = [shards.key(group, settings, decoder.settings) for group in groups]
    mine = range(rank, len(groups), world_size)
    done, total = 0, sum(len(groups[index]) for index in mine)
    for index in mine:
        file = shards.file_of(folder, index)
        if file.exists():
            shards.check(file, keys[index])
        else:
            tell = partial(_tell, listen, done, total)
            shards.write(file, *_decode_all(groups[index], decoder, settings, tell), keys[index])
        done += len(groups[index])
        _tell(listen, done, total)
    shards.write_manifest(folder, keys, settings, rank)


def _tell(listen: Listen, before: int, total: int, more: int = 0) -> None:
    listen("trajectories", before + more, total)


def _decode_all(
    questions: Sequence[Question],
    decoder: JacobiDecoder,
    settings: CollectionSettings,
    tell: Callable[[int], None],
) -> tuple[list[Record], Counts]:
    """Return the records of the questions of one shard, and what they took."""
    start = time.perf_counter()
    records: list[Record] = []
    counts = Counts()
    for index, question in enumerate(questions):
        tell(index)
        found, passes = _decode(question, decoder, settings)
        records += found
        counts = counts.with_answer(found, passes)
    return records, counts.after(time.perf_counter() - start)


def _check_decoder(decoder: JacobiDecoder, settings: CollectionSettings) -> None:
    own = decoder.settings
    if settings.full and (own.refill, own.block_size) != ("block", settings.block_size):
        raise UserError(
            f"trajectories in blocks of {settings.block_size} need a decoder with refill=block and "
            f"block_size={settings.block_size}, not refill={own.refill}, "
            f"block_size={own.block_size}"
        )


def _decode(
    question: Question, decoder: JacobiDecoder, settings: CollectionSettings
) -> tuple[list[Record], int]:
    """Return the records of one question, and the passes that they took."""
    import torch

    from cllm_bench.decoding.loop import generate
    from cllm_bench.engine.clock import Clock

    generation = generate(
        # Where fixed points alone are wanted, the reference says best what they may be.
        decoder if settings.full else ReferenceDecoder(decoder.session, question.reference),
        torch.tensor(question.prompt, device=decoder.session.device),
        sampling=Sampling(),
        max_new_tokens=_limit(question, decoder, settings),
        stop_ids=settings.stop_ids,
        clock=Clock(),  # its figures are not used, so nothing need wait for the device
        ends=settings.ends,
    )
    sample, task, prompt, _ = question
    iterates = decoder.iterates if settings.full else None
    found = records_of(sample, task, prompt, generation, iterates, settings.block_size)
    return found, len(generation.accept_lengths)


def _limit(question: Question, decoder: JacobiDecoder, settings: CollectionSettings) -> int:
    """Return the limit of an answer; no block within it is cut by the model's last position."""
    session = decoder.session
    room = session.length + session.room - len(question.prompt)
    if room < 1:
        raise UserError(
            f"the prompt of '{question.sample}' has {len(question.prompt)} tokens and fills the "
            "model's positions; leave it out"
        )
    return min(settings.max_new_tokens, room)


def records_of(
    sample: str,
    task: str,
    prompt: tuple[int, ...],
    generation: Generation,
    iterates: Sequence[Iterate] | None,
    block_size: int,
) -> list[Record]:
    """Cut one answer into records.

    Args:
        sample: Id of the question.
        task: Its task.
        prompt: Ids of the prompt.
        generation: What came of it.
        iterates: Those of the decoder, with the same block size and `refill=block`. Without them
            a record's only state is its fixed point.
        block_size: Tokens in a block.
    """
    tokens = generation.token_ids
    states: dict[int, list[tuple[int, ...]]] = {}
    for each in iterates or ():
        start = each.start - each.start % block_size
        states.setdefault(start, []).append((*tokens[start : each.start], *each.block))
    records = []
    for start in range(0, len(tokens), block_size):
        fixed_point = tokens[start : start + block_size]
        length = len(fixed_point)
        records.append(
            Record(
                sample,
                task,
                start // block_size,
                prompt,
                tokens[:start],
                _distinct([*(s[:length] for s in states.get(start, ())), fixed_point]),
                fixed_point,
                generation.finish == "stop",
            )
        )
    return records


def _distinct(states: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """Drop every state that repeats the one before it: a pass that only verified."""
    return tuple(
        state for index, state in enumerate(states) if not index or state != states[index - 1]
    )
