"""A method under test, and the families and prompts that it is tried on."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cllm_bench.contracts import Decoder, Exactness, LibraryDecoder
from cllm_bench.engine.family import ModelFamily
from cllm_bench.errors import UserError
from cllm_bench.testing.outcome import Skipped
from cllm_bench.testing.tiny_models import VARIED, RoleBuilder, Shape, tiny_family
from cllm_bench.testing.trace import Case, TracedPass, trace

LIMIT = 32  # tokens of a reply


@dataclass(frozen=True)
class Subject:
    """The method under test.

    Attributes:
        name: Its registered name, or one like it.
        method: The settings.
        given: The author's own family, in place of tiny ones.
        builders: By role, what writes its checkpoint into a tiny family.
    """

    name: str
    method: Any
    given: ModelFamily | None = None
    builders: tuple[tuple[str, RoleBuilder], ...] = ()

    @property
    def role(self) -> str:
        """The role of the verifying model."""
        return str(self.method.checkpoint)

    @property
    def sampled(self) -> Exactness | None:
        """What the method declares about temperatures above 0; none where it is greedy only."""
        found: Exactness | None = getattr(self.method, "sampled", None)
        return found

    @property
    def roles(self) -> tuple[str, ...]:
        """All roles that the method needs."""
        return (self.role, *getattr(self.method, "extra_roles", ()))

    def families(self, shapes: Mapping[str, Shape]) -> Iterator[ModelFamily]:
        """Yield the author's family, or tiny ones of these shapes."""
        if self.given is not None:
            yield self.given
            return
        for name, shape in shapes.items():
            yield tiny_family(name, shape, self.roles, self.builders)

    def bind(self, family: ModelFamily) -> Decoder | LibraryDecoder:
        """Bind the method.

        Raises:
            Skipped: It refuses the family.
        """
        try:
            found: Decoder | LibraryDecoder = self.method.bind(family)
        except UserError as error:
            raise Skipped(f"{self._why_refused()}: {error}") from None
        return found

    def _why_refused(self) -> str:
        own = {role for role, _ in self.builders}
        needed = [f"'{role}'" for role in self.roles[1:] if role not in own]
        if self.given is not None or not needed:
            return "the method refuses the model"
        return (
            f"role {' or '.join(needed)} needs more than an ordinary causal model, which is what "
            "the suite has for it (give a family with --model, or the role with --role ROLE=PATH; "
            "in Python also builders=)"
        )

    def bound(self, shapes: Mapping[str, Shape]) -> list[tuple[ModelFamily, Any]]:
        """Return the families that the method accepts, each with a decoder.

        Raises:
            Skipped: It accepts none.
        """
        found, refusals = [], []
        for family in self.families(shapes):
            try:
                found.append((family, self.bind(family)))
            except Skipped as refusal:
                refusals.append(refusal)
        if not found:
            raise refusals[0]
        return found

    def vocabulary(self, family: ModelFamily) -> int:
        """Return the number of token ids that the verifying model knows."""
        return int(family.model(self.role).config.get_text_config().vocab_size)

    def prompts(self, family: ModelFamily) -> list[tuple[int, ...]]:
        """Return prompts of length 1 to long, some of which repeat themselves; always the same."""
        drawn, ids = random.Random(5), range(self.vocabulary(family))
        lengths = (1, 2, 7, 40, 150) if self.given is None else (1, 7, 40)
        found = [tuple(drawn.choices(ids, k=length)) for length in lengths]
        for phrase in (found[2], found[-2]):
            found.append((phrase * 3)[: 3 * len(phrase) - 2])
        return found

    @cached_property
    def greedy(self) -> list[tuple[Case, list[TracedPass]]]:
        """What the method does on every family, one decoder for all prompts of a family."""
        found = []
        for family, decoder in self.bound(VARIED):
            for prompt in self.prompts(family):
                case = Case(family, self.role, prompt, LIMIT)
                found.append((case, trace(decoder, case)))
        return found
