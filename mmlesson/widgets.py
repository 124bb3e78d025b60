"""Explorers: controls above an image that is redrawn in place. The stored notebook keeps the image itself.

Every control works from the keyboard: Tab to it, then the arrow keys.
"""

import ipywidgets
import numpy as np
import torch
from IPython.display import display as show_widgets
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Rectangle

from mmlesson import display, drawing, plots


class Explorer:
    """What explore() returns. controls: {name: ipywidgets widget}; sentence: what the image shows now."""

    def __init__(self, draw, controls):
        self.controls = controls
        self.sentence = None
        self._draw = draw
        self._image = self._line = None
        for control in controls.values():
            control.observe(self._redraw, "value")

    def _render(self):
        result = self._draw(**{name: control.value for name, control in self.controls.items()})
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(f"draw must return (figure, sentence), the sentence saying what it shows, not {result!r}.")
        drawn, self.sentence = result
        return drawn.png() if isinstance(drawn, Stage) else drawing.png(drawn)

    def _show(self):
        image = self._render()
        self._image = display.show(self.sentence, png=image, updatable=True)
        self._line = display.show(display.wrapped(self.sentence), updatable=True)

    def _redraw(self, change):
        try:
            image = self._render()
        except Exception as error:  # else it would vanish in the server's log, and the image would stand still
            display.update(self._line, display.wrapped(f"draw failed with {type(error).__name__}: {error}"))
            return
        display.update(self._image, self.sentence, png=image)
        display.update(self._line, display.wrapped(self.sentence))

    def _ipython_display_(self):
        """Nothing: explore() has shown it already, so ending a cell with it shows it once."""


class Stage:
    """A figure of which only the artists in `moving` (in drawing order) change: the rest is drawn once and kept."""

    def __init__(self, fig, moving):
        self.moving = moving
        self._canvas = FigureCanvasAgg(fig)
        self._rest = None
        for artist in moving:
            artist.set_animated(True)  # left out when the figure is drawn

    def png(self):
        """The whole figure as the bytes of a PNG."""
        if self._rest is None:
            self._canvas.draw()
            self._rest = self._canvas.copy_from_bbox(self._canvas.figure.bbox)
        self._canvas.restore_region(self._rest)
        for artist in self.moving:
            self._canvas.figure.draw_artist(artist)
        return drawing.encode(self._canvas, compress_level=3)  # the smallest file would take longer than the drawing


def explore(draw, title="", continuous_update=False, **controls):
    """Show controls, and below them draw(...) of their values, redrawn in place whenever one changes.

    draw(**values): returns (figure, sentence); or (stage, sentence), quickest, if it changes one Stage again and again.
    controls: what ipywidgets.interact takes: (low, high[, step]) for a slider, a list or dict for a menu, or a widget.
    continuous_update: redraw while a slider is dragged, for a draw of less than about 50 ms. Returns the Explorer.
    """
    made = {name: _control(name, short, continuous_update) for name, short in controls.items()}
    explorer = Explorer(draw, made)
    if display.in_notebook():
        heading = [ipywidgets.Label(title)] if title else []
        box = ipywidgets.VBox([*heading, *made.values()])
        names = ", ".join(control.description for control in made.values())
        view = {  # as ipywidgets 8 makes it; 7, which Colab has, has no method for it
            "text/plain": f"(In a running notebook, controls stand here: {names}.)",  # what a stored notebook shows
            "application/vnd.jupyter.widget-view+json": {
                "version_major": 2,
                "version_minor": 0,
                "model_id": box.model_id,
            },
        }
        show_widgets(view, raw=True)
        explorer._show()
    else:
        explorer._render()
        print(display.wrapped(explorer.sentence))
    return explorer


def temperature_explorer(similarity, images=None, captions=None):
    """A slider for the logit scale over the softmax of each row of `similarity`, with each row's entropy beside it.

    similarity: (N, N) cosine similarities, row i for image i. images: (N, 3, H, W). captions: N strings.
    """
    similarity = torch.as_tensor(similarity).detach().float().cpu()
    n = len(similarity)
    most = float(np.log(n))
    start = np.full((n, n), 1 / n)
    title, label = "The logit scale sharpens the softmax", "probability of the caption"
    panels = drawing.similarity_panels({"": start}, images, captions, title, (0, 1), label, margin=1.7)
    x, top, cell = panels.right, panels.top, panels.cell
    panels.ax.text(x, top + 0.02, f"entropy (ln {n} = {most:.2f})", va="bottom", fontsize=drawing.FONT)
    bars, values = [], []
    for i in range(n):
        bar = Rectangle((x, top - (i + 0.8) * cell), 0, 0.6 * cell, color=drawing.SERIES[-1])
        bars.append(panels.ax.add_patch(bar))
        values.append(panels.ax.text(x, top - (i + 0.5) * cell, "", va="center", fontsize=drawing.FONT))
    stage = Stage(panels.fig, [panels.image, *panels.frames, *panels.written, *bars, *values])

    def draw(scale):
        log_probabilities = (scale * similarity).log_softmax(dim=1)
        probabilities = log_probabilities.exp()
        entropy = -(probabilities * log_probabilities).sum(dim=1)
        _change(panels, probabilities.numpy())
        for bar, value, nats in zip(bars, values, entropy.tolist()):
            bar.set_width(1.1 * nats / most)
            value.set(text=drawing.two_digits(nats), x=x + bar.get_width() + 0.06)
        return stage, (
            f"Logit scale {scale:.1f} (temperature {1 / scale:.3f}): the matching caption gets a probability of "
            f"{probabilities.diagonal().mean():.2f} on average, the entropy is {entropy.mean():.2f} of at most "
            f"{most:.2f} nats, and the loss over the rows is {-log_probabilities.diagonal().mean():.2f}."
        )

    scale = ipywidgets.FloatLogSlider(value=1 / 0.07, base=10, min=0, max=2, step=0.02, readout_format=".1f")
    scale.description = "logit scale"
    return explore(draw, continuous_update=True, scale=scale)


def matrix_over_training(snapshots, images=None, captions=None):
    """A slider over saved steps of the similarity matrix, on one color scale.

    snapshots: {step: (N, N) similarities}. images: (N, 3, H, W). captions: N strings.
    """
    snapshots = {step: drawing.as_scores(values) for step, values in snapshots.items()}
    if len(snapshots) < 2:
        raise ValueError(f"matrix_over_training needs at least two saved steps, not {len(snapshots)}.")
    limits = min(v.min() for v in snapshots.values()), max(v.max() for v in snapshots.values())
    first = next(iter(snapshots.values()))
    title = "The diagonal lights up during training"
    panels = drawing.similarity_panels({"": first}, images, captions, title, limits, "similarity")
    stage = Stage(panels.fig, [panels.image, *panels.frames, *panels.written])

    def draw(step):
        _change(panels, snapshots[step])
        return stage, f"Step {step}: {drawing.match_sentence(snapshots[step])}."

    step = ipywidgets.SelectionSlider(options=[(str(s), s) for s in snapshots], description="step")
    return explore(draw, continuous_update=True, step=step)


def head_explorer(images, attention, boxes, captions=None, title="Some heads look at the object, some do not"):
    """A menu of heads and a slider of images: the head's attention over the image, and how often each head hits.

    images: (N, 3, H, W) in [0, 1]. attention: (layers, N, heads, gh, gw). boxes: (N, 4) as in plots.attention_maps.
    """
    images = drawing.as_images(images)
    captions = drawing.checked_captions(captions, len(images)) or [f"image {i}" for i in range(len(images))]
    attention, boxes = attention.detach().float().cpu(), boxes.detach().float().cpu()
    if attention.dim() != 5 or attention.shape[1] != len(images):
        raise ValueError(
            f"head_explorer needs attention of (layers, {len(images)} images, heads, gh, gw), "
            f"not {tuple(attention.shape)}."
        )
    layers, _, heads = attention.shape[:3]
    scores = {(i, j): plots.attention_scores(attention[i, :, j], boxes) for i in range(layers) for j in range(heads)}
    hit_rates = np.array([[scores[i, j]["hits"].mean() for j in range(heads)] for i in range(layers)])
    stage, select, show = _head_stage(images[0], hit_rates, title)

    def draw(head, image):
        i, j = head
        heat, score = attention[i, image, j], scores[head]
        result = f"{'hit' if score['hits'][image] else 'miss'}, {score['inside'][image]:.0%} inside"
        select(i, j)
        show(images[image], heat, boxes[image].tolist(), f"{captions[image]}: {result}")
        return stage, (
            f"Layer {i}, head {j} on {captions[image]}: {result} the box, which covers "
            f"{score['area'][image]:.0%}. Over all images this head hits {score['hits'].mean():.0%}; "
            f"at random it would be {score['chance'].mean():.0%}."
        )

    menu = ipywidgets.Dropdown(options=[(f"layer {i}, head {j}", (i, j)) for i, j in scores], description="head")
    slider = ipywidgets.IntSlider(max=len(images) - 1, description="image")
    return explore(draw, continuous_update=True, head=menu, image=slider)


def _head_stage(image, hit_rates, title):
    """head_explorer's stage, select(layer, head) and show(image, attention map, box, line)."""
    (layers, heads), side = hit_rates.shape, 2.2
    cell = min(0.5, 2.4 / heads)
    fig, ax, top = drawing.canvas(drawing.WIDTH, max(side, 0.6 + layers * cell) + 0.3, title)
    lefts, y, table = (0.03, side + 0.08), top - side, (2 * side + 0.75, top - 0.25)
    shown = [drawing.draw_image(ax, image, x, y, side) for x in lefts]
    frames = [drawing.draw_box(ax, (0, 0, 1, 1), x, y, side) for x in lefts]
    peak = drawing.draw_peak(ax, np.ones((1, 1)), lefts[1], y, side)
    ax.text(table[0], top, "fraction of images where it hits", fontsize=drawing.FONT, va="top")
    _draw_table(ax, hit_rates, *table, cell)
    chosen = ax.add_patch(Rectangle(table, cell, cell, fill=False, lw=2.5, ec=drawing.COLORS["text"]))
    line = ax.text(lefts[0], y - 0.05, "", va="top", fontsize=drawing.FONT)

    def select(i, j):
        chosen.set_xy((table[0] + j * cell, table[1] - (i + 1) * cell))

    def show(image, heat, box, text):
        shown[0].set_data(image)
        shown[1].set_data(plots.overlay(image, heat))
        x0, y0, x1, y1 = box
        for frame, x in zip(frames, lefts):
            frame.set_bounds(x + x0 * side, y + (1 - y1) * side, (x1 - x0) * side, (y1 - y0) * side)
        (rows, columns), (row, column) = heat.shape, divmod(int(heat.argmax()), heat.shape[1])
        peak.set_data([lefts[1] + (column + 0.5) / columns * side], [y + (1 - (row + 0.5) / rows) * side])
        line.set_text(text)

    return Stage(fig, [*shown, *frames, peak, chosen, line]), select, show


def _draw_table(ax, hit_rates, left, top, cell):
    """The hit rate of every head, layers by rows, with its upper left corner at (left, top)."""
    layers, heads = hit_rates.shape
    extent = (left, left + heads * cell, top - layers * cell, top)
    table = ax.imshow(hit_rates, extent=extent, cmap=drawing.MAGNITUDE, vmin=0, vmax=1, aspect="auto")
    drawing.write_values(ax, table, [[f"{v:.0%}" for v in row] for row in hit_rates], left, top, cell)
    drawing.slant_labels(ax, [str(j) for j in range(heads)], left, top - layers * cell, cell)
    ax.text(left - 0.06, top - layers * cell - 0.05, "head", ha="right", va="top", fontsize=drawing.FONT)
    for i in range(layers):
        ax.text(left - 0.06, top - (i + 0.5) * cell, f"layer {i}", ha="right", va="center", fontsize=drawing.FONT)


def shot_explorer(images, objects, names, words, ask):
    """Choose examples and their names; below, what the model calls another image, example by example.

    images: (N, 3, H, W) in [0, 1]. objects: N indices into names (K strings): what each image shows. words: made-up
    words to choose from. ask(examples, called, query): probabilities {word: p} of the next word, likeliest first, after
    the images with the indices `examples`, named `called`, and the image `query`.
    """
    images = drawing.as_images(images)
    labels = [(f"{i + 1} {names[o]}", i) for i, o in enumerate(objects)]

    def draw(examples, query, **called):
        called = list(called.values())
        said = [called[objects[i]] for i in examples]
        found = [ask(list(examples[:n]), said[:n], query) for n in range(len(examples) + 1)]
        right = [answers.get(called[objects[query]], 0.0) for answers in found]
        fig = _shot_figure(images, examples, said, query, found[-1], right)
        word, p = next(iter(found[-1].items()))
        told = ", ".join(f"{names[objects[i]]} = {name}" for i, name in zip(examples, said)) or "no examples"
        return fig, f"After {told}, the model calls the {names[objects[query]]} {word!r} ({p:.0%})."

    examples = ipywidgets.SelectMultiple(options=labels, value=(0, 1, 2), rows=6, description="examples")
    query = ipywidgets.Dropdown(options=labels, value=len(labels) - 1, description="ask about")
    called = {
        f"call_{k}": ipywidgets.Dropdown(options=words, value=words[k], description=f"the {name} is called")
        for k, name in enumerate(names)
    }
    return explore(draw, examples=examples, query=query, **called)


def _shot_figure(images, examples, said, query, answers, right):
    """The prompt as a strip of images and words; below, the likeliest answers, and the right one against examples."""
    fig = drawing.figure(drawing.WIDTH, 3.9, "Teach it a word with a few images")
    strip, below = fig.add_gridspec(2, 1, height_ratios=(1, 1.6))
    cells = [*zip(examples, said), (query, "?")]
    for ax in (axes := strip.subgridspec(1, max(len(cells), 7)).subplots(squeeze=False)[0]):
        ax.axis("off")
    for ax, (i, word) in zip(axes, cells):
        ax.imshow(images[i])
        ax.set_title(word, loc="center")
    left, line = below.subgridspec(1, 2).subplots()
    shown = dict(list(answers.items())[:5])
    left.barh(range(len(shown)), list(shown.values()), color=drawing.COLORS["text"])
    left.set_yticks(range(len(shown)), list(shown))
    left.invert_yaxis()
    left.set(xlim=(0, 1), xlabel="probability of the next word")
    line.plot(range(len(right)), right, marker="o", color=drawing.COLORS["fusion"])
    line.set(xlim=(-0.3, max(len(right) - 1, 1) + 0.3), ylim=(0, 1.05), xlabel="examples shown")
    line.set_xticks(range(len(right)))
    line.set_title("probability of the right word", fontsize=drawing.FONT)
    return fig


def gate_explorer(layers, ask, title="Turn the gates by hand"):
    """A slider for alpha, a menu of layers and one of sub-layers; below, the likeliest next words.

    layers: names of the gated layers. ask(alpha, layer, part): {word: p}, likeliest first, with tanh(alpha) as the
    gate of `layer` (an index; None for all) and `part` ("cross-attention", "dense", "both"), the others as trained.
    """

    def draw(alpha, layer, part):
        answers = dict(list(ask(alpha, layer, part).items())[:8])
        fig = drawing.figure(drawing.WIDTH, 2.6, title)
        ax = fig.add_subplot(xlabel="probability of the next word", xlim=(0, 1))
        ax.barh(range(len(answers)), list(answers.values()), color=drawing.COLORS["text"])
        ax.set_yticks(range(len(answers)), list(answers))
        ax.invert_yaxis()
        word, p = next(iter(answers.items()))
        where = "all layers" if layer is None else layers[layer]
        said = f"the gate is {np.tanh(alpha):+.2f}, and it says {word!r} ({p:.0%})"
        return fig, f"alpha = {alpha:.1f} in {where} ({part}): {said}."

    options = [("all layers", None), *((name, i) for i, name in enumerate(layers))]
    layer = ipywidgets.Dropdown(options=options, description="layer")
    return explore(draw, alpha=(-2.0, 2.0, 0.1), layer=layer, part=["both", "cross-attention", "dense"])


def draw_explorer(colors, objects, generate):
    """Menus for a prompt, sliders for how it is sampled; below, the image after some of its codes, and the entropies.

    colors, objects: words to choose from. generate(prompt, guidance, temperature, seed): images (N, 3, H, W) in [0, 1],
    after none and up to all of the codes in equal steps, and the entropy of each choice in nats (rows, columns). The
    latest result is kept, which makes the slider of codes quick.
    """
    latest = {}

    def draw(color, object, guidance, temperature, seed, codes):
        request = f"{color} {object}", guidance, temperature, seed
        if request not in latest:
            latest.clear()
            images, entropy = generate(*request)
            latest[request] = drawing.as_images(images), drawing.as_array(entropy)
        images, entropy = latest[request]
        shown = round(codes * (len(images) - 1))
        drawn = shown * entropy.size // (len(images) - 1)
        fig = drawing.figure(drawing.WIDTH, 2.7, "Say what it should draw, and how boldly")
        growing, whole, unsure = fig.subplots(1, 3)
        for ax, image, heading in (
            (growing, images[shown], f"after {drawn} codes"),
            (whole, images[-1], f"{color} {object}"),
        ):
            ax.imshow(image)
            ax.set_title(heading, loc="center")
            ax.axis("off")
        heat = unsure.imshow(entropy, cmap=drawing.MAGNITUDE, vmin=0)
        unsure.set_title("entropy of each choice", loc="center")
        unsure.axis("off")
        fig.colorbar(heat, ax=unsure, label="nats", shrink=0.8)
        sentence = (
            f"{color} {object}, guidance {guidance:g}, temperature {temperature:g}, seed {seed}: {drawn} of "
            f"{entropy.size} codes; a choice has {entropy.mean():.1f} nats of entropy on average."
        )
        return fig, sentence

    codes = ipywidgets.FloatSlider(value=1.0, max=1.0, step=1 / 16, description="fraction of codes")
    sampling = {"guidance": (0.0, 4.0, 0.5), "temperature": (0.0, 1.5, 0.1), "seed": (0, 20)}
    return explore(draw, color=colors, object=objects, **sampling, codes=codes)


def listen_explorer(colors, objects, languages, voices, listen):
    """Menus for what is said and by whom; below, its spectrogram and the image that the model draws of it.

    colors, objects: English words. languages: {name: code}. voices: names. listen(color, object, language, voice): a
    dict of "mel" (bands, columns), "image" (3, H, W) in [0, 1], "said" and "heard", both texts.
    """

    def draw(color, object, language, voice):
        found = listen(color, object, language, voice)
        fig = drawing.figure(drawing.WIDTH, 2.6, "Say it, see it")
        left, right = fig.subplots(1, 2, gridspec_kw={"width_ratios": (2, 1)})
        left.imshow(drawing.as_array(found["mel"]), origin="lower", aspect="auto", cmap=drawing.MAGNITUDE)
        left.set(xlabel="time (10 ms)", ylabel="mel band", title=f"{voice}: {color} {object}")
        right.imshow(drawing.as_images(found["image"][None])[0])
        right.set_title("drawn from what it heard", loc="center")
        right.axis("off")
        verdict = "as it was said" if found["heard"] == found["said"] else f"but it was {found['said']!r}"
        return fig, f"{voice} says {found['said']!r}; the model writes {found['heard']!r}, {verdict}."

    return explore(draw, color=colors, object=objects, language=languages, voice=voices)


def mask_explorer(images, captions, fill, block_mask, grid):
    """Controls that mask patches and words; below, what is left, what a model fills in, and the truth.

    images: (N, 3, H, W) in [0, 1]. captions: N strings. fill(index, masked, words): a model's answer for one image,
    masked (grid, grid) bool and the positions of the masked words in the caption; returns the filled image (3, h, w) in
    [0, 1] and one (word, probability) per masked word. block_mask(grid, patches, generator): draws (grid, grid) bool.
    grid: cells along each side, named A1, B1, ... to the right, A1, A2, ... downward.
    """
    images = drawing.as_images(images)
    captions = [caption.split() for caption in drawing.checked_captions(captions, len(images))]
    names = [[f"{chr(ord('A') + column)}{row + 1}" for column in range(grid)] for row in range(grid)]
    stage, shown, line = _mask_stage(images[0], names)

    def draw(image, fraction, blocks, cells, words):
        masked = block_mask(grid, round(fraction * grid**2), torch.Generator().manual_seed(blocks))
        for row, column in cells:
            masked[row, column] = True
        filled, found = fill(image, masked, words)
        shown[0].set_data(_grayed(images[image], masked))
        shown[1].set_data(drawing.as_images(filled[None])[0])
        shown[2].set_data(images[image])
        reads, says = _words_restored(captions[image], words, found)
        line.set_text("\n".join(drawing.wrap(text, drawing.WIDTH - 0.1, drawing.FONT) for text in (reads, says)))
        return stage, f"{int(masked.sum())} of {grid**2} patches are masked. {reads}. {says}."

    image = ipywidgets.IntSlider(max=len(images) - 1, description="image")
    fraction = ipywidgets.FloatSlider(value=0.4, max=0.8, step=0.05, readout_format=".0%")
    fraction.description = "fraction of patches"
    blocks = ipywidgets.IntSlider(max=9, description="other blocks")
    where = [(name, (i, j)) for i, row in enumerate(names) for j, name in enumerate(row)]
    cells = ipywidgets.SelectMultiple(options=where, rows=4, description="these patches too")
    words = ipywidgets.SelectMultiple(options=_positions(captions[0]), value=(1,), rows=4, description="words")
    image.observe(lambda change: setattr(words, "options", _positions(captions[change["new"]])), "value")
    return explore(draw, image=image, fraction=fraction, blocks=blocks, cells=cells, words=words)


def _mask_stage(image, names):
    """(stage, its three images, its text): what mask_explorer changes."""
    side, grid = 2.2, len(names)
    title = "Mask patches and words: what does it put there?"
    fig, ax, top = drawing.canvas(drawing.WIDTH, side + 1.15, title)
    lefts, y = [0.3 + k * (side + 0.2) for k in range(3)], top - side - 0.42
    for x, heading in zip(lefts, ("masked", "filled in by the model", "as it was")):
        ax.text(x, top, heading, va="top", fontsize=drawing.FONT)
    for i in range(grid):
        middle = (i + 0.5) * side / grid
        ax.text(lefts[0] + middle, y + side + 0.03, names[0][i][0], ha="center", va="bottom", fontsize=drawing.FONT - 1)
        ax.text(lefts[0] - 0.05, y + side - middle, names[i][0][1:], ha="right", va="center", fontsize=drawing.FONT - 1)
    shown = [drawing.draw_image(ax, image, x, y, side) for x in lefts]
    line = ax.text(0.03, y - 0.08, "", va="top", fontsize=drawing.FONT, linespacing=1.3)
    return Stage(fig, [*shown, line]), shown, line


def _grayed(image, masked):
    """The image (H, W, 3) with the masked cells (grid, grid) in gray."""
    size = np.array(image.shape[:2]) // len(masked)
    cover = np.kron(masked.numpy(), np.ones(size, dtype=bool))[..., None]
    return np.where(cover, 0.45, image)


def _positions(words):
    """Options of a list of words, numbered because a word can come twice: [("1 a", 0), ("2 red", 1), ...]."""
    return [(f"{i + 1} {word}", i) for i, word in enumerate(words)]


def _words_restored(caption, positions, found):
    """("It reads: a ____ cat", "It says: red (98%)") for masked positions; found: (word, probability) for each."""
    reads = " ".join("____" if i in positions else word for i, word in enumerate(caption))
    says = [
        f"{word} ({probability:.0%}{'' if word == caption[i] else f', was {caption[i]}'})"
        for i, (word, probability) in zip(positions, found)
    ]
    return f"It reads: {reads}", f"It says: {', '.join(says)}" if says else "No word is masked"


def _change(panels, values):
    """Update the matrix; for speed, only the matches and each row's maximum are labeled."""
    panels.image.set_data(values)
    rows = np.arange(len(values))
    shown = np.eye(len(values), dtype=bool)
    shown[rows, values.argmax(axis=1)] = True
    for text, value, visible in zip(panels.written, values.flat, shown.flat):
        text.set(text=drawing.two_digits(value), visible=visible)
    drawing.recolor_values(panels.image, panels.written)


def _control(name, short, continuous_update):
    """A control from what ipywidgets.interact takes."""
    if isinstance(short, dict):  # ipywidgets 8.0.0 takes pairs alone
        short = list(short.items())
    control = ipywidgets.interactive.widget_from_abbrev(short)
    if control is None:
        raise ValueError(
            f"The control {name} must be (low, high), (low, high, step), a list, a dict or a widget, not {short!r}."
        )
    control.description = control.description or name.replace("_", " ")
    control.style.description_width = "initial"
    control.layout.width = "28em"
    if hasattr(control, "continuous_update"):
        control.continuous_update = continuous_update
    return control
