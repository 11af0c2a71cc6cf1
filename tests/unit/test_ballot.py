"""Side by side and blind: where two models part, and a vote that tells nobody whose text is whose."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from quantlab.errors import UsageError
from quantlab.evaluate.ballot import Ballot, Outcome, Vote
from quantlab.evaluate.logits import with_weights
from quantlab.evaluate.side_by_side import SideBySide, side_by_side
from quantlab.models.load import LoadedModel
from quantlab.widgets import vote_on

NAMES = ("secret-one", "secret-two")


def pairs(count: int, same: int = 0) -> list[SideBySide]:
    found = [SideBySide(f"p{i}", (f"one {i}", f"two {i}"), ((1, i), (1, -i))) for i in range(1, count + 1)]
    return found + [SideBySide("q", ("alike", "alike"), ((7,), (7,)))] * same


class TestSideBySide:
    def test_a_model_beside_itself_says_the_same(self, tiny: LoadedModel) -> None:
        for temperature in (0.0, 0.9):
            (found,) = side_by_side((tiny.model,) * 2, tiny.tokenizer, ["Once"], tokens=12, temperature=temperature)
            assert found.same
            assert found.shared == len(found.tokens[0]) == 12
            assert found.texts[0] == found.texts[1] != ""

    def test_greedy_takes_the_most_likely_token_each_time(self, tiny: LoadedModel) -> None:
        (found,) = side_by_side((tiny.model,) * 2, tiny.tokenizer, ["The boy had a red"], tokens=8)
        ids = [tiny.tokenizer.bos_token_id, *tiny.tokenizer("The boy had a red", add_special_tokens=False)["input_ids"]]
        for token in found.tokens[0]:
            with torch.inference_mode():
                assert int(tiny.model(torch.tensor([ids])).logits[0, -1].argmax()) == token
            ids.append(token)

    def test_the_seed_decides_what_is_sampled_and_leaves_the_dice_alone(self, tiny: LoadedModel) -> None:
        before = torch.random.get_rng_state()
        said = [
            side_by_side((tiny.model,) * 2, tiny.tokenizer, ["Once"], tokens=12, temperature=1.0, seed=seed)[0].tokens[
                0
            ]
            for seed in (1, 1, 2)
        ]
        assert said[0] == said[1] != said[2]
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_another_model_parts_from_it(self, tiny: LoadedModel) -> None:
        name = "model.layers.3.mlp.down_proj.weight"
        other = with_weights(tiny.model, {name: torch.zeros_like(tiny.model.get_parameter(name))})
        (found,) = side_by_side((tiny.model, other), tiny.tokenizer, ["Once upon a time"], tokens=24)
        assert not found.same
        first, second = found.tokens
        assert first[: found.shared] == second[: found.shared]
        assert first[found.shared] != second[found.shared]

    @pytest.mark.parametrize(
        ("prompts", "options", "words"),
        [
            ([], {}, "a prompt is empty"),
            (["  "], {}, "a prompt is empty"),
            (["a"], {"tokens": 0}, "tokens must be at least 1"),
            (["a"], {"temperature": -1.0}, "temperature a number from 0"),
            (["a"], {"temperature": float("nan")}, "temperature a number from 0"),
        ],
    )
    def test_bad_input(self, tiny: LoadedModel, prompts: list[str], options: dict[str, float], words: str) -> None:
        with pytest.raises(UsageError, match=words):
            side_by_side((tiny.model,) * 2, tiny.tokenizer, prompts, **options)  # type: ignore[arg-type]


class TestBallot:
    @pytest.mark.parametrize("seed", range(6))
    def test_votes_reach_the_model_whose_text_it_was(self, seed: int) -> None:
        ballot = Ballot(NAMES, pairs(9, same=2), seed)
        found = ballot.judge(
            lambda prompt, left, right: Vote.NEITHER if prompt == "p9" else Vote.LEFT if "two" in left else Vote.RIGHT
        )
        assert found == Outcome(NAMES, (0, 8), 1, 2)
        assert str(found).startswith("secret-two is preferred: secret-one 0, secret-two 8, neither 1, 2 pairs the same")

    def test_always_left_prefers_nobody(self) -> None:
        found = [Ballot(NAMES, pairs(40), seed).judge(lambda *_: Vote.LEFT) for seed in range(200)]
        share = sum(one.votes[1] for one in found) / sum(sum(one.votes) for one in found)
        assert share == pytest.approx(0.5, abs=0.03)  # 8,000 coins: five standard errors
        assert sum("preferred" in str(one) for one in found) <= 20  # at most 5% of the time, exactly 3.9% for 40 coins

    def test_p_and_interval_are_those_of_the_textbook(self) -> None:
        one = Outcome(NAMES, (2, 8), 0, 0)
        coins = [sum(fell) for fell in product((0, 1), repeat=10)]
        assert one.p == pytest.approx(sum(abs(heads - 5) >= 3 for heads in coins) / len(coins))
        assert one.share == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)  # Wilson, 8 of 10
        assert "No preference shown" in str(one)
        assert Outcome(NAMES, (0, 0), 5, 0).share == (0.5, 0, 1)
        assert Outcome(NAMES, (0, 0), 5, 0).p == 1

    def test_nothing_is_revealed_early_and_nobody_votes_twice(self) -> None:
        ballot = Ballot(NAMES, pairs(2), 0)
        ballot.vote(Vote.LEFT)
        with pytest.raises(UsageError, match="1 pairs are not judged yet"):
            ballot.reveal()
        assert repr(ballot) == "Ballot(1 of 2 judged)"
        ballot.vote(Vote.LEFT)
        with pytest.raises(UsageError, match="every pair is judged already"):
            ballot.vote(Vote.LEFT)

    def test_pairs_that_say_the_same_are_not_asked(self) -> None:
        with pytest.raises(UsageError, match="nothing to judge"):
            Ballot(NAMES, pairs(0, same=3))


class TestBallotBox:
    def test_no_name_is_anywhere_until_the_last_vote(self) -> None:
        shown = vote_on(Ballot(NAMES, pairs(7), 5))
        for _ in range(7):
            state = "".join(str(widget.get_state()) for widget in (shown.prompt, shown.verdict, *shown.texts))
            state += "".join(str(button.get_state()) for button in shown.buttons.values())
            assert not any(name in state or name in repr(shown) for name in NAMES)
            side = Vote.LEFT if "two" in shown.texts[0].value else Vote.RIGHT
            shown.buttons[side].click()
        assert "secret-two is preferred" in shown.verdict.value
        assert all(button.disabled for button in shown.buttons.values())
        shown.buttons[Vote.LEFT].click()  # too late: nothing happens
        assert "secret-two 7" in shown.verdict.value

    def test_a_text_is_shown_and_not_run(self) -> None:
        pair = SideBySide("<b>p</b>", ("<script>1</script>", "x"), ((1,), (2,)))
        shown = vote_on(Ballot(NAMES, [pair], 0))
        values = shown.prompt.value + shown.texts[0].value + shown.texts[1].value
        assert "<script>" not in values
        assert "&lt;script&gt;" in values
        assert "&lt;b&gt;p" in values
