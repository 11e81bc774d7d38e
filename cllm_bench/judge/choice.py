"""Which judge the options name: an endpoint, or weights on this machine."""

from __future__ import annotations

from cllm_bench.core.registry import Registry
from cllm_bench.engine.runtime import Runtime
from cllm_bench.judge.endpoint import EndpointJudge, key_of_environment
from cllm_bench.judge.local import LocalJudge
from cllm_bench.judge.protocol import Judge

PARALLEL = 4  # requests at once


def find_judge(
    model: str,
    url: str | None,
    registry: Registry,
    runtime: Runtime,
    parallel: int = PARALLEL,
) -> Judge:
    """Return the judge that the options name; it is not asked yet.

    Raises:
        UserError: There is no such checkpoint, or the address or the key is none.
    """
    if url is None:
        return LocalJudge(model, runtime, registry)
    return EndpointJudge(model, url, key_of_environment(), parallel)
