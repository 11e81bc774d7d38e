"""The report's page: complete, offline, and inert whatever the rows hold."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from synthetic import cell, failed, manifest, row, task

from cllm_bench.report.page.html import StoredRun, page, task_pictures
from cllm_bench.report.page.pictures import MARK, file_content
from cllm_bench.report.page.replies import BEFORE, CHARACTERS, QUESTIONS, select_replies
from cllm_bench.report.page.time_use import time_use
from cllm_bench.report.summary import summarise
from cllm_bench.report.tables import lines_of
from cllm_bench.report.verdict import verdicts
from cllm_bench.results.pass_times import PassTime

HOSTILE = (
    "</script></pre><img src=x onerror=alert(1)>|$x_1$ \x1b[31m\x00\u202e\ud800 {{ 7*7 }} `a` &"
)
VOID = {"meta", "br", "link", "img", "hr", "input"}


class Elements(HTMLParser):
    """Start tags with their attributes, headings' levels, and whether all elements are closed."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def of_method(name, count=6, pace=1.0, **changes):
    work = {"accept_lengths": (3, 2, 5), "drafted": (4, 4, 4)} if name == "jacobi" else {}
    return [row(name, f"q{i}", pace, **(work | changes)) for i in range(count)]


def stored(rows=None, used=None, **changes):
    used = used or manifest(cell("ar"), cell("ar A/A", again=True), cell("jacobi"))
    if rows is None:
        rows = [*of_method("ar"), *of_method("ar A/A"), *of_method("jacobi", pace=0.5)]
    values = {"name": "results/run", "manifest": used, "rows": rows}
    return StoredRun(**values, summaries=summarise(used, rows), **changes)


@pytest.fixture(scope="module")
def hostile():
    """A page about a run whose every name and text tries to be more than text."""
    label = HOSTILE.replace("\ud800", "")
    used = manifest(
        cell("ar"), cell(label), tasks=(task(label, source=HOSTILE, notes=(HOSTILE,)),),
        model=HOSTILE, argv=("cllm-bench", HOSTILE),
    )  # fmt: skip
    rows = [
        *of_method("ar", task=label, reply=HOSTILE),
        *of_method(label, task=label, reply="x" + HOSTILE, verdict="mismatch", first_difference=0),
        failed(label, "q9" + HOSTILE, task=label, error=HOSTILE),
        row("ar", "q9" + HOSTILE, task=label),
    ]
    return page([stored(rows, used)])


def test_hostile_text_is_inert(hostile):
    hostile.encode()  # no lone surrogate is left
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", hostile)
    elements = Elements(hostile)
    assert not elements.open
    tags = Counter(tag for tag, _ in elements.found)
    assert tags["img"] == 0
    assert tags["script"] == 1
    assert not [key for _, own in elements.found for key in own if key.startswith("on")]
    assert r"\x1b[31m\x00\u202e\ud800 {{ 7*7 }}" in hostile
    assert "</script></pre><img" not in hostile


def test_the_page_holds_the_summaries_as_json(hostile):
    (text,) = re.findall(r'<script type="application/json" id="summary">(.*?)</script>', hostile)
    (found,) = json.loads(text)
    assert [each["method"] for each in found["summaries"]] == ["ar", HOSTILE.replace("\ud800", "")]


def test_the_page_asks_for_nothing_and_runs_nothing(hostile):
    elements = Elements(hostile)
    for tag, own in elements.found:
        assert "style" not in own, tag  # the policy would block it
        assert not {"src", "srcset", "data"} & own.keys(), tag
        assert own.get("href", "#").startswith("#"), tag
    policy = next(own["content"] for _, own in elements.found if "http-equiv" in own)
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert not re.search(r"@import|url\((?!#)", hostile)


def test_the_page_can_be_navigated():
    elements = Elements(page([stored(), stored()]))
    assert not elements.open
    levels = [int(tag[1]) for tag, _ in elements.found if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = Counter(own["id"] for _, own in elements.found if "id" in own)
    assert max(ids.values()) == 1
    tags = Counter(tag for tag, _ in elements.found)
    assert tags["main"] == tags["header"] == tags["nav"] == 1
    for _, own in elements.found:
        for key in ("aria-labelledby", "aria-describedby"):
            assert own.get(key, "task-1") in ids
        if own.get("href"):
            assert own["href"][1:] in ids
    regions = [own["aria-label"] for _, own in elements.found if own.get("role") == "region"]
    assert len(set(regions)) == len(regions)
    assert tags["svg"] == sum(own.get("role") == "img" for _, own in elements.found) > 0
    assert tags["figcaption"] == tags["figure"]


def test_pictures_carry_their_figures_in_words_and_both_schemes_in_classes():
    found = {picture.kind: picture for picture in task_pictures([stored()])}
    assert set(found) == {"speedup", "score", "acceptance", "accept-lengths", "time"}
    assert "jacobi 2.00×" in found["speedup"].description
    assert "A/A" in found["speedup"].caption
    assert "jacobi: 100%, 67%, 33%, 33%" in found["acceptance"].description
    shown = page([stored()])
    colours = set(re.findall(r'(?:fill|stroke)="(#[0-9a-fA-F]+)"', shown))
    assert not colours, "a colour that the dark scheme cannot change"


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_a_picture_as_a_file_is_marked_and_repeatable(kind):
    picture = task_pictures([stored()])[0]
    content = file_content(picture, kind)
    assert MARK.encode() in content[:2048]
    assert content == file_content(picture, kind)
    if kind == "svg":
        root = ElementTree.fromstring(content)
        text = "".join(root.itertext())
        assert picture.title in text
        assert "speed of decoding relative to ar (×)" in text


def test_names_are_not_read_as_formulas_and_ids_stay_apart():
    used = manifest(cell("ar"), cell("_$a^b$ 漢"))
    rows = [*of_method("ar"), *of_method("_$a^b$ 漢", pace=0.5)]
    first, *_ = task_pictures([stored(rows, used)])
    assert "_$a^b$ 漢" in "".join(ElementTree.fromstring(file_content(first, "svg")).itertext())


def test_it_begins_with_the_verdict():
    shown = page([stored()])
    (found,) = verdicts(lines_of([(stored().manifest, stored().summaries)]))
    assert found.speed in shown
    assert shown.index(found.speed) < shown.index("<table")


def test_replies_that_differ_come_first_and_long_ones_are_cut_around_the_difference():
    long = "a" * 3000
    rows = [row("ar", f"q{i}", reply="same") for i in range(5)]
    rows += [row("jacobi", f"q{i}", reply="same") for i in range(5)]
    rows[4] = row("ar", "q4", reply=long + "b")
    rows[9] = row("jacobi", "q4", reply=long + "c" * 2000, token_ids=(7,), first_difference=5)
    found = select_replies(rows, "ar")
    assert (found.asked, found.differing) == (5, 1)
    assert [each.sample for each in found.questions] == ["q4", "q0", "q1"][:QUESTIONS]
    theirs, ours = found.questions[0].replies
    assert (theirs.skipped, len(theirs.shared), theirs.differing) == (0, CHARACTERS, "")
    assert (ours.skipped, len(ours.shared)) == (3000 - BEFORE, BEFORE)
    assert ours.differing == "c" * (CHARACTERS - BEFORE)
    assert ours.cut == 2000 - len(ours.differing)
    (equal,) = found.questions[1].replies
    assert [answer.method for answer in equal.answers] == ["ar", "jacobi"]


def test_time_is_split_where_passes_were_timed():
    rows = [row("jacobi", "q0", 1.0, pass_shapes={"4 target": 10, "1 draft after target": 5})]
    use = time_use(rows, {"4 target": 0.7, "1 draft after target": 0.2})
    assert (use.prefill, use.decode, use.total) == (0.5, 10.0, 10.5)
    assert (use.passes, use.draft, use.rest) == pytest.approx((7.0, 1.0, 2.0))
    unknown = time_use(rows, {"4 target": 0.7})
    assert (unknown.passes, unknown.draft, unknown.rest) == (None, None, None)
    assert time_use([failed("jacobi", "q0")], {}) is None


def test_estimates_above_the_measured_time_are_told():
    rows = [*of_method("ar", pass_shapes={"1 target": 10})]
    slow = PassTime(task="spider", shape="1 target", context=9, seconds=1.5, repeats=3, attempt=0)
    shown = page([stored(rows, manifest(cell("ar")), pass_times=[slow])])
    assert "−5,000" in shown  # the rest of a reply, in milliseconds
    assert "passes of the verifying model 10,000 ms; " not in shown
