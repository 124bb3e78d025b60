"""The Gemini-style model: causal across modalities, cached and sampled exactly, trained as the lesson says."""

import math

import pytest
import torch
import torch.nn.functional as F

from mmlesson import world
from mmlesson.models import gemini
from mmlesson.models.attention import recording, recording_outputs
from mmlesson.models.flava import ImageCodebook
from mmlesson.models.gemini import (
    FIRST_CODE,
    FIRST_MIXTURE,
    GRID,
    IMAGE,
    SOUND,
    SOUNDS,
    TOKENIZER,
    VOCABULARY,
    GroupedQueryAttention,
    KVCache,
    MelEncoder,
    RawFrames,
    VocalTractPerturbation,
    code_positions,
    generate_images,
    generate_text,
    interleave,
    next_token_loss,
    parameter_groups,
    sample_token,
    small_gemini,
    token_weights,
    train_gemini,
    train_stages,
    transcribe_then_draw,
)
from mmlesson.world import SPEECH, phrase, spoken_phrase

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


# Streams -------------------------------------------------------------------------------------------------------------


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


def test_positions_start_again_in_every_image(codes):
    tokens, _ = interleave([["<t1>", codes[0], "<t2>", codes[1], "a cat"], [codes[2]]])
    positions = code_positions(tokens)
    expected = list(range(64))
    assert positions[0, 3:67].tolist() == positions[0, 70:134].tolist() == positions[1, 2:66].tolist() == expected
    assert (positions[tokens < FIRST_CODE] == -1).all()


def test_the_vocabulary_says_both_languages():
    for language in world.LANGUAGES:
        for pair in world.pairs().tolist():
            for text in (phrase(pair, language), spoken_phrase(pair, language)):
                assert TOKENIZER.decode(torch.tensor([TOKENIZER.ids(text)])) == [text]
    assert len(set(TOKENIZER.words)) == len(TOKENIZER) == FIRST_CODE == VOCABULARY - ImageCodebook.size


# The model -----------------------------------------------------------------------------------------------------------


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
    waves, cache = world.speak(["what color is it"]), KVCache()
    with torch.no_grad():
        x = model.embed(tokens, waves)
        pieces = [model.decoder(piece, cache) for piece in x.split([50, 1, 1, 30, x.shape[1] - 82], dim=1)]
        torch.testing.assert_close(
            model.logits(torch.cat(pieces, dim=1)), model(tokens, waves), atol=TOLERANCE, rtol=1e-4
        )


@torch.no_grad()
def test_weights_and_states_can_be_recorded(model, codes):
    tokens, _ = interleave([["a red cat", codes[0]]])
    with recording(model) as weights, recording_outputs(model.decoder.blocks) as states:
        logits = model(tokens)
    torch.testing.assert_close(logits, model(tokens), atol=TOLERANCE, rtol=1e-4)
    torch.testing.assert_close(model.logits(model.decoder.norm(states[-1])), logits, atol=TOLERANCE, rtol=1e-4)
    assert [w.shape for w in weights] == [(1, 4, tokens.shape[1], tokens.shape[1])] * 2
    for w in weights:
        torch.testing.assert_close(w.sum(dim=-1), torch.ones(w.shape[:-1]))
        assert (w.triu(1) == 0).all()


def test_one_head_of_keys_is_attention_with_equal_heads():
    torch.manual_seed(0)
    shared, separate = (GroupedQueryAttention(width=48, heads=4, kv_heads=n) for n in (1, 4))
    weights = shared.state_dict()
    for name in ("k_proj.weight", "v_proj.weight", "k_norm.weight", "k_norm.bias"):
        weights[name] = weights[name].repeat(4, 1)
    separate.load_state_dict(weights)
    x = torch.randn(2, 7, 48)
    torch.testing.assert_close(shared(x), separate(x))


def test_qk_norm_bounds_the_logits_whatever_the_input():
    torch.manual_seed(0)
    for qk_norm in (True, False):
        attention = GroupedQueryAttention(width=48, heads=4, kv_heads=1, qk_norm=qk_norm)
        q, k = attention.queries_and_keys(1000 * torch.randn(1, 9, 48))
        largest = (q @ k.mT / math.sqrt(12)).abs().max()
        assert (largest <= math.sqrt(12) + 1e-3) == qk_norm  # |q| = |k| = sqrt(d)


@pytest.mark.parametrize("audio_encoder", [MelEncoder, RawFrames])
def test_sounds_stand_where_their_tokens_are(audio_encoder):
    torch.manual_seed(0)
    encoder = audio_encoder(48)
    waves = world.speak(["red cat", "파란색 개", "what is it"])
    vectors = encoder(waves)
    assert vectors.shape == (3, SOUNDS, 48)
    changed = waves.clone()
    changed[:, world.SAMPLES // 2 :] = 0  # what is heard of the first half stays
    moved = (encoder(changed) - vectors).abs().amax(dim=-1) > 1e-3
    assert not moved[:, : SOUNDS // 2 - 3].any() and moved[:, SOUNDS // 2 :].any()


def test_vtlp_moves_the_bands_of_each_clip_by_a_factor_of_its_own():
    torch.manual_seed(0)
    bands = torch.arange(40.0)[None, :, None].expand(64, 40, 3)  # every band holds its own number
    augment = VocalTractPerturbation(max_warp=0.2)
    varied = augment(bands)
    stretch = varied[:, 1:2]  # where band 1 is read
    assert (stretch >= 0.8).all() and (stretch <= 1.2).all() and stretch.std() > 0.05
    torch.testing.assert_close(varied, (bands * stretch).clamp(max=39))  # beyond the top band: the top band
    assert torch.equal(augment.eval()(bands), bands)
    assert torch.equal(VocalTractPerturbation()(bands), bands)  # max_warp = 0


def test_stages_follow_each_other_with_their_own_rates_seeds_and_warps(codebook, monkeypatch):
    monkeypatch.setattr(gemini, "STAGES", ((2, {"hear": 4}, 0.01, 0.0), (2, {"hear": 4, "read": 2}, 0.005, 0.2)))
    ends = []
    for _ in range(2):
        torch.manual_seed(0)
        model = small_gemini(layers=1)
        history = train_stages(model, codebook.encode, seed=5)
        ends.append(model.state_dict())
    assert (
        len(history.loss) == 4
        and max(history.lr[:2]) > max(history.lr[2:])
        and model.audio_encoder.augment.max_warp == 0
    )
    assert all(torch.equal(a, b) for a, b in zip(*(end.values() for end in ends)))
    torch.manual_seed(0)
    by_hand = small_gemini(layers=1)
    train_gemini(by_hand, world.Streams(codebook.encode, 2, mixture={"hear": 4}, seed=5), lr=0.01)
    torch.manual_seed(6)
    by_hand.audio_encoder.augment.max_warp = 0.2
    train_gemini(by_hand, world.Streams(codebook.encode, 2, mixture={"hear": 4, "read": 2}, seed=6), lr=0.005)
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


def test_every_parameter_is_in_one_group_and_matrices_alone_go_to_muon(model):
    groups = parameter_groups(model, lr=0.3)
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
    assert [g["lr"] for g in groups] == pytest.approx([0.3, 0.1, 0.05])
    matrices, embeddings = groups[0]["params"], groups[2]["params"]
    assert all(p.ndim == 2 for p in matrices) and len(embeddings) == 3
    assert not any(p is q for p in matrices for q in embeddings)


def test_training_lowers_every_loss_and_a_seed_fixes_it(codebook):
    def run(seed):
        torch.manual_seed(seed)
        small = small_gemini(width=48, layers=1, hidden=64)
        mixture = dict.fromkeys(FIRST_MIXTURE, 2)
        streams = world.Streams(codebook.encode, 20, mixture=mixture, objects=[0, 24], seed=seed)
        return train_gemini(small, streams)[1]

    curves, again = run(0), run(0)
    assert curves == again and list(curves) == list(FIRST_MIXTURE)
    assert all(sum(losses[-5:]) < 0.95 * sum(losses[:5]) for losses in curves.values())


# Sampling ------------------------------------------------------------------------------------------------------------


def test_a_token_is_sampled_among_the_largest():
    logits = torch.tensor([[0.0, 1.0, 3.0, 2.0]])
    assert sample_token(logits, temperature=0).tolist() == [2]
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([sample_token(logits, generator=generator, top_k=2) for _ in range(300)])
    assert set(drawn.tolist()) == {2, 3}
    rate_of_best = (drawn == 2).float().mean().item()
    assert abs(rate_of_best - 1 / (1 + math.exp(-1))) < 0.08
    cold = torch.cat([sample_token(logits, temperature=0.2, generator=generator) for _ in range(100)])
    assert (cold == 2).float().mean() > 0.95


def test_what_is_said_is_the_likeliest_word_at_every_step(model, codes):
    rows = [[codes[0], "<en>"], ["a red cat <ko>"], [codes[1], "<ko>"]]  # of two lengths
    said = generate_text(model, rows, max_words=3)
    for row, text in zip(rows, said):
        tokens, _ = interleave([row])
        with torch.no_grad():
            for _ in range(3):
                likeliest = model(tokens)[:, -1, :FIRST_CODE].argmax(dim=-1)
                tokens = torch.cat([tokens, likeliest[:, None]], dim=1)
        expected = TOKENIZER.decode(tokens[:, -3:])[0].split(";")[0].strip()
        assert text == expected


def test_an_image_drawn_without_a_cache_is_the_same(model):
    rows = [["a red cat"], ["파란색 개"]]
    drawn, entropy = generate_images(model, rows, guidance=2.5, temperature=0)
    for row, image in zip(rows, drawn):
        told = torch.cat([interleave([row])[0], torch.tensor([[IMAGE]])], dim=1)
        untold = torch.tensor([[TOKENIZER.sot, IMAGE]])
        with torch.no_grad():
            for position in range(6):
                c, u = (model(t)[0, -1, FIRST_CODE:] for t in (told, untold))
                code = (u + 2.5 * (c - u)).argmax()
                assert code == image.flatten()[position]
                told, untold = (torch.cat([t, (code + FIRST_CODE).view(1, 1)], dim=1) for t in (told, untold))
    assert drawn.shape == entropy.shape == (2, GRID, GRID) and (entropy >= 0).all()


def test_an_image_is_fixed_by_its_seed_and_free_of_the_prompt_at_guidance_zero(model):
    once, again, other = (generate_images(model, [["a red cat"]], seed=seed, temperature=1.0)[0] for seed in (1, 1, 2))
    assert torch.equal(once, again) and not torch.equal(once, other)
    cat, dog = (generate_images(model, [[text]], guidance=0, seed=1)[0] for text in ("a red cat", "a blue dog"))
    assert torch.equal(cat, dog)


def test_what_is_said_first_is_drawn_after_the_sound(model):
    waves = world.speak(["red cat", "blue dog"], 0)
    said, drawn = transcribe_then_draw(model, waves, "en")
    assert said == generate_text(model, [[SPEECH, "<en>"]] * 2, waves)
    expected, _ = generate_images(model, [[SPEECH, f"<en> {words} ;"] for words in said], waves)
    assert torch.equal(drawn, expected)
    assert not torch.equal(drawn, generate_images(model, [[SPEECH]] * 2, waves)[0])


def test_sounds_and_their_places_must_agree():
    model = small_gemini(layers=1)
    tokens = interleave([[SPEECH, "a red cat"], [SPEECH, "a blue dog"]])[0]
    waves = world.speak(["red cat", "blue dog"])
    with torch.no_grad():
        assert model(tokens, waves).isfinite().all()
        for wrong in (None, waves[:1], torch.cat([waves, waves[:, :8000]], dim=1)):  # none, one, too long
            with pytest.raises(ValueError, match="52 places for sound got .* tokens: one clip a SPEECH"):
                model(tokens, wrong)


def test_another_vocabulary_and_another_grid():
    tokenizer = world.Tokenizer(["teal", "circle", "<image>", "</image>"])
    model = small_gemini(tokenizer=tokenizer, codes=10, grid=3, layers=1)
    codes = torch.arange(9).view(3, 3)
    tokens = interleave([["teal circle", codes]], tokenizer)[0]
    first = len(tokenizer)
    assert tokens[0, 4:13].tolist() == list(range(first, first + 9))
    with torch.no_grad():
        assert model(tokens).shape == (1, tokens.shape[1], first + 10)
        text = generate_text(model, [[codes, "teal"]], max_words=3)
        drawn, _ = generate_images(model, [["circle"]])
    assert set(text[0].split()) <= set(tokenizer.words)
    assert drawn.shape == (1, 3, 3) and drawn.max() < 10


def test_a_row_that_is_no_list_of_parts_is_refused():
    with pytest.raises(TypeError, match="interleave takes rows of parts"):
        interleave(["a red cat"])


@pytest.mark.parametrize("options", [{"temperature": -1.0}, {"top_k": 0}])
def test_a_way_to_sample_that_has_no_meaning_is_refused(options):
    with pytest.raises(ValueError, match="temperature is at least 0 and top_k at least 1"):
        sample_token(torch.zeros(2, 5), **options)
