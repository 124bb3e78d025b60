"""FLAVA against transformers' FlavaForPreTraining: the map of parameter names, a comparison, official weights."""

import re

import torch

from mmlesson.experiments.parity.common import add_noise, fetch, seeded, unwrapped
from mmlesson.models.flava import FLAVA, Encoder, ImageEncoder, TextEncoder

TRANSFORMERS_NAMES = [  # (pattern, replacement): names of transformers' FlavaForPreTraining -> ours
    (r"^flava\.(image|text)_model\.encoder\.layer\.", r"\1_encoder.encoder.blocks."),
    (r"^flava\.multimodal_model\.encoder\.layer\.", "multimodal_encoder.blocks."),
    (r"^flava\.(image|text)_model\.layernorm\.", r"\1_encoder.encoder.norm."),
    (r"^flava\.multimodal_model\.layernorm\.", "multimodal_encoder.norm."),
    (r"^flava\.multimodal_model\.cls_token", "cls_token"),
    (r"^flava\.image_model\.embeddings\.patch_embeddings\.projection\.", "image_encoder.patch_embedding."),
    (r"^flava\.image_model\.embeddings\.position_embeddings", "image_encoder.positions"),
    (r"^flava\.image_model\.embeddings\.", "image_encoder."),  # cls_token, mask_token
    (r"^flava\.text_model\.embeddings\.word_embeddings\.", "text_encoder.words."),
    (r"^flava\.text_model\.embeddings\.position_embeddings\.", "text_encoder.positions."),
    (r"^flava\.text_model\.embeddings\.token_type_embeddings\.", "text_encoder.types."),
    (r"^flava\.text_model\.embeddings\.LayerNorm\.", "text_encoder.embedding_norm."),
    (r"^flava\.(image|text)_to_mm_projection\.", r"\1_to_mm."),
    (r"^flava\.", ""),  # the contrastive projections and the scale keep their names
    (r"\.attention\.attention\.in_proj\.", ".attn.in_proj."),
    (r"\.attention\.output\.dense\.", ".attn.out_proj."),
    (r"\.intermediate\.dense\.", ".mlp.0."),
    (r"\.output\.dense\.", ".mlp.2."),
    (r"\.layernorm_before\.", ".ln_1."),
    (r"\.layernorm_after\.", ".ln_2."),
    (r"_head\.transform\.dense\.", "_head.0."),
    (r"_head\.transform\.LayerNorm\.", "_head.2."),
    (r"_head\.decoder\.", "_head.3."),
    (r"^itm_head\.pooler\.dense\.", "itm_head.0."),
    (r"^itm_head\.seq_relationship\.", "itm_head.2."),
]


def from_transformers(weights):
    """A state dict of transformers' FlavaForPreTraining -> the names and shapes of our FLAVA.

    Left out: the poolers of the three encoders, which no loss reads, and DALL-E's codebook. Each head's bias appears
    twice there, as one tensor under two names.
    """
    weights, ours = unwrapped(weights), {}
    for name, w in weights.items():
        if re.search(r"position_ids|_model\.pooler\.|^image_codebook\.|_head\.bias$|\.(key|value)\.", name):
            continue
        if ".query." in name:  # queries, keys and values become one matrix
            w = torch.cat([weights[name.replace(".query.", f".{part}.")] for part in ("query", "key", "value")])
            name = name.replace(".query.", ".in_proj.")
        if name.endswith(("cls_token", "mask_token")):
            w = w.flatten()
        elif name.endswith("image_model.embeddings.position_embeddings"):
            w = w[0]
        for pattern, replacement in TRANSFORMERS_NAMES:
            name = re.sub(pattern, replacement, name)
        ours[name] = w
    return ours


def tiny_reference(seed=0):
    """transformers' FlavaForPreTraining, random: 120 words, 50 codes, width 32, noise on every parameter."""
    from transformers import (
        FlavaConfig,
        FlavaForPreTraining,
        FlavaImageCodebookConfig,
        FlavaImageConfig,
        FlavaMultimodalConfig,
        FlavaTextConfig,
    )

    tower = dict(hidden_size=32, num_attention_heads=4, intermediate_size=128)
    text = FlavaTextConfig(**tower, num_hidden_layers=2, vocab_size=120, max_position_embeddings=16)
    image = FlavaImageConfig(**tower, num_hidden_layers=3, image_size=32, patch_size=8, vocab_size=50)
    config = FlavaConfig(
        text_config=text.to_dict(),
        image_config=image.to_dict(),
        multimodal_config=FlavaMultimodalConfig(**tower, num_hidden_layers=2).to_dict(),
        image_codebook_config=FlavaImageCodebookConfig(vocab_size=50, hidden_size=8).to_dict(),
        hidden_size=32,
        projection_dim=16,
    )
    torch.manual_seed(seed)
    return add_noise(FlavaForPreTraining(config), seed)


def tiny_ours(reference, flava, image_encoder, text_encoder, encoder):
    """A FLAVA of these classes with the weights of a tiny_reference."""
    ours = flava(
        image_encoder(image_size=32, patch_size=8, width=32, layers=3, heads=4),
        text_encoder(vocab_size=120, context_length=16, width=32, layers=2, heads=4),
        encoder(width=32, layers=2, heads=4),
        codebook_size=50,
        vocab_size=120,
        embed_dim=16,
    )
    ours.load_state_dict(from_transformers(reference.state_dict()))
    return ours.eval()


def tiny_batch(seed=0):
    """images, masked, codes, tokens, corrupted, labels, matched as pair_losses takes them; some captions are padded."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(4, 120, (5, 9), generator=generator)
    for row, length in enumerate((9, 4, 7, 9, 6)):
        tokens[row, length:] = 0
    chosen = (torch.rand(5, 9, generator=generator) < 0.4) & (tokens > 0)
    return (
        torch.randn(5, 3, 32, 32, generator=generator),
        torch.rand(5, 16, generator=generator) < 0.4,
        torch.randint(50, (5, 16), generator=generator),
        tokens,
        tokens.masked_fill(chosen, 3),
        tokens.masked_fill(~chosen, -100),
        torch.tensor([True, False, False, True, False]),
    )


def reference_losses(reference, images, masked, codes, tokens, corrupted, labels, matched):
    """The six losses of transformers' model, under our names. (It writes into mim_labels, so it gets copies.)"""
    image = dict(pixel_values=images, bool_masked_pos=masked, return_loss=True)
    text = dict(input_ids=tokens, input_ids_masked=corrupted, attention_mask=(tokens != 0).long(), mlm_labels=labels)
    pairs = reference(**image, **text, mim_labels=codes.clone(), itm_labels=matched.long()).loss_info
    return {
        "gc": pairs.global_contrastive,
        "itm": pairs.itm,
        "mmm_image": pairs.mmm_image,
        "mmm_text": pairs.mmm_text,
        "mim": reference(**image, mim_labels=codes.clone()).loss_info.mim,
        "mlm": reference(**text, return_loss=True).loss_info.mlm,
    }


@seeded
def differences(flava, image_encoder, text_encoder, encoder, pair_losses, mim_loss, mlm_loss):
    """How far these classes and losses are from transformers' FLAVA, tiny and random: {name: float}."""
    reference = tiny_reference()
    ours = tiny_ours(reference, flava, image_encoder, text_encoder, encoder)
    images, masked, codes, tokens, corrupted, labels, _ = batch = tiny_batch()
    losses = pair_losses(ours, *batch)
    losses |= {"mim": mim_loss(ours, images, masked, codes), "mlm": mlm_loss(ours, corrupted, labels)}
    expected = reference_losses(reference, *batch)
    found = {name: (losses[name] - expected[name]).abs().item() for name in expected}
    fused = reference.flava(input_ids=tokens, pixel_values=images, attention_mask=(tokens != 0).long())
    visible = torch.cat([torch.ones(5, 18, dtype=torch.bool), tokens != 0], dim=1)  # states at padding are never read
    difference = (ours(images, tokens) - fused.multimodal_embeddings)[visible]
    return {**found, "fused states": difference.abs().max().item()}


def load_official(name="facebook/flava-full"):
    """Our FLAVA with the official weights (1.4 GB), or None if they were not asked for or could not be fetched.

    Of their 357,645,303 parameters our class holds 302,087,287: without DALL-E's codebook and three poolers that no
    loss reads.
    """
    from transformers import FlavaForPreTraining

    official = fetch(FlavaForPreTraining, name)
    if official is None:
        return None
    model = FLAVA(
        ImageEncoder(image_size=224, patch_size=16, width=768, layers=12, heads=12),
        TextEncoder(vocab_size=30_522, context_length=512, width=768, layers=12, heads=12),
        Encoder(width=768, layers=6, heads=12),
        codebook_size=8192,
        vocab_size=30_522,
        embed_dim=768,
    )
    model.load_state_dict(from_transformers(official.state_dict()))
    return model.eval()
