"""The evaluation of the Gemini-style model, and the fine-tuning of the codebook that it draws with."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from mmlesson import world
from mmlesson.checkpoints import load_pretrained
from mmlesson.experiments import gemini_evaluation
from mmlesson.experiments.codebook import finetune_decoder
from mmlesson.experiments.gemini_evaluation import PairClassifier, exact_match
from mmlesson.models.flava import ImageCodebook
from mmlesson.models.gemini import small_gemini


def test_the_classifier_says_which_pair_is_nearest(monkeypatch):
    classifier = F.one_hot(torch.arange(768) % 3, 3).float()
    classifier[10] *= 2
    monkeypatch.setattr(gemini_evaluation, "zero_shot_classifier", lambda clip, names: classifier)
    images = torch.zeros(2, 3, 32, 32)
    images[0, 1], images[1, 2] = 1.0, 1.0
    clip = SimpleNamespace(encode_image=lambda images: images.mean(dim=(2, 3)))
    assert PairClassifier(clip)(images).tolist() == [[1, 2], [0, 2]]


def test_the_shipped_clip_names_pairs_that_it_never_saw():
    pairs = world.pairs("held_out")
    items = [world.Item(world.OBJECTS[o].name, world.COLORS[c].name) for o, c in pairs.tolist()]
    scenes = world.join([world.scene(item) for item in items])
    found = PairClassifier(load_pretrained("clip_resnet"))(world.render(scenes, device="cpu"))
    assert (found == pairs).all(dim=1).float().mean() > 0.95


def test_exact_match_counts_whole_texts():
    assert exact_match(["a", "b"], ["a", "c"]) == 0.5


@pytest.mark.parametrize(
    ("text", "named"),
    [("a red cat moves left", True), ("scissors move left", True), ("a cat moves right", False), ("left", False)],
)
def test_a_motion_counts_however_the_rest_goes(text, named):
    assert gemini_evaluation._names_motion(text.split(), ["moves", "left"]) == named


def test_an_untrained_model_scores_next_to_nothing_in_every_task():
    torch.manual_seed(0)
    model, codebook = small_gemini(width=48, layers=1, hidden=64).eval(), ImageCodebook(width=8).eval()
    classifier = PairClassifier(load_pretrained("clip_resnet"))
    scores = gemini_evaluation.evaluate(model, codebook, classifier, n=8)
    assert set(scores) == {
        "image_to_text_en", "image_to_text_ko", "speech_to_text_en", "speech_to_text_ko", "question_to_text",
        "video_to_text", "text_to_image", "speech_to_image",
    }  # fmt: skip
    assert all(0 <= score < 0.5 for score in scores.values())
    assert "video_to_text" not in gemini_evaluation.evaluate(model, codebook, n=4, with_video=False)


def test_fine_tuning_changes_the_decoder_and_no_code():
    torch.manual_seed(0)
    codebook = ImageCodebook(width=8)
    perceptual_net = SimpleNamespace(encode_image=lambda x: x.flatten(1)[:, ::7])
    images = world.render(world.sample(8, seed=0), device="cpu")
    before = codebook.encode(images), codebook.decode(codebook.encode(images))
    history = finetune_decoder(codebook, perceptual_net, steps=5, batch_size=16)
    assert len(history.loss) == 5 and torch.equal(codebook.encode(images), before[0])
    assert not torch.equal(codebook.decode(before[0]), before[1])
    assert not any(p.requires_grad for p in codebook.encoder.parameters())
