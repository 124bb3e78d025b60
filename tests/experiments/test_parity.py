"""The lessons' classes compute what independent implementations compute, from the same weights."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from optional import absent, load_openai_clip_model_module
from torch import nn

from mmlesson.experiments import parity
from mmlesson.experiments.parity.common import add_noise
from mmlesson.models.attention import TextTransformer
from mmlesson.models.clip import CLIP
from mmlesson.models.flamingo import (
    IMAGE,
    GatedCrossAttention,
    PerceiverResampler,
    feed_forward,
    media_mask,
)
from mmlesson.models.flava import (
    FLAVA,
    Encoder,
    ImageCodebook,
    ImageEncoder,
    TextEncoder,
    fsq,
    mim_loss,
    mlm_loss,
    pair_losses,
)
from mmlesson.models.gemini import Decoder, log_mel, mel_filters
from mmlesson.models.vision import ModifiedResNet, VisionTransformer

TOLERANCE = 1e-5
every_seed = pytest.mark.parametrize("seed", range(3))


def parameters(model):
    return sum(p.numel() for p in model.parameters())


# CLIP ----------------------------------------------------------------------------------------------------------------


@every_seed
def test_clip_is_that_of_transformers(seed):
    assert parity.clip.difference(CLIP, VisionTransformer, TextTransformer, seed=seed) <= TOLERANCE


def text_transformer():
    return TextTransformer(vocab_size=200, context_length=16, width=64, layers=2, heads=1, embed_dim=32)


def images_and_tokens(length=16):
    """Five images and four texts of different lengths; the end-of-text token is the highest id."""
    tokens = torch.zeros(4, length, dtype=torch.long)
    for row, end in enumerate((3, 11, 6, 8)):
        tokens[row, :end] = torch.randint(1, 199, (end,))
        tokens[row, end] = 199
    return torch.randn(5, 3, 32, 32), tokens


@torch.no_grad()
@every_seed
@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_both_image_encoders_are_openais(kind, seed):
    torch.manual_seed(seed)
    module = load_openai_clip_model_module()
    sizes = dict(embed_dim=32, image_resolution=32, context_length=16, vocab_size=200,
                 transformer_width=64, transformer_heads=1, transformer_layers=2)  # fmt: skip
    if kind == "vit":
        reference = module.CLIP(**sizes, vision_layers=2, vision_width=64, vision_patch_size=8)
        encoder = VisionTransformer(image_size=32, patch_size=8, width=64, layers=2, heads=1, embed_dim=32)
    else:  # four stages, as in RN50; heads there are width * 32 // 64
        reference = module.CLIP(**sizes, vision_layers=(1, 2, 1, 1), vision_width=16, vision_patch_size=None)
        encoder = ModifiedResNet(layers=(1, 2, 1, 1), width=16, heads=8, embed_dim=32, image_size=32)
    add_noise(reference.float(), seed)
    ours = CLIP(encoder, text_transformer()).eval()
    ours.load_state_dict(parity.clip.from_openai(reference.state_dict()), strict=True)
    images, tokens = images_and_tokens()
    assert (ours(images, tokens) - reference(images, tokens)[0]).abs().max() <= TOLERANCE


@torch.no_grad()
def test_a_key_that_clip_forgot_would_be_noticed():
    """The tolerance is not so wide that a lost bias slips through."""
    torch.manual_seed(0)
    image = VisionTransformer(image_size=32, patch_size=8, width=64, layers=1, heads=1, embed_dim=32)
    ours = add_noise(CLIP(image, text_transformer()), 0)
    weights = {name: w.clone() for name, w in ours.state_dict().items()}
    images, tokens = images_and_tokens()
    right = ours(images, tokens)
    for name, tensor in weights.items():
        if name.endswith("bias") and "in_proj" not in name:  # a bias on keys alone changes nothing
            ours.load_state_dict(weights | {name: torch.zeros_like(tensor)})
            assert (ours(images, tokens) - right).abs().max() > 10 * TOLERANCE, name


def test_clip_has_as_many_parameters_at_full_size():
    """ViT-B/32 against the published number; RN50 against OpenAI's own constructor."""
    with torch.device("meta"):
        vit = CLIP(
            VisionTransformer(image_size=224, patch_size=32, width=768, layers=12, heads=12, embed_dim=512),
            TextTransformer(vocab_size=49_408, context_length=77, width=512, layers=12, heads=8, embed_dim=512),
        )
        assert parameters(vit) == 151_277_313
        reference = load_openai_clip_model_module().ModifiedResNet((3, 4, 6, 3), 1024, 32, 224, 64)
        ours = ModifiedResNet(layers=(3, 4, 6, 3), width=64, heads=32, embed_dim=1024, image_size=224)
    assert parameters(ours) == parameters(reference)


# FLAVA ---------------------------------------------------------------------------------------------------------------

FLAVA_PARTS = FLAVA, ImageEncoder, TextEncoder, Encoder


@every_seed
def test_six_losses_and_the_fused_states_of_flava_are_those_of_transformers(seed):
    found = parity.flava.differences(*FLAVA_PARTS, pair_losses, mim_loss, mlm_loss, seed=seed)
    assert set(found) == {"gc", "itm", "mmm_image", "mmm_text", "mim", "mlm", "fused states"}
    assert max(found.values()) <= TOLERANCE, found


@torch.no_grad()
def test_contrastive_embeddings_of_flava_are_those_of_transformers():
    reference, images = parity.flava.tiny_reference(), parity.flava.tiny_batch()[0]
    ours = parity.flava.tiny_ours(reference, *FLAVA_PARTS)
    expected = reference.flava.get_image_features(images).pooler_output[:, 0]
    assert (ours.encode_image(images) - expected).abs().max() <= TOLERANCE


@torch.no_grad()
def test_a_key_that_flava_forgot_would_be_noticed():
    reference = parity.flava.tiny_reference()
    weights, batch = parity.flava.from_transformers(reference.state_dict()), parity.flava.tiny_batch()
    ours = parity.flava.tiny_ours(reference, *FLAVA_PARTS)
    images, masked, codes, _, corrupted, labels, _ = batch

    def losses():
        alone = mim_loss(ours, images, masked, codes), mlm_loss(ours, corrupted, labels)
        return torch.stack([*pair_losses(ours, *batch).values(), *alone])

    right = losses()
    for name, tensor in weights.items():
        if "in_proj.bias" in name:  # a bias on keys alone changes nothing
            continue
        spoiled = torch.zeros_like(tensor)
        if tensor.ndim == 2 and "words" not in name:
            spoiled = tensor.flip(0)
        ours.load_state_dict(weights | {name: spoiled})
        assert (losses() - right).abs().max() > TOLERANCE, name


def test_flava_has_as_many_parameters_at_full_size():
    """facebook/flava-full: 241,356,289 parameters in FlavaModel, of which our class leaves out three poolers."""
    width = 768
    with torch.device("meta"):
        full = FLAVA(
            ImageEncoder(image_size=224, patch_size=16, width=width, layers=12, heads=12),
            TextEncoder(vocab_size=30_522, context_length=512, width=width, layers=12, heads=12),
            Encoder(width=width, layers=6, heads=12),
            codebook_size=8192, vocab_size=30_522, embed_dim=width,
        )  # fmt: skip
    heads = sum(p.numel() for name, p in full.named_parameters() if "_head" in name)
    poolers = 3 * (width * width + width)
    assert parameters(full) - heads + poolers == 241_356_289


# Flamingo ------------------------------------------------------------------------------------------------------------


def flamingo_pytorch():
    try:
        import flamingo_pytorch
    except ImportError:
        absent("flamingo-pytorch is not installed: run `make test`, or pip install -c constraints.txt -e '.[test]'.")
    return flamingo_pytorch


@torch.no_grad()
@every_seed
def test_the_resampler_is_that_of_flamingo_pytorch(seed):
    torch.manual_seed(seed)
    theirs = flamingo_pytorch().PerceiverResampler(
        dim=24, depth=2, dim_head=8, heads=3, num_latents=5, num_media_embeds=2
    )
    add_noise(theirs, seed)
    nn.init.zeros_(theirs.media_pos_emb)  # theirs tells the first image of a text from the second; the paper does not
    ours = PerceiverResampler(width=24, layers=2, heads=3, head_dim=8, latents=5, activation=nn.GELU).eval()
    weights = {name: w for name, w in theirs.state_dict().items() if name != "media_pos_emb"}
    ours.load_state_dict(weights | {"time_embeddings": torch.zeros(8, 24)})
    features = torch.randn(4, 16, 24)
    assert (ours(features[:, None]) - theirs(features[:, None])[:, 0]).abs().max() <= TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("all_images", [False, True])
@every_seed
def test_the_gated_layer_is_that_of_flamingo_pytorch(seed, all_images):
    """all_images: those so far are all visible, instead of the last."""
    torch.manual_seed(seed)
    theirs = flamingo_pytorch().GatedCrossAttentionBlock(
        dim=32, dim_head=8, heads=4, only_attend_immediate_media=not all_images
    )
    add_noise(theirs, seed)
    nn.init.constant_(theirs.attn_gate, 0.7), nn.init.constant_(theirs.ff_gate, -0.9)
    sizes = dict(width=32, media_width=32, heads=4, head_dim=8)
    ours = GatedCrossAttention(**sizes, dense=lambda width: feed_forward(width, nn.GELU)).eval()
    names = {"attn_gate": "alpha_attn", "ff_gate": "alpha_dense"}
    ours.load_state_dict({names.get(k, k.replace("ff.", "dense.")): w for k, w in theirs.state_dict().items()})
    tokens = torch.randint(1, 40, (6, 25)).masked_fill(torch.rand(6, 25) < 0.2, IMAGE)
    if all_images:
        tokens[:, 0] = IMAGE  # without any image theirs averages over all of them in this mode
    media = int((tokens == IMAGE).sum(dim=1).max())
    x, latents = torch.randn(6, 25, 32), torch.randn(6, media, 5, 32)
    mask = media_mask(tokens, media)
    if all_images:
        mask = mask.flip(2).cumsum(dim=2).flip(2).bool()
    expected = theirs(x, latents, media_locations=tokens == IMAGE)
    got = ours(x, latents.flatten(1, 2), mask.repeat_interleave(5, dim=2))
    assert (got - expected).abs().max() <= TOLERANCE


@every_seed
def test_flamingos_layers_are_those_of_idefics(seed):
    found = parity.flamingo.differences(PerceiverResampler, GatedCrossAttention, media_mask, seed=seed)
    assert max(found.values()) <= TOLERANCE and found["mask"] == 0, found


def test_a_whole_idefics_checkpoint_maps_onto_ours():
    """A tiny random IDEFICS: every weight of its resampler and gated layers finds a place, and none is left empty."""
    from transformers import IdeficsForVisionText2Text

    torch.manual_seed(0)
    theirs = IdeficsForVisionText2Text(
        parity.flamingo.tiny_config(
            num_hidden_layers=4, vocab_size=50, additional_vocab_size=0, cross_layer_interval=2, use_resampler=True,
            vision_config={"embed_dim": 24, "image_size": 16, "patch_size": 8, "num_hidden_layers": 1,
                           "num_attention_heads": 2, "intermediate_size": 32},
            perceiver_config={"use_resampler": True, "resampler_n_latents": 5, "resampler_depth": 2,
                              "resampler_n_heads": 3, "resampler_head_dim": 8, "qk_layer_norms_perceiver": False},
        )
    )  # fmt: skip
    found = parity.flamingo.from_idefics(theirs.state_dict(), interval=2)
    resampler = PerceiverResampler(width=24, layers=2, heads=3, head_dim=8, latents=5, activation=nn.ReLU)
    resampler.load_state_dict(
        {k.removeprefix("resampler."): w for k, w in found.items() if k.startswith("resampler.")}
        | {"time_embeddings": resampler.time_embeddings.detach()}
    )
    assert {k.split(".")[1] for k in found if k.startswith("gated.")} == {"0", "2"}
    for i in "02":
        layer = GatedCrossAttention(
            width=32, media_width=24, heads=4, head_dim=8, norm=parity.flamingo.rms_norm,
            dense=lambda width: parity.flamingo.GatedMLP(width=width, hidden=48),
        )  # fmt: skip
        layer.load_state_dict({k.split(".", 2)[2]: w for k, w in found.items() if k.startswith(f"gated.{i}.")})


# The Gemini-style model ----------------------------------------------------------------------------------------------


@torch.no_grad()
@every_seed
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_the_decoder_is_chameleons(seed, kv_heads):
    torch.manual_seed(seed)
    theirs = parity.gemini.tiny_chameleon(layers=3, kv_heads=kv_heads, std=0.3)
    ours = Decoder(width=48, layers=3, heads=4, kv_heads=kv_heads, hidden=64).eval()
    ours.load_state_dict(parity.gemini.from_chameleon(theirs.state_dict()))
    ids = torch.randint(20, 40, (2, 19))
    expected, found = theirs(ids).last_hidden_state, ours(theirs.get_input_embeddings()(ids))
    assert (found - expected).abs().max() <= TOLERANCE * max(1.0, expected.abs().max().item())
    assert expected.std() > 0.1


def test_log_mel_is_whispers():
    from transformers import WhisperFeatureExtractor

    whisper = WhisperFeatureExtractor()
    np.testing.assert_allclose(mel_filters(80, 400, 16_000).numpy(), whisper.mel_filters.T, atol=1e-7)
    sound = torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0))
    sound[1, 8000:] = 0  # silence is cut 80 dB under the loudest spot
    expected = whisper(sound.numpy(), sampling_rate=16_000, padding=False, return_tensors="pt")["input_features"]
    torch.testing.assert_close(log_mel(sound, 80, n_fft=400, hop=160, rate=16_000), expected, atol=TOLERANCE, rtol=0)


def test_fsq_is_the_nearest_entry_of_a_codebook_that_is_a_grid():
    from transformers.models.chameleon.modeling_chameleon import ChameleonVQVAEVectorQuantizer

    levels = ImageCodebook.levels
    quantizer = ChameleonVQVAEVectorQuantizer(SimpleNamespace(num_embeddings=math.prod(levels), embed_dim=3, beta=0.25))
    grid = torch.cartesian_prod(*(torch.linspace(-1, 1, level) for level in reversed(levels))).flip(1)
    quantizer.embedding.weight.data.copy_(grid)
    z = 2 * torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    quantized, codes = fsq(z.permute(0, 2, 3, 1), levels)
    theirs, _, indices = quantizer(2 * z.sigmoid() - 1)
    assert torch.equal(indices.view(codes.shape), codes)
    torch.testing.assert_close(theirs.permute(0, 2, 3, 1), quantized, atol=TOLERANCE, rtol=0)


def test_the_lesson_compares_all_three_parts_with_their_analogues():
    torch.manual_seed(0)
    found = parity.gemini.differences(Decoder, log_mel, ImageCodebook(width=8).eval())
    assert found["decoder"] <= TOLERANCE and found["log-mel"] <= TOLERANCE and found["quantizer"] <= 0.001, found


# All of them ---------------------------------------------------------------------------------------------------------


def test_a_comparison_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    parity.clip.difference(CLIP, VisionTransformer, TextTransformer)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("load", [parity.clip.load_official, parity.flava.load_official])
def test_official_weights_are_fetched_only_on_request(load, monkeypatch, capsys):
    monkeypatch.delenv("MMLESSON_ONLINE", raising=False)
    assert load() is None
    assert capsys.readouterr().out.startswith("Offline: the official weights were not asked for")


def test_official_weights_that_cannot_be_fetched_are_one_sentence(monkeypatch, capsys):
    class Unreachable:
        @staticmethod
        def from_pretrained(name, **options):
            raise OSError("no route")

    monkeypatch.setenv("MMLESSON_ONLINE", "1")
    assert parity.common.fetch(Unreachable, "openai/clip") is None
    assert capsys.readouterr().out.startswith("Offline: the official weights could not be fetched (no route)")


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_a_published_clip_gets_its_own_sizes_and_activation(activation):
    from transformers import CLIPConfig, CLIPModel

    tower = dict(
        hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2, hidden_act=activation
    )
    config = CLIPConfig(
        text_config=dict(**tower, vocab_size=90, max_position_embeddings=12, bos_token_id=88, eos_token_id=89),
        vision_config=dict(**tower, image_size=24, patch_size=6),
        projection_dim=32,
    )
    official = add_noise(CLIPModel(config), seed=0)
    ours = parity.clip.from_pretrained(official)
    images, tokens = torch.randn(3, 3, 24, 24), torch.tensor([[88, 4, 5, 89], [88, 7, 89, 0]])
    with torch.no_grad():
        theirs = official(input_ids=tokens, pixel_values=images).logits_per_image
        assert (ours(images, tokens) - theirs).abs().max() <= TOLERANCE


def test_an_activation_without_a_map_is_refused():
    towers = SimpleNamespace(hidden_act="relu")
    official = SimpleNamespace(config=SimpleNamespace(text_config=towers, vision_config=towers))
    with pytest.raises(ValueError, match="The activation 'relu' is none of quick_gelu, gelu"):
        parity.clip.from_pretrained(official)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize(
    "convert", [parity.clip.from_openai, parity.clip.from_transformers, parity.flava.from_transformers]
)
def test_prefixes_of_compiled_and_parallel_models_are_dropped(convert, prefix):
    weights = {name: torch.ones(2, 2) for name in ("visual.proj", "logit_scale", "text_projection.weight")}
    assert convert({prefix + name: w for name, w in weights.items()}).keys() == convert(weights).keys()
