"""Scores of the Gemini-style model on what training never shows: held-out pairs and held-out voices."""

import torch

from mmlesson import world
from mmlesson.models.clip import zero_shot_classifier
from mmlesson.models.gemini import generate_images, generate_text
from mmlesson.world import SPEECH, phrase, spoken_phrase


class PairClassifier:
    """A CLIP that says which of the 768 (object, color) pairs an image shows."""

    def __init__(self, clip):
        self.clip = clip
        self.classifier = zero_shot_classifier(clip, world.pair_captions(world.pairs()))  # (768, D)

    @torch.no_grad()
    def __call__(self, images):
        """images (N, 3, 32, 32) -> pairs (N, 2) long, on the CPU."""
        best = [(self.clip.encode_image(chunk) @ self.classifier.T).argmax(dim=1) for chunk in images.split(256)]
        best = torch.cat(best).cpu()
        return torch.stack([best // len(world.COLORS), best % len(world.COLORS)], dim=1)


def exact_match(texts, targets):
    """The fraction of texts that equal their targets."""
    return sum(a == b for a, b in zip(texts, targets, strict=True)) / len(targets)


def evaluate(model, codebook, classifier=None, n=192, objects=None, with_video=True):
    """Scores {task: 0 to 1} on held-out pairs and voices; an image counts if both color and object are right.

    classifier: a PairClassifier; with it, images are drawn for n written prompts and for n spoken ones, too.
    """
    device = model.embedding.weight.device
    pairs, codes = world.held_out_images(codebook.encode, n, objects=objects, device=device)
    scores = {}
    for lang in world.LANGUAGES:
        texts = generate_text(model, [[c, f"<{lang}>"] for c in codes])
        scores[f"image_to_text_{lang}"] = exact_match(texts, [phrase(p, lang) for p in pairs.tolist()])
        targets = [spoken_phrase(p, lang) for p in pairs.tolist()]
        waves = world.speak(targets, 1, voices="held_out")
        texts = generate_text(model, [[SPEECH, f"<{lang}>"] for _ in targets], waves)
        scores[f"speech_to_text_{lang}"] = exact_match(texts, targets)
    scores["question_to_text"] = question_accuracy(model, pairs, codes)
    if with_video:
        scores["video_to_text"] = motion_accuracy(model, codebook, n)
    if classifier is not None:
        prompts = [[phrase(p, "en")] for p in pairs.tolist()]
        scores["text_to_image"] = drawing_accuracy(model, codebook, classifier, pairs, prompts)
        waves = world.speak([spoken_phrase(p, "en") for p in pairs.tolist()], 3, voices="held_out")
        prompts = [[SPEECH] for _ in pairs]
        scores["speech_to_image"] = drawing_accuracy(model, codebook, classifier, pairs, prompts, waves)
    return scores


def question_accuracy(model, pairs, codes):
    """Accuracy on spoken questions about images: what is it, what color is it, in both languages by turns."""
    asked = [(lang, k) for lang in world.LANGUAGES for k in (0, 1)]
    asked = [asked[i % 4] for i in range(len(pairs))]
    waves = world.speak([world.SPOKEN_QUESTIONS[lang][k] for lang, k in asked], 2, voices="held_out")
    texts = generate_text(model, [[c, SPEECH, f"<{lang}>"] for c, (lang, _) in zip(codes, asked)], waves)
    targets = [spoken_phrase(p, lang).split()[1 - k] for p, (lang, k) in zip(pairs.tolist(), asked)]
    return exact_match(texts, targets)


def drawing_accuracy(model, codebook, classifier, pairs, prompts, waves=None):
    """The fraction of drawn images that show the pair asked for, by the classifier."""
    images = codebook.decode(generate_images(model, prompts, waves)[0])
    return (classifier(images) == pairs).all(dim=1).float().mean().item()


def motion_accuracy(model, codebook, n):
    """How often the motion of a clip is named right, whatever else the text says."""
    clips = world.video(n, 100, split="held_out")
    rows = world.video_rows(clips, codebook.encode, model.embedding.weight.device)
    texts = generate_text(model, [[*row[:-1], "<en>"] for row in rows], max_words=9)
    motions = [world.MOTIONS[m].split() for m in clips.motions.tolist()]
    return sum(_names_motion(text.split(), motion) for text, motion in zip(texts, motions)) / n


def _names_motion(words, motion):
    """Whether the words end in the motion; "scissors move left": the s of the verb does not count."""
    verb, *rest = motion
    return any(
        word.removesuffix("s") == verb.removesuffix("s") and words[i + 1 :] == rest for i, word in enumerate(words)
    )
