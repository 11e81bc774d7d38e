"""What a comparison keeps of a run: of each row some figures, not its text and tokens."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cllm_bench.results.folder import ResultFolder
from cllm_bench.results.judgements import Judgement
from cllm_bench.results.manifest import Manifest
from cllm_bench.results.perplexity import Perplexity
from cllm_bench.results.rows import Finish, Row


@dataclass(frozen=True, slots=True)
class Outline:
    """A row without its text and tokens: an `Outcome`. A hundred thousand take some 50 MB.

    Attributes:
        key: As in `Row`, like all that are not described here.
        passes: Verifying passes after the prefill.
        reply_hash: Of the reply's tokens; comparable within this process alone.
    """

    key: str
    sample: str
    repeat: int
    finish: Finish
    score: float | None
    prompt_hash: str | None
    prompt_tokens: int
    new_tokens: int
    decoded_tokens: int
    passes: int
    prefill_seconds: float | None
    decode_seconds: float | None
    reply_hash: int

    @classmethod
    def of(cls, row: Row) -> Outline:
        """Return what is kept of a row."""
        return cls(
            key=row.key,
            sample=row.sample,
            repeat=row.repeat,
            finish=row.finish,
            score=row.score,
            prompt_hash=row.prompt_hash,
            prompt_tokens=row.prompt_tokens,
            new_tokens=row.new_tokens,
            decoded_tokens=row.decoded_tokens,
            passes=row.passes,
            prefill_seconds=row.prefill_seconds,
            decode_seconds=row.decode_seconds,
            reply_hash=hash(row.token_ids),
        )


@dataclass(frozen=True)
class OutlinedRun:
    """A stored run.

    Attributes:
        folder: Where it is.
        manifest: Its manifest.
        rows: Its rows by task, method and sample.
        perplexities: Those that it measured.
        judgements: What judges said of its replies.
        warnings: What a reader should know about the state of the folder.
    """

    folder: Path
    manifest: Manifest
    rows: Mapping[tuple[str, str], Mapping[str, Sequence[Outline]]]
    perplexities: Sequence[Perplexity] = ()
    judgements: Sequence[Judgement] = ()
    warnings: Sequence[str] = ()

    @property
    def stores_prompts(self) -> bool:
        """Whether its rows have hashes of their prompts; those of earlier versions have none."""
        return any(
            row.prompt_hash is not None
            for samples in self.rows.values()
            for rows in samples.values()
            for row in rows
        )


def outline_run(path: Path) -> OutlinedRun:
    """Read a stored run.

    Raises:
        UserError: The folder holds no run or one of a later version, or a line is damaged.
    """
    folder, stored = ResultFolder.skim(path)
    rows: dict[tuple[str, str], dict[str, list[Outline]]] = defaultdict(dict)
    for row in stored:
        rows[row.task, row.method].setdefault(row.sample, []).append(Outline.of(row))
    return OutlinedRun(
        folder=path,
        manifest=folder.manifest,
        rows=dict(rows),
        perplexities=tuple(folder.perplexities.values()),
        judgements=folder.judgements,
        warnings=folder.warnings,
    )
