"""What figures are made of: primitives in inches, labels that never overlap, the sentences below a figure.

`plots` and `widgets` draw with them; a reader calls those.
"""

import io
import textwrap
from dataclasses import dataclass

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.textpath import TextPath
from PIL import Image

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
CHARACTER = 0.57  # mean width of a character of the font, in font sizes


# Families with Korean letters, on Linux, Windows and macOS. matplotlib takes a letter from the first that has it.
KOREAN_FONTS = (
    "Noto Sans CJK KR",
    "Noto Sans KR",
    "NanumGothic",
    "Malgun Gothic",
    "Apple SD Gothic Neo",
    "AppleGothic",
)


def korean_font():
    """The first of KOREAN_FONTS that is installed, or None."""
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return next((name for name in KOREAN_FONTS if name in installed), None)


def style():
    """Set matplotlib's defaults for the course; lesson.start() does."""
    matplotlib.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.dpi": "figure",
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "font.family": ["DejaVu Sans", *filter(None, [korean_font()])],
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
    """What an Agg canvas holds, as the bytes of a PNG. options go to Pillow's PNG writer.

    Reduced to its 256 best colors: the eye sees no difference, and notebooks become half as large.
    """
    buffer = io.BytesIO()
    reduced = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(256)
    reduced.save(buffer, format="png", **options)
    return buffer.getvalue()


def figure(width, height, title):
    """A figure with room for `height` inches of content under the wrapped title."""
    text = wrap(title, width - 0.1, TITLE_FONT)
    extra = line_count(text) * line_height(TITLE_FONT) if title else 0
    fig = Figure(figsize=(width, height + extra), layout="constrained")
    if title:
        fig.suptitle(text, x=0.01, ha="left", fontsize=TITLE_FONT)
    return fig


def canvas(width, height, title):
    """(figure, axes, top): axes that cover the figure, in inches from its lower left corner; content ends below top."""
    text = wrap(title, max(width, 4.6) - 0.1, TITLE_FONT)
    extra = line_count(text) * line_height(TITLE_FONT) + 0.1 if title else 0.05
    width, total = max(width, 4.6) if title else width, height + extra + 0.05
    fig = Figure(figsize=(width, total), layout="none")
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, total), autoscale_on=False)
    ax.axis("off")
    if title:
        ax.text(0.05, total - 0.04, text, va="top", fontsize=TITLE_FONT)
    return fig, ax, total - extra


def draw_image(ax, image, x, y, side):
    """An image (H, W, 3) with its lower left corner at (x, y) inches."""
    return ax.imshow(image, extent=(x, x + side, y, y + side), aspect="auto", interpolation="nearest")


def draw_box(ax, box, x, y, side):
    """The true box, as fractions (x0, y0, x1, y1) from the upper left, over an image placed by draw_image."""
    x0, y0, x1, y1 = box
    place = (x + x0 * side, y + (1 - y1) * side)
    halo = [withStroke(linewidth=3, foreground="white")]
    patch = Rectangle(place, (x1 - x0) * side, (y1 - y0) * side, fill=False, lw=1.3, path_effects=halo)
    return ax.add_patch(patch)


def draw_peak(ax, attention, x, y, side):
    """A + at the center of the map's largest cell."""
    row, column = divmod(int(attention.argmax()), attention.shape[1])
    at = x + (column + 0.5) / attention.shape[1] * side, y + (1 - (row + 0.5) / attention.shape[0]) * side
    halo = [withStroke(linewidth=3.5, foreground="black")]
    return ax.plot(*at, "+", color="white", ms=8, mew=1.6, path_effects=halo)[0]


@dataclass
class Panels:
    """A figure of similarity matrices, and what is needed to change the first of them or to draw beside it."""

    fig: Figure
    ax: matplotlib.axes.Axes  # in inches
    image: matplotlib.image.AxesImage
    frames: list  # around the true matches
    written: list  # the texts of the values, row by row; none if the cells are too small
    right: float  # inches, where the free margin begins
    top: float
    cell: float  # inches, the side of a cell


def similarity_panels(matrices, images, captions, title, limits, label, margin=0):
    """Similarity matrices {name: (N, M)} side by side, with `margin` inches left free at the right."""
    rows, columns = next(iter(matrices.values())).shape
    images = None if images is None else as_images(images)
    captions = checked_captions(captions, columns)
    if images is not None and len(images) != rows:
        raise ValueError(f"A similarity matrix of {rows} rows got {len(images)} images: expected one per row.")
    many, gap, bar = len(matrices), 0.15, 0.95
    thumbnails = images is not None
    cell = min(0.56, (WIDTH - bar - margin - gap * (many - 1)) / (columns * many + thumbnails))
    drop, overhang = slanted_size(captions, cell) if captions else (0, 0)
    left = max(cell * thumbnails, overhang)
    right = left + many * columns * cell + (many - 1) * gap
    head = line_height(FONT) + 0.04 if any(matrices) else 0  # their names
    fig, ax, top = canvas(right + bar + margin, head + rows * cell + drop, title)
    top -= head
    drawn = []
    for k, (name, values) in enumerate(matrices.items()):
        x = left + k * (columns * cell + gap)
        drawn.append(_similarity(ax, values, limits, x, top, cell))
        ax.text(x, top + 0.03, name, fontsize=FONT, va="bottom")
        if captions:
            slant_labels(ax, captions, x, top - rows * cell, cell)
    for i in range(rows if thumbnails else 0):
        draw_image(ax, images[i], left - cell, top - (i + 1) * cell, cell * 0.95)
    _colorbar(fig, drawn[0][0], right + 0.12, top - rows * cell, rows * cell, label)
    return Panels(fig, ax, *drawn[0], right + bar, top, cell)


def _similarity(ax, values, limits, left, top, cell):
    """One matrix with the true matches outlined: (image, frames, texts), as Panels keeps them."""
    rows, columns = values.shape
    extent = (left, left + columns * cell, top - rows * cell, top)
    image = ax.imshow(values, extent=extent, cmap=MAGNITUDE, vmin=limits[0], vmax=limits[1], aspect="auto")
    halo = [withStroke(linewidth=3, foreground="white")]
    frames = []
    target = diagonal(values)
    for i, j in enumerate(() if target is None else target):
        place = left + j * cell, top - (i + 1) * cell
        frame = Rectangle(place, cell, cell, fill=False, lw=1.4, ec=COLORS["text"], path_effects=halo)
        frames.append(ax.add_patch(frame))
    texts = [[two_digits(v) for v in row] for row in values] if cell >= 0.45 else []
    return image, frames, write_values(ax, image, texts, left, top, cell)


def _colorbar(fig, image, x, y, height, label):
    width, total = fig.get_size_inches()
    height, y = min(height, 3), y + max(0, height - 3)
    axes = fig.add_axes((x / width, y / total, 0.13 / width, height / total))
    bar = fig.colorbar(image, cax=axes)
    bar.locator = matplotlib.ticker.MaxNLocator(4)
    bar.outline.set_visible(False)
    bar.set_label(label, fontsize=FONT)
    bar.ax.tick_params(labelsize=FONT - 0.5, length=2)


def write_values(ax, image, written, left, top, cell):
    """Write each value in its cell, light on dark. Returns the texts, row by row."""
    texts = []
    for i, row in enumerate(written):
        for j, text in enumerate(row):
            x, y = left + (j + 0.5) * cell, top - (i + 0.5) * cell
            texts.append(ax.text(x, y, text, ha="center", va="center", fontsize=FONT - 0.5))
    recolor_values(image, texts)
    return texts


def color_scale(values, signed):
    """How imshow colors a matrix: {"cmap", "vmin", "vmax"}. What is not finite, such as a masked score, is gray."""
    if values.dtype == bool:
        return {"cmap": matplotlib.colors.ListedColormap(["#444444", "#CFE3F1"]), "vmin": 0, "vmax": 1}
    finite = values[np.isfinite(values)] if np.isfinite(values).any() else np.zeros(1)
    low, high = (-np.abs(finite).max(), np.abs(finite).max()) if signed else (finite.min(), finite.max())
    name = SIGNED if signed else MAGNITUDE
    return {"cmap": matplotlib.colormaps[name].with_extremes(bad="#DDDDDD"), "vmin": low, "vmax": high}


def recolor_values(image, texts):
    """Color the values written over `image` light on dark, or dark on light."""
    rgb = image.cmap(image.norm(image.get_array().ravel()))[:, :3]
    for text, lightness in zip(texts, rgb @ (0.299, 0.587, 0.114)):
        text.set_color("black" if lightness > 0.5 else "white")


def slant_labels(ax, labels, left, bottom, cell):
    """Column labels, slanted under their columns, or level where they fit."""
    level = text_width(*labels) < cell - 0.04
    for j, text in enumerate(labels):
        x = left + (j + 0.5) * cell
        if level:
            ax.text(x, bottom - 0.05, text, ha="center", va="top", fontsize=FONT)
        else:
            ax.text(
                x + 0.04, bottom - 0.05, text, rotation=45, ha="right", va="top", rotation_mode="anchor", fontsize=FONT
            )


def slanted_size(labels, cell):
    """(drop, overhang) of slant_labels in inches: how far it reaches below, and to the left of the first cell."""
    if text_width(*labels) < cell - 0.04:
        return line_height(FONT) + 0.1, 0
    slope = 0.5**0.5
    overhang = max(text_width(text) * slope - (j + 0.5) * cell for j, text in enumerate(labels))
    return (text_width(*labels) + line_height(FONT)) * slope + 0.1, overhang + 0.05


def name_ends(ax, ends):
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


def titled(title, details):
    """The sentence of a figure: its title, then the details."""
    details = details[0].upper() + details[1:]
    return f"{title.rstrip('.')}. {details}" if title else details


def match_sentence(values):
    """How the true matches of a similarity matrix (N, M) stand out from the other scores."""
    target = diagonal(values)
    if target is None:
        return f"{values.shape[0]} by {values.shape[1]} scores from {values.min():.2f} to {values.max():.2f}"
    rows = np.arange(len(values))
    right = values[rows, target]
    others = np.ma.masked_array(values, np.zeros_like(values, dtype=bool))
    others[rows, target] = np.ma.masked
    best = int((others.max(axis=1).filled(-np.inf) < right).sum())
    return (
        f"the matching caption has the highest score for {best} of {count(len(values), 'image')}, "
        f"mean score of a match {two_digits(right.mean())}, of the others {two_digits(others.mean())}"
    )


def format_number(value):
    """0.0123, 12.3, 1,234: three digits, or a whole number from 100 up."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def two_digits(value):
    """0.50, -1.25, and never -0.00."""
    return f"{round(float(value), 2) + 0.0:.2f}"  # + 0.0 turns -0.0 into 0.0


def count(n, noun):
    """ "1 image", "2 images"."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def as_array(values):
    """A tensor, list or array as a numpy array on the CPU."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return values.float().numpy() if values.is_floating_point() else values.numpy()
    return np.asarray(values)


def as_images(images):
    """Images (N, 3, H, W) in [0, 1], or uint8 from 0 to 255 -> (N, H, W, 3) array. Raises ValueError for others."""
    if not isinstance(images, torch.Tensor) or images.dim() != 4 or images.shape[1] != 3:
        found = tuple(images.shape) if hasattr(images, "shape") else type(images).__name__
        raise ValueError(f"Images must be a tensor of (N, 3, H, W) in [0, 1], not {found}.")
    if images.dtype == torch.uint8:
        images = images / 255
    images = images.detach().float().cpu()
    if images.numel() and images.max() > 20:  # a model's images may leave [0, 1] a little
        raise ValueError(f"Images must be in [0, 1], and these go up to {images.max():.0f}: divide them by 255.")
    return images.clamp(0, 1).permute(0, 2, 3, 1).numpy()


def as_scores(similarity):
    """A similarity matrix (N, M) as an array. Raises ValueError if it has another shape or is not finite."""
    values = as_array(similarity)
    if values.ndim != 2 or not np.isfinite(values).all():
        found = f"shape {values.shape}" if values.ndim != 2 else "nan or inf among its values"
        raise ValueError(f"A similarity matrix must be (images, captions) of finite numbers, not with {found}.")
    return values


def checked_captions(captions, n):
    """The captions as a list, or None. Raises ValueError unless there are n."""
    if captions is not None and len(captions) != n:
        raise ValueError(f"Got {len(captions)} captions for {n} places: expected one caption each.")
    return None if captions is None else list(captions)


def diagonal(values):
    """The column of each row's true match: (N,) of an (N, N) matrix, None if the matrix is not square."""
    return np.arange(len(values)) if values.shape[0] == values.shape[1] else None


def text_width(*texts):
    """Inches that the longest of the texts takes at the figures' font size."""
    longest = max(TextPath((0, 0), text, size=FONT).get_extents().x1 if text.strip() else 0 for text in texts)
    return 1.08 * longest / 72  # drawn in pixels, letters stand a little wider


def line_height(size):
    """Inches from line to line at a font size in points."""
    return size * 1.3 / 72


def line_count(*texts):
    """The number of lines of the longest text."""
    return max(text.count("\n") for text in texts) + 1


def wrap(text, inches, size):
    """The text in lines that fit into a width."""
    return textwrap.fill(text, max(4, int(inches * 72 / (size * CHARACTER))))
