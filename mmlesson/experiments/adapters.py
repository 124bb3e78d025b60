"""How `downstream` asks a FLAVA: by its two encoders alone, or through its fusion encoder."""

import torch
import torch.nn.functional as F

from mmlesson import world
from mmlesson.models.flava import MASK, TOKENIZER

COLOR_IDS = [TOKENIZER.index[c.name] for c in world.COLORS]
OBJECT_IDS = [TOKENIZER.index[o.name] for o in world.OBJECTS]


class DualEncoderAdapter:
    """Asks a FLAVA by its image and text encoders alone, as a CLIP (see downstream for the methods)."""

    def __init__(self, model):
        self.model = model

    def tokens(self, captions):
        """Captions -> tokens (N, T) on the model's device."""
        return TOKENIZER.encode(captions).to(self.model.logit_scale.device)

    def image(self, images):
        states = self.model.image_encoder(world.normalize(images))
        return self.model.image_encoder.encoder.norm(states[:, 0])

    def text(self, captions):
        states = self.model.text_encoder(self.tokens(captions))
        return self.model.text_encoder.encoder.norm(states[:, 0])

    def embed(self, images, captions):
        """Normalized contrastive embeddings of both: (N, D), (M, D)."""
        features = self.model.encode_image(world.normalize(images)), self.model.encode_text(self.tokens(captions))
        return [F.normalize(f, dim=-1) for f in features]

    def joint(self, images, captions):
        image, text = self.embed(images, captions)
        return torch.cat([image, text, image * text], dim=1)

    def similarity(self, images, captions):
        image, text = self.embed(images, captions)
        return image @ text.T

    def match(self, images, captions):
        image, text = self.embed(images, captions)
        return (image * text).sum(dim=1)

    def repair(self, images, captions):
        """Try every caption with one color or object replaced; the most similar one wins."""
        repaired = []
        for image, tokens in zip(self.model.encode_image(world.normalize(images)), self.tokens(captions)):
            candidates = []
            for position, word in enumerate(tokens.tolist()):
                for ids in (COLOR_IDS, OBJECT_IDS):
                    if word in ids:
                        candidates.append(tokens.repeat(len(ids), 1))
                        candidates[-1][:, position] = torch.tensor(ids, device=tokens.device)
            candidates = torch.cat(candidates)
            similarity = F.normalize(self.model.encode_text(candidates), dim=-1) @ F.normalize(image, dim=0)
            repaired += TOKENIZER.decode(candidates[similarity.argmax()][None])
        return repaired


class FusionEncoderAdapter(DualEncoderAdapter):
    """Asks a FLAVA whose fusion encoder was trained: it matches, answers and repairs with image and text in view."""

    def joint(self, images, captions):
        return self.model(world.normalize(images), self.tokens(captions))[:, 0]

    def match(self, images, captions):
        return self.model.match(world.normalize(images), self.tokens(captions))

    def fill(self, images, tokens):
        """Log-probabilities of every word at every position, with that position masked: (N, T, vocab)."""
        image_states, filled = self.model.image_encoder(world.normalize(images)), []
        for position in range(tokens.shape[1]):
            masked = tokens.clone()
            masked[:, position] = MASK
            fused = self.model.fuse(image_states, self.model.text_encoder(masked), tokens)
            filled.append(self.model.mmm_text_head(fused[:, position - tokens.shape[1]]).log_softmax(dim=-1))
        return torch.stack(filled, dim=1)

    def repair(self, images, captions):
        """Mask one word after the other; the most surprising color or object is replaced by the best guess."""
        tokens = self.tokens(captions)
        filled, best, surprise = self.fill(images, tokens), tokens.clone(), torch.full(tokens.shape, -torch.inf)
        for ids in (COLOR_IDS, OBJECT_IDS):
            ids = torch.tensor(ids, device=tokens.device)
            among = filled[..., ids].log_softmax(dim=-1)
            present = tokens[..., None] == ids
            best = torch.where(present.any(-1), ids[among.argmax(-1)], best)
            surprise = torch.where(present.any(-1).cpu(), -(among * present).sum(-1).cpu(), surprise)
        worst = F.one_hot(surprise.argmax(dim=1), tokens.shape[1]).bool().to(tokens.device)
        return TOKENIZER.decode(torch.where(worst, best, tokens))
