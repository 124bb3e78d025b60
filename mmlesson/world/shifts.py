"""Domain shifts: the same scenes drawn in a way that training never showed (CLIP's robustness tables, in small)."""

import torch
import torch.nn.functional as F

from mmlesson.world.scenes import render

SHIFTS = ("none", "line drawing", "silhouette", "noise", "texture")


def render_shifted(scenes, shift, side=32, seed=0, device=None):
    """The images of `scenes` under one of SHIFTS: (N, 3, side, side) in [0, 1].

    line drawing: only the outlines, in the object's color. silhouette: the filled shape. noise: Gaussian, standard
    deviation 0.2. texture: a random blotchy background behind the drawing.
    """
    if shift not in SHIFTS:
        raise ValueError(f"There is no shift {shift!r}; choose one of {', '.join(SHIFTS)}.")
    if shift in ("line drawing", "silhouette"):
        return render(scenes, side, style="line" if shift == "line drawing" else shift, device=device)
    images = render(scenes, side, device=device)
    # Drawn on the CPU: a seed then means the same on every device.
    generator = torch.Generator().manual_seed(seed)
    if shift == "noise":
        noise = torch.randn(images.shape, generator=generator).to(images.device)
        return (images + 0.2 * noise).clamp(0, 1)
    if shift == "texture":
        blotches = torch.rand(len(scenes), 3, 8, 8, generator=generator).to(images.device)
        texture = F.interpolate(blotches, size=(side, side), mode="bilinear", align_corners=False)
        # The difference between renderings on black and on white shows how much background each pixel lets through.
        black, white = (_on_paper(scenes, value, side, device) for value in (0.0, 1.0))
        return (black + (white - black) * (0.5 + 0.5 * texture)).clamp(0, 1)
    return images


def _on_paper(scenes, value, side, device):
    fields = {name: getattr(scenes, name) for name in scenes.__dataclass_fields__}
    plain = type(scenes)(**fields | {"backgrounds": torch.full_like(scenes.backgrounds, value)})
    return render(plain, side, device=device)
