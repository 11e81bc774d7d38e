"""What counts as the number of a reply."""

from __future__ import annotations

from decimal import Decimal

import pytest

from cllm_bench_tasks.gsm8k.extraction import flexible_number, strict_number


@pytest.mark.parametrize(
    ("reply", "strict", "flexible"),
    [
        ("5 + 13 = 18\n#### 18", "18", "18"),
        ("#### 18\n\nSo the answer is 18.", "18", "18"),
        ("#### 1,234,567.50", "1234567.50", "1234567.50"),
        ("#### 18.", "18", "18"),
        ("#### -7", "-7", "-7"),
        ("#### 18 dollars", "18", "18"),
        ("#### 3\n#### 4", "3", "4"),
        ("#### 18\nShe has 20 left.", "18", "20"),
        ("####18", None, "18"),
        ("#### $18", None, "18"),
        ("#### eighteen", None, None),
        ("The answer is $1,034.", None, "1034"),
        ("It costs -$5.25", None, "-5.25"),
        ("Tom pays $18...", None, "18"),
        ("It is 18, or so it seems...", None, "18"),
        ("12 - 5 = 7 apples, as of 1.2.2024", None, "7"),
        ("It is 18 :-)", None, "18"),
        ("", None, None),
        ("no number, $ or . or ,", None, None),
        ("#### ,.", None, None),
        ("\ud800 #### 4", "4", "4"),
    ],
)
def test_extraction(reply: str, strict: str | None, flexible: str | None) -> None:
    assert strict_number(reply) == (None if strict is None else Decimal(strict))
    assert flexible_number(reply) == (None if flexible is None else Decimal(flexible))
