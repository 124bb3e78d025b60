"""Every variant of the ablations takes its first steps and changes what its name says."""

import math

import pytest
import torch
from torch import nn

from mmlesson import world
from mmlesson.checkpoints import load_pretrained, load_weights
from mmlesson.experiments import flamingo_ablation, flava_ablation, gemini_ablation, gemini_evaluation
from mmlesson.models.flamingo import IMAGE
from mmlesson.models.flava import ImageCodebook
from mmlesson.models.gemini import FIRST_CODE, GRID, VOCABULARY, RawFrames, interleave, small_gemini
from mmlesson.world import SPEECH

# FLAVA ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", flava_ablation.VARIANTS)
def test_a_recipe_takes_its_first_steps(variant):
    recipe = flava_ablation.VARIANTS[variant]
    model, history = flava_ablation.train_recipe(recipe, steps=2, seed=0)
    assert len(history.loss) == 2 and all(map(math.isfinite, history.loss)) and not model.training
    stage_one = load_weights("flava_unimodal")["text_encoder.words.weight"].float()
    moved = (model.text_encoder.words.weight.cpu() - stage_one).abs().max()
    assert (moved < 0.01) == (recipe.start == "flava_unimodal")  # two small steps from where the recipe says it starts


def test_a_seed_fixes_a_run():
    runs = [flava_ablation.train_recipe(flava_ablation.VARIANTS["full"], 2, seed) for seed in (3, 3, 4)]
    same, again, other = (history.loss for _, history in runs)
    assert same == again != other
    assert torch.equal(runs[0][0].logit_scale, runs[1][0].logit_scale)


# Flamingo ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("MMLESSON_DEVICE", "cpu")


@pytest.mark.parametrize("variant", flamingo_ablation.VARIANTS)
def test_a_variant_of_flamingo_changes_what_its_name_says(variant, on_the_cpu):
    model, history = flamingo_ablation.train_variant(variant, seed=0, steps=21)
    assert len(history.loss) == 21 and all(map(math.isfinite, history.loss)) and not model.training
    trained = {part: any(p.requires_grad for p in getattr(model, part).parameters())
               for part in ("image_encoder", "resampler", "gated")}  # fmt: skip
    assert trained["image_encoder"] == (variant == "vision from random")
    embedding = model.language_model.embedding.weight
    assert embedding.requires_grad == variant.startswith("language model")
    far = (embedding - load_weights("language_model")["embedding.weight"].float()).abs().max()
    assert (far > 1) == (variant == "language model from random")
    alphas = [p for name, p in model.named_parameters() if "alpha" in name]
    if variant == "no tanh gating":
        assert all(alpha.tanh() == 1 and not alpha.requires_grad for alpha in alphas)
    elif variant == "vanilla cross-attention":
        assert not alphas
    else:
        assert len(alphas) == (4 if variant == "every other layer" else 8)
        assert all(0 < alpha.abs() < 2 for alpha in alphas)


def test_the_variant_that_sees_all_images_sees_those_so_far(on_the_cpu):
    model, _ = flamingo_ablation.train_variant("sees all images", seed=0, steps=21)
    tokens = torch.tensor([[5, IMAGE, 5, IMAGE, 5]])
    assert model.visible(tokens, 3).int().tolist() == [[[0, 0, 0], [1, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 0]]]


# The Gemini-style model ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", gemini_ablation.VARIANTS)
def test_a_variant_of_gemini_takes_its_first_steps_and_is_evaluated(variant, monkeypatch, on_the_cpu):
    monkeypatch.setattr(
        gemini_evaluation, "evaluate", lambda model, codebook, classifier, **_: {"classifier": classifier is not None}
    )
    mixture, codebook = dict.fromkeys(gemini_ablation.MIXTURE, 2), load_pretrained("codebook")
    model, history = gemini_ablation.train_variant(variant, 0, codebook, steps=4, mixture=mixture)
    assert len(history.loss) == (2 + 4 if variant == "grafted" else 4) and all(map(math.isfinite, history.loss))
    assert not model.training and isinstance(model, gemini_ablation.Grafted) == (variant == "grafted")
    assert isinstance(model.audio_encoder, RawFrames) == (variant == "native, raw sound")
    scores = gemini_ablation.evaluate(model, history, codebook, classifier="a classifier")
    assert scores["classifier"] == (variant != "grafted") and scores["seconds"] > 0
    if variant != "grafted":
        largest = {kind: list(steps.values()) for kind, steps in scores["logits"].items()}
        assert set(largest) == set(mixture) and all(0 < logit < 100 for steps in largest.values() for logit in steps)
        bound = 36**0.5  # |q| = |k| = sqrt(d) at the start, where QK-norm's weights are 1
        assert all(steps[0] <= bound for steps in largest.values()) or variant == "native, no QK-norm"


def reading(reader, words):
    """The logits of a decoder whose blocks were wrapped for grafting, without the graft."""
    x = reader.embedding(words) * reader.scale
    for block in reader.decoder.blocks:
        x = block.block(x)
    return reader.logits(reader.decoder.norm(x))


def test_a_grafted_decoder_is_frozen_and_reads_what_the_media_say():
    torch.manual_seed(0)
    codes = torch.randint(ImageCodebook.size, (3, GRID, GRID), generator=torch.Generator().manual_seed(0))
    reader = small_gemini()
    grafted = gemini_ablation.Grafted(reader, load_pretrained("clip_resnet"), ImageCodebook(width=8).eval()).train()
    assert not any(part.training for part in grafted.image_encoder.modules()) and grafted.norm.training
    grafted.eval()
    trained = {name.split(".")[0] for name, p in grafted.named_parameters() if p.requires_grad}
    assert trained == {"image_projection", "audio_encoder", "norm", "decoder"}
    in_decoder = [name for name, p in grafted.decoder.named_parameters() if p.requires_grad]
    assert all("gated" in name for name in in_decoder)
    tokens, _ = interleave([[codes[0], "<en> a red cat ;"], [codes[1], "<en> a red cat ;"]])
    words, _ = interleave([["<image> </image> <en> a red cat ;"]])
    with torch.no_grad():
        shut = grafted(tokens)[:, tokens[0] < FIRST_CODE]
        torch.testing.assert_close(shut[0], shut[1])  # the gates are 0, so no token looks at the media
        torch.testing.assert_close(shut[:1], reading(reader, words), atol=1e-4, rtol=1e-4)
        for block in grafted.decoder.blocks:
            nn.init.constant_(block.gated.alpha_attn, 1.0)
        opened = grafted(tokens)[:, tokens[0] < FIRST_CODE]
        assert (opened[0] - opened[1]).abs().max() > 1e-4
        tokens, _ = interleave([[codes[0], SPEECH, "<en> red ;"]])
        one, other = (grafted(tokens, world.speak([text], 0)) for text in ("what is it", "what color is it"))
    assert one.shape == (*tokens.shape, VOCABULARY) and (one[0, -1] - other[0, -1]).abs().max() > 1e-4
