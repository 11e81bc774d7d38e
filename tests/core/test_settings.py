from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from cllm_bench.core.settings import (
    Selection,
    as_dict,
    build,
    label,
    parse_selection,
    split_selections,
)
from cllm_bench.errors import UserError


@dataclass(frozen=True)
class Settings:
    kind: ClassVar[str] = "x"

    size: int = 16
    rate: float = 0.5
    fast: bool = False
    mode: Literal["one", "two"] = "one"
    folder: Path | None = None
    name: str = ""


def made(text):
    selection = parse_selection(text)
    return build(Settings, "method", selection)


def test_every_type_of_setting():
    found = made("m:size=8,rate=1e-3,fast=true,mode=two,folder=a/b,name=c")
    assert found == Settings(8, 1e-3, True, "two", Path("a/b"), "c")
    assert made("m:folder=none") == Settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("m:sise=8", "method 'm' has no setting 'sise'; did you mean 'size'?"),
        ("m:kind=y", "has no setting 'kind'"),
        ("m:size=eight", "m:size=eight is not an integer"),
        ("m:size=8.5", "m:size=8.5 is not an integer"),
        ("m:rate=x", "m:rate=x is not a number"),
        ("m:fast=maybe", "m:fast=maybe is not true or false"),
        ("m:mode=three", "m:mode=three is not one of one, two"),
        ("m:size", "'size' in 'm:size' is not of the form key=value"),
        ("m:size=1,size=2", "'size' is given twice"),
    ],
)
def test_wrong_settings_name_the_value_and_the_remedy(text, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        made(text)


def test_commas_between_settings_stay_with_them():
    assert split_selections(["a,b:x=1,y=2,c", "d:z=1"]) == ["a", "b:x=1,y=2", "c", "d:z=1"]


def test_labels_name_what_differs_and_read_back():
    settings = Settings(size=8, fast=True)
    assert label("m", Settings()) == "m"
    assert label("m", settings) == "m:size=8,fast=true"
    assert made(label("m", settings)) == settings
    assert build(Settings, "method", Selection("m", {})) == Settings()


def test_as_dict_is_json():
    assert as_dict(Settings(folder=Path("a")))["folder"] == "a"
