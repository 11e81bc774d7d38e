"""The checks of what a method decodes greedily. Each returns a note, or raises."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from cllm_bench.decoding.loop import generate
from cllm_bench.engine.clock import Clock
from cllm_bench.engine.family import ModelFamily
from cllm_bench.errors import UserError
from cllm_bench.testing.outcome import Failed, Skipped
from cllm_bench.testing.subject import LIMIT, Subject
from cllm_bench.testing.tiny_models import SHORT, VARIED
from cllm_bench.testing.trace import Case, TracedPass, compare, displaced, reply, trace

LONG = {name: VARIED[name] for name in ("Llama", "GPT-2")}
LONG_LIMIT = 160
FRESH = {name: VARIED[name] for name in ("Llama", "Llama that repeats itself")}
BONUS_CHANCES = 5  # steps that settled all guesses but the last, before a bonus is missed


def check_steps(subject: Subject) -> str:
    """Look at every step: at least one token, counts that can be, and one pass each."""
    for case, passes in subject.greedy:
        vocabulary = subject.vocabulary(case.family)
        for number, each in enumerate(passes):
            where = f"{case}: step {number}"
            unknown = [token for token in each.tokens if not 0 <= token < vocabulary]
            if unknown:
                raise Failed(f"{where}: {unknown[0]} is no token id of {vocabulary}")
            if number and len(each.tokens) > each.drafted + 1:
                raise Failed(
                    f"{where} settles {len(each.tokens)} tokens with drafted={each.drafted}: a "
                    "pass settles the guesses that it accepts and one token more, so at least "
                    f"{len(each.tokens) - 1} guesses were checked: Step(tokens, drafted=…)"
                )
        _check_forwards(case, passes)
    rates = {case.family.name: _tokens_per_pass(subject, case.family) for case, _ in subject.greedy}
    return "tokens per pass: " + ", ".join(f"{name} {rate:.2f}" for name, rate in rates.items())


def _check_forwards(case: Case, passes: list[TracedPass]) -> None:
    if not any(each.forwards for each in passes):
        return  # weights that are not the family's: they cannot be watched
    for number, each in enumerate(passes):
        where = f"{case}: step {number}"
        if not each.forwards:
            raise Failed(
                f"{where} comes without a forward pass of the '{case.role}' model: all that a pass "
                "settles belongs to one Step"
            )
        # A method may draft with the very weights that verify: then its drafts pass here too.
        if number and each.forwards > each.drafted + 1:
            raise Failed(
                f"{where} took {each.forwards} forward passes of the '{case.role}' model: every "
                "pass is a Step of its own, or tokens per pass mean nothing"
            )


def _tokens_per_pass(subject: Subject, family: ModelFamily) -> float:
    greedy = [passes[1:] for case, passes in subject.greedy if case.family is family]
    found = [each for passes in greedy for each in passes]
    return sum(len(each.tokens) for each in found) / max(1, len(found))


def check_exactness(subject: Subject) -> str:
    """Compare greedy replies with the plainest autoregressive decoding, token for token."""
    _skip_lossy(subject)
    for case, passes in subject.greedy:
        compare(passes, case, partial(subject.bind, case.family))
    return f"{len(subject.greedy)} replies of {LIMIT} tokens"


def _skip_lossy(subject: Subject) -> None:
    if subject.method.exactness == "lossy":
        raise Skipped("the method declares itself lossy: it need not give the plain reply")


def check_stop_and_limit(subject: Subject) -> str:
    """Stop at each token of a reply, and at each limit: the reply is the same, cut there."""
    family, decoder = subject.bound(VARIED)[0]
    for prompt in subject.prompts(family)[:4]:
        case = Case(family, subject.role, prompt, 16)
        whole = reply(trace(decoder, case))[:16]
        for index, token in enumerate(whole):
            wanted = whole[: whole.index(token) + 1]
            _same_reply(decoder, case, wanted, stop_ids={token})
            _same_reply(decoder, case, whole[: index + 1], max_new_tokens=index + 1)
    return ""


def _same_reply(decoder: Any, case: Case, wanted: list[int], **end: Any) -> None:
    options: dict[str, Any] = {"max_new_tokens": case.limit, "stop_ids": frozenset()} | end
    prompt_ids = torch.tensor(case.prompt)
    found = generate(decoder, prompt_ids, sampling=case.sampling, clock=Clock(), **options)
    if list(found.token_ids) != wanted:
        ends = ", ".join(f"{key}={value}" for key, value in end.items())
        raise Failed(
            f"{case}, {ends}: the reply is {list(found.token_ids)}, and not {wanted}, the "
            "beginning of the reply without this end: a reply must not depend on where it is cut"
        )


def check_rollback(subject: Subject) -> str:
    """Go on for long after many rejections: what the cache holds must still be the reply."""
    limit = LONG_LIMIT if subject.given is None else LIMIT
    for family, decoder in subject.bound(LONG):
        case = Case(family, subject.role, subject.prompts(family)[2], limit)
        passes = trace(decoder, case)
        if subject.method.exactness != "lossy":
            compare(passes, case, partial(subject.bind, family))
        elif (shift := displaced(passes, case)) is not None:
            raise Failed(f"{case}: {shift}")
    return f"{limit} tokens"


def check_fresh_start(subject: Subject) -> str:
    """Ask one decoder the same again, with another question in between; and a fresh decoder."""
    for family, decoder in subject.bound(FRESH):
        prompts = subject.prompts(family)
        for index, prompt in enumerate(prompts):
            case = Case(family, subject.role, prompt, LIMIT)
            first = trace(decoder, case)
            trace(decoder, case._replace(prompt=prompts[index - 1]))
            for which, again in (
                ("asked again, after another prompt", trace(decoder, case)),
                ("asked of a fresh decoder", trace(subject.bind(family), case)),
            ):
                _same_passes(case, first, again, which)
    return ""


def _same_passes(case: Case, first: list[TracedPass], again: list[TracedPass], which: str) -> None:
    for number, (one, other) in enumerate(zip(first, again, strict=False)):
        if one[:2] != other[:2]:
            what = "tokens" if reply(first)[: case.limit] != reply(again)[: case.limit] else "steps"
            raise Failed(
                f"{case}, {which}: other {what}. Step {number} settled {one.tokens} of "
                f"{one.drafted} guesses, and now {other.tokens} of {other.drafted}. Everything "
                "starts anew with each prompt: make tables and random sources in `__call__`, and "
                "seed the latter (`random.Random(self.seed)`)"
            )


def check_bonus_token(subject: Subject) -> str:
    """Look for steps whose guesses were all accepted: the model's next token comes on top."""
    full = almost = 0
    for _, passes in subject.greedy:
        for each in passes[1:]:
            full += each.drafted > 0 and len(each.tokens) == each.drafted + 1
            almost += each.drafted > 1 and len(each.tokens) == each.drafted
    if full:
        return f"{full} steps accepted every guess"
    if almost < BONUS_CHANCES:
        raise Skipped("no step accepted every guess")
    raise Failed(
        f"{almost} steps settled as many tokens as they had guesses, and none settled one more: "
        "where all guesses are accepted, the last row gives a further token, which costs nothing"
    )


def check_last_position(subject: Subject) -> str:
    """Decode up to the model's last position, past which no guess can be tried."""
    if subject.given is not None:
        raise Skipped("only on the suite's own models, which have few positions")
    for family, decoder in subject.bound(SHORT):
        for length in (1, 13, 30, 32):
            drawn = random.Random(length)
            prompt = tuple(drawn.choices(range(61), k=length))
            case = Case(family, subject.role, prompt, 32 - length + 1)  # the last is never fed
            passes = _reach_the_end(decoder, case)
            if subject.method.exactness != "lossy":
                compare(passes, case, partial(subject.bind, family))
    return ""


def _reach_the_end(decoder: Any, case: Case) -> list[TracedPass]:
    try:
        return trace(decoder, case)
    except (UserError, IndexError, RuntimeError) as error:
        raise Failed(
            f"{case}, the model's last position: {type(error).__name__}: {error}. A pass may have "
            "at most `session.room` rows: cut the guesses, and go on with fewer"
        ) from None


def check_counters(subject: Subject) -> str:
    """Read the mechanism figures of a generation, and the parameters needed besides."""
    family, decoder = subject.bound(VARIED)[0]
    trace(decoder, Case(family, subject.role, subject.prompts(family)[2], LIMIT))
    extra = getattr(decoder, "extra_parameters", 0)
    if type(extra) is not int or extra < 0:
        raise Failed(f"extra_parameters = {extra!r} is not a number of parameters")
    if not hasattr(decoder, "counters"):
        return "none"
    found = decoder.counters()
    if not isinstance(found, Mapping):
        raise Failed(f"counters() returns a {type(found).__name__}, not a mapping")
    for key, value in found.items():
        if not isinstance(key, str) or type(value) not in (int, float) or not math.isfinite(value):
            raise Failed(f"counters() has {key!r}: {value!r}; not a name and a number")
    return ", ".join(found)
