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


def pillow(scenes, side, drawing_of):
    """The same scenes, one at a time: paste each tinted drawing, resized and turned, onto the paper."""
    images = []
    for n in range(len(scenes)):
        paper = tuple(round(255 * c) for c in scenes.backgrounds[n].tolist())
        image = Image.new("RGB", (side, side), paper)
        for k in range(int(scenes.counts[n])):
            drawing = drawing_of(int(scenes.objects[n, k]), int(scenes.colors[n, k]))
            pixels = max(1, round(float(scenes.sizes[n, k]) * side * glyphs.MARGIN))
            drawing = drawing.resize((pixels, pixels), Image.Resampling.BILINEAR)
            drawing = drawing.rotate(float(torch.rad2deg(scenes.angles[n, k])), Image.Resampling.BILINEAR)
            x, y = (scenes.centers[n, k] * side - pixels / 2).round().int().tolist()
            image.paste(drawing, (x, y), drawing)
        images.append(np.asarray(image))
    return images


def drawn(object_index, color):
    """One colored drawing, from the font every time: the plain way."""
    glyphs.master.cache_clear()
    rgba = torch.from_numpy(np.array(glyphs.master(object_index), dtype=np.float32) / 255)
    return Image.fromarray((glyphs.tint(rgba, color) * 255).byte().numpy(), "RGBA")


@cache
def kept(object_index, color):
    """The same, made once and at about the size that is needed: what a careful Pillow program would do."""
    return drawn(object_index, color).resize((70, 70), Image.Resampling.BOX)


def batched(scenes, side):
    images = world.render(scenes, side)
    if images.is_cuda:
        torch.cuda.synchronize()
    return images


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
        scenes = world.sample(512, seed=0, items=items)
        ours = per_second(batched, scenes, side, repeats=40)
        plain = per_second(lambda scenes, side: pillow(scenes, side, drawn), scenes[:64], side, repeats=3)
        careful = per_second(lambda scenes, side: pillow(scenes, side, kept), scenes, side, repeats=5)
        print(f"{items} item(s), {side} x {side}: {ours:,.0f} scenes/s in batches of 512")
        print(f"  {ours / plain:.0f}x Pillow one by one ({plain:,.0f}/s)")
        print(f"  {ours / careful:.0f}x Pillow with kept drawings ({careful:,.0f}/s)")


if __name__ == "__main__":
    main()
