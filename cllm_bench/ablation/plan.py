"""The plan of an ablation, checked before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cllm_bench.ablation.variants import Variant
from cllm_bench.api.options import AblateOptions
from cllm_bench.contracts import Listen, SampleSet, Sampling, Task, TrainingJob
from cllm_bench.core.registry import Registry
from cllm_bench.core.schema_version import SCHEMA
from cllm_bench.core.settings import Selection, as_dict, build, label
from cllm_bench.engine.family import ModelFamily
from cllm_bench.machine.environment import environment
from cllm_bench.measurement.method_specs import MethodSpec, plan_methods
from cllm_bench.measurement.plan import TaskPlan
from cllm_bench.results.manifest import AblationManifest, TrainingQuestions


@dataclass(frozen=True)
class Ablation:
    """All that an ablation will do, checked before any of it is done.

    Attributes:
        name: Of the recipe.
        variants: The base first.
        methods: How each is decoded, by label.
        family: What the recipe starts from, with a runtime to train in.
        material: The tasks with their training questions.
        tests: The tasks with the questions that will be asked.
        sandbox: What holds where a task runs what models write, ready for JSON; else None.
        registry: Where the methods come from.
        options: As given.
    """

    name: str
    variants: tuple[Variant, ...]
    methods: Mapping[str, Selection]
    family: ModelFamily
    material: Mapping[str, tuple[Task, SampleSet]]
    tests: tuple[TaskPlan, ...]
    sandbox: Mapping[str, Any] | None
    registry: Registry
    options: AblateOptions

    def job(self, variant: Variant, listen: Listen) -> TrainingJob:
        """Return a variant's training; models that it loads go with it."""
        family, folder = self.family.unloaded(), self.folder(variant)
        return TrainingJob(family, self.material, folder, listen, self.registry.objectives)

    def folder(self, variant: Variant) -> Path:
        """Return the family directory that a variant's training leaves."""
        return Path(self.options.output) / "variants" / variant.label

    def spec(self, variant: Variant) -> str:
        """Return the label of the method that decodes with a variant's checkpoint."""
        name, _ = selection = self.methods[variant.label]
        return label(name, build(self.registry.methods.get(name), "method", selection))

    def specs(self, variants: Sequence[Variant]) -> tuple[MethodSpec, ...]:
        """Return the run's specs for these variants, the baselines among them."""
        return plan_methods(
            self.registry, [self.methods[variant.label] for variant in variants], Sampling()
        )

    def manifest(self) -> AblationManifest:
        """Return what is written down before the first training."""
        return AblationManifest(
            schema=SCHEMA,
            **vars(environment(self.family.runtime.device)),
            configuration={
                "ablation": self.name,
                "model": self.family.name,
                "variants": {
                    variant.label: {
                        "role": variant.role,
                        "recipe": as_dict(variant.recipe),
                        "method": self.spec(variant),
                    }
                    for variant in self.variants
                },
                "tasks": {plan.label: as_dict(plan.task) for plan in self.tests},
                "limit": self.options.limit,
                "repeats": self.options.repeats,
            },
            training_questions={
                name: TrainingQuestions(source=found.label, questions=len(found.samples))
                for name, (_, found) in self.material.items()
            },
            sandbox=self.sandbox,
        )
