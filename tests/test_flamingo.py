"""From-scratch Flamingo computes what flamingo-pytorch and IDEFICS do; its pieces do what the lesson says."""

from types import SimpleNamespace

import pytest
import torch
from optional import absent
from test_parity import add_noise
from torch import nn

from mmlesson import assets, world
from mmlesson.models.flamingo import (
    IMAGE,
    MEDIA_WIDTH,
    TOKENIZER,
    CrossAttention,
    Flamingo,
    GatedCrossAttention,
    GatedMLP,
    PerceiverResampler,
    answered,
    episodes_loss,
    feed_forward,
    from_idefics,
    gated_from_idefics,
    interpolate_times,
    media_mask,
    recall_accuracy,
    recall_lists,
    resampler_from_idefics,
    rms_norm,
    rotate,
    small_flamingo,
    small_language_model,
    train_flamingo,
    train_language_model,
    trained_state,
)

TOLERANCE = 1e-5


def flamingo_pytorch():
    try:
        import flamingo_pytorch
    except ImportError:
        absent("flamingo-pytorch is not installed: run `make test`, or pip install -c constraints.txt -e '.[test]'.")
    return flamingo_pytorch


def small(**build):
    torch.manual_seed(0)
    return small_flamingo(assets.load_weights("clip_resnet"), assets.load_weights("language_model"), **build).eval()


@pytest.fixture(scope="module")
def model():
    return small()


def tokens_with_images(n=6, length=25, seed=0, share=0.2):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, 40, (n, length), generator=generator)
    return tokens.masked_fill(torch.rand(n, length, generator=generator) < share, IMAGE)


@pytest.mark.parametrize("seed", range(3))
def test_resampler_equals_flamingo_pytorch(seed):
    theirs = flamingo_pytorch().PerceiverResampler(
        dim=24, depth=2, dim_head=8, heads=3, num_latents=5, num_media_embeds=2
    )
    add_noise(theirs, seed)
    nn.init.zeros_(theirs.media_pos_emb)  # theirs tells the first picture of a text from the second; the paper does not
    ours = PerceiverResampler(24, layers=2, heads=3, head_dim=8, latents=5, activation=nn.GELU).eval()
    weights = {name: w for name, w in theirs.state_dict().items() if name != "media_pos_emb"}
    ours.load_state_dict(weights | {"times": torch.zeros(8, 24)})
    features = torch.randn(4, 16, 24, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        expected = theirs(features[:, None])[:, 0]
        assert (ours(features[:, None]) - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_gated_layer_equals_flamingo_pytorch(seed, every):
    """every: all pictures so far are visible, instead of the last."""
    theirs = flamingo_pytorch().GatedCrossAttentionBlock(
        dim=32, dim_head=8, heads=4, only_attend_immediate_media=not every
    )
    add_noise(theirs, seed)
    nn.init.constant_(theirs.attn_gate, 0.7), nn.init.constant_(theirs.ff_gate, -0.9)
    ours = GatedCrossAttention(32, 32, heads=4, head_dim=8, dense=lambda width: feed_forward(width, nn.GELU)).eval()
    names = {"attn_gate": "alpha_attn", "ff_gate": "alpha_dense"}
    ours.load_state_dict({names.get(k, k.replace("ff.", "dense.")): w for k, w in theirs.state_dict().items()})
    tokens = tokens_with_images(seed=seed)
    if every:
        tokens[:, 0] = IMAGE  # without any picture theirs averages over all of them in this mode
    media = int((tokens == IMAGE).sum(dim=1).max())
    generator = torch.Generator().manual_seed(seed)
    x, latents = torch.randn(6, 25, 32, generator=generator), torch.randn(6, media, 5, 32, generator=generator)
    mask = media_mask(tokens, media)
    if every:
        mask = mask.flip(2).cumsum(dim=2).flip(2).bool()
    with torch.no_grad():
        expected = theirs(x, latents, media_locations=tokens == IMAGE)
        got = ours(x, latents.flatten(1, 2), mask.repeat_interleave(5, dim=2))
    assert (got - expected).abs().max() <= TOLERANCE


def idefics_config(**changes):
    from transformers import IdeficsConfig

    return IdeficsConfig(
        **{
            "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "qk_layer_norms": False,
            "vision_config": {"embed_dim": 24}, "perceiver_config": {"qk_layer_norms_perceiver": False}, **changes,
        }
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_resampler_equals_idefics(seed):
    from transformers.models.idefics.perceiver import IdeficsPerceiverResampler

    theirs = IdeficsPerceiverResampler(idefics_config(), embed_dim=24, depth=2, n_heads=3, head_dim=8, n_latents=5)
    add_noise(theirs, seed)
    ours = PerceiverResampler(24, layers=2, heads=3, head_dim=8, latents=5, activation=nn.ReLU).eval()
    ours.load_state_dict(resampler_from_idefics(theirs.state_dict()) | {"times": torch.zeros(8, 24)})
    features = torch.randn(4, 16, 24, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        assert (ours(features[:, None]) - theirs(features)).abs().max() <= TOLERANCE


@pytest.mark.parametrize("seed", range(3))
def test_gated_layer_equals_idefics(seed):
    from transformers.models.idefics.modeling_idefics import IdeficsGatedCrossAttentionLayer

    theirs = IdeficsGatedCrossAttentionLayer(idefics_config(), layer_idx=0)
    add_noise(theirs, seed)
    nn.init.constant_(theirs.alpha_cross_attn, 0.7), nn.init.constant_(theirs.alpha_dense, -0.9)
    ours = GatedCrossAttention(32, 24, heads=4, head_dim=8, norm=rms_norm, dense=lambda w: GatedMLP(w, 48)).eval()
    ours.load_state_dict(gated_from_idefics(theirs.state_dict()))
    generator = torch.Generator().manual_seed(seed)
    x, media = torch.randn(3, 9, 32, generator=generator), torch.randn(3, 10, 24, generator=generator)
    mask = torch.rand(3, 9, 10, generator=generator) < 0.4
    mask[0, :2] = False  # before the first picture
    additive = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)[:, None]
    with torch.no_grad():
        expected = theirs(x, image_hidden_states=media, image_attention_mask=additive,
                          cross_attention_gate=mask.any(dim=2).float())  # fmt: skip
        assert (ours(x, media, mask) - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("seed", range(5))
def test_mask_equals_idefics(seed):
    from transformers.models.idefics.processing_idefics import (
        image_attention_mask_for_packed_input_ids_pt,
        incremental_to_binary_attention_mask,
    )

    tokens = tokens_with_images(20, 30, seed, share=0.15)
    tokenizer = SimpleNamespace(convert_tokens_to_ids=lambda token: IMAGE, eos_token_id=-1)
    last, _ = image_attention_mask_for_packed_input_ids_pt(tokens, tokenizer)
    media = int((tokens == IMAGE).sum(dim=1).max())
    expected = incremental_to_binary_attention_mask(last, "pt", num_classes=media)
    assert torch.equal(media_mask(tokens, media), expected.bool())


def test_a_whole_idefics_checkpoint_maps_onto_ours():
    """A tiny random IDEFICS: every weight of its resampler and gated layers finds a place, and none is left empty."""
    from transformers import IdeficsForVisionText2Text

    torch.manual_seed(0)
    theirs = IdeficsForVisionText2Text(
        idefics_config(
            num_hidden_layers=4, vocab_size=50, additional_vocab_size=0, cross_layer_interval=2, use_resampler=True,
            vision_config={"embed_dim": 24, "image_size": 16, "patch_size": 8, "num_hidden_layers": 1,
                           "num_attention_heads": 2, "intermediate_size": 32},
            perceiver_config={"use_resampler": True, "resampler_n_latents": 5, "resampler_depth": 2,
                              "resampler_n_heads": 3, "resampler_head_dim": 8, "qk_layer_norms_perceiver": False},
        )
    )  # fmt: skip
    found = from_idefics(theirs.state_dict(), interval=2)
    resampler = PerceiverResampler(24, layers=2, heads=3, head_dim=8, latents=5, activation=nn.ReLU)
    resampler.load_state_dict(
        {k.removeprefix("resampler."): w for k, w in found.items() if k.startswith("resampler.")}
        | {"times": resampler.times.detach()}
    )
    assert {k.split(".")[1] for k in found if k.startswith("gated.")} == {"0", "2"}
    for i in "02":
        layer = GatedCrossAttention(32, 24, heads=4, head_dim=8, norm=rms_norm, dense=lambda w: GatedMLP(w, 48))
        layer.load_state_dict({k.split(".", 2)[2]: w for k, w in found.items() if k.startswith(f"gated.{i}.")})


def test_rotation_keeps_lengths_and_knows_distances_only():
    x = torch.randn(3, 10, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(rotate(x).norm(dim=-1), x.norm(dim=-1), atol=1e-5)
    assert torch.equal(rotate(x)[:, 0], x[:, 0])
    q, k = x[0, 0].expand(10, 8), x[1, 0].expand(10, 8)
    scores = rotate(q) @ rotate(k).T
    assert torch.allclose(scores.diagonal(-3), scores[3, 0].expand(7), atol=1e-4)


def test_the_language_model_is_causal_and_its_weights_are_those_of_its_output():
    torch.manual_seed(0)
    model, tokens = add_noise(small_language_model(), 0), tokens_with_images()
    changed = tokens.clone()
    changed[:, 12] = 50
    with torch.no_grad():
        logits, weights = model(tokens, need_weights=True)
        assert torch.allclose(logits, model(tokens), atol=1e-4)
        differs = (logits - model(changed)).abs().amax(dim=(0, 2)) > 1e-4
    assert not differs[:12].any() and differs[12:].any()
    assert weights.shape == (4, 6, 4, 25, 25)
    assert (weights.triu(diagonal=1) == 0).all()


def test_smeared_keys_mix_with_the_one_before():
    torch.manual_seed(0)
    block = small_language_model(layers=1).blocks[0].attn
    x = torch.randn(1, 6, 128)
    moved = x.clone()
    moved[:, 2] += torch.randn(128)
    nn.init.constant_(block.smear, 30.0)  # each key is its own
    plain = [block(y, need_weights=True)[1] for y in (x, moved)]
    own = plain[0].log()[..., -1, :] - plain[1].log()[..., -1, :]
    assert torch.allclose(own[..., 3], own[..., 4], atol=1e-4)  # only key 2 has changed, the others by one common shift
    nn.init.constant_(block.smear, 0.0)
    smeared = [block(y, need_weights=True)[1] for y in (x, moved)]
    mixed = smeared[0].log()[..., -1, :] - smeared[1].log()[..., -1, :]
    assert not torch.allclose(mixed[..., 3], mixed[..., 4], atol=1e-3)  # key 3 holds a part of token 2


def test_recall_lists_know_what_stood_before():
    tokens, known = recall_lists(5, 12, torch.Generator().manual_seed(0))
    for row, marks in zip(tokens.unflatten(1, (12, 3)).tolist(), known.tolist()):
        seen = {}
        for (key, value, _), mark in zip(row, marks):
            assert mark == (key in seen) and seen.get(key, value) == value
            seen[key] = value


def test_the_shipped_language_model_recalls():
    model = small_language_model()
    model.load_state_dict(assets.load_weights("language_model"))
    assert recall_accuracy(model.eval()) > 0.95
    assert recall_accuracy(small_language_model()) < 0.1


@pytest.mark.parametrize("frames", [1, 3, 8, 16, 30])
def test_times_are_interpolated_between_the_first_and_the_last(frames):
    times = torch.arange(8.0)[:, None] * torch.tensor([1.0, -2.0])
    got = interpolate_times(times, frames)
    assert torch.allclose(got[:, 0], torch.linspace(0, 7, frames), atol=1e-5)
    assert torch.allclose(got[:, 1], -2 * got[:, 0])


def test_a_resampler_without_places_sees_a_bag_of_cells_and_an_order_of_frames():
    torch.manual_seed(0)
    clip, mixed = torch.randn(2, 8, 16, 12), torch.randperm(16)
    for cells, same in ((None, True), (16, False)):
        resampler = PerceiverResampler(12, layers=2, heads=2, head_dim=6, latents=3, cells=cells)
        nn.init.normal_(resampler.times)
        assert torch.allclose(resampler(clip), resampler(clip[:, :, mixed]), atol=1e-5) == same
        assert not torch.allclose(resampler(clip), resampler(clip.flip(1)), atol=1e-3)


def test_a_token_before_the_first_picture_gets_nothing_from_pictures():
    torch.manual_seed(0)
    layer, x, media = CrossAttention(16, 12, heads=2, head_dim=4), torch.randn(1, 3, 16), torch.randn(1, 2, 12)
    mask = torch.tensor([[[False, False], [True, False], [True, True]]])
    out, weights = layer(x, media, mask, need_weights=True)
    assert (out[0, 0] == 0).all() and (weights[0, :, 0] == 0).all()
    assert torch.allclose(weights[0, :, 1:].sum(dim=-1), torch.ones(2, 2))


def test_shut_gates_leave_the_language_model_bit_for_bit(model):
    episodes = world.episodes(3, 0)
    features = model.encode(episodes.images())
    with torch.no_grad():
        assert torch.equal(model(episodes.tokens, features), model.language_model(episodes.tokens))
        again, weights = model(episodes.tokens, features, need_weights=True)
    assert torch.allclose(again, model.language_model(episodes.tokens), atol=1e-4)
    assert weights["language"].shape == (4, 3, 4, *2 * episodes.tokens.shape[1:])
    assert len(weights["gated"]) == 4 and weights["gated"][0].shape == (3, 4, episodes.tokens.shape[1], 9 * 4)
    assert weights["resampler"].shape == (1, 3 * 9, 4, 4, 16 + 4)


def test_a_picture_changes_nothing_before_it():
    model = small()
    for layer in model.gated.values():
        nn.init.constant_(layer.alpha_attn, 1.0)
    episodes = world.episodes(3, 0)
    features = model.encode(episodes.images())
    changed = features.clone()
    changed[:, 4] = features[:, 5]
    with torch.no_grad():
        differs = (model(episodes.tokens, features) - model(episodes.tokens, changed)).abs().amax(dim=(0, 2)) > 1e-6
    fourth = int(episodes.starts[0, 4] - 1)
    assert not differs[:fourth].any() and differs[fourth]


def test_training_moves_what_is_trained_and_nothing_else():
    model = small()
    before = {name: w.clone() for name, w in model.state_dict().items()}
    history = train_flamingo(model, steps=21, kinds=("new_words",), batch_size=2)
    moved = {name for name, w in model.state_dict().items() if not torch.equal(before[name], w)}
    assert moved == set(trained_state(model)) and len(history.loss) == 21
    assert all(name.startswith(("resampler.", "gated.")) for name in moved)
    assert not model.image_encoder.training and model.resampler.training


def test_a_seed_fixes_a_run():
    losses = [train_flamingo(small(), 21, ("new_words",), batch_size=2, seed=seed).loss for seed in (3, 3, 4)]
    assert losses[0] == losses[1] != losses[2]


def test_language_training_learns_the_lists_grammar():
    torch.manual_seed(0)
    model = small_language_model(layers=1)
    history = train_language_model(model, 30, kinds=("attribute",))
    assert history.loss[-1] < 0.8 * history.loss[0]


def test_answered_counts_what_the_model_says_and_controls_change_the_pictures(model):
    episodes = world.episodes(5, 0, shots=2)
    seen = []
    right = answered(model, episodes, see=lambda images: seen.append(images.shape) or images, at_once=7)
    with torch.no_grad():
        said = model(episodes.tokens, model.encode(episodes.images()))
    assert torch.equal(right, episodes.correct(said))
    assert seen == [(2, 3, 3, 32, 32), (2, 3, 3, 32, 32), (1, 3, 3, 32, 32)]


def test_clips_go_in_as_frames(model):
    episodes = world.episodes(2, 0, "motion", shots=1)
    for frames in (4, 8, 16):
        features = model.encode(episodes.images(frames=frames))
        assert features.shape == (2, 2, frames, 16, MEDIA_WIDTH)
        assert model(episodes.tokens, features).shape == (*episodes.tokens.shape, len(TOKENIZER))
    assert episodes_loss(model, episodes).isfinite()


def test_the_shipped_flamingo_fits_and_its_gates_are_open():
    model = small(layers=2, latents=8, places=True)
    weights = assets.load_weights("flamingo")
    assert set(weights) == set(trained_state(model))
    model.load_state_dict(weights, strict=False)
    assert isinstance(model, Flamingo)
    assert max(layer.alpha_attn.tanh().abs().item() for layer in model.gated.values()) > 0.3
