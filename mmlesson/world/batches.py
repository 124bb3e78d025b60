"""What each model trains on: endlessly new batches, drawn from a seed. `len(batches)` is the number of steps.

Nothing here knows a model: a batch that encodes or masks is handed the function that does it.
"""

import torch

import mmlesson
from mmlesson.world.captions import captions
from mmlesson.world.episodes import END, IMAGE, episodes
from mmlesson.world.hard_negatives import hard_negatives
from mmlesson.world.scenes import LARGE_UPRIGHT, SUBSET, join, normalize, render, sample
from mmlesson.world.tokenizer import Tokenizer, extended_tokenizer


class CaptionBatches:
    """Images of one item and their captions, for CLIP: yields images (N, 3, 32, 32) and tokens (N, T) per step.

    No (object, color) pair repeats within a batch. curriculum: the fraction of the steps during which the items grow
    from large, upright and centered to all sizes, angles and places; 0 for none.
    """

    def __init__(self, steps, *, batch_size=128, curriculum=0.4, seed=0, device=None):
        self.steps, self.batch_size, self.curriculum, self.device = steps, batch_size, curriculum, device
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self):
        return self.steps

    def __iter__(self):
        tokenizer = Tokenizer()
        for step in range(self.steps):
            variety = min(1.0, step / (self.curriculum * self.steps)) if self.curriculum else 1.0
            size = (0.85 - 0.25 * variety, 0.95)  # ends a little wider than the world's own range: augmentation
            scenes = sample(self.batch_size, self.generator, size=size, angle=20 * variety, spread=variety)
            images = render(scenes, device=self.device)
            yield images, tokenizer.encode(captions(scenes, self.generator)).to(images.device)


def _check_room(batch_size):
    if batch_size < 4:
        raise ValueError(f"A batch has scenes of one to four items, so batch_size is at least 4, not {batch_size}.")


class ImageBatches:
    """Images of one to four items, for the image codebook: yields (N, 3, side, side), side 32 and 24 in turn."""

    def __init__(self, steps, *, batch_size=64, seed=0, device=None):
        _check_room(batch_size)
        self.steps, self.batch_size, self.device = steps, batch_size, device
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self):
        return self.steps

    def __iter__(self):
        for step in range(self.steps):
            scenes = [sample(self.batch_size // 4, self.generator, items=k) for k in (1, 2, 3, 4)]
            side = 24 if step % 2 else 32
            yield torch.cat([render(s, side=side, device=self.device) for s in scenes])


class MaskedBatches:
    """FLAVA's batches: each step is one of `pairs`, `images` and `texts`; yields the name and the batch.

    encode: images -> codes (N, h, w), such as ImageCodebook.encode. It sees each scene at half the side, which makes
    one code per patch (FLAVA's own sees 112 of 224 pixels). block_mask(side, patches, generator) -> (side, side) bool
    and mask_words(tokens, generator, ratio) -> corrupted, labels: what hides patches and words. mixture: how often a
    step takes pairs, images, texts (FLAVA: 70, 15 and 15 %, table A.2). negatives: whether half of the captions are
    replaced by wrong ones.
    """

    grid = 6  # patches along each side of a 48 x 48 image

    def __init__(self, encode, block_mask, mask_words, steps=0, *, mixture=(0.7, 0.15, 0.15), negatives=True,
                 batch_size=64, seed=0, device=None):  # fmt: skip
        _check_room(batch_size)
        self.encode, self.mask_words, self.device = encode, mask_words, device or mmlesson.device()
        self.steps, self.mixture, self.negatives, self.batch_size = steps, mixture, negatives, batch_size
        self.generator = torch.Generator().manual_seed(seed)
        self.tokenizer = Tokenizer()
        # Pools of masks: drawing blocks one by one would take longer than the rest of the batch.
        self.small_masks, self.large_masks = (
            torch.stack([block_mask(self.grid, n, self.generator) for _ in range(1024)]).flatten(1) for n in (5, 14)
        )

    def __len__(self):
        return self.steps

    def __iter__(self):
        draw = (("pairs", self.pairs), ("images", self.images), ("texts", self.texts))
        mixture = torch.tensor(self.mixture)
        for kind in torch.multinomial(mixture, self.steps, replacement=True, generator=self.generator).tolist():
            name, batch = draw[kind]
            yield name, batch()

    def pairs(self):
        """images (N, 3, 48, 48), masked (N, P) bool, codes (N, P); tokens, corrupted, labels (N, T); matched (N,) bool.

        A quarter of the scenes hold one item, the others two. Only a third of the objects is used, because six losses
        have to share a short run. Three negatives in four are hard ones, the fourth is another scene's caption. Half
        of the words are masked, because a caption has only about eight, and at most 5 of 36 patches: with a whole
        drawing gone, no caption could be matched.
        """
        one = self.batch_size // 4
        scenes = self._scenes((self.batch_size - one, 2), (one, 1), objects=SUBSET)
        true, negative = hard_negatives(scenes, self.generator, objects=SUBSET)
        dice = torch.rand(self.batch_size, generator=self.generator)
        matched = dice >= (0.5 if self.negatives else 0.0)
        chosen = list(true)
        for i in (~matched).nonzero()[:, 0].tolist():
            chosen[i] = negative[i] if dice[i] < 0.375 else true[i - 1]
        words = self._masked_words(chosen, ratio=0.5)
        return *self._masked_images(scenes, self.small_masks), *words, matched.to(self.device)

    def images(self):
        """images, masked, codes, as in `pairs`: one to four items, of all objects; at most 14 of 36 patches masked."""
        return self._masked_images(self._one_to_four_items(), self.large_masks)

    def texts(self):
        """corrupted, labels (N, T): captions of one to four items, in all templates, 15 % of the words masked."""
        return self._masked_words(captions(self._one_to_four_items(), self.generator), ratio=0.15)[1:]

    def _one_to_four_items(self):
        return self._scenes(*((self.batch_size // 4, k) for k in (1, 2, 3, 4)))

    def _scenes(self, *counts, objects=None):
        """Random scenes; counts are pairs (number of scenes, items in each)."""
        return join([sample(n, self.generator, items=k, objects=objects, **LARGE_UPRIGHT) for n, k in counts])

    def _masked_images(self, scenes, masks):
        images = normalize(render(scenes, side=8 * self.grid, device=self.device))
        codes = self.encode(render(scenes, side=4 * self.grid, device=self.device)).flatten(1)
        drawn = torch.randint(len(masks), (len(scenes),), generator=self.generator)
        return images, masks[drawn].to(self.device), codes

    def _masked_words(self, texts, ratio):
        tokens = self.tokenizer.encode(texts)
        return [t.to(self.device) for t in (tokens, *self.mask_words(tokens, self.generator, ratio))]


def recall_lists(n, pairs, generator, keys=8, words=None):
    """Lists `key value ; key value ; ...` of random words: only the list itself says which value a key has.

    keys: how many different ones a list has. words: the ids to draw from, by default all of the extended vocabulary.
    Returns tokens (n, 3 * pairs) long, and known (n, pairs) bool: whether the key occurred earlier in the list.
    """
    tokenizer = extended_tokenizer()
    end = tokenizer.index[END]
    if words is None:
        words = torch.tensor([i for i in range(1, tokenizer.sot) if i not in (tokenizer.index[IMAGE], end)])

    def choose():
        return words[torch.rand(n, len(words), generator=generator).argsort(dim=1)[:, :keys]]

    key_words, values = choose(), choose()
    which = torch.randint(keys, (n, pairs), generator=generator)
    known = (which[:, :, None] == which[:, None]).tril(diagonal=-1).any(dim=2)
    tokens = torch.stack([key_words.gather(1, which), values.gather(1, which), torch.full_like(which, end)], dim=2)
    return tokens.flatten(1), known


class TextBatches:
    """Text for the language model: yields a list of token tensors (N, T) per step, recall lists first.

    lists: (generator) -> tokens, draws the recall lists. kinds: the episodes, told in words, that alternate with
    new-word episodes; () leaves only the lists.
    """

    def __init__(self, steps, *, kinds, lists, seed=0):
        self.steps, self.kinds, self.lists = steps, kinds, lists
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self):
        return self.steps

    def __iter__(self):
        for step in range(self.steps):
            batch = [self.lists(self.generator)]
            if self.kinds:
                kind = self.kinds[step // 2 % len(self.kinds)] if step % 2 else "new_words"
                shots = 8 if kind in ("new_words", "attribute", "count") else 4
                batch.append(episodes(16, self.generator, kind, shots=shots, in_words=True).tokens)
            yield batch


class EpisodeBatches:
    """Episodes for Flamingo: yields a list per step, one batch of episodes of each kind (see world.episodes).

    batch_size: episodes per kind; clips come in twice as many, with half as many examples.
    """

    def __init__(self, steps, *, kinds, batch_size=6, seed=0):
        self.steps, self.kinds, self.batch_size = steps, kinds, batch_size
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self):
        return self.steps

    def __iter__(self):
        for _ in range(self.steps):
            yield [self._episodes(kind) for kind in self.kinds]

    def _episodes(self, kind):
        if kind == "motion":
            return episodes(2 * self.batch_size, self.generator, kind, shots=4)
        return episodes(self.batch_size, self.generator, kind, shots=4 if kind == "caption" else 8)
