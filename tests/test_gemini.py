"""From-scratch Gemini-style decoder: equal to its open analogues, causal across modalities, exact in its sampling."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import ChameleonConfig, ChameleonModel, WhisperFeatureExtractor
from transformers.models.chameleon.modeling_chameleon import ChameleonVQVAEVectorQuantizer

from mmlesson import gemini_variants, world
from mmlesson.models import gemini
from mmlesson.models.clip import clip_resnet
from mmlesson.models.flava import ImageCodebook, fsq
from mmlesson.models.gemini import (
    ALL_KINDS,
    FIRST_CODE,
    GRID,
    IMAGE,
    LATER_KINDS,
    SOUND,
    SOUNDS,
    SPEECH,
    TOKENIZER,
    VOCABULARY,
    Decoder,
    GroupedQueryAttention,
    Judge,
    MelEncoder,
    RawFrames,
    Streams,
    TractLength,
    from_chameleon,
    interleave,
    log_mel,
    mel_filters,
    next_token_loss,
    paint,
    phrase,
    pick,
    places,
    say,
    say_and_paint,
    share,
    sharpen,
    small_gemini,
    spoken,
    token_weights,
    train_gemini,
    train_stages,
    watched,
)

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def codebook():
    torch.manual_seed(0)
    return ImageCodebook(width=8).eval()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return small_gemini(width=48, layers=2, hidden=64).eval()


@pytest.fixture(scope="module")
def codes():
    return torch.randint(ImageCodebook.size, (3, GRID, GRID), generator=torch.Generator().manual_seed(0))


# ---- against independent implementations


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_the_decoder_is_chameleons(seed, kv_heads):
    names = {"<image>": 4, **{f"IMGIMG{letter}Z": 10 + i for i, letter in enumerate("ABCDEFGH")}}
    tokenizer = {
        "embed_dim": 8,
        "latent_channels": 8,
        "num_embeddings": 8,
        "base_channels": 32,
        "resolution": 16,
        "channel_multiplier": [1, 1],
        "num_res_blocks": 1,
        "attn_type": "vanilla",
        "attn_resolutions": None,
    }
    config = ChameleonConfig(
        vocab_size=40, hidden_size=48, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=kv_heads, vocabulary_map=names, vq_config=tokenizer,
    )  # fmt: skip
    torch.manual_seed(seed)
    theirs = ChameleonModel(config).eval()
    for p in theirs.parameters():
        nn.init.normal_(p, std=0.3)
    ours = Decoder(48, layers=3, heads=4, kv_heads=kv_heads, hidden=64).eval()
    ours.load_state_dict(from_chameleon(theirs.state_dict()))
    ids = torch.randint(20, 40, (2, 19))
    with torch.no_grad():
        expected = theirs(ids).last_hidden_state
        found = ours(theirs.get_input_embeddings()(ids))
    assert (found - expected).abs().max() <= TOLERANCE * max(1.0, expected.abs().max().item())
    assert expected.std() > 0.1


def test_log_mel_is_whispers():
    whisper = WhisperFeatureExtractor()
    np.testing.assert_allclose(mel_filters(80, 400, 16_000).numpy(), whisper.mel_filters.T, atol=1e-7)
    sound = torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0))
    sound[1, 8000:] = 0  # what is silent is cut 80 dB under the loudest
    expected = whisper(sound.numpy(), sampling_rate=16_000, padding=False, return_tensors="pt")["input_features"]
    torch.testing.assert_close(log_mel(sound, 80, n_fft=400, hop=160, rate=16_000), expected, atol=TOLERANCE, rtol=0)


def test_fsq_is_the_nearest_entry_of_a_codebook_that_is_a_grid():
    levels = ImageCodebook.levels
    quantizer = ChameleonVQVAEVectorQuantizer(SimpleNamespace(num_embeddings=math.prod(levels), embed_dim=3, beta=0.25))
    grid = torch.cartesian_prod(*(torch.linspace(-1, 1, level) for level in reversed(levels))).flip(1)
    quantizer.embedding.weight.data.copy_(grid)
    z = 2 * torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    quantized, codes = fsq(z.permute(0, 2, 3, 1), levels)
    theirs, _, indices = quantizer(2 * z.sigmoid() - 1)
    assert torch.equal(indices.view(codes.shape), codes)
    torch.testing.assert_close(theirs.permute(0, 2, 3, 1), quantized, atol=TOLERANCE, rtol=0)


# ---- streams


def test_a_stream_holds_its_parts_in_order(codes):
    tokens, last = interleave([["a red cat", codes[0], SPEECH, "<en> red ;"], [codes[1]]])
    row = tokens[0].tolist()
    words = TOKENIZER.index
    assert row[:5] == [TOKENIZER.sot, words["a"], words["red"], words["cat"], IMAGE]
    assert row[5:69] == (codes[0].flatten() + FIRST_CODE).tolist() and row[69] == words["</image>"]
    assert row[70] == words["<audio>"] and row[71:97] == [SOUND] * SOUNDS and row[97] == words["</audio>"]
    assert row[98:] == [words["<en>"], words["red"], words[";"]]
    assert tokens[1, 67:].eq(TOKENIZER.pad).all() and tokens[1, 66] == words["</image>"]
    assert last[0].nonzero()[:, 0].tolist() == [98, 99, 100] and last[1].nonzero()[:, 0].tolist() == list(range(1, 67))


def test_places_start_again_in_every_picture(codes):
    tokens, _ = interleave([["<t1>", codes[0], "<t2>", codes[1], "a cat"], [codes[2]]])
    place = places(tokens)
    assert place[0, 3:67].tolist() == place[0, 70:134].tolist() == place[1, 2:66].tolist() == list(range(64))
    assert (place[tokens < FIRST_CODE] == -1).all()


def test_the_vocabulary_says_both_languages():
    for language in world.LANGUAGES:
        for pair in world.pairs().tolist():
            for text in (phrase(pair, language), spoken(pair, language)):
                assert TOKENIZER.decode(torch.tensor([TOKENIZER.ids(text)])) == [text]
    assert len(set(TOKENIZER.words)) == len(TOKENIZER) == FIRST_CODE == VOCABULARY - ImageCodebook.size


@pytest.mark.parametrize("kind", LATER_KINDS)
def test_streams_of_each_kind_show_training_pairs_and_hold_what_they_need(kind, codebook):
    once, again = (Streams(codebook, seed=3, objects=[0, 24]).batch(kind, 6) for _ in range(2))
    tokens, last, waves = once
    assert torch.equal(tokens, again[0]) and (waves is None or torch.equal(waves, again[2]))
    wanted = tokens[last]
    assert (wanted >= FIRST_CODE).any() == (kind in ("draw", "hear_draw", "say_draw")) and not (wanted == SOUND).any()
    assert (tokens == SOUND).sum() == (0 if waves is None else len(waves) * SOUNDS)
    assert (waves is not None) == (kind in ("hear", "hear_draw", "say_draw", "ask"))
    pictures = {"read": 0, "hear": 0, "watch": 4}.get(kind, 1)
    assert ((tokens >= FIRST_CODE).sum(dim=1) == 64 * pictures).all()
    if kind in ("read", "draw", "write", "hear", "say_draw"):
        said = " ".join(TOKENIZER.decode(tokens.masked_fill(tokens >= FIRST_CODE, 0)))
        assert any(name in said for name in ("cat", "고양이", "apple", "사과"))
    for text in TOKENIZER.decode(tokens.masked_fill(tokens >= FIRST_CODE, 0)):
        for o, name in ((0, "cat"), (24, "apple")):
            for c, color in enumerate(world.COLORS):
                if world.held_out(o, c):
                    assert f"{color.name} {name}" not in text


def test_a_question_is_answered_by_what_was_asked(codebook):
    streams = Streams(codebook, seed=0)
    rows, _ = streams.ask(40)
    answers = {row[2].split()[1] for row in rows}
    colors = {c.name for c in world.COLORS} | {c.korean for c in world.COLORS}
    assert answers & colors and answers - colors


def test_what_was_said_stands_between_the_sound_and_its_picture(codebook):
    (sound, words, picture), *_ = Streams(codebook, seed=0).say_draw(1)[0]
    language, *said, end = words.split()
    assert sound is SPEECH and language in ("<en>", "<ko>") and end == ";" and picture.shape == (GRID, GRID)
    assert " ".join(said) in [spoken(p, language[1:-1]) for p in world.pairs("train").tolist()]


def test_a_clip_is_watched_frame_by_frame(codebook):
    clips = world.video(2, seed=0)
    rows = watched(clips, codebook)
    assert [part for part in rows[0] if isinstance(part, str)][:4] == ["<t1>", "<t2>", "<t3>", "<t4>"]
    assert rows[0][-1] == f"<en> {world.video_captions(clips)[0]} ;"
    second_frame = world.render_video(clips, 4)[1, 1:2]
    assert torch.equal(rows[1][3], codebook.encode(second_frame)[0])


# ---- the model


def test_nothing_looks_ahead_and_no_row_at_another(model, codes):
    tokens, _ = interleave([[codes[0], SPEECH, "<en> red ;"], [codes[1], SPEECH, "<ko> 사과 ;"]])
    waves = world.speak(["what color is it", "이게 뭐야"])
    with torch.no_grad():
        before = model(tokens, waves)
        for t in (0, 1, 2, 40, 65, 66, tokens.shape[1] - 1):
            other = tokens.clone()
            lowest = FIRST_CODE if tokens[1, t] >= FIRST_CODE else 1  # a code stays a code, a word a word
            other[1, t] = lowest + (tokens[1, t] == lowest)
            after = model(other, waves)
            moved = (after - before)[1].abs().amax(dim=-1) > 0
            assert not moved[:t].any() and moved[t]
            assert torch.equal(after[0], before[0])
        louder = model(tokens, torch.cat([waves[:1], -waves[1:].flip(1)]))
    moved = (louder - before).abs().amax(dim=-1) > 1e-6
    first_sound = int((tokens[1] == SOUND).nonzero()[0])
    assert not moved[0].any() and not moved[1, :first_sound].any() and moved[1, first_sound:].any()


def test_the_cache_changes_nothing(model, codes):
    tokens, _ = interleave([[codes[0], SPEECH, "<en> red"]])
    waves, cache = world.speak(["what color is it"]), {}
    with torch.no_grad():
        x = model.embed(tokens, waves)
        pieces = [model.decoder(piece, cache) for piece in x.split([50, 1, 1, 30, x.shape[1] - 82], dim=1)]
        torch.testing.assert_close(
            model.logits(torch.cat(pieces, dim=1)), model(tokens, waves), atol=TOLERANCE, rtol=1e-4
        )


def test_weights_and_states_on_request(model, codes):
    tokens, _ = interleave([["a red cat", codes[0]]])
    with torch.no_grad():
        logits, weights, states = model(tokens, need_weights=True)
        torch.testing.assert_close(logits, model(tokens), atol=TOLERANCE, rtol=1e-4)
        torch.testing.assert_close(model.logits(states[-1]), logits, atol=TOLERANCE, rtol=1e-4)
    assert weights.shape == (2, 1, 4, tokens.shape[1], tokens.shape[1])
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
    assert (weights.triu(1) == 0).all()
    torch.testing.assert_close(states[0], model.embed(tokens))


def test_one_head_of_keys_is_attention_with_equal_heads():
    torch.manual_seed(0)
    shared, separate = GroupedQueryAttention(48, 4, 1), GroupedQueryAttention(48, 4, 4)
    weights = shared.state_dict()
    for name in ("k_proj.weight", "v_proj.weight", "k_norm.weight", "k_norm.bias"):
        weights[name] = weights[name].repeat(4, 1)
    separate.load_state_dict(weights)
    x = torch.randn(2, 7, 48)
    torch.testing.assert_close(shared(x), separate(x))


def test_qk_norm_bounds_the_logits_whatever_the_input():
    torch.manual_seed(0)
    for qk_norm in (True, False):
        attention = GroupedQueryAttention(48, 4, 1, qk_norm)
        q, k = attention.queries_and_keys(1000 * torch.randn(1, 9, 48))
        largest = (q @ k.mT / math.sqrt(12)).abs().max()
        assert (largest <= math.sqrt(12) + 1e-3) == qk_norm  # |q| = |k| = sqrt(d)


@pytest.mark.parametrize("listener", [MelEncoder, RawFrames])
def test_sounds_stand_where_their_tokens_are(listener):
    torch.manual_seed(0)
    encoder = listener(48)
    waves = world.speak(["red cat", "파란색 개", "what is it"])
    vectors = encoder(waves)
    assert vectors.shape == (3, SOUNDS, 48)
    changed = waves.clone()
    changed[:, world.SAMPLES // 2 :] = 0  # what is heard of the first half stays
    moved = (encoder(changed) - vectors).abs().amax(dim=-1) > 1e-3
    assert not moved[:, : SOUNDS // 2 - 3].any() and moved[:, SOUNDS // 2 :].any()


def test_a_tract_length_moves_each_clips_bands_by_a_factor_of_its_own():
    torch.manual_seed(0)
    bands = torch.arange(40.0)[None, :, None].expand(64, 40, 3)  # every band holds its own number
    tract = TractLength(spread=0.2)
    varied = tract(bands)
    stretch = varied[:, 1:2]  # where band 1 is read
    assert (stretch >= 0.8).all() and (stretch <= 1.2).all() and stretch.std() > 0.05
    torch.testing.assert_close(varied, (bands * stretch).clamp(max=39))  # beyond the top band: the top band
    assert torch.equal(tract.eval()(bands), bands)
    assert torch.equal(TractLength()(bands), bands)  # spread = 0


def test_stages_follow_each_other_with_their_own_rates_seeds_and_spreads(codebook, monkeypatch):
    monkeypatch.setattr(gemini, "STAGES", ((2, {"hear": 4}, 0.01, 0.0), (2, {"hear": 4, "read": 2}, 0.005, 0.2)))
    ends = []
    for _ in range(2):
        torch.manual_seed(0)
        model = small_gemini(layers=1)
        history = train_stages(model, codebook, seed=5)
        ends.append(model.state_dict())
    assert len(history.loss) == 4 and max(history.lr[:2]) > max(history.lr[2:]) and model.listener.tract.spread == 0
    assert all(torch.equal(a, b) for a, b in zip(*(end.values() for end in ends)))
    torch.manual_seed(0)
    by_hand = small_gemini(layers=1)
    train_gemini(by_hand, codebook, 2, {"hear": 4}, lr=0.01, seed=5)
    torch.manual_seed(6)
    by_hand.listener.tract.spread = 0.2
    train_gemini(by_hand, codebook, 2, {"hear": 4, "read": 2}, lr=0.005, seed=6)
    assert all(torch.equal(a, b) for a, b in zip(by_hand.state_dict().values(), ends[0].values()))


def test_the_loss_by_hand(codes):
    tokens, counted = interleave([["a cat", SPEECH, codes[0]], [codes[2], "a cat", codes[1]]])
    counted[1] = tokens[1] != TOKENIZER.pad  # everything, and in the first row only the last part
    logits = torch.randn(*tokens.shape, VOCABULARY, generator=torch.Generator().manual_seed(0))
    paid, total = 0.0, 0.0
    for n in range(2):
        for t in range(1, tokens.shape[1]):
            if counted[n, t]:
                weight = 0.3 if tokens[n, t] >= FIRST_CODE else 1.0
                surprise = F.cross_entropy(logits[n, t - 1], tokens[n, t])
                paid += weight * (surprise + 0.01 * logits[n, t - 1].logsumexp(dim=0).square())
                total += weight
    weights = token_weights(tokens, counted, image_weight=0.3)
    torch.testing.assert_close(next_token_loss(logits, tokens, weights, z_weight=0.01), paid / total)
    assert (weights[:, 1:].sum() - total).abs() < 1e-4


def test_training_lowers_every_loss_and_a_seed_fixes_it(codebook):
    def run(seed):
        torch.manual_seed(seed)
        small = small_gemini(width=48, layers=1, hidden=64)
        kinds = {kind: 2 for kind in ALL_KINDS}
        return train_gemini(small, codebook, steps=20, kinds=kinds, objects=[0, 24], seed=seed)[1]

    curves, again = run(0), run(0)
    assert curves == again and list(curves) == list(ALL_KINDS)
    assert all(sum(losses[-5:]) < 0.95 * sum(losses[:5]) for losses in curves.values())


# ---- sampling


def test_pick():
    logits = torch.tensor([[0.0, 1.0, 3.0, 2.0]])
    assert pick(logits, temperature=0).tolist() == [2]
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([pick(logits, generator=generator, top_k=2) for _ in range(300)])
    assert set(drawn.tolist()) == {2, 3}
    share_of_best = (drawn == 2).float().mean().item()
    assert abs(share_of_best - 1 / (1 + math.exp(-1))) < 0.08
    cold = torch.cat([pick(logits, temperature=0.2, generator=generator) for _ in range(100)])
    assert (cold == 2).float().mean() > 0.95


def test_what_is_said_is_the_likeliest_word_at_every_step(model, codes):
    rows = [[codes[0], "<en>"], ["a red cat <ko>"], [codes[1], "<ko>"]]  # of two lengths
    said = say(model, rows, words=3)
    for row, text in zip(rows, said):
        tokens, _ = interleave([row])
        with torch.no_grad():
            for _ in range(3):
                likeliest = model(tokens)[:, -1, :FIRST_CODE].argmax(dim=-1)
                tokens = torch.cat([tokens, likeliest[:, None]], dim=1)
        expected = TOKENIZER.decode(tokens[:, -3:])[0].split(";")[0].strip()
        assert text == expected


def test_painting_without_a_cache_gives_the_same_picture(model):
    rows = [["a red cat"], ["파란색 개"]]
    painted, entropy = paint(model, rows, guidance=2.5, temperature=0)
    for row, picture in zip(rows, painted):
        told = torch.cat([interleave([row])[0], torch.tensor([[IMAGE]])], dim=1)
        untold = torch.tensor([[TOKENIZER.sot, IMAGE]])
        with torch.no_grad():
            for place in range(6):
                c, u = (model(t)[0, -1, FIRST_CODE:] for t in (told, untold))
                code = (u + 2.5 * (c - u)).argmax()
                assert code == picture.flatten()[place]
                told, untold = (torch.cat([t, (code + FIRST_CODE).view(1, 1)], dim=1) for t in (told, untold))
    assert painted.shape == entropy.shape == (2, GRID, GRID) and (entropy >= 0).all()


def test_painting_is_fixed_by_its_seed_and_free_of_the_prompt_at_guidance_zero(model):
    once, again, other = (paint(model, [["a red cat"]], seed=seed, temperature=1.0)[0] for seed in (1, 1, 2))
    assert torch.equal(once, again) and not torch.equal(once, other)
    cat, dog = (paint(model, [[text]], guidance=0, seed=1)[0] for text in ("a red cat", "a blue dog"))
    assert torch.equal(cat, dog)


def test_what_is_said_first_is_drawn_after_the_sound(model):
    waves = world.speak(["red cat", "blue dog"], 0)
    said, painted = say_and_paint(model, waves, "en")
    assert said == say(model, [[SPEECH, "<en>"]] * 2, waves)
    expected, _ = paint(model, [[SPEECH, f"<en> {words} ;"] for words in said], waves)
    assert torch.equal(painted, expected)
    assert not torch.equal(painted, paint(model, [[SPEECH]] * 2, waves)[0])


# ---- around it


def test_sharpening_changes_the_decoder_and_no_code():
    torch.manual_seed(0)
    codebook, critic = ImageCodebook(width=8), SimpleNamespace(encode_image=lambda x: x.flatten(1)[:, ::7])
    images = world.render(world.sample(8, seed=0))
    before = codebook.encode(images), codebook.decode(codebook.encode(images))
    history = sharpen(codebook, critic, steps=5, batch_size=16)
    assert len(history.loss) == 5 and torch.equal(codebook.encode(images), before[0])
    assert not torch.equal(codebook.decode(before[0]), before[1])
    assert not any(p.requires_grad for p in codebook.encoder.parameters())


def test_the_judge_names_the_nearest_caption():
    clip = SimpleNamespace(encode_image=lambda images: images.mean(dim=(2, 3)))
    classifier = F.one_hot(torch.arange(768) % 3, 3).float()
    classifier[10] *= 2
    images = torch.zeros(2, 3, 32, 32)
    images[0, 1], images[1, 2] = 1.0, 1.0
    assert Judge(clip, classifier)(images).tolist() == [[1, 2], [0, 2]]
    assert share(["a", "b"], ["a", "c"]) == 0.5


def test_a_grafted_decoder_is_frozen_and_reads_what_the_media_say(codebook, codes):
    torch.manual_seed(0)
    reader = small_gemini()
    grafted = gemini_variants.Grafted(reader, clip_resnet(), codebook).train()
    assert not any(part.training for part in grafted.eyes.modules()) and grafted.norm.training
    grafted.eval()
    trained = {name.split(".")[0] for name, p in grafted.named_parameters() if p.requires_grad}
    assert trained == {"see", "listener", "norm", "decoder"}
    assert all(
        "gated" in name for name, p in grafted.named_parameters() if name.startswith("decoder") and p.requires_grad
    )
    rows = [[codes[0], "<en> a red cat ;"], [codes[1], "<en> a red cat ;"]]
    tokens, _ = interleave(rows)
    words, _ = interleave([["<image> </image> <en> a red cat ;"]])
    with torch.no_grad():
        shut = grafted(tokens)[:, tokens[0] < FIRST_CODE]
        torch.testing.assert_close(shut[0], shut[1])  # the gates are 0: nobody looks
        torch.testing.assert_close(shut[:1], reader.logits(plain(reader, words)), atol=1e-4, rtol=1e-4)
        for block in grafted.decoder.blocks:
            nn.init.constant_(block.gated.alpha_attn, 1.0)
        opened = grafted(tokens)[:, tokens[0] < FIRST_CODE]
        assert (opened[0] - opened[1]).abs().max() > 1e-4
        tokens, _ = interleave([[codes[0], SPEECH, "<en> red ;"]])
        loud, other = (grafted(tokens, world.speak([text], 0)) for text in ("what is it", "what color is it"))
    assert loud.shape == (*tokens.shape, VOCABULARY) and (loud[0, -1] - other[0, -1]).abs().max() > 1e-4


def plain(reader, words):
    """The states of a decoder whose blocks were wrapped for grafting, without the graft."""
    x = reader.embedding(words) * reader.scale
    for block in reader.decoder.blocks:
        x = block.block(x)
    return reader.decoder.norm(x)
