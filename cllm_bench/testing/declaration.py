"""The checks of a method that decode nothing. Each returns a note, or raises."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

from cllm_bench.contracts import Exactness, LibraryDecoder
from cllm_bench.core.settings import Selection, build, label, parse_selection
from cllm_bench.engine.family import ModelFamily
from cllm_bench.engine.family_file import FamilyDescription
from cllm_bench.errors import UserError
from cllm_bench.testing.outcome import Failed
from cllm_bench.testing.subject import Subject
from cllm_bench.testing.tiny_models import VARIED


def check_dataclass(cls: type) -> None:
    """Refuse what is no frozen dataclass with a docstring.

    Raises:
        Failed: It is none.
    """
    if not dataclasses.is_dataclass(cls) or not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise Failed(f"{cls.__name__} is no frozen dataclass: write @dataclass(frozen=True)")
    text = (cls.__doc__ or "").strip()
    if not text or text.startswith(f"{cls.__name__}("):  # what dataclass itself puts there
        raise Failed(f"{cls.__name__} has no docstring; `cllm-bench list` shows its first line")


def check_declaration(subject: Subject) -> str:
    """Look at the class: a frozen dataclass with a docstring, that says how exact it is."""
    cls, known = type(subject.method), get_args(Exactness)
    check_dataclass(cls)
    for name in ("exactness", "sampled"):
        value = getattr(subject.method, name, None)
        if value not in (*known, None) or (name == "exactness" and value is None):
            raise Failed(f"{name} = {value!r} is not one of {', '.join(known)}")
        if any(field.name == name for field in dataclasses.fields(cls)):
            raise Failed(f"{name} is a setting: annotate it as ClassVar, or not at all")
    if not isinstance(getattr(subject.method, "checkpoint", None), str):
        raise Failed('no setting `checkpoint: str = "target"`, the role whose output is settled')
    roles = getattr(subject.method, "extra_roles", ())
    if not isinstance(roles, tuple) or not all(isinstance(role, str) for role in roles):
        raise Failed(f"extra_roles = {roles!r} is not a tuple of role names")
    return f"exactness {subject.method.exactness}, sampled {subject.sampled or 'not declared'}"


def check_settings(subject: Subject) -> str:
    """Make the settings from text, as the command line does."""
    return check_texts(subject.method, subject.name, "method")


def check_texts(made: Any, name: str, kind: str) -> str:
    """Make settings from text, one by one and all at once; return the text.

    Raises:
        Failed: Others come out, or a setting has no default or a type that has no text.
    """
    cls = type(made)
    fields = [field for field in dataclasses.fields(cls) if field.init]
    for field in fields:
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise Failed(f"setting '{field.name}' has no default, so `--{kind} {name}` cannot work")
    try:
        for field in fields:
            value = getattr(made, field.name)
            text = str(value).lower() if isinstance(value, bool) else str(value)
            found = build(cls, kind, Selection(name, {field.name: text}))
            if getattr(found, field.name) != value:
                raise Failed(
                    f"setting '{field.name}' = {value!r}, given as text, becomes "
                    f"{getattr(found, field.name)!r}"
                )
        text = label(name, made)
        if build(cls, kind, parse_selection(text)) != made:
            raise Failed(f"`--{kind} {text}` makes other settings than these")
    except UserError as error:
        raise Failed(
            f"{error}: settings are of type bool, int, float, str, Path or Literal, or one of "
            "these or None"
        ) from None
    return f"--{kind} {text}"


def check_binding(subject: Subject) -> str:
    """Bind to every family; and to one without checkpoints, which must be refused."""
    try:
        subject.method.bind(ModelFamily(FamilyDescription("a family without checkpoints", {})))
    except UserError:
        pass
    else:
        raise Failed(
            "bind accepts a family that has no checkpoint at all: fetch the weights in bind "
            "(`family.session(self.checkpoint)`), not when the clock runs"
        )
    found = subject.bound(VARIED)
    for _, decoder in found:
        if not callable(decoder) and not isinstance(decoder, LibraryDecoder):
            raise Failed(f"bind returns a {type(decoder).__name__}, which cannot be called")
    accepted = {family.name for family, _ in found}
    refused = [each.name for each in subject.families(VARIED) if each.name not in accepted]
    return f"refuses {', '.join(refused)}" if refused else ""
