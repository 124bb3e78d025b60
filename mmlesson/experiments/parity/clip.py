"""CLIP against OpenAI's code and transformers' CLIPModel: maps of parameter names, a comparison, official weights."""

import re

import torch
from torch import nn

from mmlesson.experiments.parity.common import add_noise, fetch, seeded, unwrapped
from mmlesson.models.attention import QuickGELU, TextTransformer
from mmlesson.models.clip import CLIP
from mmlesson.models.vision import VisionTransformer

OPENAI_NAMES = [  # (pattern, replacement): OpenAI's parameter names -> ours
    (r"^visual\.", "image_encoder."),
    (r"^(token_embedding|positional_embedding|transformer|ln_final|text_projection)", r"text_encoder.\1"),
    (r"transformer\.resblocks\.", "transformer.blocks."),
    (r"attn\.in_proj_", "attn.in_proj."),
    (r"mlp\.c_fc\.", "mlp.0."),
    (r"mlp\.c_proj\.", "mlp.2."),
    (r"\.layer(\d)\.", lambda m: f".stages.{int(m[1]) - 1}."),
    (r"downsample\.1\.", "downsample.2."),  # its average pool is called -1, ours 0
    (r"downsample\.0\.", "downsample.1."),
]
TRANSFORMERS_NAMES = [  # transformers' CLIPModel -> OpenAI's names, after q, k and v are joined
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual.conv1."),
    (r"^vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
    (r"^vision_model\.embeddings\.", "visual."),
    (r"^vision_model\.pre_layrnorm\.", "visual.ln_pre."),  # the typo is theirs
    (r"^vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"^vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"^visual_projection\.weight", "visual.proj"),
    (r"^text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^text_model\.embeddings\.", ""),
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^text_projection\.weight", "text_projection"),
    (r"self_attn\.in_proj", "attn.in_proj"),
    (r"self_attn\.", "attn."),
    (r"layer_norm(\d)\.", r"ln_\1."),
    (r"mlp\.fc1\.", "mlp.c_fc."),
    (r"mlp\.fc2\.", "mlp.c_proj."),
]


def _renamed(name, table):
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


def from_openai(weights):
    """A state dict with OpenAI's names -> the same tensors with the names of our CLIP."""
    skipped = ("input_resolution", "context_length", "vocab_size")  # numbers that the official archives carry along
    return {_renamed(name, OPENAI_NAMES): w for name, w in unwrapped(weights).items() if name not in skipped}


def from_transformers(weights):
    """A state dict of transformers' CLIPModel -> the names (and shapes) of our CLIP."""
    weights, joined = unwrapped(weights), {}
    for name, w in weights.items():
        if "position_ids" in name or "k_proj" in name or "v_proj" in name:
            continue
        if "q_proj" in name:  # queries, keys and values become one matrix
            w = torch.cat([weights[name.replace("q_proj", f"{part}_proj")] for part in "qkv"])
            name = name.replace("q_proj.", "in_proj_")
        joined[_renamed(name, TRANSFORMERS_NAMES)] = w.T if "projection.weight" in name else w
    return from_openai(joined)


@seeded
def difference(clip, vision_transformer, text_transformer):
    """The largest difference of logits between transformers' CLIPModel, tiny and random, and these classes: a float."""
    from transformers import CLIPConfig, CLIPModel

    tower = dict(hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=1)
    config = CLIPConfig(
        text_config=dict(**tower, vocab_size=200, max_position_embeddings=16, bos_token_id=198, eos_token_id=199),
        vision_config=dict(**tower, image_size=32, patch_size=8),
        projection_dim=32,
    )
    reference = add_noise(CLIPModel(config), seed=0)
    sizes = dict(width=64, layers=2, heads=1, embed_dim=32)
    ours = clip(
        vision_transformer(image_size=32, patch_size=8, **sizes),
        text_transformer(vocab_size=200, context_length=16, **sizes),
    ).eval()
    ours.load_state_dict(from_transformers(reference.state_dict()))
    images, words = torch.randn(5, 3, 32, 32), torch.randint(1, 198, (4, 12))
    tokens = torch.cat([words, torch.full((4, 1), 199), torch.zeros(4, 3, dtype=torch.long)], dim=1)
    theirs = reference(input_ids=tokens, pixel_values=images).logits_per_image
    return (ours(images, tokens) - theirs).abs().max().item()


ACTIVATIONS = {"quick_gelu": QuickGELU, "gelu": nn.GELU}


def load_official(name="openai/clip-vit-base-patch32"):
    """Our CLIP with the weights of a published ViT (600 MB), or None if they were not asked for or not to be had.

    OpenAI's weights want QuickGELU, most of LAION's the exact GELU: with the other they load and answer wrongly.
    """
    from transformers import CLIPModel

    official = fetch(CLIPModel, name)
    return None if official is None else from_pretrained(official)


def from_pretrained(official):
    """Our CLIP with the sizes, activations and weights of a CLIPModel of transformers, in eval mode.

    Raises ValueError for an activation that is not in ACTIVATIONS.
    """
    text, vision = official.config.text_config, official.config.vision_config
    for tower in (text, vision):
        if tower.hidden_act not in ACTIVATIONS:
            raise ValueError(
                f"The activation {tower.hidden_act!r} is none of {', '.join(ACTIVATIONS)}: no map for it here."
            )

    def sizes(tower):
        return dict(
            width=tower.hidden_size, layers=tower.num_hidden_layers, heads=tower.num_attention_heads,
            embed_dim=official.config.projection_dim, activation=ACTIVATIONS[tower.hidden_act],
        )  # fmt: skip

    model = CLIP(
        VisionTransformer(image_size=vision.image_size, patch_size=vision.patch_size, **sizes(vision)),
        TextTransformer(vocab_size=text.vocab_size, context_length=text.max_position_embeddings, **sizes(text)),
    )
    model.load_state_dict(from_transformers(official.state_dict()))
    return model.eval()
