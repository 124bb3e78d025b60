"""From-scratch FLAVA computes what transformers' does, from the same weights; its pieces do what the lesson says."""

import math

import pytest
import torch
from test_parity import add_noise

from mmlesson.models.flava import (
    FLAVA,
    Encoder,
    ImageCodebook,
    ImageEncoder,
    TextEncoder,
    block_mask,
    from_transformers,
    fsq,
    hidden_loss,
    mask_words,
    mim_loss,
    mlm_loss,
    pair_losses,
    small_flava,
)

TOLERANCE = 1e-5
WORDS, CODES, WIDTH = 120, 50, 32


def reference(seed):
    """transformers' FlavaForPreTraining, tiny, with noise on every parameter."""
    from transformers import (
        FlavaConfig,
        FlavaForPreTraining,
        FlavaImageCodebookConfig,
        FlavaImageConfig,
        FlavaMultimodalConfig,
        FlavaTextConfig,
    )

    tower = dict(hidden_size=WIDTH, num_attention_heads=4, intermediate_size=4 * WIDTH)
    config = FlavaConfig(
        text_config=FlavaTextConfig(
            **tower, num_hidden_layers=2, vocab_size=WORDS, max_position_embeddings=16
        ).to_dict(),
        image_config=FlavaImageConfig(
            **tower, num_hidden_layers=3, image_size=32, patch_size=8, vocab_size=CODES
        ).to_dict(),
        multimodal_config=FlavaMultimodalConfig(**tower, num_hidden_layers=2).to_dict(),
        image_codebook_config=FlavaImageCodebookConfig(vocab_size=CODES, hidden_size=8).to_dict(),
        hidden_size=WIDTH,
        projection_dim=16,
    )
    torch.manual_seed(seed)
    return add_noise(FlavaForPreTraining(config), seed)


def ours_from(theirs):
    ours = FLAVA(
        ImageEncoder(32, 8, WIDTH, layers=3, heads=4),
        TextEncoder(WORDS, 16, WIDTH, layers=2, heads=4),
        Encoder(WIDTH, layers=2, heads=4),
        codebook_size=CODES,
        vocab_size=WORDS,
        embed_dim=16,
    ).eval()
    ours.load_state_dict(from_transformers(theirs.state_dict()), strict=True)
    return ours


def batch(seed):
    """Images, masked, codes, tokens, corrupted, labels, matched: as pair_losses takes them. Two of five pairs match."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, WORDS, (5, 9), generator=generator)
    for row, length in enumerate((9, 4, 7, 9, 6)):
        tokens[row, length:] = 0
    chosen = (torch.rand(5, 9, generator=generator) < 0.4) & (tokens > 0)
    return (
        torch.randn(5, 3, 32, 32, generator=generator),
        torch.rand(5, 16, generator=generator) < 0.4,
        torch.randint(CODES, (5, 16), generator=generator),
        tokens,
        torch.where(chosen, 3, tokens),
        torch.where(chosen, tokens, -100),
        torch.tensor([True, False, False, True, False]),
    )


@torch.no_grad()
@pytest.mark.parametrize("seed", range(3))
def test_four_losses_of_pairs_equal_transformers(seed):
    theirs = reference(seed)
    images, masked, codes, tokens, corrupted, labels, matched = pairs = batch(seed)
    output = theirs(
        input_ids=tokens, input_ids_masked=corrupted, pixel_values=images, attention_mask=(tokens != 0).long(),
        bool_masked_pos=masked, mlm_labels=labels, mim_labels=codes.clone(),  # clone: it writes into mim_labels
        itm_labels=matched.long(), return_loss=True,
    )  # fmt: skip
    expected = output.loss_info
    losses = pair_losses(ours_from(theirs), *pairs)
    for name, value in (
        ("gc", expected.global_contrastive), ("itm", expected.itm),
        ("mmm_image", expected.mmm_image), ("mmm_text", expected.mmm_text),
    ):  # fmt: skip
        assert abs(losses[name] - value) <= TOLERANCE, name


@torch.no_grad()
@pytest.mark.parametrize("seed", range(3))
def test_two_losses_of_one_modality_equal_transformers(seed):
    theirs = reference(seed)
    ours = ours_from(theirs)
    images, masked, codes, tokens, corrupted, labels, _ = batch(seed)
    mim = theirs(pixel_values=images, bool_masked_pos=masked, mim_labels=codes.clone(), return_loss=True).loss_info.mim
    mlm = theirs(
        input_ids=tokens, input_ids_masked=corrupted, attention_mask=(tokens != 0).long(), mlm_labels=labels,
        return_loss=True,
    ).loss_info.mlm  # fmt: skip
    assert abs(mim_loss(ours, images, masked, codes) - mim) <= TOLERANCE
    assert abs(mlm_loss(ours, corrupted, labels) - mlm) <= TOLERANCE


@torch.no_grad()
def test_fused_states_and_embeddings_equal_transformers():
    theirs = reference(0)
    ours = ours_from(theirs)
    images, _, _, tokens, _, _, _ = batch(0)
    output = theirs.flava(input_ids=tokens, pixel_values=images, attention_mask=(tokens != 0).long())
    visible = torch.cat([torch.ones(5, 18, dtype=torch.bool), tokens != 0], dim=1)
    difference = (ours(images, tokens) - output.multimodal_embeddings)[visible]  # states at padding are nobody's
    assert difference.abs().max() <= TOLERANCE
    image = theirs.flava.get_image_features(images).pooler_output[:, 0]
    assert (ours.encode_image(images) - image).abs().max() <= TOLERANCE


@torch.no_grad()
def test_a_forgotten_key_would_be_noticed():
    theirs = reference(0)
    weights, pairs = from_transformers(theirs.state_dict()), batch(0)
    ours = ours_from(theirs)
    images, masked, codes, _, corrupted, labels, _ = pairs

    def total():
        alone = mim_loss(ours, images, masked, codes), mlm_loss(ours, corrupted, labels)
        return torch.stack([*pair_losses(ours, *pairs).values(), *alone])

    right = total()
    for name, tensor in weights.items():
        if "in_proj.bias" in name:  # a bias on keys alone changes nothing
            continue
        spoiled = torch.zeros_like(tensor)
        if tensor.ndim == 2 and "words" not in name:
            spoiled = tensor.flip(0)
        ours.load_state_dict(weights | {name: spoiled})
        assert (total() - right).abs().max() > TOLERANCE, name


def test_full_size_parameter_counts():
    """facebook/flava-full: 241,356,289 parameters in FlavaModel, of which our class leaves out three poolers."""
    with torch.device("meta"):
        width, vocabulary, codes = 768, 30522, 8192
        full = FLAVA(
            ImageEncoder(224, 16, width, 12, 12), TextEncoder(vocabulary, 512, width, 12, 12), Encoder(width, 6, 12),
            codes, vocabulary, embed_dim=width,
        )  # fmt: skip
    heads = sum(p.numel() for name, p in full.named_parameters() if "_head" in name)
    poolers = 3 * (width * width + width)
    assert sum(p.numel() for p in full.parameters()) - heads + poolers == 241_356_289


def test_fsq_codes_are_the_levels_as_digits():
    levels = (8, 6, 5)
    z = torch.cartesian_prod(*(torch.linspace(-12, 12, 80) for _ in levels)).requires_grad_()
    quantized, codes = fsq(z, levels)
    assert len(codes.unique()) == 240 and codes.min() == 0 and codes.max() == 239
    digits = ((quantized + 1) / 2 * (torch.tensor(levels) - 1)).round().long()
    assert (digits[:, 0] + 8 * digits[:, 1] + 48 * digits[:, 2] == codes).all()
    (gradient,) = torch.autograd.grad(quantized.sum(), z)
    assert (gradient >= 0).all() and gradient.max() > 0.4  # the sigmoid's slope, not the staircase's


@torch.no_grad()
def test_codebook_decodes_what_it_encodes():
    torch.manual_seed(0)
    codebook = ImageCodebook(width=16)
    images = torch.rand(3, 3, 24, 32)
    codes = codebook.encode(images)
    assert codes.shape == (3, 6, 8)
    torch.testing.assert_close(codebook.decode(codes), codebook(images).clamp(0, 1))


def test_block_mask_hides_nearly_what_is_asked_in_blocks():
    generator = torch.Generator().manual_seed(0)
    masks = torch.stack([block_mask(6, 14, generator) for _ in range(300)])
    hidden = masks.sum((1, 2))
    assert hidden.max() <= 14 and hidden.float().mean() > 12.6
    assert masks.float().mean(0).min() > 0.1  # every patch is hidden now and then, those at the border too
    together = (masks[:, 1:] & masks[:, :-1]).float().mean() / masks.float().mean() ** 2
    assert together > 1.4  # scattered patches would give 1


def test_mask_words_leaves_special_tokens_alone():
    from mmlesson.models.flava import MASK, TOKENIZER

    generator = torch.Generator().manual_seed(0)
    tokens = TOKENIZER.encode(["a red cat left of a blue dog", "a cat"] * 500)
    corrupted, labels = mask_words(tokens, generator, ratio=0.3)
    special = (tokens == 0) | (tokens >= TOKENIZER.sot)
    assert (labels[special] == -100).all() and torch.equal(corrupted[special], tokens[special])
    asked = labels != -100
    assert torch.equal(labels[asked], tokens[asked]) and torch.equal(corrupted[~asked], tokens[~asked])
    assert abs((corrupted[asked] == MASK).float().mean() - 0.8) < 0.04
    assert abs(asked[~special].float().mean() - 0.3) < 0.03


def test_hidden_loss_without_hidden_things_is_zero():
    head = torch.nn.Linear(4, 7)
    loss = hidden_loss(head, torch.randn(2, 3, 4, requires_grad=True), torch.full((2, 3), -100))
    assert loss == 0 and math.isfinite(loss.item())
    loss.backward()


@torch.no_grad()
def test_wrong_pairs_count_for_matching_and_as_negatives_only():
    ours = ours_from(reference(1))
    images, masked, codes, tokens, corrupted, labels, matched = batch(1)
    wrong = ~matched
    losses = pair_losses(ours, images, masked, codes, tokens, corrupted, labels, matched)
    other_codes = torch.where(wrong[:, None], (codes + 1) % CODES, codes)
    other_labels = torch.where(wrong[:, None] & (labels != -100), (labels + 1) % WORDS, labels)
    same = pair_losses(ours, images, masked, other_codes, tokens, corrupted, other_labels, matched)
    assert losses["mmm_image"] == same["mmm_image"] and losses["mmm_text"] == same["mmm_text"]
    moved = pair_losses(ours, images, masked, codes, torch.where(wrong[:, None], 5, tokens), corrupted, labels, matched)
    assert losses["gc"] != moved["gc"]  # the caption of a wrong pair is still a column
    none = pair_losses(ours, images, masked, codes, tokens, corrupted, labels, torch.zeros_like(matched))
    assert all(math.isfinite(value) for value in none.values())


@torch.no_grad()
def test_padding_changes_nothing():
    torch.manual_seed(0)
    model = small_flava().eval()
    images, tokens = torch.randn(2, 3, 48, 48), torch.tensor([[221, 5, 9, 222], [221, 7, 222, 0]])
    longer = torch.nn.functional.pad(tokens, (0, 5))
    a, b = model(images, tokens), model(images, longer)
    torch.testing.assert_close(a[0], b[0, : a.shape[1]])
    torch.testing.assert_close(model.match(images, tokens), model.match(images, longer))
    torch.testing.assert_close(model.encode_text(tokens), model.encode_text(longer))
