"""From a model's reply to the program that is run.

A completion goes on where the prompt ends. Models that follow instructions answer in code fences,
repeat the signature, or write the whole function, with prose before and after it.
"""

from __future__ import annotations

import re
from textwrap import dedent

# Those of the Codex paper (Chen et al., 2021, section 2), after which a function has ended; and
# two that BigCode's evaluation harness adds, a decorator and the end of a code block.
COMPLETION_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint", "\n@", "\n```")
# A whole answer may hold any of those.
INSTRUCTION_STOPS = ("\n### Instruction:",)

_FENCED = re.compile(r"```[^\n`]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
_FIRST_CODE = re.compile(r"^(?:import |from \S+ import |def |async def |class |@)", re.MULTILINE)
_INDENTATION = re.compile(r" *")


def program_of(prompt: str, entry: str, reply: str) -> str:
    """Return the program that a reply makes of a prompt.

    Args:
        prompt: Signature and docstring; valid Python by itself.
        entry: The function's name.
        reply: A completion, or an answer with the whole function or its body in it.
    """
    blocks = [] if _goes_on(reply) else _FENCED.findall(reply)
    for block in map(dedent, blocks):
        if _defines(block, entry):
            return f"{prompt}\n{block}\n"
    if blocks:
        return prompt + _indented(blocks[0], prompt) + "\n"
    first = _FIRST_CODE.search(reply)
    if first and _defines(reply, entry) and not _goes_on(reply):
        return f"{prompt}\n{reply[first.start() :]}\n"
    return prompt + _indented(reply.partition("\n```")[0], prompt) + "\n"


def _goes_on(reply: str) -> bool:
    """Tell whether a reply begins with the body: a fence in it is then its end."""
    first = next((line for line in reply.split("\n") if line.strip()), "")
    return first.startswith((" ", "\t")) and not first.lstrip().startswith("```")


def _defines(code: str, entry: str) -> bool:
    return bool(re.search(rf"^(?:async )?def {re.escape(entry)}\b", code, re.MULTILINE))


def _indented(body: str, prompt: str) -> str:
    """Give a body's first line the indentation of the docstring, if it has less.

    Tokenizers drop a space at the beginning of what they decode, and chat models strip their
    answers. As it stands, such a body is no Python.
    """
    lines = body.split("\n")
    for place, line in enumerate(lines):
        if line.strip():
            wanted = _width(prompt.rstrip().rpartition("\n")[2])
            if _width(line) < wanted:
                lines[place] = " " * wanted + line.lstrip(" ")
            break
    return "\n".join(lines)


def _width(line: str) -> int:
    found = _INDENTATION.match(line)
    return found.end() if found else 0
