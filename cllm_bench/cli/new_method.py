"""The command `new-method`: a file to start from."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from string import Template

from rich.console import Console

from cllm_bench.api.options import NewMethodOptions
from cllm_bench.core.files import write_atomically
from cllm_bench.core.registry import Registry
from cllm_bench.errors import UserError

# Two characters a word, so that the class's name leads back to this one.
_NAME = re.compile(r"[a-z][a-z0-9]+(_[a-z][a-z0-9]+)*")


_TEMPLATE = Template('''\
"""Say here what the idea is, and who had it first.

Try it:
    cllm-bench check-method $name --plugin $file
    cllm-bench run --plugin $file --method $name --task spider --limit 20
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from cllm_bench.contracts import Exactness, Sampling, Step

if TYPE_CHECKING:
    from torch import Tensor

    from cllm_bench import ModelFamily, Session


@dataclass(frozen=True)
class $cls:
    """What it does, in one line: `cllm-bench list` shows it.

    Attributes:
        guesses: The most tokens that a pass guesses. Every field is a setting.
        checkpoint: The role in the family that decodes.
    """

    # What is promised, and checked: replies equal those of plain decoding token for token, greedy
    # and sampled. Else "distribution" or "lossy"; without `sampled` it decodes greedily only.
    exactness: ClassVar[Exactness] = "exact"
    sampled: ClassVar[Exactness] = "exact"

    guesses: int = 4
    checkpoint: str = "target"

    def bind(self, family: ModelFamily) -> ${cls}Decoder:
        """Open a session on the checkpoint. Weights are loaded here, before any timing."""
        return ${cls}Decoder(self, family.session(self.checkpoint))


@dataclass
class ${cls}Decoder:
    """Guess, check all guesses in one pass, keep the right ones."""

    settings: $cls
    session: Session

    def __call__(
        self,
        prompt_ids: Tensor,  # (P,)
        sampling: Sampling,
    ) -> Iterator[Step]:
        """Yield what each pass settles, without end; all state of a reply is made in here."""
        from cllm_bench import Chooser

        session, choose = self.session, Chooser(sampling, prompt_ids.device)
        seen = prompt_ids.tolist()  # the prompt, and the reply so far
        seen += choose.tokens(session.prefill(prompt_ids), 0)
        yield Step((seen[-1],))
        place = 1  # index, in the reply, of the token that follows the pass's first row
        while True:
            # The newest token, then guesses; no more rows than the model has positions left.
            rows = [seen[-1], *self.guess(seen)][: max(1, session.room)]
            # What the model itself puts behind each row: greedy, or drawn.
            chosen = choose.tokens(session.forward(rows), place)
            accepted = 0
            while accepted < len(rows) - 1 and rows[accepted + 1] == chosen[accepted]:
                accepted += 1
            # The accepted guesses, and the model's own token behind them.
            settled = chosen[: accepted + 1]
            session.keep(len(settled))  # the rows before these tokens; the others are forgotten
            yield Step(tuple(settled), drafted=len(rows) - 1)
            seen += settled
            place += len(settled)

    def guess(self, seen: list[int]) -> list[int]:
        """Return what may come next. This is the place for the idea: no guess is plain decoding.

        To try whether it works, guess that the newest token comes again:
            return [seen[-1]] * self.settings.guesses
        """
        return []
''')


def new_command(options: NewMethodOptions) -> None:
    """Write a method that works, for the user to go on from.

    Raises:
        UserError: The name does not do, or is taken, or the file is there.
    """
    name = options.name
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise UserError(
            f"'{name}' cannot be a method's name: give lower-case words of two characters or more, "
            "joined by underscores, such as my_idea, and no word of Python's own"
        )
    if name in Registry().methods.names():
        raise UserError(f"there is a method '{name}' already: give another name")
    file = Path(options.output or f"{name}.py")
    if file.exists():
        raise UserError(f"'{file}' is there already: move it away, or name another with --output")
    if file.suffix != ".py" or not file.parent.is_dir():
        raise UserError(f"--output {file} is no Python file (.py) in a folder that is there")
    cls = "".join(word.capitalize() for word in name.split("_"))
    write_atomically(file, _TEMPLATE.substitute(name=name, cls=cls, file=file))
    Console(soft_wrap=True).print(
        f"wrote {file}, which decodes one token a pass; check it with\n"
        f"  cllm-bench check-method {name} --plugin {file}",
        highlight=False,
    )
