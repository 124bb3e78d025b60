"""Figures. Each function shows one figure, prints one sentence that says what it shows, and returns what it drew.

Every figure is stored as a PNG whose text twin and alternative text are that sentence. `title` is a sentence too: the
one message of the figure. It is wrapped to the figure's width.
"""

import io
import sys
import textwrap
from dataclasses import dataclass

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.textpath import TextPath
from PIL import Image

from mmlesson.output import emit, in_notebook, wrapped
from mmlesson.scores import attention_inside, pointing_chance, pointing_game

# One color per modality, in every figure of the course (Okabe & Ito's colors, told apart by color-blind readers).
COLORS = {
    "image": "#0072B2",
    "text": "#D55E00",
    "fusion": "#009E73",
    "audio": "#CC79A7",
    "video": "#56B4E9",
    "neutral": "#555555",
}
SERIES = ("#222222", "#B26B00", "#6A3D9A", "#5F7A1F", "#A6324A", "#4D6A8A")  # what is no modality
MAGNITUDE, SIGNED = "viridis", "RdBu_r"
WIDTH = 7.6  # inches; at 110 dpi what a notebook's column holds
FONT, TITLE_FONT = 9.5, 11  # points
_CHARACTER = 0.57  # mean width of a character of the font, in font sizes


def style():
    """Set matplotlib's defaults for the course; lesson.start() does."""
    matplotlib.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.dpi": "figure",
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "font.size": FONT,
            "axes.titlesize": FONT + 0.5,
            "axes.titlelocation": "left",
            "axes.labelsize": FONT,
            "xtick.labelsize": FONT,
            "ytick.labelsize": FONT,
            "legend.fontsize": FONT,
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": "#888888",
            "axes.grid": False,
            "grid.color": "#DDDDDD",
            "lines.linewidth": 1.8,
            "axes.prop_cycle": matplotlib.cycler(color=SERIES),
        }
    )


def png(fig):
    """The figure as the bytes of a PNG, as small as Pillow makes it."""
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    return encode(canvas, optimize=True)


def encode(canvas, **options):
    """What an Agg canvas holds as the bytes of a PNG. options: for Pillow's PNG writer.

    Its 256 best colors are enough for the eye, and notebooks become half as large.
    """
    buffer = io.BytesIO()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(256)
    picture.save(buffer, format="png", **options)
    return buffer.getvalue()


def show(fig, sentence):
    """Show a figure as a PNG whose text twin and alternative text are `sentence`; print the sentence; close it."""
    if in_notebook():
        emit(sentence, png=png(fig))
    print(wrapped(sentence))
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close(fig)  # else the notebook would show it a second time


# ---- pictures and their captions


def gallery(images, captions=None, title="", columns=8):
    """Pictures in a grid, captions under them.

    images: (N, 3, H, W) in [0, 1]. captions: N strings. Returns {"images": (N, H, W, 3) array, "captions": list}.
    """
    pictures = _pictures(images)
    captions = _captions(captions, len(pictures)) or [""] * len(pictures)
    columns = min(columns, len(pictures))
    cell = min(1.5, WIDTH / columns)
    under = [_wrap(c, cell - 0.06, FONT) for c in captions]
    row = cell + 0.03 + _lines(*under) * _line_height(FONT) * any(captions)
    rows = -(-len(pictures) // columns)
    fig, ax, top = _canvas(columns * cell, rows * row, title)
    for i, (picture, caption) in enumerate(zip(pictures, under)):
        x, y = i % columns * cell, top - i // columns * row
        _picture(ax, picture, x + 0.04, y - cell + 0.04, cell - 0.08)
        ax.text(x + cell / 2, y - cell, caption, ha="center", va="top", fontsize=FONT, linespacing=1.1)
    listed = "; ".join(c for c in captions if c)
    show(fig, _sentence(title, f"{_count(len(pictures), 'picture')}{': ' + listed if listed else ''}."))
    return {"images": pictures, "captions": captions}


def similarity_matrix(similarity, images=None, captions=None, title="", target=None, label="similarity"):
    """Every picture against every caption: pictures down the left, captions below, the true match outlined.

    similarity: (N, M), row i = picture i. images: (N, 3, H, W). captions: M strings. target: (N,) column of the right
    caption of each row; default the diagonal if N = M, else none. Returns the (N, M) array.
    """
    values = _scores(similarity)
    target = _target(target, values.shape)
    limits = values.min(), values.max()
    fig = _similarity_panels({"": values}, images, captions, title, target, limits, label).fig
    show(fig, _sentence(title, _match_sentence(values, target) + "."))
    return values


def similarity_matrices(similarities, images=None, captions=None, title="", target=None, label="similarity"):
    """Several similarity matrices of the same pictures and captions side by side, on one color scale.

    similarities: {name: (N, M)}, such as before, during and after training. Otherwise as similarity_matrix.
    Returns {name: (N, M) array}.
    """
    values = {name: _scores(s) for name, s in similarities.items()}
    shapes = {v.shape for v in values.values()}
    if len(shapes) != 1:
        raise ValueError(f"similarity_matrices compares matrices of one shape, not of {sorted(shapes)}.")
    target = _target(target, shapes.pop())
    limits = min(v.min() for v in values.values()), max(v.max() for v in values.values())
    fig = _similarity_panels(values, images, captions, title, target, limits, label).fig
    show(fig, _sentence(title, "; ".join(f"{n}: {_match_sentence(v, target)}" for n, v in values.items()) + "."))
    return values


def attention_maps(images, maps, boxes, captions=None, title="", columns=4):
    """Each picture beside itself under its attention map, with the true box, the map's peak (+) and the scores.

    images: (N, 3, H, W) in [0, 1]. maps: (N, gh, gw) attention weights. boxes: (N, 4) as (x0, y0, x1, y1), fractions
    of the side. captions: N strings. Returns {"hits": (N,) bool, "inside": (N,), "area": (N,), "chance": (N,)}: the
    pointing game, the share of attention inside the box, and what even attention and pointing at random would score.
    """
    pictures = _pictures(images)
    if maps.shape[0] != len(pictures) or boxes.shape != (len(pictures), 4):
        raise ValueError(
            f"attention_maps needs as many maps (N, gh, gw) and boxes (N, 4) as its {len(pictures)} pictures, "
            f"not {tuple(maps.shape)} and {tuple(boxes.shape)}."
        )
    maps, boxes = maps.detach().float().cpu(), boxes.detach().float().cpu()
    scores = attention_scores(maps, boxes)
    captions = _captions(captions, len(pictures)) or [""] * len(pictures)
    columns = min(columns, len(pictures))
    cell = min(2.4, WIDTH / columns)
    side = cell / 2 - 0.06
    under = [_wrap(c, cell - 0.1, FONT) for c in captions]
    row = side + 0.12 + (_lines(*under) * any(captions) + 1) * _line_height(FONT)
    fig, ax, top = _canvas(columns * cell, -(-len(pictures) // columns) * row, title)
    for i, picture in enumerate(pictures):
        x, y = i % columns * cell + 0.03, top - i // columns * row
        _picture(ax, picture, x, y - side, side)
        _box(ax, boxes[i].tolist(), x, y - side, side)
        _picture(ax, overlay(picture, maps[i]), x + side + 0.04, y - side, side)
        _box(ax, boxes[i].tolist(), x + side + 0.04, y - side, side)
        _peak(ax, maps[i], x + side + 0.04, y - side, side)
        result = f"{'hit' if scores['hits'][i] else 'miss'}, {scores['inside'][i]:.0%} inside"
        text = f"{under[i]}\n{result}" if under[i] else result
        ax.text(x + side, y - side - 0.04, text, ha="center", va="top", fontsize=FONT, linespacing=1.15)
    show(fig, _sentence(title, _attention_sentence(scores)))
    return scores


def attention_scores(maps, boxes):
    """What attention_maps returns, without drawing. maps: (N, gh, gw). boxes: (N, 4)."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return {
        "hits": pointing_game(maps, boxes).numpy(),
        "inside": attention_inside(maps, boxes).numpy(),
        "area": area.numpy(),
        "chance": pointing_chance(maps.shape[-2:], boxes).numpy(),
    }


def overlay(picture, attention):
    """The picture (H, W, 3) under its attention map (gh, gw), smoothly enlarged: (128, 128, 3) array in [0, 1]."""
    side = (128, 128)
    base = F.interpolate(torch.from_numpy(picture).permute(2, 0, 1)[None], size=side, mode="nearest")
    heat = F.interpolate(attention[None, None].float(), size=side, mode="bicubic")[0, 0].clamp(min=0)
    heat = (heat / heat.max().clamp(min=1e-12)).numpy()
    color = matplotlib.colormaps[MAGNITUDE](heat)[..., :3]
    strength = (0.2 + 0.6 * heat)[..., None]  # where nothing is attended to, the picture still shows
    return ((1 - strength) * base[0].permute(1, 2, 0).numpy() + strength * color).clip(0, 1)


# ---- numbers


def matrix(values, row_labels, column_labels, title="", signed=False, fmt=".2f", row_name="", column_name=""):
    """A small matrix with its numbers written in: attention weights by hand, a 3x3 batch, a mask.

    values: (R, C) numbers, nan where there is none, or bools, which are drawn as allowed (True) or blocked (False).
    signed: color by sign around 0. row_name, column_name: what the rows and columns are. Returns the (R, C) array.
    """
    values = _array(values)
    rows, columns = values.shape
    if len(row_labels) != rows or len(column_labels) != columns:
        raise ValueError(f"A {rows}x{columns} matrix got {len(row_labels)} row and {len(column_labels)} column labels.")
    boolean = values.dtype == bool
    written = [
        ["yes" if v else "no" for v in row] if boolean else ["–" if np.isnan(v) else format(v, fmt) for v in row]
        for row in values
    ]
    widest = max(len(s) for row in written for s in row)
    cell = max(0.32, widest * FONT * _CHARACTER / 72 + 0.12)
    left = _text_width(*row_labels) + 0.1 + 0.2 * bool(row_name)
    drop, overhang = _slanted(column_labels, cell)
    left = max(left, overhang)
    below = drop + 0.22 * bool(column_name) + 0.3 * boolean
    fig, ax, top = _canvas(left + columns * cell + 0.1, rows * cell + below, title)
    extent = (left, left + columns * cell, top - rows * cell, top)
    image = ax.imshow(
        np.ma.masked_invalid(values.astype(float)), extent=extent, aspect="auto", **_colors(values, signed)
    )
    _write_values(ax, image, written, left, top, cell)
    for i, text in enumerate(row_labels):
        ax.text(left - 0.06, top - (i + 0.5) * cell, text, ha="right", va="center", fontsize=FONT)
    _slant(ax, column_labels, left, top - rows * cell, cell)
    if row_name:
        ax.text(
            0.1, top - rows * cell / 2, row_name, rotation=90, ha="center", va="center", fontsize=FONT, style="italic"
        )
    if column_name:
        ax.text(left + columns * cell / 2, top - rows * cell - drop, column_name, ha="center", va="top", style="italic")
    if boolean:
        handles = [Patch(facecolor=c, label=t) for c, t in (("#CFE3F1", "allowed (yes)"), ("#444444", "blocked (no)"))]
        ax.legend(handles=handles, loc="lower left", ncols=2, bbox_to_anchor=(0, 0), borderaxespad=0)
        details = f"{int(values.sum())} of {values.size} entries are allowed."
    else:
        finite = values[np.isfinite(values)]
        details = f"{rows} by {columns} numbers"
        details += f" from {finite.min():{fmt}} to {finite.max():{fmt}}" if finite.size else ""
        details += f", {values.size - finite.size} of them not finite." if finite.size < values.size else "."
    show(fig, _sentence(title, details))
    return values


def curves(lines, xlabel, ylabel, title="", hlines=None, log="", colors=None):
    """Lines, named at their ends.

    lines: {name: (x, y)}, equally long sequences. hlines: {name: y} for levels such as chance. log: axes on a
    logarithmic scale: "x", "y" or "xy". colors: {name: color}, such as COLORS["image"] for what belongs to a modality.
    Returns {name: (x, y)} as arrays.
    """
    lines = {name: (_array(x), _array(y)) for name, (x, y) in lines.items()}
    colors = {**{name: SERIES[i % len(SERIES)] for i, name in enumerate(lines)}, **(colors or {})}
    hlines = hlines or {}
    fig = _figure(WIDTH, 3.1, title)
    ax = fig.add_subplot(xlabel=xlabel, ylabel=ylabel)
    for i, (name, (x, y)) in enumerate(lines.items()):
        if x.shape != y.shape or x.ndim != 1 or not len(x):
            raise ValueError(
                f"The line {name!r} needs equally many x and y, at least one, not {x.shape} and {y.shape}."
            )
        marker = "os^Dv"[i % 5] if len(x) <= 25 else None
        ax.plot(x, y, label=name, color=colors[name], ls=("-", "--", "-.", ":")[i % 4], marker=marker, ms=4)
    for level in hlines.values():
        ax.axhline(level, color="#777777", lw=1, ls=(0, (2, 3)), zorder=0)
    ax.set_xscale("log" if "x" in log else "linear")
    ax.set_yscale("log" if "y" in log else "linear")
    places = sorted({float(place) for x, _ in lines.values() for place in x})
    if "x" in log and len(places) <= 8:  # 1, 2, 4, 8 say more than powers of ten
        ax.set_xticks(places, [f"{place:g}" for place in places])
        ax.set_xticks([], minor=True)
    ax.grid(axis="y")
    ax.margins(x=0.02)
    ends = {name: (y[-1], colors[name]) for name, (x, y) in lines.items()}
    levels = {f"{name} = {_number(y)}": (y, "#555555") for name, y in hlines.items()}
    right = max(x[-1] for x, _ in lines.values())
    span = right - min(x[0] for x, _ in lines.values())
    direct = len(lines) <= 6 and all(right - x[-1] <= 0.1 * span for x, _ in lines.values())
    _name_ends(ax, {**ends, **levels} if direct else levels)
    if not direct:
        fig.legend(loc="outside lower center", ncols=min(3, len(lines)))
    told = "; ".join(_line_sentence(name, x, y) for name, (x, y) in lines.items())
    levels = "".join(f"; {name} is {_number(y)}" for name, y in hlines.items())
    show(fig, _sentence(title, f"{ylabel} against {xlabel}: {told}{levels}."))
    return lines


def gate_values(steps, gates, title=""):
    """How far gates open during training, one panel for each kind of gate, one line for each layer.

    steps: S numbers. gates: {kind: {layer: S values of tanh(alpha), from -1 to 1}}. Returns {kind: {layer: array}}.
    """
    steps = _array(steps)
    gates = {kind: {layer: _array(values) for layer, values in layers.items()} for kind, layers in gates.items()}
    for kind, layers in gates.items():
        for layer, values in layers.items():
            if values.shape != steps.shape or not np.all(np.abs(values) <= 1):
                raise ValueError(
                    f"The gate {kind!r}, {layer!r} needs one value of tanh(alpha), from -1 to 1, for each of the "
                    f"{len(steps)} steps; got {len(values)} from {values.min():.3g} to {values.max():.3g}."
                )
    fig = _figure(WIDTH, 3.0, title)
    panels = fig.subplots(1, len(gates), sharey=True, squeeze=False)[0]
    for ax, (kind, layers) in zip(panels, gates.items()):
        shades = matplotlib.colormaps[MAGNITUDE](np.linspace(0, 0.82, len(layers)))  # dark: the first layer
        for values, color in zip(layers.values(), shades):
            ax.plot(steps, values, color=color)
        ax.axhline(0, color="#777777", lw=1, ls=(0, (2, 3)), zorder=0)
        ax.set(title=kind, xlabel="step", ylim=(-1.05, 1.05))
        ax.margins(x=0.02)
        _name_ends(ax, {layer: (values[-1], color) for (layer, values), color in zip(layers.items(), shades)})
    panels[0].set_ylabel("tanh(alpha)")
    ends = "; ".join(
        f"{kind}: " + ", ".join(f"{layer} {values[-1]:+.2f}" for layer, values in layers.items())
        for kind, layers in gates.items()
    )
    show(fig, _sentence(title, f"Gates tanh(alpha) at the end. {ends}."))
    return gates


def bars(values, xlabel, title="", chance=None, colors=None):
    """Horizontal bars with their values written on them.

    values: {name: number}, or {group: {name: number}}. chance: a level drawn as a line. colors: {name: color}.
    Returns `values` with plain floats.
    """
    groups = values if isinstance(next(iter(values.values())), dict) else {"": values}
    groups = {group: {name: float(v) for name, v in named.items()} for group, named in groups.items()}
    names = list(dict.fromkeys(name for named in groups.values() for name in named))
    cycle = SERIES[-1:] if len(groups) == 1 else SERIES
    colors = {**{name: cycle[i % len(cycle)] for i, name in enumerate(names)}, **(colors or {})}
    rows = [row for group, named in groups.items() for row in [(group, None)] * bool(group) + list(named.items())]
    fig = _figure(WIDTH, 0.55 + 0.27 * len(rows) + 0.2 * (chance is not None), title)
    ax = fig.add_subplot(xlabel=xlabel)
    clear = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # keeps the line of chance out of the numbers
    for y, (name, value) in enumerate(rows):
        if value is not None:
            ax.barh(y, value, height=0.72, color=colors[name])
            ax.annotate(_number(value), (max(value, 0), y), (4, 0), textcoords="offset points", va="center", bbox=clear)
    ax.set_yticks(range(len(rows)), [name for name, _ in rows])
    for tick, (_, value) in zip(ax.get_yticklabels(), rows):
        tick.set_fontweight("bold" if value is None else "normal")
    ax.tick_params(left=False)
    ax.invert_yaxis()
    ax.margins(x=0.1)
    if chance is not None:
        ax.axvline(
            chance, color="black", lw=1.2, ls=(0, (2, 2)), path_effects=[withStroke(linewidth=2.5, foreground="white")]
        )
        ax.set_title(f"dotted line: chance, {_number(chance)}", fontsize=FONT, loc="right")
    told = "; ".join(
        (f"{group}: " if group else "") + ", ".join(f"{name} {_number(v)}" for name, v in named.items())
        for group, named in groups.items()
    )
    show(fig, _sentence(title, f"{xlabel}: {told}{'' if chance is None else f'; chance is {_number(chance)}'}."))
    return groups if "" not in groups else groups[""]


def spectrograms(waves, mels, captions, rate, title="", columns=2):
    """Each sound as its wave, and under it as its log-mel spectrogram, low bands below.

    waves: (N, samples). mels: (N, bands, columns). captions: N strings. rate: samples a second.
    Returns {"waves", "mels"} as arrays.
    """
    waves, mels = _array(waves), _array(mels)
    captions = _captions(captions, len(waves))
    if mels.ndim != 3 or waves.ndim != 2 or len(mels) != len(waves):
        raise ValueError(
            f"spectrograms needs waves (N, samples) and mels (N, bands, columns), not {waves.shape} and {mels.shape}."
        )
    columns = min(columns, len(waves))
    rows = -(-len(waves) // columns)
    seconds = waves.shape[1] / rate
    fig = _figure(WIDTH, 2.3 * rows, title)
    heights = [part for _ in range(rows) for part in (1, 2)]
    panels = fig.subplots(2 * rows, columns, squeeze=False, sharex=True, gridspec_kw={"height_ratios": heights})
    for i, (wave, mel) in enumerate(zip(waves, mels)):
        above, below = (panels[2 * (i // columns) + k, i % columns] for k in range(2))
        above.plot(np.linspace(0, seconds, len(wave)), wave, color=COLORS["audio"], lw=0.4)
        above.set(title=captions[i], yticks=[], ylim=(-1, 1), xlim=(0, seconds))
        below.imshow(mel, origin="lower", aspect="auto", extent=(0, seconds, 0, len(mel)), cmap=MAGNITUDE)
        below.set(ylabel="mel band" if i % columns == 0 else "", xlabel="seconds" if i + columns >= len(waves) else "")
    for ax in panels.flat[: 2 * rows * columns]:
        ax.set_visible(bool(ax.lines or ax.images))
    show(fig, _sentence(title, f"{_count(len(waves), 'sound')} of {seconds:.2f} seconds: {'; '.join(captions)}."))
    return {"waves": waves, "mels": mels}


# ---- what the figures are made of


def _figure(width, height, title):
    """A figure with room for `height` inches of content under the wrapped title."""
    text = _wrap(title, width - 0.1, TITLE_FONT)
    extra = _lines(text) * _line_height(TITLE_FONT) if title else 0
    fig = Figure(figsize=(width, height + extra), layout="constrained")
    if title:
        fig.suptitle(text, x=0.01, ha="left", fontsize=TITLE_FONT)
    return fig


def _canvas(width, height, title):
    """(figure, axes, top): axes that cover the figure, in inches from its lower left corner; content ends below top."""
    text = _wrap(title, max(width, 4.6) - 0.1, TITLE_FONT)
    extra = _lines(text) * _line_height(TITLE_FONT) + 0.1 if title else 0.05
    width, total = max(width, 4.6) if title else width, height + extra + 0.05
    fig = Figure(figsize=(width, total), layout="none")
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, total), autoscale_on=False)
    ax.axis("off")
    if title:
        ax.text(0.05, total - 0.04, text, va="top", fontsize=TITLE_FONT)
    return fig, ax, total - extra


def _picture(ax, picture, x, y, side):
    """A picture (H, W, 3) with its lower left corner at (x, y) inches."""
    return ax.imshow(picture, extent=(x, x + side, y, y + side), aspect="auto", interpolation="nearest")


def _box(ax, box, x, y, side):
    """The true box, as fractions (x0, y0, x1, y1) from the upper left, over a picture placed like _picture's."""
    x0, y0, x1, y1 = box
    place = (x + x0 * side, y + (1 - y1) * side)
    halo = [withStroke(linewidth=3, foreground="white")]
    patch = Rectangle(place, (x1 - x0) * side, (y1 - y0) * side, fill=False, lw=1.3, path_effects=halo)
    return ax.add_patch(patch)


def _peak(ax, attention, x, y, side):
    """A + at the center of the map's largest cell."""
    row, column = divmod(int(attention.argmax()), attention.shape[1])
    at = x + (column + 0.5) / attention.shape[1] * side, y + (1 - (row + 0.5) / attention.shape[0]) * side
    halo = [withStroke(linewidth=3.5, foreground="black")]
    return ax.plot(*at, "+", color="white", ms=8, mew=1.6, path_effects=halo)[0]


@dataclass
class _Panels:
    """A figure of similarity matrices, and what is needed to change the first of them or to draw beside it."""

    fig: Figure
    ax: matplotlib.axes.Axes  # in inches
    image: matplotlib.image.AxesImage
    frames: list  # around the true matches
    written: list  # the texts of the values, row by row; none if the cells are too small
    right: float  # inches, where the free margin begins
    top: float
    cell: float  # inches, the side of a cell


def _similarity_panels(matrices, images, captions, title, target, limits, label, margin=0):
    """Similarity matrices {name: (N, M)} side by side, with `margin` inches left free at the right."""
    rows, columns = next(iter(matrices.values())).shape
    pictures = None if images is None else _pictures(images)
    captions = _captions(captions, columns)
    if pictures is not None and len(pictures) != rows:
        raise ValueError(
            f"A similarity matrix of {rows} rows got {len(pictures)} pictures: expected one picture a row."
        )
    many, gap, bar = len(matrices), 0.15, 0.95
    thumbnails = pictures is not None
    cell = min(0.56, (WIDTH - bar - margin - gap * (many - 1)) / (columns * many + thumbnails))
    drop, overhang = _slanted(captions, cell) if captions else (0, 0)
    left = max(cell * thumbnails, overhang)
    right = left + many * columns * cell + (many - 1) * gap
    head = _line_height(FONT) + 0.04 if any(matrices) else 0  # their names
    fig, ax, top = _canvas(right + bar + margin, head + rows * cell + drop, title)
    top -= head
    drawn = []
    for k, (name, values) in enumerate(matrices.items()):
        x = left + k * (columns * cell + gap)
        drawn.append(_similarity(ax, values, target, limits, x, top, cell))
        ax.text(x, top + 0.03, name, fontsize=FONT, va="bottom")
        if captions:
            _slant(ax, captions, x, top - rows * cell, cell)
    for i in range(rows if thumbnails else 0):
        _picture(ax, pictures[i], left - cell, top - (i + 1) * cell, cell * 0.95)
    _colorbar(fig, drawn[0][0], right + 0.12, top - rows * cell, rows * cell, label)
    return _Panels(fig, ax, *drawn[0], right + bar, top, cell)


def _similarity(ax, values, target, limits, left, top, cell):
    """One matrix with the true matches outlined: (image, frames, texts), as _Panels keeps them."""
    rows, columns = values.shape
    extent = (left, left + columns * cell, top - rows * cell, top)
    image = ax.imshow(values, extent=extent, cmap=MAGNITUDE, vmin=limits[0], vmax=limits[1], aspect="auto")
    halo = [withStroke(linewidth=3, foreground="white")]
    frames = []
    for i, j in enumerate(() if target is None else target):
        place = left + j * cell, top - (i + 1) * cell
        frame = Rectangle(place, cell, cell, fill=False, lw=1.4, ec=COLORS["text"], path_effects=halo)
        frames.append(ax.add_patch(frame))
    texts = [[_two_digits(v) for v in row] for row in values] if cell >= 0.45 else []
    return image, frames, _write_values(ax, image, texts, left, top, cell)


def _colorbar(fig, image, x, y, height, label):
    width, total = fig.get_size_inches()
    height, y = min(height, 3), y + max(0, height - 3)
    axes = fig.add_axes((x / width, y / total, 0.13 / width, height / total))
    bar = fig.colorbar(image, cax=axes)
    bar.locator = matplotlib.ticker.MaxNLocator(4)
    bar.outline.set_visible(False)
    bar.set_label(label, fontsize=FONT)
    bar.ax.tick_params(labelsize=FONT - 0.5, length=2)


def _write_values(ax, image, written, left, top, cell):
    """Write each value in its cell, light on dark. Returns the texts, row by row."""
    texts = []
    for i, row in enumerate(written):
        for j, text in enumerate(row):
            x, y = left + (j + 0.5) * cell, top - (i + 0.5) * cell
            texts.append(ax.text(x, y, text, ha="center", va="center", fontsize=FONT - 0.5))
    _ink(image, texts)
    return texts


def _colors(values, signed):
    """How imshow colors a matrix: {"cmap", "vmin", "vmax"}. What is not finite, such as a masked score, is gray."""
    if values.dtype == bool:
        return {"cmap": matplotlib.colors.ListedColormap(["#444444", "#CFE3F1"]), "vmin": 0, "vmax": 1}
    finite = values[np.isfinite(values)] if np.isfinite(values).any() else np.zeros(1)
    low, high = (-np.abs(finite).max(), np.abs(finite).max()) if signed else (finite.min(), finite.max())
    name = SIGNED if signed else MAGNITUDE
    return {"cmap": matplotlib.colormaps[name].with_extremes(bad="#DDDDDD"), "vmin": low, "vmax": high}


def _ink(image, texts):
    """Color the values written over `image` so that they can be read."""
    rgb = image.cmap(image.norm(image.get_array().ravel()))[:, :3]
    for text, lightness in zip(texts, rgb @ (0.299, 0.587, 0.114)):
        text.set_color("black" if lightness > 0.5 else "white")


def _slant(ax, labels, left, bottom, cell):
    """Column labels, slanted under their columns, or level where they fit."""
    level = _text_width(*labels) < cell - 0.04
    for j, text in enumerate(labels):
        x = left + (j + 0.5) * cell
        if level:
            ax.text(x, bottom - 0.05, text, ha="center", va="top", fontsize=FONT)
        else:
            ax.text(
                x + 0.04, bottom - 0.05, text, rotation=45, ha="right", va="top", rotation_mode="anchor", fontsize=FONT
            )


def _slanted(labels, cell):
    """(drop, overhang) in inches of the labels that _slant draws: how far below, and how far left of the first cell."""
    if _text_width(*labels) < cell - 0.04:
        return _line_height(FONT) + 0.1, 0
    slope = 0.5**0.5
    overhang = max(_text_width(text) * slope - (j + 0.5) * cell for j, text in enumerate(labels))
    return (_text_width(*labels) + _line_height(FONT)) * slope + 0.1, overhang + 0.05


def _name_ends(ax, ends):
    """Write {name: (y, color)} to the right of the axes at their heights, moved apart where they would overlap."""
    ax.autoscale_view()  # else the limits below are those of empty axes
    gap = 1.35 * FONT / 72 / (ax.figure.get_size_inches()[1] * 0.68)  # in heights of the axes, about
    to_axes = (ax.transScale + ax.transLimits).transform
    places = sorted((to_axes((1, y))[1], name, color) for name, (y, color) in ends.items() if np.isfinite(y))
    heights = [height for height, _, _ in places]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + gap)
    for i in reversed(range(len(heights))):  # what was pushed out at the top comes back down
        heights[i] = min(heights[i], 1 if i == len(heights) - 1 else heights[i + 1] - gap)
    for height, (_, name, color) in zip(heights, places):
        ax.text(1.01, height, name, color=color, va="center", transform=ax.transAxes)


# ---- sentences and small conversions


def _sentence(title, details):
    details = details[0].upper() + details[1:]
    return f"{title.rstrip('.')}. {details}" if title else details


def _match_sentence(values, target):
    """How the scores of the true matches stand out; target: (N,) or None."""
    if target is None:
        return f"{values.shape[0]} by {values.shape[1]} scores from {values.min():.2f} to {values.max():.2f}"
    rows = np.arange(len(values))
    right = values[rows, target]
    others = np.ma.masked_array(values, np.zeros_like(values, dtype=bool))
    others[rows, target] = np.ma.masked
    best = int((others.max(axis=1).filled(-np.inf) < right).sum())
    return (
        f"the matching caption has the highest score for {best} of {_count(len(values), 'picture')}, "
        f"mean score of a match {_two_digits(right.mean())}, of the others {_two_digits(others.mean())}"
    )


def _attention_sentence(scores):
    hits, n = int(scores["hits"].sum()), len(scores["hits"])
    return (
        f"The peak lies in the true box for {hits} of {_count(n, 'picture')} (at random: "
        f"{scores['chance'].sum():.1f}); {scores['inside'].mean():.0%} of the attention lies inside the boxes, "
        f"which cover {scores['area'].mean():.0%} of the pictures."
    )


def _line_sentence(name, x, y):
    """From where to where a line goes, and its extreme if that lies well beyond both ends."""
    told = f"{name} from {_number(y[0])} to {_number(y[-1])}"
    margin = 0.05 * (np.nanmax(y) - np.nanmin(y))
    for word, i, beyond in (
        ("lowest", int(np.nanargmin(y)), min(y[0], y[-1]) - np.nanmin(y)),
        ("highest", int(np.nanargmax(y)), np.nanmax(y) - max(y[0], y[-1])),
    ):
        if beyond > margin:
            told += f", {word} {_number(y[i])} at {_number(x[i])}"
    return told


def _number(value):
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _two_digits(value):
    return f"{round(float(value), 2) + 0.0:.2f}"  # + 0.0 turns -0.00 into 0.00


def _count(n, noun):
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _array(values):
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return values.float().numpy() if values.is_floating_point() else values.numpy()
    return np.asarray(values)


def _pictures(images):
    """(N, 3, H, W) in [0, 1] -> (N, H, W, 3) array."""
    if not isinstance(images, torch.Tensor) or images.dim() != 4 or images.shape[1] != 3:
        found = tuple(images.shape) if hasattr(images, "shape") else type(images).__name__
        raise ValueError(f"Pictures must be a tensor of (N, 3, H, W) in [0, 1], not {found}.")
    return images.detach().float().cpu().clamp(0, 1).permute(0, 2, 3, 1).numpy()


def _scores(similarity):
    values = _array(similarity)
    if values.ndim != 2 or not np.isfinite(values).all():
        found = f"shape {values.shape}" if values.ndim != 2 else "nan or inf among its values"
        raise ValueError(f"A similarity matrix must be (pictures, captions) of finite numbers, not with {found}.")
    return values


def _captions(captions, n):
    if captions is not None and len(captions) != n:
        raise ValueError(f"Got {len(captions)} captions for {n} places: expected one caption each.")
    return None if captions is None else list(captions)


def _target(target, shape):
    if target is not None:
        return _array(target)
    return np.arange(shape[0]) if shape[0] == shape[1] else None


def _text_width(*texts):
    """Inches that the longest of the texts takes at the figures' font size."""
    longest = max(TextPath((0, 0), text, size=FONT).get_extents().x1 if text.strip() else 0 for text in texts)
    return 1.08 * longest / 72  # drawn in pixels, letters stand a little wider


def _line_height(size):
    return size * 1.3 / 72


def _lines(*texts):
    return max(text.count("\n") for text in texts) + 1


def _wrap(text, inches, size):
    return textwrap.fill(text, max(4, int(inches * 72 / (size * _CHARACTER))))
