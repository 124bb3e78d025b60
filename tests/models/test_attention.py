"""Attention is the same whether it is fused or recorded; masks, heads and recordings do what the lesson says."""

import pytest
import torch
from torch import nn

from mmlesson.checkpoints import load_pretrained
from mmlesson.models.attention import (
    AttentionLayer,
    MultiHeadAttention,
    TextTransformer,
    Transformer,
    attention,
    causal_mask,
    merge_heads,
    recording,
    recording_outputs,
    split_heads,
)
from mmlesson.models.vision import AttentionPool, VisionTransformer

TOLERANCE = 1e-5


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_heads_are_slices_of_the_channels_and_come_together_again():
    x = randn(2, 5, 12)
    heads = split_heads(x, 3)
    assert heads.shape == (2, 3, 5, 4) and torch.equal(heads[:, 1], x[..., 4:8])
    assert torch.equal(merge_heads(heads), x)


@pytest.mark.parametrize("past", [0, 3])
def test_a_causal_mask_shows_the_past_and_the_token_itself(past):
    mask = causal_mask(4, past)
    assert mask.shape == (4, past + 4) and mask.dtype == torch.bool
    assert all(mask[i].nonzero()[:, 0].tolist() == list(range(past + i + 1)) for i in range(4))


def test_recorded_attention_is_fused_attention():
    q, k, v = randn(2, 3, 5, 4, seed=1), randn(2, 3, 7, 4, seed=2), randn(2, 3, 7, 6, seed=3)
    mask = randn(2, 1, 5, 7, seed=4) > 0
    mask[0, 0, 2] = False  # a query that may look nowhere
    layer = AttentionLayer()
    for m in (None, mask):
        with recording(layer) as weights:
            recorded = layer.attend(q, k, v, m)
        torch.testing.assert_close(layer.attend(q, k, v, m), recorded)
        torch.testing.assert_close(weights[0] @ v, recorded)
        torch.testing.assert_close(attention(q, k, v, m)[1], weights[0])


@pytest.mark.parametrize("recorded", [False, True])
def test_a_fully_masked_row_gives_zeros_and_finite_gradients(recorded):
    q, k, v = (randn(1, 2, 4, 3, seed=s).requires_grad_() for s in range(3))
    mask = causal_mask(4).clone()
    mask[2] = False
    layer = AttentionLayer()
    if recorded:
        with recording(layer):
            out = layer.attend(q, k, v, mask)
    else:
        out = layer.attend(q, k, v, mask)
    assert (out[:, :, 2] == 0).all()
    gradients = torch.autograd.grad(out.square().sum(), (q, k, v))
    assert all(g.isfinite().all() for g in gradients)


def test_one_recording_holds_the_weights_of_all_layers_in_order():
    torch.manual_seed(0)
    model, x = Transformer(width=12, layers=3, heads=2), randn(2, 5, 12)
    with recording(model) as weights:
        model(x, causal_mask(5))
    assert [w.shape for w in weights] == [(2, 2, 5, 5)] * 3
    for w in weights:
        torch.testing.assert_close(w.sum(dim=-1), torch.ones(2, 2, 5))
        assert (w.triu(diagonal=1) == 0).all()
    with recording(model.blocks[1]) as one:
        model(x, causal_mask(5))
    torch.testing.assert_close(one, weights[1:2])


def test_nothing_is_kept_outside_a_recording_not_even_after_an_error():
    layer = MultiHeadAttention(width=12, heads=2)
    with pytest.raises(RuntimeError), recording(layer) as weights:
        layer(randn(2, 5, 11))
    layer(randn(2, 5, 12))
    assert layer.recorded is None and weights == []


def test_a_recording_inside_a_recording_takes_over_and_gives_back():
    layer, x = MultiHeadAttention(width=12, heads=2), randn(1, 4, 12)
    with recording(layer) as outer:
        with recording(layer) as inner:
            layer(x)
        layer(x)
    assert len(inner) == len(outer) == 1 and layer.recorded is None


def test_states_after_each_layer_are_recorded_likewise():
    torch.manual_seed(0)
    model, x = Transformer(width=12, layers=3, heads=2), randn(2, 5, 12)
    with recording_outputs(model.blocks) as states:
        out = model(x)
    assert len(states) == 3 and torch.equal(states[-1], out)
    torch.testing.assert_close(model.blocks[0](x), states[0])
    model(x)
    assert len(states) == 3


@torch.no_grad()
@pytest.mark.parametrize("name", ["clip_resnet", "clip_vit", "flava", "gemini"])
def test_recording_changes_no_output_of_a_shipped_model(name):
    model = load_pretrained(name)
    images = randn(2, 3, 48, 48) if name == "flava" else randn(2, 3, 32, 32)

    def run():
        if name == "gemini":
            return model(torch.randint(1, 600, (2, 20), generator=torch.Generator().manual_seed(0)))
        return model.encode_image(images)

    plain = run()
    with recording(model) as weights:
        torch.testing.assert_close(run(), plain, atol=TOLERANCE, rtol=1e-4)
    assert weights and all(w.sum(dim=-1).allclose(torch.ones(())) for w in weights)


def test_a_text_is_pooled_at_its_end_and_padding_changes_nothing():
    torch.manual_seed(0)
    model = TextTransformer(vocab_size=20, context_length=9, width=12, layers=2, heads=2, embed_dim=6)
    tokens = torch.tensor([[18, 3, 4, 19], [18, 5, 19, 0]])
    longer = nn.functional.pad(tokens, (0, 4))
    torch.testing.assert_close(model(tokens), model(longer))
    assert model(tokens).shape == (2, 6)


def test_the_pool_looks_at_the_mean_and_at_all_cells():
    torch.manual_seed(0)
    pool = AttentionPool(cells=6, width=8, heads=2, embed_dim=5)
    with recording(pool) as weights:
        assert pool(randn(3, 8, 2, 3)).shape == (3, 5)
    assert weights[0].shape == (3, 2, 1, 7)


def test_vit_reads_its_class_token():
    torch.manual_seed(0)
    vit = VisionTransformer(image_size=16, patch_size=4, width=12, layers=1, heads=2, embed_dim=5)
    with recording(vit) as weights:
        assert vit(randn(3, 3, 16, 16)).shape == (3, 5)
    assert weights[0].shape == (3, 2, 17, 17)
