"""Figures. Each function shows one figure and prints one sentence that says what it shows.

Every figure is stored as a PNG whose text twin and alternative text are that sentence. `title` is a sentence too: the
one message of the figure. It is wrapped to the figure's width.
"""

import sys

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from mmlesson import display
from mmlesson.drawing import (
    CHARACTER,
    COLORS,
    FONT,
    MAGNITUDE,
    SERIES,
    WIDTH,
    as_array,
    as_images,
    as_scores,
    canvas,
    checked_captions,
    color_scale,
    count,
    draw_box,
    draw_image,
    draw_peak,
    figure,
    format_number,
    line_count,
    line_height,
    match_sentence,
    name_ends,
    png,
    similarity_panels,
    slant_labels,
    slanted_size,
    text_width,
    titled,
    wrap,
    write_values,
)
from mmlesson.metrics import attention_inside, pointing_chance, pointing_game


def show(fig, sentence):
    """Show a figure as a PNG whose text twin and alternative text are `sentence`; print the sentence; close it."""
    if display.in_notebook():
        display.show(sentence, png=png(fig))
    print(display.wrapped(sentence))
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close(fig)  # else the notebook would show it a second time


# ---- images and their captions


def gallery(images, captions=None, title="", columns=8):
    """Images in a grid with their captions below: images (N, 3, H, W) in [0, 1], captions N strings."""
    images = as_images(images)
    captions = checked_captions(captions, len(images)) or [""] * len(images)
    columns = min(columns, len(images))
    cell = min(1.5, WIDTH / columns)
    under = [wrap(c, cell - 0.06, FONT) for c in captions]
    row = cell + 0.03 + line_count(*under) * line_height(FONT) * any(captions)
    rows = -(-len(images) // columns)
    fig, ax, top = canvas(columns * cell, rows * row, title)
    for i, (image, caption) in enumerate(zip(images, under)):
        x, y = i % columns * cell, top - i // columns * row
        draw_image(ax, image, x + 0.04, y - cell + 0.04, cell - 0.08)
        ax.text(x + cell / 2, y - cell, caption, ha="center", va="top", fontsize=FONT, linespacing=1.1)
    listed = "; ".join(c for c in captions if c)
    show(fig, titled(title, f"{count(len(images), 'image')}{': ' + listed if listed else ''}."))


def similarity_matrix(similarity, images=None, captions=None, title=""):
    """Every image against every caption: images down the left, captions below, the true matches outlined.

    similarity: (N, M), row i for image i; if N = M, its true match is column i. images: (N, 3, H, W). captions: M
    strings.
    """
    values = as_scores(similarity)
    fig = similarity_panels({"": values}, images, captions, title, (values.min(), values.max()), "similarity").fig
    show(fig, titled(title, match_sentence(values) + "."))


def similarity_matrices(similarities, images=None, captions=None, title="", label="similarity"):
    """Several similarity matrices of the same images and captions side by side, on one color scale.

    similarities: {name: (N, M)}, such as before, during and after training. label: the name of the color
    scale. Otherwise as similarity_matrix.
    """
    values = {name: as_scores(s) for name, s in similarities.items()}
    shapes = {v.shape for v in values.values()}
    if len(shapes) != 1:
        raise ValueError(f"similarity_matrices compares matrices of one shape, not of {sorted(shapes)}.")
    limits = min(v.min() for v in values.values()), max(v.max() for v in values.values())
    fig = similarity_panels(values, images, captions, title, limits, label).fig
    show(fig, titled(title, "; ".join(f"{n}: {match_sentence(v)}" for n, v in values.items()) + "."))


def attention_maps(images, maps, boxes, captions=None, title=""):
    """Each image beside itself under its attention map, with the true box, the map's peak (+) and the scores.

    images: (N, 3, H, W) in [0, 1]. maps: (N, gh, gw) attention weights. boxes: (N, 4) as (x0, y0, x1, y1), fractions
    of the side. captions: N strings.
    """
    images = as_images(images)
    if maps.shape[0] != len(images) or boxes.shape != (len(images), 4):
        raise ValueError(
            f"attention_maps needs as many maps (N, gh, gw) and boxes (N, 4) as its {len(images)} images, "
            f"not {tuple(maps.shape)} and {tuple(boxes.shape)}."
        )
    maps, boxes = maps.detach().float().cpu(), boxes.detach().float().cpu()
    scores = attention_scores(maps, boxes)
    captions = checked_captions(captions, len(images)) or [""] * len(images)
    columns = min(4, len(images))
    cell = min(2.4, WIDTH / columns)
    side = cell / 2 - 0.06
    under = [wrap(c, cell - 0.1, FONT) for c in captions]
    row = side + 0.12 + (line_count(*under) * any(captions) + 1) * line_height(FONT)
    fig, ax, top = canvas(columns * cell, -(-len(images) // columns) * row, title)
    for i, image in enumerate(images):
        x, y = i % columns * cell + 0.03, top - i // columns * row
        draw_image(ax, image, x, y - side, side)
        draw_box(ax, boxes[i].tolist(), x, y - side, side)
        draw_image(ax, overlay(image, maps[i]), x + side + 0.04, y - side, side)
        draw_box(ax, boxes[i].tolist(), x + side + 0.04, y - side, side)
        draw_peak(ax, maps[i], x + side + 0.04, y - side, side)
        result = f"{'hit' if scores['hits'][i] else 'miss'}, {scores['inside'][i]:.0%} inside"
        text = f"{under[i]}\n{result}" if under[i] else result
        ax.text(x + side, y - side - 0.04, text, ha="center", va="top", fontsize=FONT, linespacing=1.15)
    show(fig, titled(title, _attention_sentence(scores)))


def attention_scores(maps, boxes):
    """The scores of attention maps, {name: (N,) array}: what attention_maps writes below each image.

    hits: the pointing game. inside: the fraction of the attention inside the box. area, chance: what even
    attention and pointing at random would score. maps: (N, gh, gw). boxes: (N, 4).
    """
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return {
        "hits": pointing_game(maps, boxes).numpy(),
        "inside": attention_inside(maps, boxes).numpy(),
        "area": area.numpy(),
        "chance": pointing_chance(maps.shape[-2:], boxes).numpy(),
    }


def overlay(image, attention):
    """An image (H, W, 3) under its attention map (gh, gw), smoothly enlarged: (128, 128, 3) array in [0, 1]."""
    side = (128, 128)
    base = F.interpolate(torch.from_numpy(image).permute(2, 0, 1)[None], size=side, mode="nearest")
    heat = F.interpolate(attention[None, None].float(), size=side, mode="bicubic")[0, 0].clamp(min=0)
    heat = (heat / heat.max().clamp(min=1e-12)).numpy()
    color = matplotlib.colormaps[MAGNITUDE](heat)[..., :3]
    strength = (0.2 + 0.6 * heat)[..., None]  # where nothing is attended to, the image still shows
    return ((1 - strength) * base[0].permute(1, 2, 0).numpy() + strength * color).clip(0, 1)


# ---- numbers


def matrix(values, row_labels, column_labels, title="", signed=False, fmt=".2f", row_name="", column_name=""):
    """A small matrix with its numbers written in: attention weights by hand, a 3x3 batch, a mask.

    values: (R, C) numbers, nan where there is none, or bools, which are drawn as allowed (True) or blocked (False).
    signed: color by sign around 0. row_name, column_name: what the rows and columns are. fmt: how the
    numbers are formatted.
    """
    values = as_array(values)
    rows, columns = values.shape
    if len(row_labels) != rows or len(column_labels) != columns:
        raise ValueError(f"A {rows}x{columns} matrix got {len(row_labels)} row and {len(column_labels)} column labels.")
    boolean = values.dtype == bool
    written = [
        ["yes" if v else "no" for v in row] if boolean else ["–" if np.isnan(v) else format(v, fmt) for v in row]
        for row in values
    ]
    widest = max(len(s) for row in written for s in row)
    cell = max(0.32, widest * FONT * CHARACTER / 72 + 0.12)
    left = text_width(*row_labels) + 0.1 + 0.2 * bool(row_name)
    drop, overhang = slanted_size(column_labels, cell)
    left = max(left, overhang)
    below = drop + 0.22 * bool(column_name) + 0.3 * boolean
    fig, ax, top = canvas(left + columns * cell + 0.1, rows * cell + below, title)
    extent = (left, left + columns * cell, top - rows * cell, top)
    image = ax.imshow(
        np.ma.masked_invalid(values.astype(float)), extent=extent, aspect="auto", **color_scale(values, signed)
    )
    write_values(ax, image, written, left, top, cell)
    for i, text in enumerate(row_labels):
        ax.text(left - 0.06, top - (i + 0.5) * cell, text, ha="right", va="center", fontsize=FONT)
    slant_labels(ax, column_labels, left, top - rows * cell, cell)
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
    show(fig, titled(title, details))


def curves(lines, xlabel, ylabel, title="", hlines=None, log="", colors=None):
    """Lines, named at their ends.

    lines: {name: (x, y)}, equally long sequences. hlines: {name: y} for levels such as chance. log: axes on a
    logarithmic scale: "x", "y" or "xy". colors: {name: color}; a modality has its own, such as COLORS["image"].
    """
    lines = {name: (as_array(x), as_array(y)) for name, (x, y) in lines.items()}
    colors = {**{name: SERIES[i % len(SERIES)] for i, name in enumerate(lines)}, **(colors or {})}
    hlines = hlines or {}
    fig = figure(WIDTH, 3.1, title)
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
    elif "x" not in log and all(place % 1 == 0 for place in places):
        ax.xaxis.get_major_locator().set_params(integer=True)  # there is no layer 0.5
    ax.grid(axis="y")
    ax.margins(x=0.02)
    ends = {name: (y[-1], colors[name]) for name, (x, y) in lines.items()}
    levels = {f"{name} = {format_number(y)}": (y, "#555555") for name, y in hlines.items()}
    right = max(x[-1] for x, _ in lines.values())
    span = right - min(x[0] for x, _ in lines.values())
    direct = len(lines) <= 6 and all(right - x[-1] <= 0.1 * span for x, _ in lines.values())
    name_ends(ax, {**ends, **levels} if direct else levels)
    if not direct:
        fig.legend(loc="outside lower center", ncols=min(3, len(lines)))
    told = "; ".join(_line_sentence(name, x, y) for name, (x, y) in lines.items())
    levels = "".join(f"; {name} is {format_number(y)}" for name, y in hlines.items())
    show(fig, titled(title, f"{ylabel} against {xlabel}: {told}{levels}."))


def gate_values(steps, gates, title=""):
    """How far gates open during training: one panel per kind of gate, one line per layer.

    steps: S numbers. gates: {kind: {layer: S values of tanh(alpha), from -1 to 1}}.
    """
    steps = as_array(steps)
    gates = {kind: {layer: as_array(values) for layer, values in layers.items()} for kind, layers in gates.items()}
    for kind, layers in gates.items():
        for layer, values in layers.items():
            if values.shape != steps.shape or not np.all(np.abs(values) <= 1):
                raise ValueError(
                    f"The gate {kind!r}, {layer!r} needs one value of tanh(alpha), from -1 to 1, for each of the "
                    f"{len(steps)} steps; got {len(values)} from {values.min():.3g} to {values.max():.3g}."
                )
    fig = figure(WIDTH, 3.0, title)
    panels = fig.subplots(1, len(gates), sharey=True, squeeze=False)[0]
    for ax, (kind, layers) in zip(panels, gates.items()):
        shades = matplotlib.colormaps[MAGNITUDE](np.linspace(0, 0.82, len(layers)))  # dark: the first layer
        for values, color in zip(layers.values(), shades):
            ax.plot(steps, values, color=color)
        ax.axhline(0, color="#777777", lw=1, ls=(0, (2, 3)), zorder=0)
        ax.set(title=kind, xlabel="step", ylim=(-1.05, 1.05))
        ax.margins(x=0.02)
        name_ends(ax, {layer: (values[-1], color) for (layer, values), color in zip(layers.items(), shades)})
    panels[0].set_ylabel("tanh(alpha)")
    ends = "; ".join(
        f"{kind}: " + ", ".join(f"{layer} {values[-1]:+.2f}" for layer, values in layers.items())
        for kind, layers in gates.items()
    )
    show(fig, titled(title, f"Gates tanh(alpha) at the end. {ends}."))


def bars(values, xlabel, title="", chance=None, colors=None):
    """Horizontal bars with their values written on them.

    values: {name: number}, or {group: {name: number}}. chance: a level drawn as a line. colors: {name: color}.
    """
    groups = values if isinstance(next(iter(values.values())), dict) else {"": values}
    groups = {group: {name: float(v) for name, v in named.items()} for group, named in groups.items()}
    names = list(dict.fromkeys(name for named in groups.values() for name in named))
    cycle = SERIES[-1:] if len(groups) == 1 else SERIES
    colors = {**{name: cycle[i % len(cycle)] for i, name in enumerate(names)}, **(colors or {})}
    rows = [row for group, named in groups.items() for row in [(group, None)] * bool(group) + list(named.items())]
    fig = figure(WIDTH, 0.55 + 0.27 * len(rows) + 0.2 * (chance is not None), title)
    ax = fig.add_subplot(xlabel=xlabel)
    clear = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # keeps the line of chance out of the numbers
    for y, (name, value) in enumerate(rows):
        if value is not None:
            ax.barh(y, value, height=0.72, color=colors[name])
            ax.annotate(
                format_number(value), (max(value, 0), y), (4, 0), textcoords="offset points", va="center", bbox=clear
            )
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
        ax.set_title(f"dotted line: chance, {format_number(chance)}", fontsize=FONT, loc="right")
    told = "; ".join(
        (f"{group}: " if group else "") + ", ".join(f"{name} {format_number(v)}" for name, v in named.items())
        for group, named in groups.items()
    )
    show(fig, titled(title, f"{xlabel}: {told}{'' if chance is None else f'; chance is {format_number(chance)}'}."))


def spectrograms(waves, mels, captions, rate, title=""):
    """Each sound as its wave, and below it as its log-mel spectrogram, low bands at the bottom.

    waves: (N, samples). mels: (N, bands, columns). captions: N strings. rate: samples per second.
    """
    waves, mels = as_array(waves), as_array(mels)
    captions = checked_captions(captions, len(waves))
    if mels.ndim != 3 or waves.ndim != 2 or len(mels) != len(waves):
        raise ValueError(
            f"spectrograms needs waves (N, samples) and mels (N, bands, columns), not {waves.shape} and {mels.shape}."
        )
    columns = min(2, len(waves))
    rows = -(-len(waves) // columns)
    seconds = waves.shape[1] / rate
    fig = figure(WIDTH, 2.3 * rows, title)
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
    show(fig, titled(title, f"{count(len(waves), 'sound')} of {seconds:.2f} seconds: {'; '.join(captions)}."))


# ---- sentences


def _attention_sentence(scores):
    hits, n = int(scores["hits"].sum()), len(scores["hits"])
    return (
        f"The peak lies in the true box for {hits} of {count(n, 'image')} (at random: "
        f"{scores['chance'].sum():.1f}); {scores['inside'].mean():.0%} of the attention lies inside the boxes, "
        f"which cover {scores['area'].mean():.0%} of the images."
    )


def _line_sentence(name, x, y):
    """From where to where a line goes, and its extreme if that lies well beyond both ends."""
    told = f"{name} from {format_number(y[0])} to {format_number(y[-1])}"
    margin = 0.05 * (np.nanmax(y) - np.nanmin(y))
    for word, i, beyond in (
        ("lowest", int(np.nanargmin(y)), min(y[0], y[-1]) - np.nanmin(y)),
        ("highest", int(np.nanargmax(y)), np.nanmax(y) - max(y[0], y[-1])),
    ):
        if beyond > margin:
            told += f", {word} {format_number(y[i])} at {format_number(x[i])}"
    return told
