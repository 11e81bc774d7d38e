"""Who may import whom, read from the syntax trees; and that light commands stay light."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "cllm_bench": "cllm_bench",
    "methods": "cllm_bench_methods",
    "tasks": "cllm_bench_tasks",
}
HEAVY = {"torch", "transformers", "accelerate", "datasets", "evaluate", "pandas", "scipy"}
# Modules that the light commands load: no heavy package at import time.
LIGHT = [
    "ablation",
    "ablation_plan",
    "ablation_report",
    "ablation_variants",
    "checkpoint",
    "cli",
    "commands",
    "contracts",
    "errors",
    "family",
    "files",
    "generate",
    "clock",
    "listing",
    "manifest",
    "plan",
    "progress",
    "registry",
    "repetition",
    "reports",
    "results",
    "rows",
    "runtime",
    "settings",
    "sources",
    "statistics",
    "summary",
    "training",
    "validate",
    "json_lines",
    "overlap",
    "overlap_command",
    "verdicts",
    "cli_checks",
    "machine_watch",
    "measured",
    "pass_times",
    "profile",
    "profile_command",
    "train_command",
]


def modules(folder):
    return sorted((ROOT / folder).rglob("*.py"))


def imported(node):
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom) and node.module:
        return {node.module}
    return set()


def is_type_checking(node):
    return isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING"


def imports(file, *, at_import_time=False):
    """Names of imported modules; those under TYPE_CHECKING never count."""
    found = set()

    def visit(node):
        if is_type_checking(node):
            return
        if at_import_time and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        found.update(imported(node))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(file.read_text(encoding="utf-8")))
    return found


def roots(names):
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("file", modules("cllm_bench"), ids=lambda file: file.stem)
def test_core_imports_no_method_and_no_task(file):
    assert not roots(imports(file)) & {"cllm_bench_methods", "cllm_bench_tasks"}


@pytest.mark.parametrize("file", modules("cllm_bench"), ids=lambda file: file.stem)
def test_core_names_no_method_and_no_task(file):
    """Not even as a default: built-ins are found by their entry points."""
    names = {"ar", "jacobi", "spider", "lookahead", "medusa", "speculative"}
    texts = {
        node.value
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert not texts & names


@pytest.mark.parametrize("file", modules("methods"), ids=lambda file: file.stem)
def test_methods_import_no_task_and_nothing_heavy_at_import_time(file):
    assert "cllm_bench_tasks" not in roots(imports(file))
    assert not roots(imports(file, at_import_time=True)) & HEAVY


@pytest.mark.parametrize("file", modules("tasks"), ids=lambda file: file.stem)
def test_tasks_import_neither_torch_nor_methods(file):
    assert not roots(imports(file)) & {"torch", "cllm_bench_methods"}
    if not file.stem.endswith("_metric"):  # modules that exist for being an evaluate.Metric
        assert not roots(imports(file, at_import_time=True)) & HEAVY


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_import_nothing_heavy(name):
    names = imports(ROOT / "cllm_bench" / f"{name}.py", at_import_time=True)
    assert not roots(names) & HEAVY


@pytest.mark.parametrize("arguments", [["--help"], ["list"]], ids=" ".join)
def test_light_commands_load_no_torch(arguments):
    code = (
        "import sys\n"
        f"sys.argv = ['cllm-bench', *{arguments!r}]\n"
        "from cllm_bench.cli.app import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        f"heavy = {HEAVY!r} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
