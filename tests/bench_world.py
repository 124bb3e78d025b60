"""Scenes per second: the world's batched renderer against drawing the same scenes one by one with Pillow.

Run it with `make bench`, on a machine that does nothing else. Reports medians; asserts nothing.
"""

import statistics
import time
from functools import cache

import numpy as np
import torch
from PIL import Image

from mmlesson import device, world
from mmlesson.world import glyphs


def pillow(scenes, side):
    """The same scenes, one at a time: paste each tinted drawing, resized and turned, onto the paper."""
    pictures = []
    for n in range(len(scenes)):
        paper = tuple(round(255 * c) for c in scenes.backgrounds[n].tolist())
        picture = Image.new("RGB", (side, side), paper)
        for k in range(int(scenes.counts[n])):
            drawing = tinted(int(scenes.objects[n, k]), int(scenes.colors[n, k]))
            pixels = max(1, round(float(scenes.sizes[n, k]) * side * glyphs.MARGIN))
            drawing = drawing.resize((pixels, pixels), Image.Resampling.BILINEAR)
            drawing = drawing.rotate(float(torch.rad2deg(scenes.angles[n, k])), Image.Resampling.BILINEAR)
            x, y = (scenes.centers[n, k] * side - pixels / 2).round().int().tolist()
            picture.paste(drawing, (x, y), drawing)
        pictures.append(np.asarray(picture))
    return pictures


@cache
def tinted(object_index, color):
    """One colored drawing, made once, as the renderer does."""
    bank = glyphs.bank(70)[object_index, color]
    rgba = torch.cat([bank[:3] / bank[3:].clamp(min=1e-3), bank[3:]]).clamp(0, 1)
    return Image.fromarray((rgba.permute(1, 2, 0) * 255).byte().numpy(), "RGBA")


def batched(scenes, side):
    pictures = world.render(scenes, side)
    if pictures.is_cuda:
        torch.cuda.synchronize()
    return pictures


def per_second(draw, scenes, side, repeats):
    """Scenes per second, the median of several runs after one to warm up."""
    draw(scenes, side)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        draw(scenes, side)
        times.append(time.perf_counter() - started)
    return len(scenes) / statistics.median(times)


def main():
    print(f"device {device()}, {torch.get_num_threads()} threads")
    for items, side in ((1, 32), (2, 48)):
        scenes = world.sample(2048, seed=0, items=items)

        ours = per_second(batched, scenes, side, repeats=15)
        theirs = per_second(pillow, scenes[:512], side, repeats=5)
        print(f"{items} item(s), {side} x {side}: {ours:,.0f} scenes/s, Pillow {theirs:,.0f}: {ours / theirs:.0f}x")


if __name__ == "__main__":
    main()
