"""Explorers: controls above a picture that is redrawn in place. The stored notebook keeps the picture itself.

Every control works from the keyboard: Tab to it, then the arrow keys.
"""

import ipywidgets
import numpy as np
import torch
from IPython.display import display
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Rectangle

from mmlesson import plots
from mmlesson.output import emit, in_notebook, update, wrapped


class Explorer:
    """What explore() returns. controls: {name: ipywidgets widget}; sentence: what the picture shows now."""

    def __init__(self, draw, controls):
        self.controls = controls
        self.sentence = None
        self._draw = draw
        self._picture = self._line = None
        for control in controls.values():
            control.observe(self._redraw, "value")

    def _render(self):
        result = self._draw(**{name: control.value for name, control in self.controls.items()})
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(f"draw must return (figure, sentence), the sentence saying what it shows, not {result!r}.")
        drawn, self.sentence = result
        return drawn.png() if isinstance(drawn, Stage) else plots.png(drawn)

    def _show(self):
        picture = self._render()
        self._picture = emit(self.sentence, png=picture, updatable=True)
        self._line = emit(wrapped(self.sentence), updatable=True)

    def _redraw(self, change):
        try:
            picture = self._render()
        except Exception as error:  # else it would vanish in the server's log, and the picture just stand still
            update(self._line, wrapped(f"draw failed with {type(error).__name__}: {error}"))
            return
        update(self._picture, self.sentence, png=picture)
        update(self._line, wrapped(self.sentence))

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
        return plots.encode(self._canvas, compress_level=3)  # the smallest file would take longer than the drawing


def explore(draw, title="", continuous_update=False, **controls):
    """Show controls, and below them draw(...) of their values, redrawn in place whenever one changes.

    draw(**values): returns (figure, sentence); or (stage, sentence), quickest, if it changes one Stage again and again.
    controls: what ipywidgets.interact takes: (low, high[, step]) for a slider, a list or dict for a menu, or a widget.
    continuous_update: redraw while a slider is dragged, for a draw of less than about 50 ms. Returns the Explorer.
    """
    made = {name: _control(name, short, continuous_update) for name, short in controls.items()}
    explorer = Explorer(draw, made)
    if in_notebook():
        heading = [ipywidgets.Label(title)] if title else []
        view = ipywidgets.VBox([*heading, *made.values()])._repr_mimebundle_()
        names = ", ".join(control.description for control in made.values())
        view["text/plain"] = f"(In a running notebook, controls stand here: {names}.)"  # what a stored notebook shows
        display(view, raw=True)
        explorer._show()
    else:
        explorer._render()
        print(wrapped(explorer.sentence))
    return explorer


def temperature_explorer(similarity, images=None, captions=None, title="The logit scale sharpens the softmax"):
    """A slider for the logit scale over the softmax of each row of `similarity`, with each row's entropy beside it.

    similarity: (N, N) cosine similarities, row i = picture i. images: (N, 3, H, W). captions: N strings.
    """
    similarity = torch.as_tensor(similarity).detach().float().cpu()
    n = len(similarity)
    most = float(np.log(n))
    start = np.full((n, n), 1 / n)
    panels = plots._similarity_panels(
        {"": start}, images, captions, title, np.arange(n), (0, 1), "probability of the caption", margin=1.7
    )
    x, top, cell = panels.right, panels.top, panels.cell
    panels.ax.text(x, top + 0.02, f"entropy (ln {n} = {most:.2f})", va="bottom", fontsize=plots.FONT)
    bars, values = [], []
    for i in range(n):
        bar = Rectangle((x, top - (i + 0.8) * cell), 0, 0.6 * cell, color=plots.SERIES[-1])
        bars.append(panels.ax.add_patch(bar))
        values.append(panels.ax.text(x, top - (i + 0.5) * cell, "", va="center", fontsize=plots.FONT))
    stage = Stage(panels.fig, [panels.image, *panels.frames, *panels.written, *bars, *values])

    def draw(scale):
        log_probabilities = (scale * similarity).log_softmax(dim=1)
        probabilities = log_probabilities.exp()
        entropy = -(probabilities * log_probabilities).sum(dim=1)
        _change(panels, probabilities.numpy())
        for bar, value, nats in zip(bars, values, entropy.tolist()):
            bar.set_width(1.1 * nats / most)
            value.set(text=plots._two_digits(nats), x=x + bar.get_width() + 0.06)
        return stage, (
            f"Logit scale {scale:.1f} (temperature {1 / scale:.3f}): the matching caption gets a probability of "
            f"{probabilities.diagonal().mean():.2f} on average, the entropy is {entropy.mean():.2f} of at most "
            f"{most:.2f} nats, and the loss over the rows is {-log_probabilities.diagonal().mean():.2f}."
        )

    scale = ipywidgets.FloatLogSlider(value=1 / 0.07, base=10, min=0, max=2, step=0.02, readout_format=".1f")
    scale.description = "logit scale"
    return explore(draw, continuous_update=True, scale=scale)


def matrix_over_training(snapshots, images=None, captions=None, title="The diagonal lights up during training"):
    """A slider over saved steps of the similarity matrix, on one color scale.

    snapshots: {step: (N, N) similarities}. images: (N, 3, H, W). captions: N strings.
    """
    snapshots = {step: plots._scores(values) for step, values in snapshots.items()}
    if len(snapshots) < 2:
        raise ValueError(f"matrix_over_training needs at least two saved steps, not {len(snapshots)}.")
    limits = min(v.min() for v in snapshots.values()), max(v.max() for v in snapshots.values())
    first = next(iter(snapshots.values()))
    target = np.arange(len(first))
    panels = plots._similarity_panels({"": first}, images, captions, title, target, limits, "similarity")
    stage = Stage(panels.fig, [panels.image, *panels.frames, *panels.written])

    def draw(step):
        _change(panels, snapshots[step])
        return stage, f"Step {step}: {plots._match_sentence(snapshots[step], target)}."

    step = ipywidgets.SelectionSlider(options=[(str(s), s) for s in snapshots], description="step")
    return explore(draw, continuous_update=True, step=step)


def head_explorer(images, attention, boxes, captions=None, title="Some heads look at the object, some do not"):
    """A menu of heads and a slider of pictures: the head's attention over the picture, and how often each head hits.

    images: (N, 3, H, W) in [0, 1]. attention: (layers, N, heads, gh, gw). boxes: (N, 4) as in plots.attention_maps.
    """
    pictures = plots._pictures(images)
    captions = plots._captions(captions, len(pictures)) or [f"picture {i}" for i in range(len(pictures))]
    attention, boxes = attention.detach().float().cpu(), boxes.detach().float().cpu()
    if attention.dim() != 5 or attention.shape[1] != len(pictures):
        raise ValueError(
            f"head_explorer needs attention of (layers, {len(pictures)} pictures, heads, gh, gw), "
            f"not {tuple(attention.shape)}."
        )
    layers, _, heads = attention.shape[:3]
    scores = {(i, j): plots.attention_scores(attention[i, :, j], boxes) for i in range(layers) for j in range(heads)}
    shares = np.array([[scores[i, j]["hits"].mean() for j in range(heads)] for i in range(layers)])
    side, cell = 2.2, min(0.5, 2.4 / heads)
    fig, ax, top = plots._canvas(plots.WIDTH, max(side, 0.6 + layers * cell) + 0.3, title)
    left, grid, y = side + 0.08, 2 * side + 0.75, top - side
    shown = [plots._picture(ax, pictures[0], 0.03, y, side), plots._picture(ax, pictures[0], left, y, side)]
    frames = [plots._box(ax, (0, 0, 1, 1), x, y, side) for x in (0.03, left)]
    peak = plots._peak(ax, attention[0, 0, 0], left, y, side)
    ax.text(grid, top, "share of pictures where it hits", fontsize=plots.FONT, va="top")
    top -= 0.25
    extent = (grid, grid + heads * cell, top - layers * cell, top)
    table = ax.imshow(shares, extent=extent, cmap=plots.MAGNITUDE, vmin=0, vmax=1, aspect="auto")
    plots._write_values(ax, table, [[f"{v:.0%}" for v in row] for row in shares], grid, top, cell)
    plots._slant(ax, [str(j) for j in range(heads)], grid, top - layers * cell, cell)
    ax.text(grid - 0.06, top - layers * cell - 0.05, "head", ha="right", va="top", fontsize=plots.FONT)
    for i in range(layers):
        ax.text(grid - 0.06, top - (i + 0.5) * cell, f"layer {i}", ha="right", va="center", fontsize=plots.FONT)
    chosen = ax.add_patch(Rectangle((grid, top), cell, cell, fill=False, lw=2.5, ec=plots.COLORS["text"]))
    line = ax.text(0.03, y - 0.05, "", va="top", fontsize=plots.FONT)
    stage = Stage(fig, [*shown, *frames, peak, chosen, line])

    def draw(head, picture):
        i, j = head
        heat, x0, score = attention[i, picture, j], [0.03, left], scores[head]
        shown[0].set_data(pictures[picture])
        shown[1].set_data(plots.overlay(pictures[picture], heat))
        a, b, c, d = boxes[picture].tolist()
        for frame, x in zip(frames, x0):
            frame.set_bounds(x + a * side, y + (1 - d) * side, (c - a) * side, (d - b) * side)
        row, column = divmod(int(heat.argmax()), heat.shape[1])
        peak.set_data([left + (column + 0.5) / heat.shape[1] * side], [y + (1 - (row + 0.5) / heat.shape[0]) * side])
        chosen.set_xy((grid + j * cell, top - (i + 1) * cell))
        result = f"{'hit' if score['hits'][picture] else 'miss'}, {score['inside'][picture]:.0%} inside"
        line.set_text(f"{captions[picture]}: {result}")
        return stage, (
            f"Layer {i}, head {j} on {captions[picture]}: {result} the box, which covers "
            f"{score['area'][picture]:.0%}. Over all pictures this head hits {score['hits'].mean():.0%}; "
            f"at random it would be {score['chance'].mean():.0%}."
        )

    menu = ipywidgets.Dropdown(options=[(f"layer {i}, head {j}", (i, j)) for i, j in scores], description="head")
    slider = ipywidgets.IntSlider(max=len(pictures) - 1, description="picture")
    return explore(draw, continuous_update=True, head=menu, picture=slider)


def shot_explorer(images, things, names, words, ask, title="Teach it a word with a few pictures"):
    """Choose examples and what they are called; below, what a model calls another picture, example by example.

    images: (N, 3, H, W) in [0, 1]. things: N indices into names (K strings): what each picture shows. words: made-up
    words to choose from. ask(examples, said, query): probabilities {word: p} of the next word, likeliest first, after
    the pictures with the indices `examples`, called `said`, and the picture `query`.
    """
    pictures = plots._pictures(images)
    labels = [(f"{i + 1} {names[thing]}", i) for i, thing in enumerate(things)]

    def draw(examples, query, **called):
        called = list(called.values())
        said = [called[things[i]] for i in examples]
        found = [ask(list(examples[:n]), said[:n], query) for n in range(len(examples) + 1)]
        right = [answers.get(called[things[query]], 0.0) for answers in found]
        fig = _shot_figure(pictures, examples, said, query, found[-1], right, title)
        word, p = next(iter(found[-1].items()))
        told = ", ".join(f"{names[things[i]]} = {name}" for i, name in zip(examples, said)) or "no examples"
        return fig, f"After {told}, the model calls the {names[things[query]]} {word!r} ({p:.0%})."

    examples = ipywidgets.SelectMultiple(options=labels, value=(0, 1, 2), rows=6, description="examples")
    query = ipywidgets.Dropdown(options=labels, value=len(labels) - 1, description="ask about")
    called = {
        f"call_{k}": ipywidgets.Dropdown(options=words, value=words[k], description=f"the {name} is called")
        for k, name in enumerate(names)
    }
    return explore(draw, examples=examples, query=query, **called)


def _shot_figure(pictures, examples, said, query, answers, right, title):
    """The prompt as a strip of pictures and words; below, the likeliest answers and the right one's way up."""
    fig = plots._figure(plots.WIDTH, 3.9, title)
    strip, below = fig.add_gridspec(2, 1, height_ratios=(1, 1.6))
    cells = [*zip(examples, said), (query, "?")]
    for ax in (axes := strip.subgridspec(1, max(len(cells), 7)).subplots(squeeze=False)[0]):
        ax.axis("off")
    for ax, (i, word) in zip(axes, cells):
        ax.imshow(pictures[i])
        ax.set_title(word, loc="center")
    left, line = below.subgridspec(1, 2).subplots()
    shown = dict(list(answers.items())[:5])
    left.barh(range(len(shown)), list(shown.values()), color=plots.COLORS["text"])
    left.set_yticks(range(len(shown)), list(shown))
    left.invert_yaxis()
    left.set(xlim=(0, 1), xlabel="probability of the next word")
    line.plot(range(len(right)), right, marker="o", color=plots.COLORS["fusion"])
    line.set(xlim=(-0.3, max(len(right) - 1, 1) + 0.3), ylim=(0, 1.05), xlabel="examples shown")
    line.set_xticks(range(len(right)))
    line.set_title("probability of the right word", fontsize=plots.FONT)
    return fig


def gate_explorer(layers, ask, title="Turn the gates by hand"):
    """A slider for alpha, a menu of layers and one of sub-layers; below, the likeliest next words.

    layers: names of the gated layers. ask(alpha, layer, part): {word: p}, likeliest first, with tanh(alpha) in the
    gates of `layer` (an index; None for all) and `part` ("cross-attention", "dense", "both"), the others as trained.
    """

    def draw(alpha, layer, part):
        answers = dict(list(ask(alpha, layer, part).items())[:8])
        fig = plots._figure(plots.WIDTH, 2.6, title)
        ax = fig.add_subplot(xlabel="probability of the next word", xlim=(0, 1))
        ax.barh(range(len(answers)), list(answers.values()), color=plots.COLORS["text"])
        ax.set_yticks(range(len(answers)), list(answers))
        ax.invert_yaxis()
        word, p = next(iter(answers.items()))
        where = "all layers" if layer is None else layers[layer]
        said = f"the gate is {np.tanh(alpha):+.2f}, and it says {word!r} ({p:.0%})"
        return fig, f"alpha = {alpha:.1f} in {where} ({part}): {said}."

    options = [("all layers", None), *((name, i) for i, name in enumerate(layers))]
    return explore(draw, alpha=(-2.0, 2.0, 0.1), layer=ipywidgets.Dropdown(options=options, description="layer"),
                   part=["both", "cross-attention", "dense"])  # fmt: skip


def draw_explorer(colors, objects, paint, title="Say what it should draw, and how boldly"):
    """Menus for a prompt, sliders for how it is sampled; below, the picture after some of its codes, and the entropies.

    colors, objects: words to choose from. paint(prompt, guidance, temperature, seed): the pictures after none and up to
    all of the codes, equally many from each to the next, (N, 3, H, W) in [0, 1], and the entropy of each choice in nats
    (rows, columns). What was painted last is kept, so that the slider of codes is quick.
    """
    painted = {}

    def draw(color, object, guidance, temperature, seed, codes):
        asked = f"{color} {object}", guidance, temperature, seed
        if asked not in painted:
            painted.clear()
            pictures, entropy = paint(*asked)
            painted[asked] = plots._pictures(pictures), plots._array(entropy)
        pictures, entropy = painted[asked]
        shown = round(codes * (len(pictures) - 1))
        drawn = shown * entropy.size // (len(pictures) - 1)
        fig = plots._figure(plots.WIDTH, 2.7, title)
        growing, whole, unsure = fig.subplots(1, 3)
        for ax, picture, heading in (
            (growing, pictures[shown], f"after {drawn} codes"),
            (whole, pictures[-1], f"{color} {object}"),
        ):
            ax.imshow(picture)
            ax.set_title(heading, loc="center")
            ax.axis("off")
        heat = unsure.imshow(entropy, cmap=plots.MAGNITUDE, vmin=0)
        unsure.set_title("entropy of each choice", loc="center")
        unsure.axis("off")
        fig.colorbar(heat, ax=unsure, label="nats", shrink=0.8)
        sentence = (
            f"{color} {object}, guidance {guidance:g}, temperature {temperature:g}, seed {seed}: {drawn} of "
            f"{entropy.size} codes; a choice has {entropy.mean():.1f} nats of entropy on average."
        )
        return fig, sentence

    return explore(
        draw, color=colors, object=objects, guidance=(0.0, 4.0, 0.5), temperature=(0.0, 1.5, 0.1), seed=(0, 20),
        codes=ipywidgets.FloatSlider(value=1.0, max=1.0, step=1 / 16, description="share of codes"),
    )  # fmt: skip


def listen_explorer(colors, objects, languages, voices, listen, title="Say it, see it"):
    """Menus for what is said and by whom; below, its spectrogram and the picture that a model draws of it.

    colors, objects: English words. languages: {name: code}. voices: names. listen(color, object, language, voice): a
    dict of "mel" (bands, columns), "picture" (3, H, W) in [0, 1], "said" and "heard", both texts.
    """

    def draw(color, object, language, voice):
        found = listen(color, object, language, voice)
        fig = plots._figure(plots.WIDTH, 2.6, title)
        left, right = fig.subplots(1, 2, gridspec_kw={"width_ratios": (2, 1)})
        left.imshow(plots._array(found["mel"]), origin="lower", aspect="auto", cmap=plots.MAGNITUDE)
        left.set(xlabel="time (10 ms)", ylabel="mel band", title=f"{voice}: {color} {object}")
        right.imshow(plots._pictures(found["picture"][None])[0])
        right.set_title("drawn from what it heard", loc="center")
        right.axis("off")
        verdict = "as it was said" if found["heard"] == found["said"] else f"but it was {found['said']!r}"
        return fig, f"{voice} says {found['said']!r}; the model writes {found['heard']!r}, {verdict}."

    return explore(draw, color=colors, object=objects, language=languages, voice=voices)


def mask_explorer(images, captions, fill, block_mask, grid, title="Hide patches and words: what does it put there?"):
    """Controls that hide patches and words; below, what is left, what a model puts in the holes, and the truth.

    images: (N, 3, H, W) in [0, 1]. captions: N strings. fill(picture, hidden, words): a model's answer for the index of
    a picture, hidden (grid, grid) bool and the places of the hidden words in the caption; returns the filled picture
    (3, h, w) in [0, 1] and one (word, probability) for each hidden word. block_mask(grid, patches, generator): draws
    (grid, grid) bool. grid: cells along each side, named A1, B1, ... to the right, A1, A2, ... downward.
    """
    pictures = plots._pictures(images)
    captions = [caption.split() for caption in plots._captions(captions, len(pictures))]
    names = [[f"{chr(ord('A') + column)}{row + 1}" for column in range(grid)] for row in range(grid)]
    stage, shown, line = _mask_stage(pictures[0], names, title)

    def draw(picture, share, blocks, cells, words):
        hidden = block_mask(grid, round(share * grid**2), torch.Generator().manual_seed(blocks))
        for row, column in cells:
            hidden[row, column] = True
        filled, found = fill(picture, hidden, words)
        shown[0].set_data(_grayed(pictures[picture], hidden))
        shown[1].set_data(plots._pictures(filled[None])[0])
        shown[2].set_data(pictures[picture])
        reads, says = _words_restored(captions[picture], words, found)
        line.set_text("\n".join(plots._wrap(text, plots.WIDTH - 0.1, plots.FONT) for text in (reads, says)))
        return stage, f"{int(hidden.sum())} of {grid**2} patches are hidden. {reads}. {says}."

    picture = ipywidgets.IntSlider(max=len(pictures) - 1, description="picture")
    share = ipywidgets.FloatSlider(value=0.4, max=0.8, step=0.05, description="share of patches", readout_format=".0%")
    blocks = ipywidgets.IntSlider(max=9, description="other blocks")
    where = [(name, (i, j)) for i, row in enumerate(names) for j, name in enumerate(row)]
    cells = ipywidgets.SelectMultiple(options=where, rows=4, description="these patches too")
    words = ipywidgets.SelectMultiple(options=_places(captions[0]), value=(1,), rows=4, description="words")
    picture.observe(lambda change: setattr(words, "options", _places(captions[change["new"]])), "value")
    return explore(draw, picture=picture, share=share, blocks=blocks, cells=cells, words=words)


def _mask_stage(picture, names, title):
    """(stage, its three pictures, its text): what mask_explorer changes."""
    side, grid = 2.2, len(names)
    fig, ax, top = plots._canvas(plots.WIDTH, side + 1.15, title)
    lefts, y = [0.3 + k * (side + 0.2) for k in range(3)], top - side - 0.42
    for x, heading in zip(lefts, ("hidden", "filled in by the model", "as it was")):
        ax.text(x, top, heading, va="top", fontsize=plots.FONT)
    for i in range(grid):
        middle = (i + 0.5) * side / grid
        ax.text(lefts[0] + middle, y + side + 0.03, names[0][i][0], ha="center", va="bottom", fontsize=plots.FONT - 1)
        ax.text(lefts[0] - 0.05, y + side - middle, names[i][0][1:], ha="right", va="center", fontsize=plots.FONT - 1)
    shown = [plots._picture(ax, picture, x, y, side) for x in lefts]
    line = ax.text(0.03, y - 0.08, "", va="top", fontsize=plots.FONT, linespacing=1.3)
    return Stage(fig, [*shown, line]), shown, line


def _grayed(picture, hidden):
    """The picture (H, W, 3) with the hidden cells (grid, grid) painted gray."""
    size = np.array(picture.shape[:2]) // len(hidden)
    cover = np.kron(hidden.numpy(), np.ones(size, dtype=bool))[..., None]
    return np.where(cover, 0.45, picture)


def _places(words):
    """Options of a list of words, numbered because a word can come twice: [("1 a", 0), ("2 red", 1), ...]."""
    return [(f"{i + 1} {word}", i) for i, word in enumerate(words)]


def _words_restored(caption, places, found):
    """("It reads: a ____ cat", "It says: red (98%)") for the words at `places`; found: (word, probability) for each."""
    reads = " ".join("____" if i in places else word for i, word in enumerate(caption))
    says = [
        f"{word} ({probability:.0%}{'' if word == caption[i] else f', was {caption[i]}'})"
        for i, (word, probability) in zip(places, found)
    ]
    return f"It reads: {reads}", f"It says: {', '.join(says)}" if says else "No word is hidden"


def _change(panels, values):
    """Put other values into the matrix; written are the matches and the highest of each row, to keep it quick."""
    panels.image.set_data(values)
    rows = np.arange(len(values))
    shown = np.eye(len(values), dtype=bool)
    shown[rows, values.argmax(axis=1)] = True
    for text, value, visible in zip(panels.written, values.flat, shown.flat):
        text.set(text=plots._two_digits(value), visible=visible)
    plots._ink(panels.image, panels.written)


def _control(name, short, continuous_update):
    """A control from what ipywidgets.interact takes."""
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
