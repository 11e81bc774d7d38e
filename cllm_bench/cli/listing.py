"""The command `list`: methods, tasks, recipes, families and broken plugins."""

from __future__ import annotations

import dataclasses

from rich.console import Console
from rich.table import Table

from cllm_bench.api.options import ListOptions
from cllm_bench.core.registry import Door, Registered, Registry
from cllm_bench.engine.family_file import BUNDLED, FILE, bundled_families, read_family


def show(options: ListOptions) -> None:
    """Print methods, tasks, recipes, objectives, families and broken plugins."""
    registry = Registry(options.plugins)
    console = Console()
    for title, door in (
        ("Methods", registry.methods),
        ("Tasks", registry.tasks),
        ("Recipes", registry.recipes),
        ("Objectives", registry.objectives),
    ):
        console.print(_table(title, door))
    families = Table("family", "roles", title="Bundled families", title_justify="left")
    for name in bundled_families():
        families.add_row(name, ", ".join(read_family(BUNDLED / name / FILE).roles) or "none yet")
    console.print(families)
    broken = [entry for entry in _all(registry) if entry.error] + registry.broken
    for entry in broken:
        console.print(
            f"broken: {entry.name} from {entry.origin}: {entry.error}", style="red", soft_wrap=True
        )


def _all(registry: Registry) -> list[Registered]:
    doors = (registry.methods, registry.tasks, registry.recipes, registry.objectives)
    return [entry for door in doors for entry in door.entries()]


def _table(title: str, door: Door) -> Table:
    table = Table("name", "what it is", "settings", "from", title=title, title_justify="left")
    for entry in door.entries():
        if entry.cls is not None:
            summary = (entry.cls.__doc__ or "").strip().splitlines()
            table.add_row(
                entry.name, summary[0] if summary else "", _settings(entry.cls), entry.origin
            )
        else:
            table.add_row(entry.name, "[red]broken[/red]", "", entry.origin)
    return table


def _settings(cls: type) -> str:
    return ", ".join(
        f"{field.name}={'' if field.default is dataclasses.MISSING else field.default}"
        for field in dataclasses.fields(cls)
        if field.init
    )
