"""Few-shot accuracy counts what the model answers, and a control changes the images alone."""

import torch

from mmlesson import world
from mmlesson.experiments.few_shot import answers_correct, few_shot_accuracy
from mmlesson.models.flamingo import small_flamingo


@torch.no_grad()
def test_answers_are_those_of_the_model_and_a_transform_sees_the_images():
    torch.manual_seed(0)
    model, episodes, seen = small_flamingo().eval(), world.episodes(5, 0, shots=2), []
    correct = answers_correct(
        model, episodes, transform=lambda images: seen.append(images.shape) or images, batch_size=7
    )
    assert torch.equal(correct, episodes.correct(model(episodes.tokens, model.encode(episodes.images()))))
    assert seen == [(2, 3, 3, 32, 32), (2, 3, 3, 32, 32), (1, 3, 3, 32, 32)]


def test_accuracy_is_by_the_number_of_examples():
    torch.manual_seed(0)
    accuracy = few_shot_accuracy(small_flamingo().eval(), "motion", n=4, shots=1, frames=4)
    assert accuracy.shape == (2,) and ((accuracy >= 0) & (accuracy <= 1)).all()
