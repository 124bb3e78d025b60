"""Few-shot episodes: images and text in one sequence, `<image> answer ; <image> answer ; ...`."""

from dataclasses import dataclass, field

import torch

from mmlesson.world.captions import MOTIONS, NAMES, NUMBERS, describe
from mmlesson.world.objects import COLORS, OBJECTS
from mmlesson.world.questions import askable, questions
from mmlesson.world.scenes import MAX_ITEMS, Scenes, join, pairs, render, sample
from mmlesson.world.tokenizer import Tokenizer, extended_tokenizer
from mmlesson.world.video import Clips, render_video, video, video_captions

IMAGE, END = "<image>", ";"
ATTRIBUTES = ("color", "object", "count")
EPISODE_KINDS = ("new_words", "attribute", *ATTRIBUTES, "relation", "question", "caption", "motion")
IGNORE = -100


@dataclass
class Episodes:
    """N episodes of M chunks. A chunk is an image (or clip), perhaps a question, its answer, and the end mark.

    tokens (N, T) long, <pad> at the end. labels (N, T) long: the tokens of true answers, -100 elsewhere; not shifted,
    so the logits at t are compared with the labels at t + 1. media: Scenes or Clips of N * M, episode by episode.
    starts (N, M) long: where each answer begins. answers (N, M, A) long: the tokens of the true answers, -100 after
    their end. seen (N, M) long: how many earlier chunks of the episode have the same true answer (at 0, a made-up
    word cannot be known). prompts, texts, shown: N lists of M strings: the text before the answer, the true answer,
    and the answer that the tokens hold.
    """

    tokens: torch.Tensor
    labels: torch.Tensor
    media: Scenes | Clips
    starts: torch.Tensor
    answers: torch.Tensor
    seen: torch.Tensor
    prompts: list
    texts: list
    shown: list
    tokenizer: Tokenizer = field(repr=False)

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        """Some of the episodes: any index that a tensor takes for its first dimension, kept as a batch."""
        rows = torch.arange(len(self))[[index] if isinstance(index, int) else index]
        at = (rows[:, None] * self.starts.shape[1] + torch.arange(self.starts.shape[1])).flatten()
        picked = [[strings[i] for i in rows.tolist()] for strings in (self.texts, self.prompts, self.shown)]
        return build_episodes(self.media[at], *picked, tokenizer=self.tokenizer)

    def images(self, side=32, frames=8, device=None):
        """The images (N, M, 3, side, side), or clips (N, M, frames, 3, side, side), on `device` as in render."""
        if isinstance(self.media, Clips):
            images = render_video(self.media, frames, side, device)
        else:
            images = _render(self.media, side, device)
        return images.unflatten(0, self.starts.shape)

    def correct(self, logits):
        """Whether the model gets every word of each answer right, given the earlier answers: (N, M) bool.

        logits (N, T, words), of these tokens. Answer i has i examples before it, so the mean over episodes at i is the
        i-shot accuracy. Answers of several words are meaningful only where shown and texts agree.
        """
        if logits.shape[:2] != self.tokens.shape:
            raise ValueError(
                f"correct wants logits for every token, {(*self.tokens.shape, 'words')}; got {tuple(logits.shape)}."
            )
        answers = self.answers.to(logits.device)
        before = self.starts[..., None] - 1 + torch.arange(answers.shape[2])  # the position that predicts each word
        before = before.clamp(max=self.tokens.shape[1] - 1).to(logits.device)
        said = logits.argmax(dim=-1).gather(1, before.flatten(1)).view_as(answers)
        return ((said == answers) | (answers == IGNORE)).all(dim=2)

    def take(self, chunks):
        """The same episodes with some of their chunks, in the given order: chunks (N, m) long, indices below M.

        This makes an episode with many shots a pool to choose examples from, as RICES does (Flamingo, appendix A.2).
        """
        n, m = self.starts.shape
        chunks = torch.as_tensor(chunks)
        if chunks.ndim != 2 or len(chunks) != n or not chunks.numel() or chunks.min() < 0 or chunks.max() >= m:
            raise ValueError(f"take wants {n} rows of chunk indices from 0 to {m - 1}; got {chunks.tolist()}.")
        at = (chunks + torch.arange(n)[:, None] * m).flatten()
        rows = [
            [[row[k] for k in kept] for row, kept in zip(all_rows, chunks.tolist())]
            for all_rows in (self.texts, self.prompts, self.shown)
        ]
        return build_episodes(self.media[at], *rows, tokenizer=self.tokenizer)


def build_episodes(media, texts, prompts=None, shown=None, tokenizer=None):
    """Episodes from images and strings: `<image> answer ;` for each image, one after the other.

    media: Scenes or Clips of N * M. texts: the answers, N lists of M strings. prompts: the text before each answer
    ("<image>" if None; "<image> what color is the dog?"). Nothing separates the image from the answer, so the plain
    induction pattern ("what followed this last time?") finds it. shown: what to write in place of the true answers,
    such as shuffled labels of the examples. tokenizer: one that knows all words (the extended one if None).
    """
    tokenizer = tokenizer or extended_tokenizer()
    n, m = len(texts), len(texts[0]) if texts else 0
    prompts = [[IMAGE] * m] * n if prompts is None else prompts
    shown = texts if shown is None else shown
    for name, rows in (("texts", texts), ("prompts", prompts), ("shown", shown)):
        if not m or len(rows) != n or {len(row) for row in rows} != {m} or n * m != len(media):
            raise ValueError(
                f"build_episodes wants one string for each of the {len(media)} images in {name}, as N lists of the "
                f"same length; got {len(rows)} lists of {sorted({len(row) for row in rows})}."
            )
    all_tokens, all_labels, all_starts = [], [], []
    for n_prompts, n_texts, n_shown in zip(prompts, texts, shown):
        tokens, labels, starts = [], [], []
        for prompt, text, written in zip(n_prompts, n_texts, n_shown):
            before, answer = tokenizer.ids(prompt), tokenizer.ids(written)
            starts.append(len(tokens) + len(before))
            tokens += [*before, *answer, *tokenizer.ids(END)]
            labels += [IGNORE] * len(before) + (answer if written == text else [IGNORE] * len(answer)) + [IGNORE]
        all_tokens.append(tokens)
        all_labels.append(labels)
        all_starts.append(starts)
    answers = _padded([tokenizer.ids(text) for row in texts for text in row], IGNORE).unflatten(0, (n, m))
    same = (answers[:, :, None] == answers[:, None]).all(dim=3)
    return Episodes(
        tokens=_padded(all_tokens, tokenizer.pad),
        labels=_padded(all_labels, IGNORE),
        media=media,
        starts=torch.tensor(all_starts),
        answers=answers,
        seen=same.tril(diagonal=-1).sum(dim=2),
        prompts=prompts,
        texts=texts,
        shown=shown,
        tokenizer=tokenizer,
    )


def _padded(rows, filler):
    longest = max(map(len, rows))
    return torch.tensor([row + [filler] * (longest - len(row)) for row in rows])


def episodes(n, seed=0, kind="new_words", *, shots=8, split="train", ways=2, recolor=False, objects=None,
             attributes=("color", "object"), shuffled=False, in_words=False):  # fmt: skip
    """n random episodes of `shots` examples and then a query. The same seed gives the same episodes.

    kind: what the answers are.
        new_words  each episode gives `ways` objects a made-up name each. Every image shows one of them at another
                   place, size and angle. The query is one of those that the examples named, all equally likely.
                   recolor: draw each image in a random color, so color cannot tell the objects apart. objects: indices
                   of the objects that may appear (all if None), to keep some for testing.
        attribute  the color, the name or the number of the objects in the image (some of `attributes`, and one for the
                   whole episode: only the examples tell which). With "count", images show 1 to 4 equal items.
        color, object, count: an attribute episode that always asks for this.
        relation   where one of two items is, seen from the other: `<image> where is the red cat? left ;`
        question   any question of mmlesson.world.questions
        caption    a noun phrase, "a red apple"
        motion     media are clips: `<image> what happens? moves left ;`
    split: which (object, color) pairs may appear. shuffled: a control in which the examples exchange their answers at
    random, so the images no longer predict them. (The answers still tell which attribute is asked for.) in_words: a
    description in place of <image>, so a language model can learn the task from text alone.
    """
    if kind not in EPISODE_KINDS:
        raise ValueError(f"There are no episodes of kind {kind!r}; choose one of {', '.join(EPISODE_KINDS)}.")
    if n < 1 or shots < 0:
        raise ValueError(f"episodes needs n >= 1 episodes and shots >= 0 examples; got n={n}, shots={shots}.")
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    m = shots + 1
    asked = [""] * (n * m)
    if kind == "new_words":
        media, answers = _new_words(n, m, generator, split, ways, recolor, objects)
    elif kind == "motion":
        media = video(n * m, generator, split=split)
        asked, answers = ["what happens?"] * (n * m), [MOTIONS[k] for k in media.motions.tolist()]
    elif kind in ("relation", "question"):
        kinds, items = (("where",), (2,)) if kind == "relation" else (None, (1, 2, 3, 4))
        media = _askable(n * m, generator, split, kinds, items)
        asked, answers = questions(media, generator, kinds)
    elif kind == "caption":
        media = sample(n * m, generator, distinct=False, split=split)
        answers = [describe(media, i) for i in range(n * m)]
    else:
        media, answers = _attributes(n, m, generator, split, attributes if kind == "attribute" else (kind,))
    heads = [IMAGE] * (n * m)
    if in_words:
        heads = video_captions(media) if kind == "motion" else [describe(media, i) for i in range(n * m)]
    prompts = [f"{head} {question}".strip() for head, question in zip(heads, asked)]
    texts = _rows(answers, m)
    return build_episodes(media, texts, _rows(prompts, m), _shuffled(texts, generator) if shuffled else None)


def _rows(flat, m):
    return [flat[i : i + m] for i in range(0, len(flat), m)]


def _shuffled(texts, generator):
    """The answers of each episode, exchanged at random among its examples; the last, the query's, stays."""
    orders = torch.rand(len(texts), len(texts[0]) - 1, generator=generator).argsort(dim=1).tolist()
    return [[*(row[k] for k in order), row[-1]] for row, order in zip(texts, orders)]


def _new_words(n, m, generator, split, ways, recolor, objects):
    allowed = torch.zeros(len(OBJECTS), len(COLORS))
    allowed[tuple(pairs(split).T)] = 1.0
    choices = torch.arange(len(OBJECTS)) if objects is None else torch.as_tensor(objects)
    if choices.ndim != 1 or choices.is_floating_point() or choices.min() < 0 or choices.max() >= len(OBJECTS):
        raise ValueError(f"objects is a list of object indices from 0 to {len(OBJECTS) - 1}; got {objects!r}.")
    if not 1 <= ways <= min(len(NAMES), len(choices)):
        raise ValueError(
            f"ways is how many objects an episode names, from 1 to {min(len(NAMES), len(choices))} "
            f"({len(NAMES)} names, {len(choices)} objects); got {ways}."
        )

    def choose(count):
        """`ways` distinct indices below count for each episode: (n, ways)."""
        return torch.rand(n, count, generator=generator).argsort(dim=1)[:, :ways]

    named_objects, names = choices[choose(len(choices))], choose(len(NAMES))
    which = torch.randint(ways, (n, m), generator=generator)
    if m > 1:  # the query: any of those that were named, however often
        named = torch.zeros(n, ways).scatter_(1, which[:, :-1], 1.0)
        which[:, -1:] = torch.multinomial(named, 1, generator=generator)
    shown = named_objects.gather(1, which)
    if recolor:
        colors = torch.multinomial(allowed[shown.flatten()], 1, generator=generator)
    else:
        colors = (
            torch.multinomial(allowed[named_objects.flatten()], 1, generator=generator).view(n, ways).gather(1, which)
        )
    scenes = _alone(torch.stack([shown.flatten(), colors.flatten()], dim=1), generator)
    return scenes, [NAMES[k] for k in names.gather(1, which).flatten().tolist()]


def _alone(chosen, generator):
    """One scene for each (object, color) pair in chosen (N, 2), as `sample` would draw it."""
    scenes = sample(len(chosen), generator, distinct=False)  # for its sizes, turns and papers
    scenes.objects, scenes.colors = chosen[:, :1], chosen[:, 1:]
    low, high = scenes.boxes().split(2, dim=-1)
    scenes.sizes *= (1 / (high - low).amax(dim=-1)).clamp(max=1)
    low, high = scenes.boxes().split(2, dim=-1)
    scenes.centers += torch.rand(len(chosen), 1, 2, generator=generator) * (1 - (high - low)) - low
    return scenes


def _attributes(n, m, generator, split, attributes):
    if not attributes or not set(attributes) <= set(ATTRIBUTES):
        raise ValueError(f"attributes are some of {', '.join(ATTRIBUTES)}; got {attributes!r}.")
    # The images are drawn alike whichever attribute is asked for: nothing in them gives it away.
    counted = "count" in attributes
    scenes = _varied(n * m, generator, split) if counted else sample(n * m, generator, distinct=False, split=split)
    attributes_of = torch.stack([scenes.colors[:, 0], scenes.objects[:, 0], scenes.counts], dim=1)
    columns = torch.tensor([ATTRIBUTES.index(a) for a in attributes])
    asked = columns[torch.randint(len(columns), (n,), generator=generator)].repeat_interleave(m)
    words = [c.name for c in COLORS], [o.name for o in OBJECTS], NUMBERS
    found = attributes_of.gather(1, asked[:, None]).flatten().tolist()
    return scenes, [words[column][k] for column, k in zip(asked.tolist(), found)]


def _varied(n, generator, split, items=tuple(range(1, MAX_ITEMS + 1)), same=(True,)):
    """n scenes, each with a number of items out of `items`, all equal or not out of `same`, at random."""
    sorts = [(count, alike) for count in items for alike in same]
    drawn = torch.randint(len(sorts), (n,), generator=generator)
    batches = [
        sample(size, generator, items=count, same=alike, distinct=False, split=split)
        for (count, alike), size in zip(sorts, drawn.bincount(minlength=len(sorts)).tolist())
        if size
    ]
    return join(batches)[drawn.argsort(stable=True).argsort()]


def _askable(n, generator, split, kinds, items):
    """n scenes about which a question of these kinds can be asked."""
    kept = []
    while sum(map(len, kept)) < n:
        drawn = _varied(n, generator, split, items, same=(True, False) if kinds is None else (False,))
        kept.append(drawn[askable(drawn, kinds)])
    return join(kept)[:n]


def _render(scenes, side, device):
    """As render, with scenes of one item apart: render fits the resolution to the fullest scene of a batch."""
    single = scenes.counts == 1
    if single.all() or not single.any():
        return render(scenes, side, device=device)
    first = Scenes(*(t if name == "backgrounds" else t[:, :1] for name, t in vars(scenes).items()))
    parts = [render(first[single], side, device=device), render(scenes[~single], side, device=device)]
    images = torch.empty(len(scenes), *parts[0].shape[1:], device=parts[0].device)
    for mask, part in zip((single, ~single), parts):
        images[mask.to(part.device)] = part
    return images
