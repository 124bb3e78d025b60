"""Scenes per second: the world's batched renderer against drawing the same scenes one by one with Pillow.

Run it with `make bench`, on a machine that does nothing else. Reports medians; asserts nothing.
"""

import statistics
import time

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


def tinted(object_index, color, cache={}):  # noqa: B006 - the drawings are made once, as in the renderer
    if (object_index, color) not in cache:
        bank = glyphs.bank(70)[object_index, color]
        rgba = torch.cat([bank[:3] / bank[3:].clamp(min=1e-3), bank[3:]]).clamp(0, 1)
        cache[object_index, color] = Image.fromarray((rgba.permute(1, 2, 0) * 255).byte().numpy(), "RGBA")
    return cache[object_index, color]


def per_second(draw, scenes, repeats):
    """Scenes per second, the median of several runs after one to warm up."""
    draw(scenes)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        draw(scenes)
        times.append(time.perf_counter() - started)
    return len(scenes) / statistics.median(times)


def main():
    where = device()
    print(f"device {where}, {torch.get_num_threads()} threads")
    for items, side in ((1, 32), (2, 48)):
        scenes = world.sample(2048, seed=0, items=items)

        def batched(scenes):
            pictures = world.render(scenes, side)
            if where.type == "cuda":
                torch.cuda.synchronize()
            return pictures

        ours = per_second(batched, scenes, repeats=15)
        theirs = per_second(lambda s: pillow(s, side), scenes[:512], repeats=5)
        print(f"{items} item(s), {side} x {side}: {ours:,.0f} scenes/s batched, {theirs:,.0f} with Pillow: {ours / theirs:.0f}x")


if __name__ == "__main__":
    main()
