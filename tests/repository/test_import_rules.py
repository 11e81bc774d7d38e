"""Who may import whom, read from the syntax trees; and that light commands stay light."""

import ast
import os
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "cllm_bench": "cllm_bench",
    "methods": "cllm_bench_methods",
    "tasks": "cllm_bench_tasks",
}
HEAVY = {"torch", "transformers", "accelerate", "datasets", "evaluate", "pandas", "scipy"}
# Rooms from the top floor to the bottom: one imports only what lies below it.
FLOORS = [
    {"cli"},
    {"ablation"},
    {"api"},
    {"measurement", "judge"},
    {"report"},
    {"results", "testing"},
    {"decoding", "data", "training"},
    {"contracts"},
    {"engine"},
    {"core", "machine", "sandbox"},
    {"errors"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# What light commands load: no heavy package at import time.
LIGHT_ROOMS = {"core", "machine", "data", "report", "results", "cli"}
LIGHT = [
    *("ablation.plan", "ablation.report", "ablation.runner", "ablation.variants", "contracts"),
    *("decoding.exactness", "decoding.loop", "decoding.repetition", "engine.checkpoint"),
    *(
        "engine.clock",
        "engine.family",
        "engine.family_file",
        "engine.passes",
        "engine.runtime",
        "errors",
    ),
    *("measurement.method_specs", "measurement.plan", "training.recipe_runner"),
]
MODULES_A_FOLDER = 20


def modules(folder):
    return sorted((ROOT / folder).rglob("*.py"))


def name_of(file):
    return file.relative_to(ROOT).with_suffix("").as_posix()


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


@pytest.mark.parametrize("file", modules("cllm_bench"), ids=name_of)
def test_core_imports_no_method_and_no_task(file):
    assert not roots(imports(file)) & {"cllm_bench_methods", "cllm_bench_tasks"}


@pytest.mark.parametrize("file", modules("cllm_bench"), ids=name_of)
def test_core_names_no_method_and_no_task(file):
    """Not even as a default: built-ins are found by their entry points."""
    names = {"ar", "jacobi", "spider", "lookahead", "medusa", "speculative"}
    texts = {
        node.value
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert not texts & names


@pytest.mark.parametrize("file", modules("methods"), ids=name_of)
def test_methods_import_no_task_and_nothing_heavy_at_import_time(file):
    assert "cllm_bench_tasks" not in roots(imports(file))
    assert not roots(imports(file, at_import_time=True)) & HEAVY


@pytest.mark.parametrize("file", modules("tasks"), ids=name_of)
def test_tasks_import_neither_torch_nor_methods(file):
    assert not roots(imports(file)) & {"torch", "cllm_bench_methods"}
    if file.stem != "metric":  # modules that exist for being an evaluate.Metric
        assert not roots(imports(file, at_import_time=True)) & HEAVY


def light_modules():
    core = ROOT / "cllm_bench"
    named = [core.joinpath(*name.split(".")).with_suffix(".py") for name in LIGHT]
    return named + [file for room in sorted(LIGHT_ROOMS) for file in modules(f"cllm_bench/{room}")]


@pytest.mark.parametrize("file", light_modules(), ids=name_of)
def test_light_modules_import_nothing_heavy(file):
    assert not roots(imports(file, at_import_time=True)) & HEAVY


def all_imports(file):
    """Full names of what a file imports of this project, type-only imports included."""
    found = set()
    folder = [PACKAGES[file.relative_to(ROOT).parts[0]], *file.relative_to(ROOT).parts[1:-1]]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) + 1 - node.level] if node.level else []
            base = ".".join([*base, node.module] if node.module else base)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return {name for name in found if name.partition(".")[0] in PACKAGES.values()}


@pytest.mark.parametrize("file", modules("cllm_bench"), ids=name_of)
def test_imports_run_downwards(file):
    own = file.relative_to(ROOT / "cllm_bench").parts[0].removesuffix(".py")
    if own in ("__init__", "__main__"):
        return
    for name in all_imports(file):
        room = name.split(".")[1] if "." in name else ""
        if room in FLOOR_OF and room != own:
            assert FLOOR_OF[own] < FLOOR_OF[room], f"{own} imports {name}"


def test_every_room_has_a_floor():
    rooms = {path.stem for path in (ROOT / "cllm_bench").glob("[!_]*")}
    assert rooms - {"models", "py"} == set(FLOOR_OF)


@pytest.mark.parametrize("folder", ["methods", "tasks"])
def test_packages_of_methods_and_tasks_form_no_circle(folder):
    arrows = {}
    for file in modules(folder):
        own = file.relative_to(ROOT / folder).parts[0].removesuffix(".py")
        for name in all_imports(file):
            parts = name.split(".")
            if parts[0] == PACKAGES[folder] and len(parts) > 1 and parts[1] != own:
                arrows.setdefault(own, set()).add(parts[1])
    list(TopologicalSorter(arrows).static_order())  # raises where there is a circle


def test_no_folder_is_crowded():
    counts = Counter(file.parent for folder in PACKAGES for file in modules(folder))
    crowded = {str(each): count for each, count in counts.items() if count > MODULES_A_FOLDER}
    assert not crowded


def test_every_room_says_what_it_holds():
    for folder in PACKAGES:
        for file in modules(folder):
            if file.name == "__init__.py":
                told = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
                assert told, file
                assert "say what belongs here" not in told, file


def test_the_sandbox_s_room_imports_nothing():
    """The confined process loads it."""
    assert not imports(ROOT / "cllm_bench" / "sandbox" / "__init__.py")


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
