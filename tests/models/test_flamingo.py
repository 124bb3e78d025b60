"""Flamingo's pieces do what the lesson says: rotation, smeared keys, the resampler, gates, the mask, training."""

import pytest
import torch
from torch import nn

from mmlesson import world
from mmlesson.checkpoints import load_pretrained, load_weights
from mmlesson.experiments.parity.common import add_noise
from mmlesson.models.attention import recording
from mmlesson.models.flamingo import (
    IMAGE,
    MEDIA_WIDTH,
    TOKENIZER,
    CrossAttention,
    Flamingo,
    LanguageModel,
    PerceiverResampler,
    apply_rope,
    episodes_loss,
    interpolate_times,
    long_lists,
    media_mask,
    recall_accuracy,
    small_flamingo,
    small_language_model,
    train_flamingo,
    train_language_model,
    trained_state,
)


def fresh():
    torch.manual_seed(0)
    return small_flamingo().eval()


@pytest.fixture(scope="module")
def model():
    return fresh()


def test_rotation_keeps_lengths_and_knows_distances_only():
    x = torch.randn(3, 10, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(apply_rope(x).norm(dim=-1), x.norm(dim=-1), atol=1e-5)
    assert torch.equal(apply_rope(x)[:, 0], x[:, 0])
    assert torch.allclose(apply_rope(x[:, 4:], start=4), apply_rope(x)[:, 4:], atol=1e-5)
    q, k = x[0, 0].expand(10, 8), x[1, 0].expand(10, 8)
    scores = apply_rope(q) @ apply_rope(k).T
    assert torch.allclose(scores.diagonal(-3), scores[3, 0].expand(7), atol=1e-4)


@torch.no_grad()
def test_the_language_model_is_causal():
    torch.manual_seed(0)
    model = add_noise(small_language_model(), 0)
    tokens = torch.randint(1, 40, (6, 25)).masked_fill(torch.rand(6, 25) < 0.2, IMAGE)
    changed = tokens.clone()
    changed[:, 12] = 50
    with recording(model) as weights:
        logits = model(tokens)
    assert torch.allclose(logits, model(tokens), atol=1e-4)
    differs = (logits - model(changed)).abs().amax(dim=(0, 2)) > 1e-4
    assert not differs[:12].any() and differs[12:].any()
    assert [w.shape for w in weights] == [(6, 4, 25, 25)] * 4
    assert all((w.triu(diagonal=1) == 0).all() for w in weights)


def test_smeared_keys_mix_with_the_one_before():
    torch.manual_seed(0)
    attention = small_language_model(layers=1).blocks[0].attn
    x = torch.randn(1, 6, 128)
    moved = x.clone()
    moved[:, 2] += torch.randn(128)

    def change(smear):
        """How the log weights of the last token move when token 2 does."""
        nn.init.constant_(attention.smear, smear)
        with recording(attention) as weights:
            attention(x), attention(moved)
        return (weights[0].log() - weights[1].log())[..., -1, :]

    own = change(30.0)  # each key is its own: only key 2 has changed, the others by one common shift
    assert torch.allclose(own[..., 3], own[..., 4], atol=1e-4)
    mixed = change(0.0)  # key 3 holds a part of token 2
    assert not torch.allclose(mixed[..., 3], mixed[..., 4], atol=1e-3)


def test_the_shipped_language_model_recalls():
    assert recall_accuracy(load_pretrained("language_model")) > 0.95
    assert recall_accuracy(small_language_model()) < 0.1


@pytest.mark.parametrize("frames", [1, 3, 8, 16, 30])
def test_time_embeddings_are_interpolated_between_the_first_and_the_last(frames):
    embeddings = torch.arange(8.0)[:, None] * torch.tensor([1.0, -2.0])
    got = interpolate_times(embeddings, frames)
    assert torch.allclose(got[:, 0], torch.linspace(0, 7, frames), atol=1e-5)
    assert torch.allclose(got[:, 1], -2 * got[:, 0])


def test_a_resampler_without_grid_embeddings_sees_a_bag_of_cells_and_an_order_of_frames():
    torch.manual_seed(0)
    clip, mixed = torch.randn(2, 8, 16, 12), torch.randperm(16)
    for cells, same in ((None, True), (16, False)):
        resampler = PerceiverResampler(width=12, layers=2, heads=2, head_dim=6, latents=3, cells=cells)
        nn.init.normal_(resampler.time_embeddings)
        assert torch.allclose(resampler(clip), resampler(clip[:, :, mixed]), atol=1e-5) == same
        assert not torch.allclose(resampler(clip), resampler(clip.flip(1)), atol=1e-3)


@pytest.mark.parametrize("recorded", [False, True])
def test_a_token_before_the_first_image_gets_nothing_from_images(recorded):
    torch.manual_seed(0)
    layer = CrossAttention(width=16, media_width=12, heads=2, head_dim=4)
    x, media = torch.randn(1, 3, 16), torch.randn(1, 2, 12)
    mask = torch.tensor([[[False, False], [True, False], [True, True]]])
    with recording(layer) as weights:
        kept = layer(x, media, mask)
    out = kept if recorded else layer(x, media, mask)
    assert (out[0, 0] == 0).all() and (weights[0][0, :, 0] == 0).all()
    assert torch.allclose(weights[0][0, :, 1:].sum(dim=-1), torch.ones(2, 2))


@torch.no_grad()
def test_shut_gates_leave_the_language_model_bit_for_bit(model):
    episodes = world.episodes(3, 0)
    features = model.encode(episodes.images())
    assert torch.equal(model(episodes.tokens, features), model.language_model(episodes.tokens))
    for part, layers, shape in (
        (model.language_model, 4, (3, 4, *2 * episodes.tokens.shape[1:])),
        (model.gated, 4, (3, 4, episodes.tokens.shape[1], 9 * 4)),
        (model.resampler, 1, (3 * 9, 4, 4, 16 + 4)),
    ):
        with recording(part) as weights:
            model(episodes.tokens, features)
        assert [w.shape for w in weights] == [shape] * layers


@torch.no_grad()
def test_an_image_changes_nothing_before_it():
    model = fresh()
    for layer in model.gated.values():
        nn.init.constant_(layer.alpha_attn, 1.0)
    episodes = world.episodes(3, 0)
    features = model.encode(episodes.images())
    changed = features.clone()
    changed[:, 4] = features[:, 5]
    differs = (model(episodes.tokens, features) - model(episodes.tokens, changed)).abs().amax(dim=(0, 2)) > 1e-6
    fourth = int(episodes.starts[0, 4] - 1)
    assert not differs[:fourth].any() and differs[fourth]


def new_word_batches(seed=0):
    return world.EpisodeBatches(21, kinds=("new_words",), batch_size=2, seed=seed)


def test_training_moves_what_is_trained_and_nothing_else():
    model = fresh()
    before = {name: w.clone() for name, w in model.state_dict().items()}
    history = train_flamingo(model, new_word_batches())
    moved = {name for name, w in model.state_dict().items() if not torch.equal(before[name], w)}
    assert moved == set(trained_state(model)) and len(history.loss) == 21
    assert all(name.startswith(("resampler.", "gated.")) for name in moved)
    assert not model.image_encoder.training and model.resampler.training


def test_a_seed_fixes_a_run():
    losses = [train_flamingo(fresh(), new_word_batches(seed)).loss for seed in (3, 3, 4)]
    assert losses[0] == losses[1] != losses[2]


def test_language_training_learns_the_grammar_of_the_lists():
    torch.manual_seed(0)
    model = small_language_model(layers=1)
    history = train_language_model(model, world.TextBatches(30, kinds=("attribute",), lists=long_lists))
    assert history.loss[-1] < 0.8 * history.loss[0]


@torch.no_grad()
def test_clips_go_in_as_frames(model):
    episodes = world.episodes(2, 0, "motion", shots=1)
    for frames in (4, 8, 16):
        features = model.encode(episodes.images(frames=frames))
        assert features.shape == (2, 2, frames, 16, MEDIA_WIDTH)
        assert model(episodes.tokens, features).shape == (*episodes.tokens.shape, len(TOKENIZER))
    assert episodes_loss(model, episodes).isfinite()


def test_the_shipped_flamingo_fits_and_its_gates_are_open():
    model = load_pretrained("flamingo")
    rebuilt = small_flamingo(layers=2, latents=8, grid_positions=True)
    assert set(load_weights("flamingo")) == set(trained_state(rebuilt))
    assert max(layer.alpha_attn.tanh().abs().item() for layer in model.gated.values()) > 0.3


def test_another_image_token_is_seen():
    tokens = torch.tensor([[5, 900, 6, 900, 7]])
    assert not media_mask(tokens, 2).any(), "900 is no <image> of the course's words"
    assert media_mask(tokens, 2, image_token=900)[0].int().tolist() == [[0, 0], [1, 0], [1, 0], [0, 1], [0, 1]]
    model = Flamingo(nn.Identity(), LanguageModel(vocab_size=1000, width=32, layers=1, heads=4),
                     PerceiverResampler(width=16, layers=1, heads=2, head_dim=8, latents=2), media_width=16,
                     image_token=900)  # fmt: skip
    model.gated["0"].alpha_attn.data.fill_(1.0)
    one, other = torch.randn(2, 1, 2, 1, 4, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (model(tokens, one) - model(tokens, other))[0, 1:].abs().max() > 1e-4
