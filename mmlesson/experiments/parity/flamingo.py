"""Flamingo's layers against IDEFICS, its open reproduction in transformers: maps of parameter names, a comparison."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

from mmlesson.experiments.parity.common import add_noise, seeded
from mmlesson.models.flamingo import IMAGE


def rms_norm(width):
    """RMSNorm with LLaMA's epsilon, as IDEFICS normalizes the text."""
    return nn.RMSNorm(width, eps=1e-6)


class GatedMLP(nn.Module):
    """LLaMA's feed-forward layer after an RMSNorm, IDEFICS' `dense`: (..., width) -> (..., width)."""

    def __init__(self, *, width, hidden):
        super().__init__()
        self.norm = rms_norm(width)
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x):
        x = self.norm(x)
        return self.down(F.silu(self.gate(x)) * self.up(x))


RESAMPLER_NAMES = {  # IDEFICS -> ours, inside blocks.N; k_proj and v_proj become to_kv
    "0.context_layer_norm": "0.norm_media", "0.latents_layer_norm": "0.norm_latents", "0.q_proj": "0.to_q",
    "0.output_proj": "0.to_out", "1.ln": "1.0", "1.fc": "1.1", "1.c_proj": "1.3",
}  # fmt: skip
GATED_NAMES = {
    "input_layernorm": "attn.norm", "cross_attn.q_proj": "attn.to_q", "cross_attn.o_proj": "attn.to_out",
    "post_attention_layernorm": "dense.norm", "mlp.gate_proj": "dense.gate", "mlp.up_proj": "dense.up",
    "mlp.down_proj": "dense.down",
}  # fmt: skip


def resampler_from_idefics(weights):
    """State dict of an IdeficsPerceiverResampler -> that of PerceiverResampler, except `time_embeddings`."""
    renamed = {"latents": weights["latents"]}
    for name, w in weights.items():
        place, _, kind = name.rpartition(".")
        if place == "layer_norm":
            renamed[f"norm.{kind}"] = w
        elif place.endswith("k_proj"):
            both = torch.cat([w, weights[name.replace("k_proj", "v_proj")]])
            renamed[name.replace("blocks.", "layers.").replace("k_proj", "to_kv")] = both
        elif place.startswith("blocks.") and not place.endswith("v_proj"):
            _, i, inside = place.split(".", 2)
            renamed[f"layers.{i}.{RESAMPLER_NAMES[inside]}.{kind}"] = w
    return renamed


def gated_from_idefics(weights):
    """State dict of an IdeficsGatedCrossAttentionLayer -> that of GatedCrossAttention with rms_norm and GatedMLP."""
    renamed = {"alpha_attn": weights["alpha_cross_attn"], "alpha_dense": weights["alpha_dense"]}
    renamed["attn.to_kv.weight"] = torch.cat([weights[f"cross_attn.{part}_proj.weight"] for part in "kv"])
    for theirs, ours in GATED_NAMES.items():
        renamed[f"{ours}.weight"] = weights[f"{theirs}.weight"]
    return renamed


def from_idefics(weights, interval):
    """State dict of an IDEFICS model -> the names of Flamingo's resampler and gated layers.

    interval: one gated layer stands before every `interval`-th block. `time_embeddings` and the frozen parts are not
    among them.
    """

    def inside(prefix):
        return {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}

    found = {f"resampler.{k}": w for k, w in resampler_from_idefics(inside("model.perceiver_resampler.")).items()}
    layers = {name.split(".")[2] for name in weights if name.startswith("model.gated_cross_attn_layers.")}
    for i in layers:
        layer = gated_from_idefics(inside(f"model.gated_cross_attn_layers.{i}."))
        found |= {f"gated.{int(i) * interval}.{name}": w for name, w in layer.items()}
    return found


def tiny_config(**changes):
    """An IdeficsConfig of width 32 over an image encoder of width 24."""
    from transformers import IdeficsConfig

    sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "qk_layer_norms": False}
    vision, perceiver = {"embed_dim": 24}, {"qk_layer_norms_perceiver": False}
    config = IdeficsConfig(**{**sizes, "vision_config": vision, "perceiver_config": perceiver, **changes})
    config._attn_implementation = "eager"
    return config


@seeded
def differences(perceiver_resampler, gated_cross_attention, media_mask):
    """How far these layers are from IDEFICS', tiny and random: {layer: float}."""
    return {
        "resampler": _resampler(perceiver_resampler),
        "gated layer": _gated_layer(gated_cross_attention),
        "mask": _mask(media_mask),
    }


def _resampler(perceiver_resampler):
    from transformers.models.idefics.perceiver import IdeficsPerceiverResampler

    sizes = dict(embed_dim=24, depth=2, n_heads=3, head_dim=8, n_latents=5)
    theirs = add_noise(IdeficsPerceiverResampler(tiny_config(), **sizes), seed=0)
    ours = perceiver_resampler(width=24, layers=2, heads=3, head_dim=8, latents=5, activation=nn.ReLU).eval()
    no_times = {"time_embeddings": torch.zeros(8, 24)}
    ours.load_state_dict(resampler_from_idefics(theirs.state_dict()) | no_times)
    features = torch.randn(3, 1, 16, 24)
    return (ours(features) - theirs(features[:, 0])).abs().max().item()


def _gated_layer(gated_cross_attention):
    from transformers.models.idefics.modeling_idefics import IdeficsGatedCrossAttentionLayer

    theirs = add_noise(IdeficsGatedCrossAttentionLayer(tiny_config(), layer_idx=0), seed=0)
    for alpha in (theirs.alpha_cross_attn, theirs.alpha_dense):
        nn.init.constant_(alpha, 0.7)  # open: shut gates would make everything equal
    ours = gated_cross_attention(
        width=32, media_width=24, heads=4, head_dim=8, norm=rms_norm,
        dense=lambda width: GatedMLP(width=width, hidden=48),
    ).eval()  # fmt: skip
    ours.load_state_dict(gated_from_idefics(theirs.state_dict()))
    x, media, mask = torch.randn(3, 9, 32), torch.randn(3, 10, 24), torch.rand(3, 9, 10) < 0.4
    mask[0, :2] = False  # tokens before the first image
    additive = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)[:, None]
    expected = theirs(
        x, image_hidden_states=media, image_attention_mask=additive, cross_attention_gate=mask.any(dim=2).float()
    )
    return (ours(x, media, mask) - expected).abs().max().item()


def _mask(media_mask):
    """The fraction of entries that differ."""
    from transformers.models.idefics.processing_idefics import image_attention_mask_for_packed_input_ids_pt

    tokens = torch.randint(1, 40, (20, 30)).masked_fill(torch.rand(20, 30) < 0.15, IMAGE)
    tokenizer = SimpleNamespace(convert_tokens_to_ids=lambda token: IMAGE, eos_token_id=-1)
    last, _ = image_attention_mask_for_packed_input_ids_pt(tokens, tokenizer)  # -1, 0, 1, ... per token
    media = int(last.max()) + 1
    expected = last[..., None] == torch.arange(media)
    return (media_mask(tokens, media) != expected).float().mean().item()
