"""Every recipe of the ablation takes its first steps; test_shipped looks at what the long runs made."""

import math

import pytest
import torch

from mmlesson import assets
from mmlesson.make_assets import VARIANTS, trained_flava


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
