"""The models are not tied to the course's world: CLIP, FLAVA and the Gemini-style model learn a foreign data set.

easy-VQA (Victor Zhou, MIT license, on PyPI): 5,000 pictures of 64 x 64 pixels with one shape each, 48,000 questions in
other words than the world's. No constant of a module is exchanged; tokenizer, sizes and data are handed over.
"""

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from optional import absent
from PIL import Image
from torch import nn

from mmlesson import world
from mmlesson.checkpoints import load_pretrained
from mmlesson.metrics import recall_at_k
from mmlesson.models.attention import TextTransformer
from mmlesson.models.clip import CLIP, train_clip, zero_shot_classifier
from mmlesson.models.flava import FLAVA, Encoder, ImageEncoder, TextEncoder
from mmlesson.models.gemini import GeminiStyle, generate_text, train_gemini
from mmlesson.models.vision import ModifiedResNet
from mmlesson.train import fit


@dataclass
class Split:
    """images (N, 3, 32, 32) in [0, 1]; questions and answers, lists of strings; of (Q,) long: the image of each."""

    images: torch.Tensor
    questions: list
    answers: list
    of: torch.Tensor

    def captions(self):
        """{image: "teal triangle"}, where its questions tell both."""
        told = {}
        for question, answer, image in zip(self.questions, self.answers, self.of.tolist()):
            color = re.fullmatch(r"what is the (\w+) shape\?", question)
            shape = re.fullmatch(r"what (?:color is|is the color of) the (circle|rectangle|triangle)\?", question)
            if color:
                told[image] = f"{color[1]} {answer}"
            elif shape:
                told[image] = f"{answer} {shape[1]}"
        return told


def read(questions, paths):
    texts, answers, of = questions
    names = sorted(paths)
    images = np.stack([np.asarray(Image.open(paths[name]).convert("RGB").resize((32, 32), 4)) for name in names])
    place = {name: i for i, name in enumerate(names)}
    return Split(
        torch.from_numpy(images).permute(0, 3, 1, 2) / 255, texts, answers, torch.tensor([place[i] for i in of])
    )


@pytest.fixture(scope="module")
def splits():
    try:
        import easy_vqa
    except ImportError:
        absent("easy-vqa is not installed: run `make test`, or pip install -c constraints.txt -e '.[test]'.")
    train = read(easy_vqa.get_train_questions(), easy_vqa.get_train_image_paths())
    return train, read(easy_vqa.get_test_questions(), easy_vqa.get_test_image_paths())


def words(split):
    return sorted({word for text in split.questions + split.answers for word in re.findall(r"\w+", text)})


def majorities(train, test):
    """Accuracy on `test` of always giving the commonest answer, and of giving each question's commonest one."""
    overall = Counter(train.answers).most_common(1)[0][0]
    each = {}
    for question, answer in zip(train.questions, train.answers):
        each.setdefault(question, Counter())[answer] += 1
    guesses = [each[q].most_common(1)[0][0] if q in each else overall for q in test.questions]
    right = [guess == answer for guess, answer in zip(guesses, test.answers)]
    return test.answers.count(overall) / len(test.answers), sum(right) / len(right)


class Batches:
    """Batches that draw(generator) returns, as train_clip and train_gemini take them."""

    def __init__(self, steps, draw):
        self.steps, self.draw, self.generator = steps, draw, torch.Generator().manual_seed(0)

    def __len__(self):
        return self.steps

    def __iter__(self):
        for _ in range(self.steps):
            yield self.draw(self.generator)


def test_clip_names_shapes_and_colors(splits, steps=400):
    train, test = splits
    tokenizer = world.Tokenizer(words(train))
    captions = sorted(set(train.captions().values()))
    pictures = [[i for i, told in train.captions().items() if told == caption] for caption in captions]

    def draw(generator):  # one picture of each caption: no two of a batch are equal
        chosen = [mine[int(torch.randint(len(mine), (), generator=generator))] for mine in pictures]
        return train.images[chosen], tokenizer.encode(captions)

    torch.manual_seed(0)
    model = CLIP(
        ModifiedResNet(layers=(1, 1), width=16, heads=2, embed_dim=64, image_size=32),
        TextTransformer(vocab_size=len(tokenizer), context_length=8, width=64, layers=1, heads=1, embed_dim=64),
    )
    train_clip(model, Batches(steps, draw))
    model.eval()
    told = test.captions()
    truth = torch.tensor([captions.index(caption) for caption in told.values()])
    with torch.no_grad():
        features = F.normalize(model.encode_image(test.images[list(told)]), dim=-1)
    accuracy = recall_at_k(features @ zero_shot_classifier(model, captions, tokenizer=tokenizer).T, 1, truth)
    commonest = truth.bincount().max() / len(truth)
    print(f"CLIP: {accuracy:.1%} of {len(truth)} test pictures; commonest caption {commonest:.1%}")
    assert accuracy > 0.8 > 5 * commonest


def test_flava_answers_questions(splits, steps=400, n=2000):
    train, test = splits
    std, mean = torch.std_mean(
        train.images, dim=(0, 2, 3), keepdim=True
    )  # without it, 900 steps learn what 100 do with it
    tokenizer = world.Tokenizer(words(train))
    answers = sorted(set(train.answers))
    tokens = [tokenizer.encode(split.questions) for split in splits]
    truth = [torch.tensor([answers.index(a) for a in split.answers]) for split in splits]
    torch.manual_seed(0)
    model = FLAVA(
        ImageEncoder(image_size=32, patch_size=8, width=64, layers=1, heads=2),
        TextEncoder(vocab_size=len(tokenizer), context_length=tokens[0].shape[1], width=64, layers=1, heads=2),
        Encoder(width=64, layers=1, heads=2),
        codebook_size=1, vocab_size=len(tokenizer), embed_dim=64,
    )  # fmt: skip
    model.answer_head = nn.Linear(64, len(answers))  # on CLS_M, as the paper fine-tunes on VQA
    generator = torch.Generator().manual_seed(0)

    def logits(split, which, seen=True):
        images = (splits[split].images[splits[split].of[which]] - mean) / std
        return model.answer_head(model(images * seen, tokens[split][which])[:, 0])

    def batch_loss(step):
        which = torch.randint(len(truth[0]), (64,), generator=generator)
        return F.cross_entropy(logits(0, which), truth[0][which])

    def accuracy(seen):
        found = torch.cat([logits(1, which, seen).argmax(dim=1) for which in torch.arange(n).split(250)])
        return (found == truth[1][:n]).float().mean().item()

    fit(model, batch_loss, torch.optim.AdamW(model.parameters(), lr=1e-3), steps)
    model.eval()
    with torch.no_grad():
        looking, blind = accuracy(True), accuracy(False)
    overall, each = majorities(train, test)
    print(f"FLAVA: {looking:.1%}, blank {blind:.1%}; majority answer {overall:.1%}, of each question {each:.1%}")
    assert looking > each + 0.05 > blind


def test_the_gemini_style_model_answers_questions(splits, steps=900, n=500):
    train, test = splits
    tokenizer = world.Tokenizer([*words(train), ";", "<image>", "</image>"])
    codebook = load_pretrained("codebook")
    with torch.no_grad():
        codes = [torch.cat([codebook.encode(some) for some in split.images.split(250)]) for split in splits]
    questions = [[question.rstrip("?") for question in split.questions] for split in splits]
    told = list(train.captions().items())
    of_image = [[] for _ in train.images]
    for i, image in enumerate(train.of.tolist()):
        of_image[image].append(i)

    def draw(generator):  # four questions on each picture, one after the other; and pictures of captions
        ask = []
        for image in torch.randint(len(train.images), (24,), generator=generator).tolist():
            order = torch.randperm(len(of_image[image]), generator=generator)[:4]
            first, *more = [of_image[image][i] for i in order]
            more = [f"{questions[0][i]} {train.answers[i]} ;" for i in more]
            ask.append([codes[0][image], questions[0][first], " ".join([f"{train.answers[first]} ;", *more])])
        pairs = [told[i] for i in torch.randint(len(told), (8,), generator=generator)]
        return {"ask": (ask, None), "draw": ([[caption, codes[0][image]] for image, caption in pairs], None)}

    torch.manual_seed(0)
    model = GeminiStyle(width=64, layers=2, heads=4, kv_heads=2, hidden=128, tokenizer=tokenizer)
    train_gemini(model, Batches(steps, draw), lr=0.01)
    model.eval()

    def accuracy(images):
        found = generate_text(model, [[codes[1][images[i]], questions[1][i]] for i in range(n)], max_words=2)
        return sum(a == b for a, b in zip(found, test.answers)) / n

    looking, elsewhere = accuracy(test.of), accuracy(test.of.roll(n // 2))
    overall, each = majorities(train, test)
    print(f"Gemini-style: {looking:.1%} of {n}, other pictures {elsewhere:.1%}; "
          f"majority answer {overall:.1%}, of each question {each:.1%}")  # fmt: skip
    assert looking > each + 0.05 > elsewhere
