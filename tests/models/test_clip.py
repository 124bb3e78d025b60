"""CLIP's loss, its small models, its training and its classifiers do what the lesson says."""

import math

import pytest
import torch

from mmlesson import world
from mmlesson.checkpoints import load_pretrained
from mmlesson.models.clip import clip_loss, clip_resnet, clip_vit, image_features, train_clip, zero_shot_classifier


def test_chance_costs_the_log_of_the_batch():
    same = torch.ones(8, 5)
    assert clip_loss(same, same, torch.tensor(3.0)).item() == pytest.approx(math.log(8))


@torch.no_grad()
@pytest.mark.parametrize("build", [clip_resnet, clip_vit])
def test_logits_are_scaled_cosines_of_all_pairs(build):
    torch.manual_seed(0)
    model = build().eval()
    scenes = world.sample(3)
    images, tokens = world.render(scenes, device="cpu"), world.Tokenizer().encode(world.captions(scenes, 0))
    cosines = model(images, tokens) / model.logit_scale.exp()
    expected = torch.cosine_similarity(model.encode_image(images)[:, None], model.encode_text(tokens)[None], dim=2)
    torch.testing.assert_close(cosines, expected)


def test_training_lowers_the_loss_keeps_the_scale_below_100_and_is_fixed_by_its_seed():
    def run(seed):
        torch.manual_seed(seed)
        model = clip_resnet()
        batches = world.CaptionBatches(25, batch_size=16, seed=seed, device="cpu")
        return model, train_clip(model, batches).loss

    (model, losses), (_, again), (_, other) = run(0), run(0), run(1)
    assert losses == again != other and len(losses) == 25
    assert sum(losses[-5:]) < sum(losses[:5]) and model.logit_scale.exp() <= 100.001


@torch.no_grad()
def test_a_classifier_made_of_words_is_the_mean_over_templates():
    model, names = load_pretrained("clip_resnet"), ["red cat", "blue dog"]
    one, other = (zero_shot_classifier(model, names, (t,)) for t in ("{}", "a picture of a {}"))
    both = zero_shot_classifier(model, names, ("{}", "a picture of a {}"))
    torch.testing.assert_close(both, torch.nn.functional.normalize(one + other, dim=-1))
    scenes = world.join([world.scene(world.Item("cat", "red")), world.scene(world.Item("dog", "blue"))])
    features = image_features(model, scenes, draw=lambda s: world.render(s, device="cpu"))
    assert (features @ both.T).argmax(dim=1).tolist() == [0, 1]
