"""Every recipe of the ablation takes its first steps; test_shipped looks at what the long runs made."""

import math

import pytest
import torch

from mmlesson import assets, flamingo_variants, gemini_variants
from mmlesson.make_assets import VARIANTS, frozen_weights, picture_judge, trained_codebook, trained_flava
from mmlesson.models.flamingo import IMAGE
from mmlesson.models.gemini import RawFrames


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_recipe_takes_its_first_steps(variant):
    start, mixture, wanted, wrong = VARIANTS[variant]
    model, history = trained_flava(start, mixture, wanted, wrong, steps=2, seed=0)
    assert len(history.loss) == 2 and all(map(math.isfinite, history.loss))
    assert not model.training
    stage_one = assets.load_weights("flava_unimodal")["text_encoder.words.weight"].float()
    moved = (model.text_encoder.words.weight.cpu() - stage_one).abs().max()
    assert (moved < 0.01) == (start == "flava_unimodal")  # two small steps from where the recipe says it starts


def test_a_seed_fixes_a_run():
    runs = [trained_flava(*VARIANTS["full"], steps=2, seed=seed) for seed in (3, 3, 4)]
    same, again, other = (history.loss for _, history in runs)
    assert same == again != other
    assert torch.equal(runs[0][0].logit_scale, runs[1][0].logit_scale)


@pytest.mark.parametrize("variant", flamingo_variants.VARIANTS)
def test_a_variant_of_flamingo_takes_its_first_steps_and_changes_what_its_name_says(variant):
    frozen = frozen_weights()
    model, history = flamingo_variants.trained_variant(variant, frozen, steps=21, seed=0, device="cpu")
    assert len(history.loss) == 21 and all(map(math.isfinite, history.loss)) and not model.training
    moved = {part: any(p.requires_grad for p in getattr(model, part).parameters())
             for part in ("image_encoder", "resampler", "gated")}  # fmt: skip
    assert moved["image_encoder"] == (variant == "vision from random")
    embedding = model.language_model.embedding.weight
    assert embedding.requires_grad == variant.startswith("language model")
    far = (embedding - frozen[1]["embedding.weight"].float()).abs().max()
    assert (far > 1) == (variant == "language model from random")
    alphas = [p for name, p in model.named_parameters() if "alpha" in name]
    if variant == "no tanh gating":
        assert all(alpha.tanh() == 1 and not alpha.requires_grad for alpha in alphas)
    elif variant == "vanilla cross-attention":
        assert not alphas
    else:
        assert len(alphas) == (4 if variant == "every other layer" else 8)
        assert all(0 < alpha.abs() < 2 for alpha in alphas)


def test_the_variant_that_sees_all_pictures_sees_those_so_far():
    model, _ = flamingo_variants.trained_variant("sees all pictures", frozen_weights(), steps=21, seed=0, device="cpu")
    tokens = torch.tensor([[5, IMAGE, 5, IMAGE, 5]])
    assert model.visible(tokens, 3).int().tolist() == [[[0, 0, 0], [1, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 0]]]


@pytest.mark.parametrize("variant", gemini_variants.VARIANTS)
def test_a_variant_of_gemini_takes_its_first_steps_and_is_judged(variant, monkeypatch):
    monkeypatch.setattr(gemini_variants, "SENSING", {"write": 2, "hear": 2, "ask": 2})
    monkeypatch.setattr(gemini_variants, "exam", lambda model, codebook, judge, **_: {"judged": judge is not None})
    kinds = {**gemini_variants.SENSING, "read": 2, "draw": 2}
    codebook = trained_codebook()
    model, history = gemini_variants.trained_variant(variant, codebook, steps=4, seed=0, device="cpu", kinds=kinds)
    assert len(history.loss) == (2 + 4 if variant == "grafted" else 4) and all(map(math.isfinite, history.loss))
    assert not model.training
    assert isinstance(model, gemini_variants.Grafted) == (variant == "grafted")
    assert isinstance(model.listener, RawFrames) == (variant == "native, raw sound")
    board = gemini_variants.board(model, history, codebook, picture_judge())
    assert board["judged"] == (variant != "grafted") and board["seconds"] > 0
    if variant != "grafted":
        largest = {kind: list(steps.values()) for kind, steps in board["logits"].items()}
        assert set(largest) == set(kinds) and all(0 < logit < 100 for steps in largest.values() for logit in steps)
        bound = 36**0.5  # |q| = |k| = sqrt(d) at the start, where QK-norm's weights are 1
        assert all((steps[0] <= bound) for steps in largest.values()) or variant == "native, no QK-norm"
