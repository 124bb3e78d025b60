"""Trains the shipped checkpoints again, with the lessons' own code.

`make assets` for all of them, `python -m mmlesson.make_assets NAME ...` for some. The order in MAKERS matters: FLAVA
starts from its encoders' own training, and needs the codebook; Flamingo needs the CLIP and the language model; the
codebook and Gemini need the CLIPs. The spoken words have a maker of their own, mmlesson.make_speech.
"""

import json
import sys

import torch

from mmlesson import assets, device, flamingo_variants, gemini_variants, scores, world
from mmlesson.models import clip, flamingo, flava, gemini
from mmlesson.scoreboard import macro, scoreboard
from mmlesson.train import History

SEED = 0
DATA = """
Data: random scenes of the course's own world, 672 of the 768 (object, color) pairs. The other 96 pairs never appear in
training. Pictures: OpenMoji (https://openmoji.org), CC BY-SA 4.0. Made for teaching: it knows 96 drawings and nothing
else.
"""


def ship(name, model, history, metrics, config, about, half=False, state=None):
    """Write assets/<name>.safetensors with its model card. config: what the maker chose; the rest is filled in here.

    half: store 16 bits a number; then measure a model that was rounded likewise. state: what to store, if not all.
    """
    card = {
        "command": f"python -m mmlesson.make_assets {name}",
        "seed": SEED,
        "steps": len(history.steps),
        "seconds": round(history.seconds),
        "metrics": {key: round(float(value), 4) for key, value in metrics.items()},
        "config": {
            **config,
            "parameters": sum(p.numel() for p in model.parameters()),
            "torch": torch.__version__.split("+")[0],
            "device": device().type,
        },
    }
    state = model.state_dict() if state is None else state
    weights = {key: w.half() if half and w.is_floating_point() else w for key, w in state.items()}
    path = assets.save_weights(name, weights, card, about + "\n" + DATA)
    print(f"{path.name}: {card['metrics']}, {card['seconds']} s")


def held_out(model):
    """Zero-shot top-1 over all 768 captions on 960 scenes of pairs that training never shows."""
    unseen = world.sample(960, seed=100, split="held_out")
    target = (unseen.objects * len(world.COLORS) + unseen.colors)[:, 0].to(device())
    classifier = clip.zero_shot_classifier(model, world.pair_captions(world.pairs()))
    return {"zero_shot_held_out": scores.recall_at_k(clip.image_features(model, unseen) @ classifier.T, 1, target)}


def make_clip(name, about, **recipe):
    """A CLIP of lesson 02 by its own train_clip; measured by `held_out`."""
    model = getattr(clip, name)().to(device())
    history = clip.train_clip(model, **recipe, seed=SEED, measure=lambda _: held_out(model), measure_every=200)
    model.half().float().eval()
    config = {**recipe, "builder": f"mmlesson.models.clip.{name}()"}
    ship(name, model, history, held_out(model), config, about, half=True)


def frozen_clip(name):
    """A CLIP of lesson 02 from its shipped weights, not to be trained."""
    model = getattr(clip, name)().to(device())
    model.load_state_dict(assets.load_weights(name, device()))
    return model.eval().requires_grad_(False)


def picture_judge():
    """Lesson 02's small ResNet, as lesson 07 asks it what a picture shows."""
    resnet = frozen_clip("clip_resnet")
    return gemini.Judge(resnet, clip.zero_shot_classifier(resnet, world.pair_captions(world.pairs())))


def make_codebook(name, about, steps, sharpening):
    """The image codebook of lesson 05, its decoder sharpened as in lesson 07; measured on unseen scenes.

    Between the two it is rounded to half precision, so that the codes that it ships with are those that it was
    sharpened for.
    """
    scenes = [world.sample(64, 100 + k, items=k, split="held_out") for k in (1, 2, 3, 4)]
    images = torch.cat([world.render(s, side=32) for s in scenes])
    alone = world.sample(768, 100, split="held_out", **world.STEADY)
    pairs, alone = torch.cat([alone.objects, alone.colors], dim=1), world.render(alone)

    def restored(codebook):
        """The mean absolute error, and how often the judge still names color and object of a restored picture."""
        error = (codebook.decode(codebook.encode(images)) - images).abs().mean()
        return error, (judge(codebook.decode(codebook.encode(alone))) == pairs).all(dim=1).float().mean()

    judge, codebook = picture_judge(), flava.ImageCodebook().to(device())
    history = flava.train_codebook(codebook, steps, seed=SEED)
    codebook.half().float().eval()
    metrics = dict(zip(("first_mean_absolute_error", "first_judged_right"), restored(codebook)))
    more = gemini.sharpen(codebook.train(), frozen_clip("clip_vit"), sharpening, seed=SEED)
    history += more
    codebook.half().float().eval()
    metrics |= dict(zip(("mean_absolute_error", "judged_right"), restored(codebook)))
    metrics["codes_used"] = len(codebook.encode(images).unique())
    config = {"stages": {"train_codebook": steps, "sharpen": sharpening}, "levels": list(codebook.levels)}
    config["builder"] = "mmlesson.models.flava.ImageCodebook()"
    ship(name, codebook, history, metrics, config, about, half=True)


def trained_codebook():
    """The shipped codebook, not to be trained."""
    codebook = flava.ImageCodebook().to(device()).eval()
    codebook.load_state_dict(assets.load_weights("codebook", device()))
    return codebook.requires_grad_(False)


FLAVA_STEPS = 4000
ALL = ("gc", "itm", "mmm")
VARIANTS = {  # of the ablation: start, mixture of pairs, pictures and texts, losses of pairs, wrong captions too?
    "contrast": (None, (1.0, 0.0, 0.0), ("gc",), False),
    "contrast, near misses": (None, (1.0, 0.0, 0.0), ("gc",), True),
    "contrast, stage one": ("flava_unimodal", (1.0, 0.0, 0.0), ("gc",), False),
    "+ fusion": (None, (1.0, 0.0, 0.0), ALL, True),
    "+ pictures and texts alone": (None, (0.7, 0.15, 0.15), ALL, True),
    "full": ("flava_unimodal", (0.7, 0.15, 0.15), ALL, True),
}


def trained_flava(start, mixture, wanted, wrong, steps, seed):
    """(model, History): a small FLAVA of lesson 05 from shipped weights (or from nothing), trained with its losses."""
    torch.manual_seed(seed)
    model, codebook = flava.small_flava().to(device()), trained_codebook()
    if start:
        model.load_state_dict(assets.load_weights(start, device()))
    history, _ = flava.train_flava(model, codebook, steps, mixture, wanted, wrong, seed=seed)
    return model.eval(), history


def flava_board(model, wanted):
    """The scoreboard of a FLAVA that was trained with the losses `wanted`: one without matching reads as two towers."""
    return scoreboard((flava.Fusion if "itm" in wanted else flava.TwoTowers)(model))


def make_flava(name, about, start, mixture, wanted, wrong, steps):
    """A FLAVA of lesson 05, kept in half precision; measured on the scoreboard after rounding."""
    model, history = trained_flava(start, mixture, wanted, wrong, steps, SEED)
    model.half().float()
    board = flava_board(model, wanted)
    metrics = {f"{family}: {task}": score for family, tasks in board.items() for task, score in tasks.items()}
    config = {
        "start": start or "random",
        "mixture": list(mixture),
        "losses_of_pairs": list(wanted),
        "wrong_captions": wrong,
    }
    config["builder"] = "mmlesson.models.flava.small_flava()"
    ship(name, model, history, {"macro_average": macro(board), **metrics}, config, about, half=True)


def judged_flava(variant, steps, seed):
    """(scoreboard, History) of a recipe of FLAVA's ablation."""
    start, mixture, wanted, wrong = VARIANTS[variant]
    model, history = trained_flava(start, mixture, wanted, wrong, steps, seed)
    return flava_board(model, wanted), history


def judged_flamingo(variant, steps, seed):
    """(board, History) of a variant of Flamingo."""
    model, history = flamingo_variants.trained_variant(variant, frozen_weights(), steps, seed, device())
    return flamingo_variants.board(model), history


def judged_gemini(variant, steps, seed):
    """(board, History) of a variant of lesson 07's model."""
    codebook = trained_codebook()
    model, history = gemini_variants.trained_variant(variant, codebook, steps, seed, device())
    return gemini_variants.board(model, history, codebook, picture_judge()), history


def make_ablation(name, variants, judged, steps, seeds=(0, 1, 2)):
    """assets/<name>.json: the board of every variant and seed, with equal numbers of steps.

    judged(variant, steps, seed): trains one; returns its board, a dict of scores (or of such dicts), and the History.
    """
    found = {"command": f"python -m mmlesson.make_assets {name}", "steps": steps, "seeds": list(seeds), "boards": {}}
    for variant in variants:
        found["boards"][variant] = []
        for seed in seeds:
            board, history = judged(variant, steps, seed)
            found["boards"][variant].append(_rounded(board))
            print(f"{variant}, seed {seed}, {history.seconds:.0f} s: {_rounded(board)}", flush=True)
    path = assets.folder() / f"{name}.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(path.name)


def _rounded(board):
    return {name: _rounded(score) if isinstance(score, dict) else round(score, 4) for name, score in board.items()}


def make_language_model(name, about, steps):
    """The language model of lesson 06, trained on text alone; measured on lists and on episodes told in words."""

    def in_words(kind):
        episodes = world.episodes(200, 100, kind, split="held_out", in_words=True)
        return episodes.correct(model(episodes.tokens.to(device()))).float().mean(dim=0)

    model = flamingo.small_language_model().to(device())
    history = flamingo.train_language_model(model, steps, seed=SEED)
    model.half().float().eval()
    with torch.no_grad():
        metrics = {
            "recall": flamingo.recall_accuracy(model),
            "new_words_8shot": in_words("new_words")[8],
            "task_inference_2shot": in_words("attribute")[2],
        }
    config = {"kinds": list(flamingo.TEXT_KINDS), "builder": "mmlesson.models.flamingo.small_language_model()"}
    ship(name, model, history, metrics, config, about, half=True)


def frozen_weights():
    """What lesson 06 never trains: the weights of lesson 02's CLIP, and of the language model."""
    return assets.load_weights("clip_resnet", device()), assets.load_weights("language_model", device())


MORE_CLIPS = ("attribute", "new_words", "caption", "count", "motion", "motion")
FLAMINGO_STAGES = (  # steps, kinds of episodes, learning rate; motions take longest, so they get more stages
    (2000, flamingo.ALL_KINDS, 1e-3),
    (900, MORE_CLIPS, 7e-4),
    (600, MORE_CLIPS, 5e-4),
)


def make_flamingo(name, about, **build):
    """The Flamingo of lesson 06 that knows clips too: only what is trained is stored. Measured by few_shot."""
    model = flamingo.small_flamingo(*frozen_weights(), **build).to(device())
    history = History()
    for stage, (steps, kinds, lr) in enumerate(FLAMINGO_STAGES):
        more = flamingo.train_flamingo(model, steps, kinds, batch_size=4, lr=lr, seed=SEED + stage)
        history += more
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(p.half())
    model.eval()
    state = flamingo.trained_state(model)
    tasks = {"new_words": 8, "attribute": 2, "caption": 4, "count": 2, "motion": 2}
    metrics = {f"{kind}_{i}shot": flamingo.few_shot(model, kind, shots=i)[i] for kind, i in tasks.items()}
    config = {"stages": [[steps, list(kinds), lr] for steps, kinds, lr in FLAMINGO_STAGES], **build}
    config["builder"] = "mmlesson.models.flamingo.small_flamingo(...)"
    config["trained_parameters"] = sum(w.numel() for w in state.values())
    ship(name, model, history, metrics, config, about, half=True, state=state)


def make_gemini(name, about):
    """The decoder of lesson 07, by its STAGES; measured by its `exam`, and on say_and_paint, after rounding."""
    model, codebook, judge = gemini.small_gemini().to(device()), trained_codebook(), picture_judge()
    history = gemini.train_stages(model, codebook, SEED)
    model.half().float().eval()
    metrics = gemini.exam(model, codebook, judge, n=384)
    pairs, _ = gemini.unseen(codebook, 384)
    waves = world.speak([gemini.spoken(p, "en") for p in pairs.tolist()], 3, voices="held_out")
    drawn = codebook.decode(gemini.say_and_paint(model, waves, "en")[1])
    metrics["speech_to_text_to_image"] = (judge(drawn) == pairs).all(dim=1).float().mean()
    config = {"stages": [list(stage) for stage in gemini.STAGES]}
    config["builder"] = "mmlesson.models.gemini.small_gemini()"
    ship(name, model, history, metrics, config, about, half=True)


MAKERS = {
    "clip_resnet": lambda name: make_clip(
        name, "The CLIP of lesson 02 with the small ModifiedResNet, as `train_clip` leaves it.", steps=540
    ),
    "clip_vit": lambda name: make_clip(
        name,
        "The CLIP of lesson 02 with the small ViT, by the same `train_clip`: a ViT needs more steps.",
        steps=1600,
        lr=1e-3,
        curriculum=0.7,
    ),
    "codebook": lambda name: make_codebook(
        name,
        "The image codebook of lesson 05: every 4 x 4 pixels as one of 240 codes, and back. Its decoder was trained "
        "further with the perceptual loss of lesson 07.",
        steps=4000,
        sharpening=1200,
    ),
    "flava_unimodal": lambda name: make_flava(
        name,
        "Stage one of lesson 05's FLAVA: the image encoder trained by MIM, the text encoder by MLM. No pairs yet.",
        start=None,
        mixture=(0.0, 0.7, 0.3),
        wanted=(),
        wrong=False,
        steps=2000,
    ),
    "flava": lambda name: make_flava(
        name, "The FLAVA of lesson 05 with all its losses, from stage one.", *VARIANTS["full"], steps=FLAVA_STEPS
    ),
    "flava_contrastive": lambda name: make_flava(
        name,
        "The rival in lesson 05: a CLIP of the same two encoders, from random weights, true pairs only, as many pairs.",
        *VARIANTS["contrast"],
        steps=round(0.7 * FLAVA_STEPS),
    ),
    "flava_ablation": lambda name: make_ablation(name, VARIANTS, judged_flava, steps=1500),
    "language_model": lambda name: make_language_model(
        name, "The language model of lesson 06: it has read about the world and never seen it.", steps=3000
    ),
    "flamingo": lambda name: make_flamingo(
        name,
        "The trained part of lesson 06's Flamingo, resampler and gated layers: pictures, clips, six kinds of episodes.",
        layers=2,
        latents=8,
        places=True,
    ),
    "flamingo_ablation": lambda name: make_ablation(name, flamingo_variants.VARIANTS, judged_flamingo, steps=300),
    "gemini": lambda name: make_gemini(
        name, "The decoder of lesson 07: it reads, looks, listens, watches, writes and draws."
    ),
    "gemini_ablation": lambda name: make_ablation(name, gemini_variants.VARIANTS, judged_gemini, steps=800),
}


if __name__ == "__main__":
    for name in sys.argv[1:] or MAKERS:
        if name not in MAKERS:
            sys.exit(f"There is no checkpoint {name!r} to make; choose from {', '.join(MAKERS)}.")
        torch.manual_seed(SEED)
        MAKERS[name](name)
