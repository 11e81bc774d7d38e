"""Prompts of your own from a JSON-lines file: for speed and exactness, quality is not graded.

Each line holds a `prompt`, a `question` or, as in Spec-Bench's question file (Xia et al., 2024),
`turns`: what a user says turn by turn. Without a file the questions of the built-in word problems
are asked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from cllm_bench.contracts import Message, Sample, SampleSet, Source
from cllm_bench.data.json_lines import ASKED, JsonLine, read_json_lines
from cllm_bench.errors import UserError

IDS = ("question_id", "id")
SPEC_BENCH = "question.jsonl"
_BUILT_IN_TRAINING = 2_000


class _Material(NamedTuple):
    label: str
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Prompts:
    """Prompts from a file, as they stand there; of several turns the first is asked.

    Attributes:
        path: The JSON-lines file; None asks what `--data` names.
        max_new_tokens: The limit of one reply.
    """

    metric: ClassVar[str] = "quality not graded"
    best_score: ClassVar[float] = 1.0
    folders: ClassVar[tuple[str, ...]] = ("spec_bench",)

    path: Path | None = None
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens is {self.max_new_tokens}; give at least 1")

    @property
    def stop(self) -> tuple[str, ...]:
        """Nothing but the model's end token ends a reply."""
        return ()

    def samples(self, source: Source) -> SampleSet:
        """Read the file that the setting names, or else the source; a file has no splits.

        Raises:
            UserError: There is no file, or a line of it is damaged.
        """
        material = self._material(source)
        longer = sum(len(sample.data["turns"]) > 1 for sample in material.samples)
        return SampleSet(
            samples=material.samples,
            label=material.label,
            template=self._template(),
            fingerprint=_fingerprint(self._template(), material.samples),
            notes=self._notes(longer, len(material.samples)),
        )

    def score(self, sample: Sample, replies: Sequence[str]) -> None:
        """Grade nothing."""

    def _material(self, source: Source) -> _Material:
        if self.path is not None:
            return _read(self.path)
        if source.kind == "built-in":
            return _built_in(source)
        if source.kind == "folder" and source.path is not None:
            return _read(source.path / SPEC_BENCH)
        raise UserError(
            "prompts are in no public data set: name a JSON-lines file with path=FILE in the "
            f"task's settings, or with --data the folder of Spec-Bench that holds {SPEC_BENCH}"
        )

    def _template(self) -> str:
        return "verbatim"

    def _notes(self, longer: int, total: int) -> tuple[str, ...]:
        if not longer:
            return ()
        return (
            f"{longer} of {total} entries have more than one turn, and only the first is asked; "
            "the task conversations asks them all",
        )


@dataclass(frozen=True, slots=True)
class Conversations(Prompts):
    """Conversations from a file, all turns of them, through a chat template.

    Attributes:
        chat_template: `checkpoint` for the checkpoint's own, or the name of one of the harness's.
    """

    chat_template: str = "checkpoint"

    def turns(self, sample: Sample) -> int:
        """Return the number of turns."""
        return len(sample.data["turns"])

    def messages(self, sample: Sample, replies: Sequence[str]) -> list[Message]:
        """Return the conversation so far, and the user's next turn."""
        found: list[Message] = []
        for turn, reply in zip(sample.data["turns"], replies, strict=False):
            found += [
                {"role": "user", "content": turn},
                {"role": "assistant", "content": reply},
            ]
        return [*found, {"role": "user", "content": sample.data["turns"][len(replies)]}]

    def _template(self) -> str:
        return f"chat {self.chat_template}"

    def _notes(self, longer: int, total: int) -> tuple[str, ...]:
        return ()


def _read(path: Path) -> _Material:
    if not path.is_file():
        raise UserError(f"no file '{path}': give a JSON-lines file with {' or '.join(ASKED)}")
    lines: dict[str, int] = {}
    samples = []
    for index, entry in enumerate(read_json_lines(path)):
        sample = _sample(entry, f"{path.stem}-{index:04d}")
        if sample.id in lines:
            raise entry.damaged(f"id '{sample.id}' is that of line {lines[sample.id]} too")
        lines[sample.id] = entry.line
        samples.append(sample)
    return _Material(path.name, tuple(samples))


def _sample(entry: JsonLine, name: str) -> Sample:
    turns = entry.asked()
    key = next((key for key in IDS if isinstance(entry.fields.get(key), int | str)), None)
    return Sample(
        id=name if key is None else str(entry.fields[key]),
        prompt=turns[0],
        reference="",
        data={"question": turns[0], "turns": turns},
    )


def _built_in(source: Source) -> _Material:
    from .gsm8k.builtin.sample import TEST_PROBLEMS, problems
    from .gsm8k.task import compact_prompt

    count = TEST_PROBLEMS if source.split == "test" else _BUILT_IN_TRAINING
    samples = [
        Sample(
            id=each.id,
            prompt=compact_prompt(each.question),
            reference="",
            data={"question": each.question, "turns": (each.question,)},
        )
        for each in problems(source.split, count)
    ]
    return _Material("built-in", tuple(samples))


def _fingerprint(template: str, samples: Sequence[Sample]) -> str:
    digest = hashlib.sha256(template.encode())
    for sample in samples:
        digest.update(json.dumps((sample.id, sample.prompt, sample.data["turns"])).encode())
    return digest.hexdigest()
