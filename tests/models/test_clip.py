"""CLIP's loss, its small models, its training and its classifiers do what the lesson says."""

import math

import pytest
import torch

from mmlesson import world
from mmlesson.checkpoints import load_pretrained
from mmlesson.models.attention import TextTransformer
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


def test_a_classifier_of_another_tokenizers_words():
    tokenizer = world.Tokenizer(["teal", "circle", "a"])
    model = clip_resnet()
    model.text_encoder = TextTransformer(
        vocab_size=len(tokenizer), context_length=8, width=32, layers=1, heads=1, embed_dim=256
    )
    assert zero_shot_classifier(model, ["teal circle"], ("a {}",), tokenizer).shape == (1, 256)
    with pytest.raises(ValueError, match="A text of 9 tokens does not fit into 8 positions"):
        zero_shot_classifier(model, ["teal teal teal teal circle circle"], ("a {}",), tokenizer)


@pytest.mark.parametrize("names, templates", [("a cat", ("{}",)), (["a cat"], "a {}")])
def test_a_string_in_place_of_a_list_is_refused(names, templates):
    with pytest.raises(TypeError, match="takes lists of names and of templates"):
        zero_shot_classifier(clip_resnet(), names, templates)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_models_in_other_number_formats_embed_images(dtype):
    model = clip_resnet().to(dtype).eval()
    features = image_features(model, world.sample(4))
    assert features.dtype == dtype and features.isfinite().all()


def test_training_without_a_curriculum():
    history = train_clip(clip_resnet(), world.CaptionBatches(2, batch_size=4, curriculum=0))
    assert len(history.steps) == 2
