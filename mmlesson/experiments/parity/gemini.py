"""The Gemini-style model's parts against their open analogues: Chameleon's decoder and quantizer, Whisper's log-mel."""

import math
from types import SimpleNamespace

import torch
from torch import nn

from mmlesson import world
from mmlesson.experiments.parity.common import seeded


def from_chameleon(weights):
    """A state dict of transformers' ChameleonModel -> the names of our Decoder, without embeddings and tokenizer."""
    renamed = {"self_attn.": "attn.", "input_layernorm": "norm_1", "post_attention_layernorm": "norm_2"}
    ours = {}
    for name, w in weights.items():
        name = name.removeprefix("model.")
        if not name.startswith(("layers.", "norm.")):
            continue
        for theirs, our in renamed.items():
            name = name.replace(theirs, our)
        ours[name.replace("layers.", "blocks.", 1)] = w
    return ours


def tiny_chameleon(layers=2, kv_heads=2, std=0.2):
    """transformers' ChameleonModel of width 48, random."""
    from transformers import ChameleonConfig, ChameleonModel

    names = {"<image>": 4, **{f"IMGIMG{letter}Z": 10 + i for i, letter in enumerate("ABCDEFGH")}}
    tokenizer = dict(embed_dim=8, latent_channels=8, num_embeddings=8, base_channels=32, channel_multiplier=[1, 1],
                     num_res_blocks=1, resolution=16, attn_type="vanilla", attn_resolutions=None)  # fmt: skip
    config = ChameleonConfig(
        vocab_size=40, hidden_size=48, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=kv_heads, vocabulary_map=names, vq_config=tokenizer,
    )  # fmt: skip
    model = ChameleonModel(config).eval()
    for p in model.parameters():
        nn.init.normal_(p, std=std)
    return model


@seeded
def differences(decoder, log_mel, codebook):
    """How far these are from Chameleon's decoder, Whisper's log-mel and Chameleon's quantizer: {part: float}.

    codebook: a trained ImageCodebook.
    """
    return {
        "decoder": _decoder(decoder),
        "log-mel": _log_mel(log_mel),
        "quantizer": _quantizer(codebook),
    }


def _decoder(decoder):
    """Relative to the largest state."""
    theirs, ours = tiny_chameleon(), decoder(width=48, layers=2, heads=4, kv_heads=2, hidden=64).eval()
    ours.load_state_dict(from_chameleon(theirs.state_dict()))
    ids = torch.randint(20, 40, (3, 17))
    expected, found = theirs(ids).last_hidden_state, ours(theirs.get_input_embeddings()(ids))
    return ((expected - found).abs().max() / expected.abs().max()).item()


def _log_mel(log_mel):
    from transformers import WhisperFeatureExtractor

    sound = torch.randn(2, 16_000)  # Whisper: 80 bands at 16 kHz
    options = dict(sampling_rate=16_000, padding=False, return_tensors="pt")
    expected = WhisperFeatureExtractor()(sound.numpy(), **options)["input_features"]
    return (expected - log_mel(sound, 80, n_fft=400, hop=160, rate=16_000)).abs().max().item()


def _quantizer(codebook):
    """The fraction of codes that differ from the nearest entries of a codebook that is FSQ's grid."""
    from transformers.models.chameleon.modeling_chameleon import ChameleonVQVAEVectorQuantizer

    levels, device = codebook.levels, next(codebook.parameters()).device
    config = SimpleNamespace(num_embeddings=math.prod(levels), embed_dim=len(levels), beta=0.25)
    quantizer = ChameleonVQVAEVectorQuantizer(config)
    grid = torch.cartesian_prod(*(torch.linspace(-1, 1, level) for level in reversed(levels))).flip(1)
    quantizer.embedding.weight.data.copy_(grid)  # FSQ's codebook: every combination of levels
    images = world.render(world.sample(64, seed=11, **world.LARGE_UPRIGHT), device=device)
    z = codebook.encoder(images).cpu()
    nearest = quantizer((2 * z.sigmoid() - 1).contiguous())[2]
    codes = codebook.encode(images).cpu()
    return (nearest.view(codes.shape) != codes).float().mean().item()
