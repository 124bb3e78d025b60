"""Scenes: what is where, in which color, of which size. The spec is the truth; images and captions come from it."""

import difflib
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from mmlesson.world import glyphs
from mmlesson.world.objects import COLORS, NATURAL, OBJECTS

OBJECT_INDEX = {o.name: i for i, o in enumerate(OBJECTS)}
COLOR_INDEX = {c.name: i for i, c in enumerate(COLORS)} | {"natural": NATURAL}
MAX_ITEMS = 4
EMPTY = -1
# For sample(): a third of the objects, some of every category, for models that have much to learn.
SUBSET = range(0, len(OBJECTS), 3)
# For sample(): items that are large, upright and near the middle of their cell.
LARGE_UPRIGHT = {"size": (0.85, 0.95), "angle": 5.0, "spread": 0.3}
BACKGROUND = (0.96, 0.96, 0.94)  # paper; random scenes draw a light color of their own
PIXELS_AT_ONCE = 2**18  # render draws so many at a time: 256 images of 32 x 32 pixels
MEAN, STD = 0.88, 0.22  # of the pixels of random scenes, roughly


def held_out(objects, colors):
    """True where an (object, color) pair is kept out of training: (object index + color index) is divisible by 8.

    So training never shows 96 of the 768 pairs: one color of each object, 12 objects of each color.
    Works on ints and on tensors of any shape. "natural" is never held out.
    """
    return ((objects + colors) % len(COLORS) == 0) & (colors != NATURAL)


@dataclass(frozen=True)
class Item:
    """One drawing in a scene. x, y: center; size: longer side; all in fractions of the image. angle: degrees."""

    object: str
    color: str = "natural"
    x: float = 0.5
    y: float = 0.5
    size: float = 0.8
    angle: float = 0.0


@dataclass
class Scenes:
    """A batch of N scenes with up to K items each, as tensors.

    objects, colors (N, K) long, EMPTY where there is no item; centers (N, K, 2), sizes (N, K) in fractions of the
    image's side; angles (N, K) in radians, counterclockwise; backgrounds (N, 3) RGB in [0, 1].
    """

    objects: torch.Tensor
    colors: torch.Tensor
    centers: torch.Tensor
    sizes: torch.Tensor
    angles: torch.Tensor
    backgrounds: torch.Tensor

    def __len__(self):
        return len(self.objects)

    def __getitem__(self, index):
        """Some of the scenes: any index that a tensor takes for its first dimension, kept as a batch."""
        if isinstance(index, int):
            index = [index]
        return Scenes(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    @property
    def present(self):
        """(N, K) bool: where there is an item."""
        return self.objects != EMPTY

    @property
    def counts(self):
        """(N,) long: how many items each scene has."""
        return self.present.sum(dim=1)

    def boxes(self):
        """The exact box around every item: (N, K, 4) as x0, y0, x1, y1 in fractions of the side; zeros where empty."""
        points = glyphs.outline()[self.objects.clamp(min=0)]  # (N, K, directions, 2)
        cos, sin = self.angles.cos()[..., None], self.angles.sin()[..., None]
        # y points down in images, so a counterclockwise turn by the angle reads like this.
        x = cos * points[..., 0] + sin * points[..., 1]
        y = cos * points[..., 1] - sin * points[..., 0]
        turned = torch.stack([x, y], dim=-1) * (self.sizes / 2)[..., None, None] + self.centers[..., None, :]
        boxes = torch.cat([turned.amin(dim=2), turned.amax(dim=2)], dim=-1)
        return boxes * self.present[..., None]


def _named(kind, name, known):
    if name in known:
        return known[name]
    close = difflib.get_close_matches(str(name), known, n=1)
    names = ", ".join(list(known)[:10]) + (", ..." if len(known) > 10 else ".")
    hint = f"did you mean {close[0]!r}?" if close else f"known: {names}"
    raise ValueError(f"There is no {kind} {name!r} in the world; {hint}")


def scene(*items):
    """One scene written by hand, as a batch of one: scene(Item("cat", "red", x=0.3, size=0.4), ...).

    Raises ValueError, in one sentence, for an unknown object or color, a size that is not in (0, 1], an item that
    leaves the image, items that overlap, or a wrong number of items.
    """
    if not 1 <= len(items) <= MAX_ITEMS:
        raise ValueError(f"A scene holds 1 to {MAX_ITEMS} items, and this one has {len(items)}.")
    for item in items:
        _named("object", item.object, OBJECT_INDEX)
        _named("color", item.color, COLOR_INDEX)
        if not all(map(math.isfinite, (item.x, item.y, item.angle))):
            place = f"x {item.x}, y {item.y}, angle {item.angle}"
            raise ValueError(f"{_the(item).capitalize()} needs a place and an angle that are numbers, not {place}.")
        if not 0 < item.size <= 1:
            raise ValueError(
                f"The size of {_the(item)} is {item.size}; it is a fraction of the side, above 0 and up to 1."
            )
    made = Scenes(
        objects=torch.tensor([[OBJECT_INDEX[i.object] for i in items]]),
        colors=torch.tensor([[COLOR_INDEX[i.color] for i in items]]),
        centers=torch.tensor([[(float(i.x), float(i.y)) for i in items]]),
        sizes=torch.tensor([[float(i.size) for i in items]]),
        angles=torch.deg2rad(torch.tensor([[float(i.angle) for i in items]])),
        backgrounds=torch.tensor([BACKGROUND]),
    )
    boxes = made.boxes()[0]
    for item, box in zip(items, boxes):
        if box.min() < -0.01 or box.max() > 1.01:
            raise ValueError(
                f"T{_the(item)[1:]} leaves the image: its box is {_rounded(box)}, "
                "and x and y run from 0 to 1; move it inward or make it smaller."
            )
    for a in range(len(items)):
        for b in range(a):
            if (torch.minimum(boxes[a, 2:], boxes[b, 2:]) > torch.maximum(boxes[a, :2], boxes[b, :2])).all():
                raise ValueError(
                    f"T{_the(items[a])[1:]} overlaps {_the(items[b])}: "
                    f"their boxes are {_rounded(boxes[a])} and {_rounded(boxes[b])}; move one or make it smaller."
                )
    return made


def _the(item):
    return f"the {item.object}" if item.color == "natural" else f"the {item.color} {item.object}"


def _rounded(box):
    return tuple(round(v, 2) for v in box.tolist())


def join(batches):
    """Several batches of scenes as one; those with fewer items are padded with EMPTY."""
    width = max(b.objects.shape[1] for b in batches)

    def padded(tensor, name):
        missing = width - tensor.shape[1]
        if name == "backgrounds" or not missing:
            return tensor
        filler = EMPTY if name in ("objects", "colors") else 0
        return torch.cat([tensor, tensor.new_full((len(tensor), missing, *tensor.shape[2:]), filler)], dim=1)

    return Scenes(*(torch.cat([padded(getattr(b, n), n) for b in batches]) for n in Scenes.__dataclass_fields__))


def pairs(split="all", objects=None):
    """The (object, color) pairs of a split as (P, 2) long: "train" 672, "held_out" 96, "all" 768 of them.

    objects: indices of the objects to take; None means all 96.
    """
    objects = torch.arange(len(OBJECTS)) if objects is None else torch.as_tensor(objects)
    if not (len(objects) and 0 <= objects.min() and objects.max() < len(OBJECTS)):
        raise ValueError(f"objects are indices from 0 to {len(OBJECTS) - 1}, at least one; got {objects.tolist()}.")
    grid = torch.cartesian_prod(objects, torch.arange(len(COLORS)))
    out = held_out(grid[:, 0], grid[:, 1])
    masks = {"train": ~out, "held_out": out, "all": torch.ones_like(out)}
    if split not in masks:
        raise ValueError(f"There is no split {split!r}; choose one of {', '.join(masks)}.")
    return grid[masks[split]]


def draw_pairs(n, split, generator, objects=None):
    """n random pairs: (n, 2). No pair comes twice before each has come once, so small batches hold no duplicates."""
    table = pairs(split, objects)
    rounds = [torch.randperm(len(table), generator=generator) for _ in range(-(-n // len(table)))]
    return table[torch.cat(rounds)[:n]]


def sample(n, seed=0, *, items=1, split="train", distinct=True, size=(0.65, 0.95), angle=15.0, spread=1.0, same=False,
           objects=None):  # fmt: skip
    """n random scenes with `items` objects each. The same seed gives the same scenes.

    seed: an int or a torch.Generator (on the CPU). split: which (object, color) pairs may appear ("train",
    "held_out", "all"). distinct: with one item, no pair repeats within a batch of up to 672 ("train") scenes; False
    draws each independently, as pairs from the web would come. size: range for a scene of one item, in fractions of
    the side; scenes with more items give each a cell of its own and use half the size. angle: largest rotation in
    degrees. spread: how far from the middle of its cell an item may lie, from 0 (in the middle) to 1 (anywhere that
    it fits). same: all items of a scene are the same object in the same color (for counting). objects: indices of the
    objects that may appear; None means all 96.
    Two items always stand in one row or one column, so either "left of" or "above" is true of them.
    """
    if n < 1 or not 1 <= items <= MAX_ITEMS:
        raise ValueError(f"sample needs n >= 1 and 1 to {MAX_ITEMS} items; got n={n}, items={items}.")
    if not 0 < size[0] <= size[1] <= 1:
        raise ValueError(f"size is a range (smallest, largest) in fractions of the side, within (0, 1]; got {size}.")
    if not 0 <= angle <= 360:
        raise ValueError(f"angle is the largest rotation in degrees, from 0 to 360; got {angle}.")
    if not 0 <= spread <= 1:
        raise ValueError(f"spread runs from 0 (in the middle) to 1 (anywhere); got {spread}.")
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)

    def uniform(*shape, low=0.0, high=1.0):
        return torch.rand(*shape, generator=generator) * (high - low) + low

    if items == 1 and distinct:
        chosen = draw_pairs(n, split, generator, objects)[:, None]
    else:
        table = pairs(split, objects)
        chosen = table[torch.randint(len(table), (n, 1 if same else items), generator=generator)].expand(n, items, 2)
    scenes = Scenes(
        objects=chosen[..., 0].contiguous(),
        colors=chosen[..., 1].contiguous(),
        centers=torch.zeros(n, items, 2),
        sizes=uniform(n, items, low=size[0], high=size[1]) * (1.0 if items == 1 else 0.5),
        angles=torch.deg2rad(uniform(n, items, low=-angle, high=angle)),
        backgrounds=uniform(n, 3, low=0.8, high=1.0),
    )
    # Every item has a cell: the whole image, or a quarter of it. Boxes around the origin say how large the rotated
    # drawings are. Those that outgrow their cell shrink; then each gets a random place inside its cell.
    cell = 1.0 if items == 1 else 0.5
    corner = torch.zeros(n, 1, 2) if items == 1 else _cells(n, items, generator) * cell
    extent = scenes.boxes()[..., 2:] - scenes.boxes()[..., :2]
    scenes.sizes *= (cell / extent.amax(dim=-1)).clamp(max=1)
    box = scenes.boxes()
    room = cell - (box[..., 2:] - box[..., :2])
    scenes.centers = corner - box[..., :2] + (0.5 + (uniform(n, items, 2) - 0.5) * spread) * room
    return scenes


def _cells(n, items, generator):
    """Distinct cells of a 2 x 2 grid: (n, items, 2) of 0 or 1 as (x, y); two items share a row or a column."""
    corner = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]])
    order = torch.rand(n, 4, generator=generator).argsort(dim=1)
    cells = corner[order[:, :items]]
    if items == 2:
        opposite = (cells[:, 0] != cells[:, 1]).all(dim=1)
        axis = torch.randint(2, (n,), generator=generator)
        moved = cells[:, 1].clone()
        moved[torch.arange(n), axis] = cells[torch.arange(n), 0, axis]
        cells[:, 1] = torch.where(opposite[:, None], moved, cells[:, 1])
    return cells.float()


def render(scenes, side=32, style="drawing", device=None):
    """The images of a batch of scenes: (N, 3, side, side) floats in [0, 1], on `device` (mmlesson.device() if None).

    One batched affine_grid + grid_sample over the drawings per item slot. style: one of glyphs.STYLES.
    The same scenes give the same bytes on the same device.
    """
    from mmlesson import device as default_device

    if style not in glyphs.STYLES:
        raise ValueError(f"There is no style {style!r}; choose one of {', '.join(glyphs.STYLES)}.")
    if not (isinstance(side, int) and side >= 8):
        raise ValueError(f"side is the image's height and width in pixels, a whole number from 8 up; got {side!r}.")
    device = torch.device(device) if device is not None else default_device()
    # Few at a time: what is needed on the way stays small enough to be used again, and large images fit into memory.
    some = max(1, PIXELS_AT_ONCE // side**2)
    parts = [_render(scenes[i : i + some], side, style, device) for i in range(0, max(1, len(scenes)), some)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _render(scenes, side, style, device):
    n, slots = scenes.objects.shape
    # The sprites' resolution follows the drawings' size, so reducing them does not alias.
    pixels = max(16, round(side * (1.0 if slots == 1 else 0.5) * glyphs.MARGIN))
    canvas = scenes.backgrounds.to(device)[:, :, None, None].expand(n, 3, side, side)
    for k in range(slots):
        objects, colors = scenes.objects[:, k].clamp(min=0), scenes.colors[:, k].clamp(min=0)
        sprite = glyphs.sprites(objects, colors, pixels, style, device)
        grid = F.affine_grid(_placement(scenes, k).to(device), (n, 1, side, side), align_corners=False)
        placed = F.grid_sample(sprite, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        if not scenes.present[:, k].all():
            placed = placed * scenes.present[:, k].to(device)[:, None, None, None]
        canvas = torch.addcmul(canvas, canvas, placed[:, 3:], value=-1).add_(placed[:, :3])
    return canvas.clamp(0, 1)


def normalize(images):
    """Images in [0, 1] -> roughly mean 0 and standard deviation 1, by the world's own mean and standard deviation."""
    return (images - MEAN) / STD


def _placement(scenes, k):
    """(N, 2, 3): the map from image coordinates to drawing coordinates, both in [-1, 1], as affine_grid wants it."""
    scale = 1 / (scenes.sizes[:, k].clamp(min=1e-6) * glyphs.MARGIN)
    cos, sin = scenes.angles[:, k].cos() * scale, scenes.angles[:, k].sin() * scale
    x, y = (scenes.centers[:, k] * 2 - 1).unbind(dim=1)
    rows = [cos, -sin, sin * y - cos * x, sin, cos, -sin * x - cos * y]
    return torch.stack(rows, dim=1).unflatten(1, (2, 3))
