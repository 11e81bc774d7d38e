"""The contract suite passes what keeps the contract, and says what is wrong with what does not."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from families import cli, write_family

from cllm_bench.contracts import Step
from cllm_bench.decoding.sampling import Chooser, probabilities
from cllm_bench.errors import UserError
from cllm_bench.testing.methods import CHECKS, MethodSuite, check_method, method_suite
from cllm_bench.testing.sampling import DRAWS
from cllm_bench.testing.subject import Subject
from cllm_bench.testing.tiny_models import VARIED


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch):
    monkeypatch.setitem(DRAWS, "exact", 100)
    monkeypatch.setitem(DRAWS, "distribution", 250)


@pytest.fixture
def few_models(monkeypatch):
    """Two models and three prompts."""
    for name in ("Qwen2", "GPT-2", "GPT-NeoX"):
        monkeypatch.delitem(VARIED, name)
    every = Subject.prompts
    monkeypatch.setattr(Subject, "prompts", lambda *arguments: every(*arguments)[1::2])


test_the_baseline_keeps_the_contract = method_suite("ar")
test_jacobi_keeps_the_contract = method_suite("jacobi:block_size=5,refill=sliding")


class Plain:
    """A decoder that guesses what followed the newest token last time; broken ones are below."""

    def __init__(self, settings, session):
        self.guesses, self.session, self.seen = settings.guesses, session, []

    def __call__(self, prompt_ids, sampling):
        self.choose = Chooser(sampling, prompt_ids.device)
        self.start(prompt_ids)
        self.seen.append(int(self.choose(self.first(prompt_ids), 0)))
        yield Step((self.seen[-1],))
        place = 1
        while True:
            rows = [self.seen[-1], *self.guess()][: self.longest()]
            settled, kept = self.settle(rows, self.session.forward(rows).logits, place)
            self.session.keep(kept)
            self.seen += settled
            yield self.step(settled, len(rows) - 1)
            place += len(settled)

    def start(self, prompt_ids):
        self.seen = prompt_ids.tolist()

    def first(self, prompt_ids):
        return self.session.prefill(prompt_ids).logits

    def longest(self):
        return max(1, self.session.room)

    def guess(self):
        found = [self.seen[-1]]
        for _ in range(self.guesses):
            earlier = [i for i, token in enumerate(self.seen[:-1]) if token == found[-1]]
            found += [self.seen[earlier[-1] + 1]] if earlier else []
        return found[1:]

    def settle(self, rows, logits, place):
        chosen = self.choose(logits, place).tolist()
        accepted = self.accepted(rows, chosen, logits)
        return chosen[: accepted + 1], accepted + 1

    def accepted(self, rows, chosen, logits):
        count = 0
        while count < len(rows) - 1 and rows[count + 1] == chosen[count]:
            count += 1
        return count

    def step(self, settled, drafted):
        return Step(tuple(settled), drafted)


@dataclass(frozen=True)
class Chain:
    """Guess what followed the newest token last time."""

    exactness: ClassVar[str] = "exact"
    sampled: ClassVar[str | None] = "exact"
    decoder: ClassVar[type] = Plain

    guesses: int = 3
    checkpoint: str = "target"

    def bind(self, family):
        return self.decoder(self, family.session(self.checkpoint))


def suite_of(decoder, **attributes):
    """The suite of the method that decodes so, and declares what is given."""
    namespace = {"__doc__": "A method.", "decoder": decoder, **attributes}
    return MethodSuite(type("Mine", (Chain,), namespace)(), [], None, None, None)


UNBROKEN = suite_of(Plain)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.usefixtures("few_models")
def test_the_unbroken_chain_keeps_the_contract(check):
    assert UNBROKEN.result(check).status == "passed", UNBROKEN.result(check).message


class KeepsOneMore(Plain):
    def settle(self, rows, logits, place):
        settled, kept = super().settle(rows, logits, place)
        return settled, min(kept + 1, len(rows))


class KeepsOneLess(Plain):
    def settle(self, rows, logits, place):
        settled, kept = super().settle(rows, logits, place)
        return settled, max(1, kept - 1)


class LosesTheLastToken(Plain):
    def settle(self, rows, logits, place):
        settled, kept = super().settle(rows, logits, place)
        if len(settled) == len(rows) > 1:
            return settled[:-1], kept
        return settled, kept


class DropsTheBonus(Plain):
    """It stays exact: the token comes with the next pass."""

    def settle(self, rows, logits, place):
        settled, kept = super().settle(rows, logits, place)
        return (settled[:-1], kept - 1) if len(settled) == len(rows) > 1 else (settled, kept)


class ForgetsToReset(Plain):
    def first(self, prompt_ids):
        logits = self.session.forward(prompt_ids).logits[-1:]
        self.session.keep(len(prompt_ids))
        return logits


class LearnsFromEarlierPrompts(Plain):
    def start(self, prompt_ids):
        self.seen += prompt_ids.tolist()


class GuessesUnseeded(Plain):
    def guess(self):
        return random.sample(self.seen, min(len(self.seen), self.guesses))


class AcceptsTheSecondBest(Plain):
    def accepted(self, rows, chosen, logits):
        best = logits.topk(2).indices.tolist()
        count = 0
        while count < len(rows) - 1 and rows[count + 1] in best[count]:
            chosen[count] = rows[count + 1]
            count += 1
        return count


class TakesTheWrongRow(Plain):
    def settle(self, rows, logits, place):
        settled, kept = super().settle(rows, logits, place)
        if len(settled) > 1:
            settled[-1] = int(logits[0].argmax())
        return settled, kept


class BeginsWithTheSecondBest(Plain):
    def first(self, prompt_ids):
        logits = super().first(prompt_ids)
        return logits.scatter(1, logits.argmax(-1, keepdim=True), -100.0)


class YieldsNothing(Plain):
    def step(self, settled, drafted):
        return Step(tuple(settled) if drafted else (), drafted)


class YieldsTensors(Plain):
    def step(self, settled, drafted):
        return Step(tuple(torch.tensor(settled)), drafted)


class YieldsTuples(Plain):
    def step(self, settled, drafted):
        return tuple(settled)


class HidesGuesses(Plain):
    def step(self, settled, drafted):
        return Step(tuple(settled))


class HidesPasses(Plain):
    """Two passes of one row each, sold as one that settled a guess."""

    def __call__(self, prompt_ids, sampling):
        steps = super().__call__(prompt_ids, sampling)
        yield next(steps)
        while True:
            yield Step(next(steps).tokens + next(steps).tokens, drafted=1)

    def guess(self):
        return []

    def step(self, settled, drafted):
        self.session.forward(settled)
        self.session.keep(0)
        return Step(tuple(settled), drafted)


class SplitsPasses(Plain):
    def __call__(self, prompt_ids, sampling):
        for step in super().__call__(prompt_ids, sampling):
            for token in step.tokens:
                yield Step((token,), step.drafted)


class EndsEarly(Plain):
    def __call__(self, prompt_ids, sampling):
        steps = super().__call__(prompt_ids, sampling)
        for _ in range(3):
            yield next(steps)


class ReachesTooFar(Plain):
    def longest(self):
        return 100


class Raises(Plain):
    def guess(self):
        return [self.seen.index(-1)]


class CountsTensors(Plain):
    def counters(self):
        return {"rate": torch.tensor(1.0)}


@pytest.mark.parametrize(
    ("cls", "check", "message"),
    [
        (KeepsOneMore, "exactness", "`session.keep` committed 1 row too many"),
        (KeepsOneLess, "exactness", "`session.keep` committed 1 row too few"),
        (LosesTheLastToken, "exactness", "`session.keep` committed 1 row too many"),
        (ForgetsToReset, "exactness", "A fresh decoder gets it right"),
        (AcceptsTheSecondBest, "exactness", "It is a guess that was accepted"),
        (TakesTheWrongRow, "exactness", "It is the last of its step"),
        (BeginsWithTheSecondBest, "exactness", "Step 0 (the prefill) settled"),
        (DropsTheBonus, "bonus_token", "the last row gives a further token"),
        (LearnsFromEarlierPrompts, "fresh_start", "Everything starts anew with each prompt"),
        (GuessesUnseeded, "fresh_start", ": other steps. Step"),
        (YieldsNothing, "steps", "settles no token"),
        (YieldsTensors, "steps", "tokens must be a tuple of int, not (tensor("),
        (YieldsTuples, "steps", "is a tuple; yield cllm_bench.contracts.Step"),
        (HidesGuesses, "steps", "tokens with drafted=0"),
        (HidesPasses, "steps", "forward passes of the 'target' model"),
        (SplitsPasses, "steps", "comes without a forward pass of the 'target' model"),
        (EndsEarly, "steps", "the steps end after"),
        (Raises, "steps", "raised ValueError: -1 is not in list (test_methods.py, line"),
        (ReachesTooFar, "last_position", "at most `session.room` rows"),
        (CountsTensors, "counters", "counters() has 'rate': tensor(1.); not a name and a number"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
@pytest.mark.usefixtures("few_models")
def test_what_is_wrong_is_told(cls, check, message):
    random.seed(0)
    found = suite_of(cls).result(check)
    assert found.status == "failed"
    assert message in found.message


@pytest.mark.usefixtures("few_models")
def test_a_failure_names_prompt_step_and_tokens():
    text = suite_of(AcceptsTheSecondBest).result("exactness").message
    for part in ("Llama", "a prompt of", "token", "plain autoregressive decoding gives", "Step"):
        assert part in text


@pytest.mark.usefixtures("few_models")
def test_what_builds_on_a_failure_is_not_tried():
    suite = suite_of(YieldsNothing)
    assert suite.result("sampled_distribution").message == "not tried, for 'steps' failed"
    assert suite_of(KeepsOneMore).result("rollback").message == "not tried, for 'exactness' failed"


@pytest.mark.usefixtures("few_models")
def test_a_lossy_method_need_not_be_exact():
    suite = suite_of(AcceptsTheSecondBest, exactness="lossy", sampled=None)
    results = {check: suite.result(check) for check in CHECKS}
    assert not [each for each in results.values() if each.status == "failed"]
    assert "declares itself lossy" in results["exactness"].message
    assert "decodes greedily only" in results["sampled_tokens"].message
    assert results["rollback"].status == results["last_position"].status == "passed"


class ArgmaxAtTemperature(Plain):
    def start(self, prompt_ids):
        super().start(prompt_ids)
        self.choose = lambda logits, place: logits.argmax(-1)


class DrawsAlike(Plain):
    """The noise of place 0 at every place: fixed by the seed, and wrong."""

    def settle(self, rows, logits, place):
        return super().settle(rows, logits, 0)


class Draws(Plain):
    """Keeps a guess x with probability p(x), else draws from what is left; greedy as it should."""

    def __call__(self, prompt_ids, sampling):
        self.sampling = sampling
        self.generator = torch.Generator().manual_seed(sampling.seed)
        return super().__call__(prompt_ids, sampling)

    def settle(self, rows, logits, place):
        if self.sampling.temperature == 0:
            return super().settle(rows, logits, place)
        settled = []
        for guess, p in zip([*rows[1:], None], probabilities(logits, self.sampling), strict=True):
            if guess is not None and torch.rand((), generator=self.generator) < p[guess]:
                settled.append(guess)
                continue
            left = self.left(p, guess)
            settled.append(int(torch.multinomial(left, 1, generator=self.generator)))
            break
        return settled, len(settled)

    def left(self, p, guess):
        return p if guess is None else p.index_fill(0, torch.tensor([guess]), 0.0)


class DrawsARejectedGuess(Draws):
    def left(self, p, guess):
        return p


class DrawsFlatBonus(Draws):
    def guess(self):
        return super().guess()[:1]

    def left(self, p, guess):
        return super().left(p, guess) if guess is not None else torch.ones_like(p)


class DrawsUnseeded(Draws):
    def start(self, prompt_ids):
        super().start(prompt_ids)
        self.generator.seed()


@pytest.mark.parametrize(
    ("cls", "check", "message"),
    [
        (ArgmaxAtTemperature, "sampled_tokens", "Choose with `Chooser`"),
        (ArgmaxAtTemperature, "sampled_seeds", "20 seeds give one and the same reply"),
        (DrawsAlike, "sampled_tokens", "`place` is the index in the reply"),
        (DrawsAlike, "sampled_distribution", "begins"),
        (DrawsARejectedGuess, "sampled_distribution", "from the fourth on do not have"),
        (DrawsFlatBonus, "sampled_distribution", "from its likeliest token"),
        (DrawsUnseeded, "sampled_seeds", "and asked again"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
@pytest.mark.usefixtures("few_models")
def test_wrong_sampling_is_told(cls, check, message):
    declared = "distribution" if issubclass(cls, Draws) else "exact"
    found = suite_of(cls, sampled=declared).result(check)
    assert found.status == "failed"
    assert message in found.message


@pytest.mark.usefixtures("few_models")
def test_right_sampling_of_a_distribution_passes():
    suite = suite_of(Draws, sampled="distribution")
    assert suite.result("sampled_distribution").status == "passed"
    assert suite.result("sampled_seeds").status == "passed"
    assert "sampled = 'distribution'" in suite.result("sampled_tokens").message


class Undocumented(Chain):
    __doc__ = None


@dataclass
class Thawed:
    """Not frozen."""

    exactness: ClassVar[str] = "exact"
    checkpoint: str = "target"


class BindsLate(Chain):
    """Weights are fetched when the clock runs."""

    def bind(self, family):
        return lambda prompt_ids, sampling: super().bind(family)(prompt_ids, sampling)


@dataclass(frozen=True)
class Needy(Chain):
    """A setting that nobody can leave out, and one that no text gives."""

    words: tuple[str, ...] = ("a",)


@dataclass(frozen=True)
class Misdeclared(Chain):
    """A word that is none of the three."""

    exactness: ClassVar[str] = "approximately"


@pytest.mark.parametrize(
    ("method", "check", "message"),
    [
        (Undocumented(), "declaration", "Undocumented has no docstring"),
        (BindsLate(), "binding", "bind accepts a family that has no checkpoint at all"),
        (Thawed(), "declaration", "Thawed is no frozen dataclass"),
        (Misdeclared(), "declaration", "exactness = 'approximately' is not one of exact"),
        (Needy(), "settings", "Needy:words cannot be set from the command line"),
        (Chain(checkpoint="a,b"), "settings", "'b' in 'Chain:checkpoint=a,b' is not of the form"),
    ],
)
@pytest.mark.usefixtures("few_models")
def test_a_bad_declaration_is_told(method, check, message):
    found = MethodSuite(method, [], None, None, None).result(check)
    assert found.status == "failed"
    assert message in found.message


class Tabled(Plain):
    def guess(self):
        return self.table


@dataclass(frozen=True)
class WithTable(Chain):
    """Guesses from a table that lies in a folder of its own."""

    extra_roles: ClassVar[tuple[str, ...]] = ("table",)

    def bind(self, family):
        file = Path(family.checkpoint("table").location) / "table.json"
        if not file.exists():
            raise UserError(f"no table at '{file}'")
        decoder = Tabled(self, family.session(self.checkpoint))
        decoder.table = json.loads(file.read_text())
        return decoder


@pytest.mark.usefixtures("few_models")
def test_a_role_of_another_kind_is_skipped_or_built():
    skipped = MethodSuite(WithTable, [], None, None, None)
    assert skipped.result("binding").status == "skipped"
    assert skipped.result("binding").message.startswith("role 'table' needs more than an ordinary")
    assert skipped.result("exactness").message == "not tried, for no model was accepted"

    def write(folder, target):
        assert (target / "config.json").exists()
        folder.mkdir()
        (folder / "table.json").write_text("[1, 2]")

    built = MethodSuite(WithTable, [], None, None, {"table": write})
    assert [built.result(name).status for name in ("binding", "steps", "exactness")] == [
        "passed"
    ] * 3


def test_pytest_is_told():
    test = method_suite(suite_of(YieldsNothing).method)
    with pytest.raises(pytest.fail.Exception, match="settles no token"):
        test("steps")
    with pytest.raises(pytest.skip.Exception, match="not tried"):
        test("exactness")


def test_an_author_s_family(tmp_path):
    family = write_family(tmp_path)
    results = {each.check: each for each in check_method(Chain, model=str(family))}
    assert not [each for each in results.values() if each.status == "failed"]
    assert results["exactness"].message == "5 replies of 32 tokens"
    for name in ("last_position", "sampled_distribution"):
        assert "only on the suite's own" in results[name].message
    with pytest.raises(UserError, match="no model 'nowhere'"):
        check_method(Chain, model="nowhere")


PLUGIN = '''
from dataclasses import dataclass
from pathlib import Path
from cllm_bench_methods.ar import AutoregressiveDecoder

@dataclass(frozen=True)
class Mine:
    """One token a pass."""
    exactness = "exact"
    checkpoint: str = "target"

    def bind(self, family):
        return AutoregressiveDecoder(family.session(self.checkpoint))
'''


@pytest.mark.parametrize(
    ("change", "arguments", "code", "message"),
    [
        (("", ""), [], 0, "3 checks: 2 passed, 1 skipped"),
        (('"""One token a pass."""', ""), [], 1, "declaration: Mine has no docstring"),
        (("Mine", "Other"), [], 2, "error: no method named 'mine'"),
        (("", ""), ["--role", "draft=nowhere"], 2, "no folder"),
    ],
)
def test_check_method(monkeypatch, tmp_path, capsys, change, arguments, code, message):
    few = ("declaration", "binding", "bonus_token")
    monkeypatch.setattr("cllm_bench.cli.check.CHECKS", few)
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN.replace(*change))
    asked = ["check-method", "mine", "--plugin", plugin, *arguments]
    assert cli(monkeypatch, *asked) == code
    shown = capsys.readouterr()
    assert message in shown.out + shown.err


def test_a_role_that_is_missing_is_a_user_s_error(monkeypatch, tmp_path, capsys):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        PLUGIN.replace('= "target"', '= "target"\n    extra_roles = ("table",)').replace(
            "return Auto", "raise UserError('no table')\n        return Auto"
        )
        + "\nfrom cllm_bench.errors import UserError\n"
    )
    assert cli(monkeypatch, "check-method", "mine", "--plugin", plugin) == 2
    assert "nothing was decoded: role 'table' needs more than" in capsys.readouterr().err
