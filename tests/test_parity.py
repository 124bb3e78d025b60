"""From-scratch CLIP computes what transformers' and OpenAI's implementations compute, from the same weights."""

import pytest
import torch
from optional import load_openai_clip_model_module

from mmlesson.models.clip import CLIP, from_openai, from_transformers
from mmlesson.models.encoders import ModifiedResNet, TextTransformer, VisionTransformer

TOLERANCE = 1e-5


def add_noise(model, seed):
    """Noise on every parameter and on BatchNorm's statistics: zeros and ones would hide a forgotten key."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = 0.05 * torch.randn(tensor.shape, generator=generator)
                tensor += noise.abs() if name.endswith("running_var") else noise
    return model.eval()


def batch(vocab_size, length=12):
    """Five pictures and four texts of different lengths; the end-of-text token is the highest id."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.zeros(4, length, dtype=torch.long)
    for row, end in enumerate((3, 11, 6, 8)):
        tokens[row, :end] = torch.randint(1, vocab_size - 1, (end,), generator=generator)
        tokens[row, end] = vocab_size - 1
    return torch.randn(5, 3, 32, 32, generator=generator), tokens


@torch.no_grad()
@pytest.mark.parametrize("seed", range(3))
def test_vit_equals_transformers(seed):
    from transformers import CLIPConfig, CLIPModel

    tower = dict(hidden_size=64, intermediate_size=256, num_hidden_layers=2)
    reference = CLIPModel(
        CLIPConfig(
            text_config=dict(
                **tower, num_attention_heads=1, vocab_size=200, max_position_embeddings=16,
                bos_token_id=198, eos_token_id=199, pad_token_id=0,
            ),
            vision_config=dict(**tower, num_attention_heads=2, image_size=32, patch_size=8),
            projection_dim=32,
        )
    )  # fmt: skip
    add_noise(reference, seed)
    ours = CLIP(VisionTransformer(32, 8, 64, 2, 2, 32), TextTransformer(200, 16, 64, 2, 1, 32)).eval()
    ours.load_state_dict(from_transformers(reference.state_dict()), strict=True)
    images, tokens = batch(200)
    theirs = reference(input_ids=tokens, pixel_values=images)
    assert (ours(images, tokens) - theirs.logits_per_image).abs().max() <= TOLERANCE
    assert (ours(images, tokens).T - theirs.logits_per_text).abs().max() <= TOLERANCE


OPENAI = dict(
    embed_dim=32, image_resolution=32, context_length=16, vocab_size=200,
    transformer_width=64, transformer_heads=1, transformer_layers=2,
)  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_both_image_encoders_equal_openai(kind, seed):
    module = load_openai_clip_model_module()
    text = TextTransformer(200, 16, 64, 2, 1, 32)
    if kind == "vit":
        reference = module.CLIP(**OPENAI, vision_layers=2, vision_width=64, vision_patch_size=8)
        ours = CLIP(VisionTransformer(32, 8, 64, 2, 1, 32), text)
    else:  # four stages, as in RN50; heads there are width * 32 // 64
        reference = module.CLIP(**OPENAI, vision_layers=(1, 2, 1, 1), vision_width=16, vision_patch_size=None)
        ours = CLIP(ModifiedResNet((1, 2, 1, 1), 16, 8, 32, 32), text)
    add_noise(reference.float(), seed)
    ours.eval().load_state_dict(from_openai(reference.state_dict()), strict=True)
    images, tokens = batch(200, length=16)
    theirs, _ = reference(images, tokens)
    assert (ours(images, tokens) - theirs).abs().max() <= TOLERANCE


@torch.no_grad()
def test_a_forgotten_key_would_be_noticed():
    """The tolerance is not so wide that a lost bias slips through."""
    from transformers import CLIPConfig, CLIPModel

    tower = dict(hidden_size=64, intermediate_size=256, num_hidden_layers=1, num_attention_heads=1)
    config = CLIPConfig(
        text_config=dict(**tower, vocab_size=200, max_position_embeddings=16, eos_token_id=199),
        vision_config=dict(**tower, image_size=32, patch_size=8),
        projection_dim=32,
    )
    weights = from_transformers(add_noise(CLIPModel(config), 0).state_dict())
    ours = CLIP(VisionTransformer(32, 8, 64, 1, 1, 32), TextTransformer(200, 16, 64, 1, 1, 32)).eval()
    images, tokens = batch(200)
    ours.load_state_dict(weights)
    right = ours(images, tokens)
    for name, tensor in weights.items():
        if name.endswith("bias") and "in_proj" not in name:  # a bias on keys alone changes nothing
            ours.load_state_dict(weights | {name: torch.zeros_like(tensor)})
            assert (ours(images, tokens) - right).abs().max() > 10 * TOLERANCE, name
    missing = dict(weights)
    del missing["image_encoder.ln_pre.bias"]
    with pytest.raises(RuntimeError, match="image_encoder.ln_pre.bias"):
        ours.load_state_dict(missing, strict=True)


def test_full_size_parameter_counts():
    """ViT-B/32 against the published number; RN50 against OpenAI's own constructor."""
    with torch.device("meta"):
        vit = CLIP(VisionTransformer(224, 32, 768, 12, 12, 512), TextTransformer(49408, 77, 512, 12, 8, 512))
        assert sum(p.numel() for p in vit.parameters()) == 151_277_313
        reference = load_openai_clip_model_module().ModifiedResNet((3, 4, 6, 3), 1024, 32, 224, 64)
        ours = ModifiedResNet((3, 4, 6, 3), 64, 32, 1024, 224)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in reference.parameters())
