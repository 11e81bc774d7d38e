"""Contract tests for methods and tasks, for their authors: one line in a file of tests.

    from cllm_bench.testing.methods import method_suite
    from mine import Mine

    test_contract = method_suite(Mine())

or on the command line: `cllm-bench check-method mine --plugin mine.py`; `task_suite` and
`check-task` do the same for tasks (`testing_tasks.py`). A method is tried on tiny
random models, on the CPU, without a network, in some seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cllm_bench.core.registry import Registry
from cllm_bench.core.settings import build, parse_selection
from cllm_bench.testing.outcome import CheckResult, Failed, Skipped, raised
from cllm_bench.testing.tasks import check_task, task_suite

if TYPE_CHECKING:
    from cllm_bench.contracts import Method
    from cllm_bench.testing.subject import Subject
    from cllm_bench.testing.tiny_models import RoleBuilder

__all__ = [
    "CHECKS",
    "CheckResult",
    "MethodSuite",
    "check_method",
    "check_task",
    "method_suite",
    "task_suite",
]

# Every check, with those whose failure makes it pointless. The code of each is `check_NAME`.
_DECODES = ("binding", "steps")
CHECKS: Mapping[str, tuple[str, ...]] = {
    "declaration": (),
    "settings": (),
    "binding": (),
    "steps": ("binding",),
    "exactness": _DECODES,
    "stop_and_limit": _DECODES,
    "fresh_start": _DECODES,
    "rollback": (*_DECODES, "exactness"),
    "bonus_token": (*_DECODES, "exactness"),
    "last_position": (*_DECODES, "exactness"),
    "counters": _DECODES,
    "sampled_tokens": _DECODES,
    "sampled_seeds": _DECODES,
    "sampled_distribution": (*_DECODES, "sampled_seeds"),
}


def check_method(
    method: str | type[Method] | Method,
    *,
    plugins: Sequence[str | Path] = (),
    model: str | None = None,
    roles: Mapping[str, str] | None = None,
    builders: Mapping[str, RoleBuilder] | None = None,
) -> list[CheckResult]:
    """Make all checks of a method.

    Args:
        method: `NAME[:key=value,…]`, the class, or an instance of it.
        plugins: Python files where the name may be found.
        model: A family, as for `--model`, in place of the suite's tiny ones.
        roles: Further checkpoints for that family, as for `--role`.
        builders: By role, what writes a checkpoint into a tiny family, where an ordinary causal
            model does not serve: called with the folder to write and the tiny target's.

    Raises:
        UserError: There is no such method, setting or family.
    """
    suite = MethodSuite(method, plugins, model, roles, builders)
    return [suite.result(check) for check in CHECKS]


def method_suite(
    method: str | type[Method] | Method,
    *,
    plugins: Sequence[str | Path] = (),
    model: str | None = None,
    roles: Mapping[str, str] | None = None,
    builders: Mapping[str, RoleBuilder] | None = None,
) -> Callable[[str], None]:
    """Return a test for pytest, parametrised over the checks; arguments as for `check_method`."""
    import pytest

    suite = MethodSuite(method, plugins, model, roles, builders)

    @pytest.mark.parametrize("check", CHECKS)
    def test_method(check: str) -> None:
        result = suite.result(check)
        if result.status == "failed":
            pytest.fail(result.message, pytrace=False)
        if result.status == "skipped":
            pytest.skip(result.message)

    return test_method


class MethodSuite:
    """The checks of one method, each made once, when it is asked for.

    Attributes:
        name: The method's registered name, or its class's.
        method: The settings.

    Raises:
        UserError: There is no such method or setting.
    """

    def __init__(
        self,
        method: str | type[Method] | Method,
        plugins: Sequence[str | Path],
        model: str | None,
        roles: Mapping[str, str] | None,
        builders: Mapping[str, RoleBuilder] | None,
    ) -> None:
        self._model = model
        self._roles = roles
        self._builders = builders or {}
        self._results: dict[str, CheckResult] = {}
        if isinstance(method, str):
            selection = parse_selection(method)
            registry = Registry([Path(plugin) for plugin in plugins])
            self.name = selection.name
            self.method: Any = build(registry.methods.get(self.name), "method", selection)
        else:
            self.method = method() if isinstance(method, type) else method
            self.name = type(self.method).__name__

    def result(self, check: str) -> CheckResult:
        """Make a check, after those that it builds on."""
        if check not in self._results:
            reason = self._obstacle(check)
            self._results[check] = (
                CheckResult(check, "skipped", reason) if reason else self._make(check)
            )
        return self._results[check]

    def _obstacle(self, check: str) -> str | None:
        for before in CHECKS[check]:
            found = self.result(before)
            if found.status == "failed":
                return f"not tried, for '{before}' failed"
            if found.status == "skipped" and before == "binding":
                return "not tried, for no model was accepted"
        return None

    def _make(self, check: str) -> CheckResult:
        subject = self._subject
        try:
            with _threads(1 if subject.given is None else subject.given.description.threads):
                return CheckResult(check, "passed", _code(check)(subject))
        except Failed as failure:
            return CheckResult(check, "failed", str(failure))
        except Skipped as reason:
            return CheckResult(check, "skipped", str(reason))
        except Exception as error:  # a method may raise anything: that is what is told here
            return CheckResult(check, "failed", raised(error))

    @cached_property
    def _subject(self) -> Subject:
        from cllm_bench.engine.family import find_family
        from cllm_bench.engine.family_file import DEFAULT
        from cllm_bench.engine.runtime import Runtime
        from cllm_bench.testing.subject import Subject

        given = None
        if self._model or self._roles:
            runtime = Runtime("cpu", "float32")
            given = find_family(self._model or DEFAULT, roles=self._roles, runtime=runtime)
        return Subject(self.name, self.method, given, tuple(self._builders.items()))


def _code(check: str) -> Callable[[Subject], str]:
    from cllm_bench.testing import checks as testing_checks
    from cllm_bench.testing import declaration as testing_declaration
    from cllm_bench.testing import sampling as testing_sampling

    for module in (testing_declaration, testing_checks, testing_sampling):
        found: Callable[[Subject], str] | None = getattr(module, f"check_{check}", None)
        if found is not None:
            return found
    raise KeyError(check)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch use so many threads, or as many as it did where the count is 0."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
