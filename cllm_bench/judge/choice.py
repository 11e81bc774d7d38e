"""Choice of a judge by the command line's options: an endpoint or a local checkpoint."""

from __future__ import annotations

from cllm_bench.core.registry import Registry
from cllm_bench.engine.runtime import Runtime
from cllm_bench.judge.endpoint import EndpointJudge, key_of_environment
from cllm_bench.judge.local import LocalJudge
from cllm_bench.judge.protocol import Judge

PARALLEL = 4  # simultaneous requests


def find_judge(
    model: str,
    url: str | None,
    registry: Registry,
    runtime: Runtime,
    parallel: int = PARALLEL,
) -> Judge:
    """Return the judge that the options name, without contacting or loading it.

    Args:
        model: Name of the model at the endpoint, or a local checkpoint if `url` is None.
        url: Base URL of an endpoint.
        registry: Registered methods; a local judge decodes with the baseline.
        runtime: Device and precision of a local judge.
        parallel: Number of simultaneous requests to an endpoint.

    Raises:
        UserError: The checkpoint does not exist, or the URL or the API key is malformed.
    """
    if url is None:
        return LocalJudge(model, runtime, registry)
    return EndpointJudge(model, url, key_of_environment(), parallel)
