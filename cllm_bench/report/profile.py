"""The cost of forward passes on this machine, independent of any method: stored figures and tables.

Figures are measured by `measurement/profile.py`; here they become Markdown. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cllm_bench.core.schema_version import SCHEMA
from cllm_bench.engine.checkpoint import Quantisation
from cllm_bench.engine.runtime import EngineChoice, ProductChoice, Runtime
from cllm_bench.machine.environment import Environment
from cllm_bench.report import numbers as formats
from cllm_bench.report.notes import engines, products
from cllm_bench.results.schema import to_json

# Tokens that a method may settle in a pass, for the table of what that would gain.
SETTLED = (2, 3, 4, 6, 8)


@dataclass(frozen=True)
class Profile:
    """What was measured.

    Attributes:
        model: Name of the family.
        role: Whose weights.
        rows: Numbers of new tokens in a pass, T.
        contexts: Committed tokens before it, L.
        seconds: Of a pass: by context, then by rows; None where the model has no positions.
        prefill: Seconds to run a prompt of as many tokens, by context.
        outside: Share of autoregressive decoding's time outside the model's forward passes.
        weight_bytes: Weights that a pass reads.
        cache_bytes_per_token: Keys and values that a pass reads of each committed token.
        copy_bandwidth: Bytes a second of a large copy; None where there was no room for one.
        read_bandwidth: Bytes a second of a large read; None where there was no room for one.
        layers: Decoder layers; None in earlier versions.
        fused_layers: Those that run as fewer and larger operations; None in earlier versions.
        quantised: What the weights are run as, where the checkpoint holds quantised ones.
        weights_bandwidth: Bytes a second of reads of as many bytes as the weights have, again and
            again, from a cache that holds them: what shares are of; None where there was no room,
            and in earlier versions, whose shares are of `read_bandwidth`.
    """

    model: str
    role: str
    rows: tuple[int, ...]
    contexts: tuple[int, ...]
    seconds: tuple[tuple[float | None, ...], ...]
    prefill: tuple[float, ...]
    outside: float
    weight_bytes: int
    cache_bytes_per_token: int
    copy_bandwidth: float | None
    read_bandwidth: float | None
    layers: int | None = None
    fused_layers: int | None = None
    quantised: Quantisation | None = None
    weights_bandwidth: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored."""
        return to_json(self)

    def bandwidth_share(self, context: int) -> float | None:
        """Return the bytes a second of a pass of one row over the roof, if that is known.

        The roof is a read of the weights' size: they may fit in a cache that a large read leaves.

        Raises:
            ValueError: No such context was measured.
        """
        single = self.seconds[self.contexts.index(context)][0]
        assert single is not None
        moved = self.weight_bytes + context * self.cache_bytes_per_token
        roof = self.weights_bandwidth or self.read_bandwidth
        return None if roof is None else moved / single / roof


@dataclass(frozen=True, kw_only=True)
class ProfileManifest(Environment):
    """Under which conditions a profile was measured.

    Attributes:
        runtime: Device, precision, kernel, engine and threads.
        engines: The engine of the role's passes, and how it was found.
        products: The kernels of the role's products on a CPU, and how they were found.
    """

    runtime: Runtime
    engines: Mapping[str, EngineChoice] = field(default_factory=dict)
    products: Mapping[str, ProductChoice] = field(default_factory=dict)


def stored_profile(profile: Profile, manifest: ProfileManifest) -> dict[str, Any]:
    """Return the JSON object of `profile.json`."""
    return {
        "schema": SCHEMA,
        "profile": profile.to_json(),
        "manifest": to_json(manifest),
    }


def profile_report(profile: Profile, manifest: ProfileManifest) -> str:
    """Return the report."""
    parts = [
        f"# Passes of {profile.model} ({profile.role})",
        "Milliseconds of a forward pass, by number of new tokens (rows) and of cached tokens: "
        "medians, including the argmax of every row.",
        _table(
            ["rows", *(f"{context:,} cached" for context in profile.contexts)],
            [
                [str(rows), *(_ms(column[place]) for column in profile.seconds)]
                for place, rows in enumerate(profile.rows)
            ],
        ),
        "![pass time against rows](passes.png)",
        "## Possible speedups",
        "Speedup over one token per pass, if a pass with this number of rows settles this number "
        f"of tokens, nothing else takes time and {profile.contexts[0]:,} tokens are cached.",
        _table(
            ["rows", *(f"{settled} tokens per pass" for settled in SETTLED), "break-even"],
            list(_gains(profile)),
        ),
        "## Prefill and memory",
        _table(
            ["tokens", "prompt ms", "prompt tokens/s", "share of read bandwidth, one row"],
            [
                [
                    f"{context:,}",
                    _ms(seconds),
                    f"{context / seconds:,.0f}",
                    formats.share(profile.bandwidth_share(context)),
                ]
                for context, seconds in zip(profile.contexts, profile.prefill, strict=True)
            ],
        ),
        f"A pass reads {profile.weight_bytes / 1e6:,.1f} MB of weights and "
        f"{profile.cache_bytes_per_token / 1e3:,.1f} kB per cached token; {_roof(profile)}. "
        f"Autoregressive decoding spends {formats.share(profile.outside)} of its time outside the "
        "forward passes.",
        "## Conditions",
        _conditions(profile, manifest),
    ]
    return "\n\n".join(parts) + "\n"


def _gains(profile: Profile) -> list[list[str]]:
    """Return for each number of rows what it gains, and the tokens a pass that pay for it."""
    column = profile.seconds[0]
    single = column[0]
    assert single is not None
    lines = []
    for rows, seconds in zip(profile.rows, column, strict=True):
        if rows == 1 or seconds is None:
            continue
        gains = [
            f"{settled * single / seconds:.2f}×" if settled <= rows else formats.ABSENT
            for settled in SETTLED
        ]
        lines.append([str(rows), *gains, f"{seconds / single:.2f}"])
    return lines


def _roof(profile: Profile) -> str:
    if profile.read_bandwidth is None or profile.copy_bandwidth is None:
        return "a large read did not fit into the memory of the device"
    large = (
        f"a large read moves {profile.read_bandwidth / 1e9:.3g} GB/s here, and a large copy "
        f"{profile.copy_bandwidth / 1e9:.3g} GB/s, counting bytes read and written"
    )
    if profile.weights_bandwidth is None:
        return large
    return (
        f"reading as many bytes again and again moves {profile.weights_bandwidth / 1e9:.3g} GB/s, "
        f"which the shares are of; {large}"
    )


def _ms(seconds: float | None) -> str:
    return formats.ABSENT if seconds is None else f"{1000 * seconds:.3g}"


def _table(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(titles, *lines, strict=True)]
    rule = ["-" * (width - 1) + ":" for width in widths]
    return "\n".join(
        "| "
        + " | ".join(text.rjust(width) for text, width in zip(line, widths, strict=True))
        + " |"
        for line in (titles, rule, *lines)
    )


def _conditions(profile: Profile, manifest: ProfileManifest) -> str:
    machine, runtime = manifest.machine, manifest.runtime
    versions = ", ".join(f"{k} {manifest.versions[k]}" for k in ("torch", "transformers"))
    return "\n".join(
        [
            f"- device {runtime.device} ({machine.gpu or machine.cpu}); "
            + ", ".join(
                f"{name} {getattr(runtime, name)}"
                for name in ("dtype", "attention", "engine", "threads")
            ),
            *(f"- {line}" for line in engines(manifest.engines)),
            *(f"- {line}" for line in products(manifest.products)),
            *_layers(profile),
            f"- {versions}; {manifest.created}",
        ]
    )


def _layers(profile: Profile) -> list[str]:
    if profile.layers is None:
        return []
    found = [f"- fused layers: {profile.role} {profile.fused_layers} of {profile.layers}"]
    weights = profile.quantised
    if weights is not None:
        found.append(f"- quantised weights: {profile.role} {weights.kind}, states {weights.dtype}")
    return found
