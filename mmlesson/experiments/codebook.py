"""The perceptual fine-tuning of the image codebook's decoder, for a model that draws."""

import torch
import torch.nn.functional as F

from mmlesson import world
from mmlesson.train import fit


def finetune_decoder(codebook, perceptual_net, steps, batch_size=64, seed=0):
    """Fine-tune the decoder of a trained ImageCodebook with a perceptual loss; its codes stay. Returns the History.

    perceptual_net: a trained CLIP, frozen. Adds a perceptual term to train_codebook's loss: 0.1 * (1 - cosine) between
    the CLIP embeddings of an image and of its reconstruction, for single-object images (the idea of LPIPS, which VQGAN
    uses: Esser et al. 2021, 2012.09841, section 3.1). Every fourth batch has sides of 24 pixels and no such term.
    """
    device = next(codebook.parameters()).device
    codebook.encoder.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(codebook.decoder.parameters(), lr=1e-3, weight_decay=0.0, fused=True)

    def batch_loss(step):
        perceptual = step % 4 < 3
        counts = {1: 2, 2: 4, 3: 8, 4: 8} if perceptual else {1: 4, 2: 4, 3: 4, 4: 4}
        scenes = [world.sample(batch_size // part, generator, items=k) for k, part in counts.items()]
        images = torch.cat([world.render(s, side=32 if perceptual else 24, device=device) for s in scenes])
        restored = codebook(images)
        error = restored - images
        loss = error.abs().mean() + error.square().mean()
        if perceptual:
            single = batch_size // counts[1]
            ours, theirs = (perceptual_net.encode_image(x[:single]) for x in (restored, images))
            loss = loss + 0.1 * (1 - F.cosine_similarity(ours, theirs, dim=-1)).mean()
        return loss

    return fit(codebook, batch_loss, optimizer, steps, label="decoder")
