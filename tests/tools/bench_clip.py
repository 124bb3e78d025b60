"""How our small CLIP compares with transformers' CLIPModel: time to 90 % zero-shot, and the time of one ViT step.

`make bench`, on a machine that does nothing else (10 to 15 minutes on two cores). Reports; asserts nothing.
"""

import statistics
import time

import torch
from torch import nn
from transformers import CLIPConfig, CLIPModel

from mmlesson import device, world
from mmlesson.experiments.parity.clip import from_transformers
from mmlesson.models.attention import TextTransformer
from mmlesson.models.clip import CLIP, clip_loss, clip_resnet, train_clip
from mmlesson.models.vision import VisionTransformer
from mmlesson.tools.train_checkpoints import zero_shot_accuracy

TARGET = 0.9
PATIENCE = 5  # the reference gets a full schedule of this many times our own seconds
TOKENIZER = world.Tokenizer()


class Reference(nn.Module):
    """transformers' CLIPModel behind the three names that train_clip asks for."""

    def __init__(self, vision, text, embed_dim=256):
        super().__init__()
        tokens = dict(vocab_size=len(TOKENIZER), max_position_embeddings=16, eos_token_id=TOKENIZER.eot)
        config = CLIPConfig(
            vision_config=dict(vision, image_size=32, patch_size=4),
            text_config=dict(text, **tokens, bos_token_id=TOKENIZER.sot, pad_token_id=TOKENIZER.pad),
            projection_dim=embed_dim,
        )
        self.clip = CLIPModel(config)
        self.logit_scale = self.clip.logit_scale

    def encode_image(self, images):
        return self.clip.get_image_features(pixel_values=images).pooler_output

    def encode_text(self, tokens):
        return self.clip.get_text_features(input_ids=tokens).pooler_output


def tower(width, layers, heads):
    return dict(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=heads)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


class Reached(Exception):
    """Stops the training; holds the seconds that it took."""


def seconds_to_target(model, steps, **options):
    """Training seconds until held-out zero-shot accuracy reaches TARGET (inf if it does not), and the best accuracy."""
    seen, started, measuring = [], time.perf_counter(), 0.0

    def measure(step):
        nonlocal measuring
        began = time.perf_counter()
        seen.append(zero_shot_accuracy(model))
        measuring += time.perf_counter() - began
        spent = time.perf_counter() - started - measuring
        print(f"  step {step}: {seen[-1]:.3f} after {spent:.0f} s", flush=True)
        if seen[-1] >= TARGET:
            raise Reached(spent)
        return {"held_out": seen[-1]}

    try:
        batches = world.CaptionBatches(steps, device=device())
        train_clip(model, batches, measure=measure, measure_every=50, **options)
    except Reached as reached:
        return reached.args[0], max(seen)
    return float("inf"), max(seen)


def step_seconds(models, batch_size=128, repeats=20):
    """Median seconds of one training step of each model, taken in turns: a noisy moment hits all of them."""
    scenes = world.sample(batch_size, seed=0)
    images, tokens = world.render(scenes), TOKENIZER.encode(world.captions(scenes)).to(device())
    optimizers = [torch.optim.AdamW(m.parameters(), lr=1e-4, fused=True) for m in models]
    times = [[] for _ in models]
    for _ in range(repeats + 3):
        for model, optimizer, spent in zip(models, optimizers, times):
            started = time.perf_counter()
            optimizer.zero_grad()
            clip_loss(model.encode_image(images), model.encode_text(tokens), model.logit_scale).backward()
            optimizer.step()
            if images.is_cuda:
                torch.cuda.synchronize()
            spent.append(time.perf_counter() - started)
    return [statistics.median(spent[3:]) for spent in times]


def main():
    print(f"device {device()}, {torch.get_num_threads()} threads")
    torch.manual_seed(0)
    text = tower(128, 1, 2)
    twin = Reference(tower(128, 3, 4), text).to(device())
    ours = CLIP(
        VisionTransformer(image_size=32, patch_size=4, width=128, layers=3, heads=4, embed_dim=256),
        TextTransformer(vocab_size=len(TOKENIZER), context_length=16, width=128, layers=1, heads=2, embed_dim=256),
    ).to(device())
    ours.load_state_dict(from_transformers(twin.clip.state_dict()))  # the same weights, so the same work
    mine, theirs = step_seconds([ours, twin])
    print(f"one ViT step: ours {mine * 1000:.0f} ms, transformers {theirs * 1000:.0f} ms, ratio {mine / theirs:.2f}")

    torch.manual_seed(0)
    resnet = clip_resnet().to(device())
    print(f"ours, ResNet, {parameters(resnet):,} parameters:")
    seconds, _ = seconds_to_target(resnet, steps=540)
    torch.manual_seed(0)
    reference = Reference(tower(96, 4, 3), text).to(device())
    (one_step,) = step_seconds([Reference(tower(96, 4, 3), text).to(device())])
    steps = round(PATIENCE * seconds / one_step)  # its schedule ends when its time does
    print(f"transformers.CLIPModel, {parameters(reference):,} parameters, the same loop and data, {steps} steps:")
    longer, best = seconds_to_target(reference, steps, lr=1e-3)
    reached = f"{longer:.0f} s, {longer / seconds:.1f}x" if longer < float("inf") else f"not reached, best {best:.2f}"
    print(f"time to {TARGET:.0%} zero-shot on held-out pairs: ours {seconds:.0f} s, transformers {reached}")


if __name__ == "__main__":
    main()
