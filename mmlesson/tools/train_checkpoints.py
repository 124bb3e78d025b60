"""Trains the shipped checkpoints and the stored ablations again, with the lessons' own code.

`make assets` for all of them, `python -m mmlesson.tools.train_checkpoints NAME ...` for some. The order in MAKERS
matters: FLAVA starts from its encoders' own training and needs the codebook; Flamingo needs CLIP and the language
model; the codebook and Gemini need the CLIPs. mmlesson.tools.record_speech makes the recordings.
"""

import functools
import json
import sys

import torch

import mmlesson
from mmlesson import checkpoints, device, metrics, world
from mmlesson.checkpoints import load_pretrained
from mmlesson.experiments import downstream, flamingo_ablation, flava_ablation, gemini_ablation, gemini_evaluation
from mmlesson.experiments.codebook import finetune_decoder
from mmlesson.experiments.few_shot import few_shot_accuracy
from mmlesson.experiments.flava_ablation import Recipe
from mmlesson.models import clip, flamingo, flava, gemini
from mmlesson.train import History

SEED = 0
DATA = """
Data: random scenes of the course's own world, 672 of the 768 (object, color) pairs. The other 96 pairs never appear in
training. Images: OpenMoji (https://openmoji.org), CC BY-SA 4.0. Made for teaching: it knows 96 drawings and nothing
else.
"""


def ship(name, model, history, metrics, config, about, state=None):
    """Write assets/checkpoints/<name>.safetensors with its model card.

    It stores 16 bits per number, so `metrics` must be those of a model that was rounded likewise. config: the choices
    of the maker; `builder` and `build` say how load_pretrained builds the model. state: the tensors to store, by
    default all.
    """
    card = {
        "command": f"python -m mmlesson.tools.train_checkpoints {name}",
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
    weights = {key: w.half() if w.is_floating_point() else w for key, w in state.items()}
    path = checkpoints.save_weights(name, weights, card, about + "\n" + DATA)
    print(f"{path.name}: {card['metrics']}, {card['seconds']} s")


def zero_shot_accuracy(model):
    """Zero-shot top-1 over all 768 captions, on 960 scenes of pairs that training never shows."""
    unseen = world.sample(960, seed=100, split="held_out")
    target = (unseen.objects * len(world.COLORS) + unseen.colors)[:, 0].to(device())
    classifier = clip.zero_shot_classifier(model, world.pair_captions(world.pairs()))
    return metrics.recall_at_k(clip.image_features(model, unseen) @ classifier.T, 1, target)


def make_clip(name, about, build, steps, lr=1.5e-3, curriculum=0.4):
    """One of the CLIPs, by train_clip. build: () -> model."""
    model = build().to(device())
    batches = world.CaptionBatches(steps, curriculum=curriculum, seed=SEED, device=device())

    def measure(step):
        return {"zero_shot_held_out": zero_shot_accuracy(model)}

    history = clip.train_clip(model, batches, lr, measure=measure, measure_every=200)
    model.half().float().eval()
    config = {"builder": f"mmlesson.models.clip.{build.__name__}", "steps": steps, "lr": lr, "curriculum": curriculum}
    ship(name, model, history, measure(steps), config, about)


def make_codebook(name, about, steps, finetune_steps):
    """The image codebook of FLAVA, its decoder fine-tuned for Gemini; measured on unseen scenes.

    Between the two stages it is rounded to half precision, so the decoder is fine-tuned on the codes that ship.
    """
    scenes = [world.sample(64, 100 + k, items=k, split="held_out") for k in (1, 2, 3, 4)]
    images = torch.cat([world.render(s, side=32) for s in scenes])
    single = world.sample(768, 100, split="held_out", **world.LARGE_UPRIGHT)
    pairs, single = torch.cat([single.objects, single.colors], dim=1), world.render(single)
    classifier = gemini_evaluation.PairClassifier(load_pretrained("clip_resnet", device()))

    def quality(codebook):
        """The mean absolute error, and how often color and object of a restored image are still recognized."""
        error = (codebook.decode(codebook.encode(images)) - images).abs().mean()
        right = (classifier(codebook.decode(codebook.encode(single))) == pairs).all(dim=1)
        return error, right.float().mean()

    codebook = flava.ImageCodebook().to(device())
    history = flava.train_codebook(codebook, world.ImageBatches(steps, seed=SEED, device=device()))
    codebook.half().float().eval()
    found = dict(zip(("first_mean_absolute_error", "first_recognized"), quality(codebook)))
    perceptual_net = load_pretrained("clip_vit", device())
    history += finetune_decoder(codebook.train(), perceptual_net, finetune_steps, seed=SEED)
    codebook.half().float().eval()
    found |= dict(zip(("mean_absolute_error", "recognized"), quality(codebook)))
    found["codes_used"] = len(codebook.encode(images).unique())
    stages = {"train_codebook": steps, "finetune_decoder": finetune_steps}
    config = {"builder": "mmlesson.models.flava.ImageCodebook", "stages": stages, "levels": list(codebook.levels)}
    ship(name, codebook, history, found, config, about)


def make_flava(name, about, recipe, steps):
    """A FLAVA, in half precision; measured by its downstream tasks after rounding."""
    model, history = flava_ablation.train_recipe(recipe, steps, SEED)
    model.half().float()
    scores = flava_ablation.evaluate(model, recipe.losses)
    found = {f"{family}: {task}": score for family, tasks in scores.items() for task, score in tasks.items()}
    found = {"macro_average": downstream.macro_average(scores), **found}
    config = {
        "builder": "mmlesson.models.flava.small_flava",
        "start": recipe.start or "random",
        "mixture": list(recipe.mixture),
        "losses_of_pairs": list(recipe.losses),
        "negatives": recipe.negatives,
    }
    ship(name, model, history, found, config, about)


def make_language_model(name, about, steps):
    """The language model of Flamingo, trained on text alone; measured on lists and on episodes told in words."""
    model = flamingo.small_language_model().to(device())
    batches = world.TextBatches(steps, kinds=flamingo.TEXT_KINDS, lists=flamingo.long_lists, seed=SEED)
    history = flamingo.train_language_model(model, batches)
    model.half().float().eval()

    def in_words(kind):
        episodes = world.episodes(200, 100, kind, split="held_out", in_words=True)
        return episodes.correct(model(episodes.tokens.to(device()))).float().mean(dim=0)

    with torch.no_grad():
        found = {
            "recall": flamingo.recall_accuracy(model),
            "new_words_8shot": in_words("new_words")[8],
            "task_inference_2shot": in_words("attribute")[2],
        }
    config = {"builder": "mmlesson.models.flamingo.small_language_model", "kinds": list(flamingo.TEXT_KINDS)}
    ship(name, model, history, found, config, about)


MORE_CLIPS = ("attribute", "new_words", "caption", "count", "motion", "motion")
FLAMINGO_STAGES = (  # steps, kinds of episodes, learning rate; motions take longest, so they get more stages
    (2000, flamingo.ALL_KINDS, 1e-3),
    (900, MORE_CLIPS, 7e-4),
    (600, MORE_CLIPS, 5e-4),
)


def make_flamingo(name, about, **build):
    """The Flamingo that knows clips too: only the trained parts are stored. Measured by few_shot_accuracy."""
    model = flamingo.small_flamingo(**build).to(device())
    history = History()
    for stage, (steps, kinds, lr) in enumerate(FLAMINGO_STAGES):
        batches = world.EpisodeBatches(steps, kinds=kinds, batch_size=4, seed=SEED + stage)
        history += flamingo.train_flamingo(model, batches, lr)
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(p.half())
    model.eval()
    state = flamingo.trained_state(model)
    tasks = {"new_words": 8, "attribute": 2, "caption": 4, "count": 2, "motion": 2}
    found = {f"{kind}_{i}shot": few_shot_accuracy(model, kind, shots=i)[i] for kind, i in tasks.items()}
    config = {"builder": "mmlesson.models.flamingo.small_flamingo", "build": build}
    config["stages"] = [[steps, list(kinds), lr] for steps, kinds, lr in FLAMINGO_STAGES]
    config["trained_parameters"] = sum(w.numel() for w in state.values())
    ship(name, model, history, found, config, about, state=state)


def make_gemini(name, about):
    """The Gemini-style decoder, by its STAGES; measured by gemini_evaluation after rounding."""
    model, codebook = gemini.small_gemini().to(device()), load_pretrained("codebook", device())
    classifier = gemini_evaluation.PairClassifier(load_pretrained("clip_resnet", device()))
    history = gemini.train_stages(model, codebook.encode, SEED)
    model.half().float().eval()
    found = gemini_evaluation.evaluate(model, codebook, classifier, n=384)
    pairs, _ = world.held_out_images(codebook.encode, 384, device=device())
    waves = world.speak([world.spoken_phrase(p, "en") for p in pairs.tolist()], 3, voices="held_out")
    images = codebook.decode(gemini.transcribe_then_draw(model, waves, "en")[1])
    found["speech_to_text_to_image"] = (classifier(images) == pairs).all(dim=1).float().mean()
    config = {"builder": "mmlesson.models.gemini.small_gemini", "stages": [list(stage) for stage in gemini.STAGES]}
    ship(name, model, history, found, config, about)


def make_ablation(name, ablation):
    """assets/ablations/<name>.json: the scores of every variant and seed, all with equal numbers of steps.

    ablation: a module with VARIANTS, STEPS and run(variant, seed), which trains one and returns (scores, History).
    """
    command = f"python -m mmlesson.tools.train_checkpoints {name}_ablation"
    found = {"command": command, "steps": ablation.STEPS, "seeds": [0, 1, 2], "boards": {}}
    for variant in ablation.VARIANTS:
        found["boards"][variant] = []
        for seed in found["seeds"]:
            scores, history = ablation.run(variant, seed)
            found["boards"][variant].append(rounded(scores))
            print(f"{variant}, seed {seed}, {history.seconds:.0f} s: {rounded(scores)}", flush=True)
    path = mmlesson.assets() / "ablations" / f"{name}.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(path.name)


def rounded(scores):
    """Nested dicts of numbers, to four digits."""
    return {name: rounded(x) if isinstance(x, dict) else round(x, 4) for name, x in scores.items()}


FLAVA_STEPS = 4000
MAKERS = {
    "clip_resnet": functools.partial(
        make_clip,
        about="The CLIP with the small ModifiedResNet, as `train_clip` leaves it.",
        build=clip.clip_resnet,
        steps=540,
    ),
    "clip_vit": functools.partial(
        make_clip,
        about="The CLIP with the small ViT, by the same `train_clip`: a ViT needs more steps.",
        build=clip.clip_vit,
        steps=1600,
        lr=1e-3,
        curriculum=0.7,
    ),
    "codebook": functools.partial(
        make_codebook,
        about="FLAVA's image codebook: every 4 x 4 pixels as one of 240 codes, and back. Its decoder was fine-tuned "
        "with a perceptual loss, for the Gemini-style model to draw with.",
        steps=4000,
        finetune_steps=1200,
    ),
    "flava_unimodal": functools.partial(
        make_flava,
        about="Stage one of FLAVA: the image encoder trained by MIM, the text encoder by MLM. No pairs yet.",
        recipe=Recipe(start=None, mixture=(0.0, 0.7, 0.3), losses=(), negatives=False),
        steps=2000,
    ),
    "flava": functools.partial(
        make_flava,
        about="FLAVA with all its losses, from stage one.",
        recipe=flava_ablation.VARIANTS["full"],
        steps=FLAVA_STEPS,
    ),
    "flava_contrastive": functools.partial(
        make_flava,
        about="FLAVA's rival: a CLIP of the same two encoders, from random weights, on as many true pairs.",
        recipe=flava_ablation.VARIANTS["contrast"],
        steps=round(0.7 * FLAVA_STEPS),
    ),
    "flava_ablation": lambda _: make_ablation("flava", flava_ablation),
    "language_model": functools.partial(
        make_language_model,
        about="Flamingo's language model: it has read about the world and never seen it.",
        steps=3000,
    ),
    "flamingo": functools.partial(
        make_flamingo,
        about="The trained part of Flamingo, resampler and gated layers: images, clips, six kinds of episodes.",
        layers=2,
        latents=8,
        grid_positions=True,
    ),
    "flamingo_ablation": lambda _: make_ablation("flamingo", flamingo_ablation),
    "gemini": functools.partial(
        make_gemini, about="The Gemini-style decoder: it reads, looks, listens, watches, writes and draws."
    ),
    "gemini_ablation": lambda _: make_ablation("gemini", gemini_ablation),
}


if __name__ == "__main__":
    for name in sys.argv[1:] or MAKERS:
        if name not in MAKERS:
            sys.exit(f"There is no checkpoint {name!r} to make; choose from {', '.join(MAKERS)}.")
        torch.manual_seed(SEED)
        MAKERS[name](name)
