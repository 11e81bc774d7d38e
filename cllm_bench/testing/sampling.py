"""The checks of what a method draws at temperatures above 0: token for token, and by statistics.

Two statistical tests, both against the model's own probabilities, and both with fixed seeds, so
that a verdict does not change from run to run. The first counts how replies begin, all beginnings
of three tokens enumerated. The second looks at the tokens behind: how often does the model's
likeliest token come up, its second, …? Given the tokens before, each draw is an independent one,
so the sum of (came up - probability) has mean 0 and the covariance of the draws added up.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cllm_bench.contracts import Sampling
from cllm_bench.decoding.sampling import probabilities
from cllm_bench.testing.outcome import Failed, Skipped
from cllm_bench.testing.subject import LIMIT, Subject
from cllm_bench.testing.tiny_models import FEW, VARIED
from cllm_bench.testing.trace import Case, compare, reply, trace

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TEMPERATURE = 1.5  # at which the model with few tokens is neither sure nor indifferent
PROMPT = (0, 1, 2, 3, 4, 5) * 2 + (0, 1)  # repeats itself, so that guesses may come from it
DRAWS = {"exact": 400, "distribution": 2000}  # replies, by what the method declares
LENGTH = 8  # tokens of each
BEGINNING = 3  # tokens whose joint distribution is enumerated
LEAST_EXPECTED = 5.0  # rarer beginnings are counted together
LEAST_P = 1e-4
SEEDS = 20


def check_sampled_tokens(subject: Subject) -> str:
    """Compare sampled replies with autoregressive sampling, where they are to be equal."""
    if subject.sampled != "exact":
        raise Skipped(_why_not(subject))
    count = 0
    for family, decoder in subject.bound(VARIED):
        for seed, prompt in enumerate(subject.prompts(family)):
            sampling = Sampling((0.7, 2.0)[seed % 2], (1.0, 0.9)[seed // 2 % 2], seed)
            case = Case(family, subject.role, prompt, LIMIT, sampling)
            compare(trace(decoder, case), case, partial(subject.bind, family))
            count += 1
    return f"{count} replies of {LIMIT} tokens"


def _why_not(subject: Subject) -> str:
    if subject.sampled is None:
        return "the method declares no `sampled`: it decodes greedily only"
    return f"the method declares sampled = '{subject.sampled}'"


def check_sampled_seeds(subject: Subject) -> str:
    """Draw with the same seed again, and with other seeds."""
    if subject.sampled is None:
        raise Skipped(_why_not(subject))
    family, decoder = subject.bound({"Llama of 6 tokens": FEW})[0]
    prompt = PROMPT if subject.given is None else subject.prompts(family)[1]
    case = Case(family, subject.role, prompt, LENGTH)
    found = []
    for seed in range(SEEDS):
        case = case._replace(sampling=Sampling(TEMPERATURE, seed=seed))
        first, again = (reply(trace(decoder, case))[:LENGTH] for _ in range(2))
        if first != again:
            raise Failed(
                f"{case}: the reply is {first}, and asked again {again}; draw with `Chooser`, or "
                "from a generator that `__call__` seeds with `sampling.seed`"
            )
        found.append(tuple(first))
    if len(set(found)) == 1:
        raise Failed(
            f"{case.family.name}: {SEEDS} seeds give one and the same reply {found[0]} at "
            f"temperature {TEMPERATURE}: choose with `Chooser(sampling, …)`, not with argmax"
        )
    return f"{len(set(found))} replies of {SEEDS} seeds"


def check_sampled_distribution(subject: Subject) -> str:
    """Compare how often tokens are drawn with the model's own probabilities."""
    if subject.sampled not in DRAWS:
        raise Skipped(_why_not(subject))
    if subject.given is not None:
        raise Skipped("only on the suite's own model of 6 tokens, whose replies can be enumerated")
    family, decoder = subject.bound({"Llama of 6 tokens": FEW})[0]
    case = Case(family, subject.role, PROMPT, LENGTH)
    draws = DRAWS[subject.sampled]
    replies = []
    for seed in range(draws):
        drawn = trace(decoder, case._replace(sampling=Sampling(TEMPERATURE, seed=seed)))
        replies.append(reply(drawn)[:LENGTH])
    model = family.model(subject.role)
    found = torch.tensor(replies)
    beginnings, further = _beginnings(model, found), _ranks(model, found)
    return f"{draws} replies: p = {beginnings:.2g} (beginnings), {further:.2g} (further tokens)"


@torch.inference_mode()
def _probabilities(
    model: PreTrainedModel,
    replies: Tensor,  # (N, T)
) -> Tensor:  # (N, T + 1, V)
    """Return what the model draws from behind the prompt and behind each token of each reply."""
    prompt = torch.tensor(PROMPT).expand(len(replies), -1)
    logits = model(input_ids=torch.cat([prompt, replies], dim=1), use_cache=False).logits
    return probabilities(logits[:, len(PROMPT) - 1 :], Sampling(TEMPERATURE)).double()


def _beginnings(
    model: PreTrainedModel,
    replies: Tensor,  # (N, LENGTH)
) -> float:
    """Return the p-value of how the replies begin; chi-square over all beginnings.

    Raises:
        Failed: It is too small.
    """
    from scipy.stats import chisquare

    size = FEW.vocabulary
    stems = torch.cartesian_prod(*[torch.arange(size)] * (BEGINNING - 1))
    joint = torch.ones(len(stems), 1, dtype=torch.float64)
    behind = _probabilities(model, stems)
    for place in range(BEGINNING - 1):
        joint *= behind[:, place].gather(1, stems[:, place : place + 1])
    expected = (joint * behind[:, -1]).flatten() * len(replies)  # of all size ** BEGINNING
    places = size ** torch.arange(BEGINNING - 1, -1, -1)
    counts = torch.bincount((replies[:, :BEGINNING] * places).sum(1), minlength=len(expected))
    often = expected >= LEAST_EXPECTED
    cells = torch.cat([counts[often], counts[~often].sum()[None]]).double()
    wanted = torch.cat([expected[often], expected[~often].sum()[None]])
    wanted *= cells.sum() / wanted.sum()  # chisquare wants equality, and these are rounded
    p_value = float(chisquare(cells.numpy(), wanted.numpy()).pvalue)
    if p_value < LEAST_P:
        deviations = (counts - expected) / expected.clamp(min=LEAST_EXPECTED).sqrt()
        worst = int(deviations.abs().argmax())
        tokens = tuple((worst // places % size).tolist())
        raise Failed(
            f"the replies do not have the model's distribution (p = {p_value:.1g}): {tokens} "
            f"begins {int(counts[worst])} of {len(replies)} replies, expected "
            f"{float(expected[worst]):.0f}. {_remedy()}"
        )
    return p_value


def _ranks(
    model: PreTrainedModel,
    replies: Tensor,  # (N, LENGTH)
) -> float:
    """Return the p-value of the ranks of the tokens behind the beginnings.

    Raises:
        Failed: It is too small.
    """
    from scipy.stats import chi2

    behind = _probabilities(model, replies[:, :-1])[:, BEGINNING:]
    ordered, order = behind.flatten(0, 1).sort(-1, descending=True)
    came = (order == replies[:, BEGINNING:].reshape(-1, 1)).double()
    counts, expected = came.sum(0), ordered.sum(0)
    covariance = torch.diag(expected) - ordered.T @ ordered
    off = counts - expected
    p_value = float(chi2.sf(float(off @ torch.linalg.pinv(covariance) @ off), len(off) - 1))
    if p_value < LEAST_P:
        text = ", ".join(f"{int(count)}" for count in counts)
        wanted = ", ".join(f"{float(count):.0f}" for count in expected)
        raise Failed(
            f"the tokens from the fourth on do not have the model's distribution (p = "
            f"{p_value:.1g}): from its likeliest token to its least likely they come up {text} "
            f"times, expected {wanted}. {_remedy()}"
        )
    return p_value


def _remedy() -> str:
    return (
        "Settle what `Chooser` chooses, or accept a guess x with probability min(1, p(x) / q(x)) "
        "and draw from max(0, p - q) in its place; p after temperature and top-p, from the row "
        "before x"
    )
