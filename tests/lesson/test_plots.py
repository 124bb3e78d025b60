"""Each figure shows what it is given, says it in one sentence, and nothing written overlaps."""

import base64
import io
import itertools
import math

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from mmlesson import drawing, plots, world

LONG = "This sentence is the one message of its figure and it is so long that it surely needs more than a single line"


@pytest.fixture(autouse=True)
def course_style():
    with matplotlib.rc_context():
        drawing.style()
        yield


@pytest.fixture
def figures(monkeypatch):
    """The figures that were shown, drawn."""
    shown, show = [], plots.show

    def keep(fig, sentence):
        FigureCanvasAgg(fig).draw()
        shown.append(fig)
        show(fig, sentence)

    monkeypatch.setattr(plots, "show", keep)
    return shown


@pytest.fixture(scope="module")
def scenes():
    drawn = world.sample(8, seed=0)
    return world.render(drawn, device="cpu"), world.captions(drawn, template="a picture of {}"), drawn.boxes()[:, 0]


def said(capsys):
    """What was printed, without its line breaks."""
    return " ".join(capsys.readouterr().out.split())


def scores(n=8, seed=0, match=0.5):
    return torch.randn(n, n, generator=torch.Generator().manual_seed(seed)) * 0.1 + torch.eye(n) * match


def matrices(figures):
    """The matrices of numbers in the first figure, in order."""
    return [image.get_array() for image in figures[0].axes[0].images if image.get_array().ndim == 2]


def texts(fig):
    """[(text, its rectangle in pixels)] of everything that is written level or upright."""
    unseen = set()  # matplotlib keeps labels of ticks beyond the ends of an axis, and does not draw them
    for axis in (axis for ax in fig.axes for axis in (ax.xaxis, ax.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
            if not low <= tick.get_loc() <= high:
                unseen |= {tick.label1, tick.label2}
    written = [t for t in fig.findobj(Text) if t.get_visible() and t.get_text().strip() and t not in unseen]
    return [(t.get_text(), t.get_window_extent()) for t in written if t.get_rotation() in (0, 90)]


def assert_readable(fig):
    """Nothing that is written leaves the figure or lies on something else that is written."""
    width, height = fig.canvas.get_width_height()
    for text, box in texts(fig):
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
        assert inside, f"{text!r} at {box} leaves the figure of {width}x{height}"
    for (a, box_a), (b, box_b) in itertools.combinations(texts(fig), 2):
        overlap = min(box_a.x1, box_b.x1) - max(box_a.x0, box_b.x0), min(box_a.y1, box_b.y1) - max(box_a.y0, box_b.y0)
        assert min(overlap) <= 1, f"{a!r} and {b!r} overlap by {overlap} pixels"
    for text in slanted(fig):
        box = text.get_window_extent()
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1, f"{text.get_text()!r} leaves the figure"


def slanted(fig):
    return [t for t in fig.findobj(Text) if t.get_rotation() == 45]


# ---- how a figure is shown


def test_a_figure_is_stored_with_its_sentence(notebook, capsys):
    fig = Figure(figsize=(2, 1))
    plots.show(fig, "A figure.")
    (shown,) = notebook
    assert shown["data"]["text/plain"] == "A figure." and shown["metadata"] == {"image/png": {"alt": "A figure."}}
    stored = Image.open(io.BytesIO(base64.b64decode(shown["data"]["image/png"])))
    assert stored.size == (220, 110)  # 110 dpi
    assert said(capsys) == "A figure."


def test_a_long_sentence_is_printed_in_lines(capsys):
    plots.show(Figure(), LONG * 3)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and max(map(len, lines)) <= 100 and " ".join(lines) == LONG * 3


def test_show_closes_a_pyplot_figure(capsys):
    import matplotlib.pyplot as plt

    plots.show(plt.figure(), "A figure.")
    assert plt.get_fignums() == []
    assert said(capsys) == "A figure."


def test_the_same_figure_gives_the_same_bytes(notebook):
    for _ in range(2):
        plots.bars({"a": 1.0, "b": 2.0}, "count")
    assert notebook[0]["data"] == notebook[1]["data"]


# ---- what a figure returns and says


def test_similarity_matrix_draws_and_tells_its_numbers(scenes, figures, capsys):
    images, captions, _ = scenes
    similarity = scores()
    similarity[3, 3] = similarity[3].min() - 0.1  # one image whose match is not the highest
    plots.similarity_matrix(similarity, images, captions, "It matches")
    np.testing.assert_array_equal(matrices(figures)[0], similarity.numpy())
    others = similarity[~torch.eye(8, dtype=bool)].mean()
    assert said(capsys) == (
        "It matches. The matching caption has the highest score for 7 of 8 images, "
        f"mean score of a match {similarity.diagonal().mean():.2f}, of the others {others:.2f}."
    )


def test_a_tie_is_not_the_highest_score(capsys):
    plots.similarity_matrix(torch.zeros(3, 3))
    assert "highest score for 0 of 3 images" in said(capsys)


def test_scores_without_a_match_for_each_image(capsys):
    plots.similarity_matrix(torch.tensor([[0.1, 0.9, 0.2], [0.8, 0.3, 0.1]]))
    assert said(capsys) == "2 by 3 scores from 0.10 to 0.90."


def test_the_matches_are_outlined(figures):
    plots.similarity_matrix(torch.eye(3))
    frames = [p for p in figures[0].axes[0].patches if not p.get_fill()]
    columns = sorted((round(-p.get_y() / p.get_width(), 3), p.get_x() / p.get_width()) for p in frames)
    assert [round(x - columns[0][1]) for _, x in columns] == [0, 1, 2]


def test_similarity_matrices_share_one_scale(scenes, figures, capsys):
    images, captions, _ = scenes
    before, after = scores(match=0), scores(match=0.7)
    plots.similarity_matrices({"before": before, "after": after}, images, captions, "It learns")
    np.testing.assert_array_equal(matrices(figures)[1], after.numpy())
    limits = {image.get_clim() for image in figures[0].axes[0].images if image.get_array().ndim == 2}
    assert limits == {(min(before.min(), after.min()).item(), max(before.max(), after.max()).item())}
    out = said(capsys)
    assert out.startswith("It learns. Before: the matching caption") and "; after: the matching" in out


def test_gallery(scenes, figures, capsys):
    images, captions, _ = scenes
    plots.gallery(images, captions, "Eight scenes")
    drawn = [image.get_array() for image in figures[0].axes[0].images]
    np.testing.assert_array_equal(drawn, images.permute(0, 2, 3, 1).numpy())
    assert said(capsys) == f"Eight scenes. 8 images: {'; '.join(captions)}."


def test_attention_maps_scores_what_it_draws(scenes, capsys):
    images, captions, boxes = scenes
    maps = torch.zeros(8, 8, 8)
    middle = ((boxes[:, :2] + boxes[:, 2:]) * 4).long()
    maps[torch.arange(8), middle[:, 1], middle[:, 0]] = 1
    maps[0] = 0
    maps[0, 7 if boxes[0, 3] < 0.8 else 0, 0 if boxes[0, 0] > 0.2 else 7] = 1  # a corner without the object
    plots.attention_maps(images, maps, boxes, captions, "It looks")
    drawn = plots.attention_scores(maps, boxes)
    assert drawn["hits"].tolist() == [False] + [True] * 7
    assert drawn["inside"][0] < 0.5 < drawn["inside"][1:].min()
    torch.testing.assert_close(
        torch.from_numpy(drawn["area"]), (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    )
    out = said(capsys)
    assert out.startswith("It looks. The peak lies in the true box for 7 of 8 images (at random: ")
    assert f"which cover {drawn['area'].mean():.0%} of the images." in out


def test_the_overlay_is_brightest_where_the_map_is_highest(scenes):
    gray = np.full((32, 32, 3), 0.5, dtype=np.float32)
    attention = torch.zeros(4, 4)
    attention[1, 2] = 1
    heated = plots.overlay(gray, attention)
    assert heated.shape == (128, 128, 3)
    row, column = np.unravel_index(heated.sum(axis=2).argmax(), (128, 128))
    assert row // 32 == 1 and column // 32 == 2


def test_matrix_of_numbers(figures, capsys):
    values = torch.tensor([[0.25, -0.5, 0.0], [1.0, float("-inf"), 0.125]])
    plots.matrix(values, ["a", "b"], ["x", "y", "z"], "By hand", signed=True)
    written = [t for t, _ in texts(figures[0])]
    assert {"0.25", "-0.50", "-inf", "0.12", "a", "z"} <= set(written)
    assert figures[0].axes[0].images[0].get_clim() == (-1, 1)
    expected = "By hand. 2 by 3 numbers from -0.50 to 1.00, 1 of them not finite."
    assert said(capsys) == expected


def test_matrix_leaves_open_what_is_not_there(figures, capsys):
    plots.matrix([[0.5, float("nan")]], ["a"], ["x", "y"], "One is missing", fmt=".0%")
    assert {"50%", "–"} <= {t for t, _ in texts(figures[0])}
    assert said(capsys) == "One is missing. 1 by 2 numbers from 50% to 50%, 1 of them not finite."


def test_matrix_of_a_fully_masked_row(capsys):
    plots.matrix(torch.full((1, 2), float("nan")), ["query"], ["a", "b"])
    assert said(capsys) == "1 by 2 numbers, 2 of them not finite."


def test_matrix_of_bools_says_what_is_allowed(figures, capsys):
    mask = torch.ones(3, 3, dtype=torch.bool).tril()
    plots.matrix(mask, list("abc"), list("abc"), row_name="query", column_name="key")
    written = [t for t, _ in texts(figures[0])]
    assert written.count("yes") == 6 and written.count("no") == 3
    assert {"allowed (yes)", "blocked (no)", "query", "key"} <= set(written)
    assert said(capsys) == "6 of 9 entries are allowed."


def test_curves(figures, capsys):
    lines = {"train": ([0, 1, 2], [4.0, 2.0, 1.0]), "held out": (torch.arange(3), torch.tensor([4.0, 0.5, 3.0]))}
    plots.curves(lines, "step", "loss", "It falls", hlines={"chance": math.log(64)})
    drawn = {line.get_label(): line.get_xydata().T.tolist() for line in figures[0].axes[0].lines}
    assert drawn["train"][1] == [4.0, 2.0, 1.0] and drawn["held out"][0] == [0, 1, 2]
    assert said(capsys) == (
        "It falls. Loss against step: train from 4 to 1; held out from 4 to 3, lowest 0.5 at 1; chance is 4.16."
    )
    plots.curves({"halves": ([0, 0.5, 2], [4.0, 2.0, 1.0])}, "layer", "loss")
    whole, halves = ([tick % 1 == 0 for tick in fig.axes[0].get_xticks()] for fig in figures)
    assert all(whole) and not all(halves)


def test_bars(figures, capsys):
    plots.bars({"one": 0.25, "two": torch.tensor(0.5)}, "accuracy", "Two beat one", chance=0.125)
    assert said(capsys) == "Two beat one. Accuracy: one 0.25, two 0.5; chance is 0.125."
    assert [bar.get_width() for bar in figures[0].axes[0].patches] == [0.25, 0.5]
    groups = {"blank": {"object": 0.01, "color": 0.1}, "seen": {"object": 0.9, "color": 0.99}}
    plots.bars(groups, "accuracy")
    assert said(capsys) == "Accuracy: blank: object 0.01, color 0.1; seen: object 0.9, color 0.99."


# ---- nothing written overlaps


def longest_captions(n):
    captions = [t.format(c) for t in world.TEMPLATES for c in world.pair_captions(world.pairs())]
    return sorted(captions, key=len)[-n:]


def test_long_captions_do_not_overlap_in_a_gallery(figures):
    plots.gallery(torch.rand(16, 3, 32, 32), longest_captions(16), LONG)
    plots.gallery(torch.rand(3, 3, 32, 32), longest_captions(3), LONG)
    for fig in figures:
        assert_readable(fig)
    captions = [box for text, box in texts(figures[0])[1:]]
    assert len(captions) == 16 and all(box.height > 0 for box in captions)


@pytest.mark.parametrize("n", [2, 8, 16, 24])
def test_long_captions_do_not_overlap_under_a_matrix(n, figures):
    plots.similarity_matrix(scores(n), torch.rand(n, 3, 32, 32), longest_captions(n), LONG)
    assert_readable(figures[0])
    labels = slanted(figures[0])
    assert len(labels) == n
    places = sorted(figures[0].axes[0].transData.transform(t.get_position())[0] for t in labels)
    apart = min(b - a for a, b in zip(places, places[1:])) * math.sin(math.radians(45))
    labels[0].set_rotation(0)
    assert apart >= 0.9 * labels[0].get_window_extent().height  # the slanted lines of text lie side by side


def test_small_multiples_are_readable(figures):
    images = torch.rand(8, 3, 32, 32)
    three = {name: scores() for name in ("before (step 0)", "during (step 200)", "after (step 600)")}
    plots.similarity_matrices(three, images, longest_captions(8), LONG)
    assert_readable(figures[0])


@pytest.mark.parametrize("n", [2, 8])
def test_attention_maps_are_readable(n, scenes, figures):
    images, _, boxes = scenes
    plots.attention_maps(images[:n], torch.rand(n, 4, 4), boxes[:n], longest_captions(n), LONG)
    assert_readable(figures[0])


def test_matrix_is_readable(figures):
    plots.matrix(torch.randn(3, 3) * 100, longest_captions(3), longest_captions(3), LONG, column_name="captions")
    words = "<sot> a purple pineapple <eot> <pad> <pad>".split()
    plots.matrix(torch.ones(7, 7, dtype=bool).tril(), words, words, "Causal", row_name="query", column_name="key")
    plots.matrix(torch.eye(2), ["mmm_mmmmmm", "WWW"], ["mmm_mmmmmm", "WWW"], "Wide letters")
    for fig in figures:
        assert_readable(fig)


def test_curves_are_readable(figures):
    close = {f"k = {k}": (range(10), [0.9 + 0.001 * k + 0.01 * x for x in range(10)]) for k in range(6)}
    plots.curves(close, "step", "accuracy", LONG, hlines={"chance": 0.9})
    falling = {f"k = {k}": (range(10), [1 - 0.1 * x + 0.001 * k for x in range(10)]) for k in range(6)}
    plots.curves(falling, "step", "loss", hlines={"least": 0})
    many = {f"a rather long name {k}": (range(10), range(k, k + 10)) for k in range(8)}
    plots.curves(many, "step", "accuracy", LONG, hlines={"half way": 8})
    plots.curves({"short": ([1, 10], [1, 2]), "long": ([1, 1000], [1, 5])}, "scale", "loss", log="xy")
    for fig in figures:
        assert_readable(fig)
    axes = figures[1].axes[0].get_window_extent()
    ends = [box for text, box in texts(figures[1]) if text in falling]
    assert len(ends) == 6 and all(axes.y0 <= box.y0 + box.height / 2 <= axes.y1 for box in ends)
    assert [len(fig.legends) for fig in figures] == [0, 0, 1, 1]


def test_bars_are_readable(figures):
    plots.bars({c: 0.1 * i for i, c in enumerate(longest_captions(6))}, "accuracy", LONG, chance=0.25)
    plots.bars({"group one": {"a": 1, "b": 2}, "group two": {"a": 3, "b": 1234.5}}, "count", chance=1)
    for fig in figures:
        assert_readable(fig)


def test_gate_values_are_readable_and_told(figures, capsys):
    falling = {f"layer {i}": [0.0, -0.2 * i, -0.24 * i] for i in range(1, 5)}
    plots.gate_values([0, 10, 20], {"cross-attention": falling, "dense": {"layer 1": [0, 0.5, 0.9]}}, LONG)
    assert_readable(figures[0])
    told = said(capsys)
    assert "layer 4 -0.96" in told and "dense: layer 1 +0.90" in told


# ---- bad input


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: plots.gallery(torch.rand(2, 32, 32, 3)), r"must be a tensor of \(N, 3, H, W\).* not \(2, 32, 32, 3\)"),
        (lambda: plots.gallery(torch.rand(2, 3, 8, 8), ["one"]), "Got 1 captions for 2 places"),
        (lambda: plots.similarity_matrix(torch.eye(3), torch.rand(2, 3, 8, 8)), "3 rows got 2 images"),
        (lambda: plots.similarity_matrix(torch.eye(2) * float("nan")), "finite numbers, not with nan or inf"),
        (lambda: plots.similarity_matrix(torch.ones(3)), r"not with shape \(3,\)"),
        (lambda: plots.similarity_matrices({"a": torch.eye(2), "b": torch.eye(3)}), "matrices of one shape"),
        (
            lambda: plots.attention_maps(torch.rand(2, 3, 8, 8), torch.rand(3, 4, 4), torch.rand(2, 4)),
            r"its 2 images, not \(3, 4, 4\) and \(2, 4\)",
        ),
        (lambda: plots.matrix(torch.eye(2), ["a"], ["b", "c"]), "A 2x2 matrix got 1 row and 2 column labels"),
        (lambda: plots.curves({"loss": ([1, 2], [1])}, "x", "y"), "The line 'loss' needs equally many x and y"),
        (lambda: plots.gate_values([0, 1], {"dense": {"one": [0, 2]}}), "tanh.alpha., from -1 to 1, for each of the 2"),
    ],
)
def test_bad_input_gets_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_spectrograms_draw_each_sound_over_its_mel_bands(figures, capsys):
    waves, mels = torch.zeros(3, 800), torch.rand(3, 40, 10)
    mels[1, 5] = 2.0
    plots.spectrograms(waves, mels, ["a cat", "a dog", "a pig"], rate=8000, title="Three sounds")
    shown = [ax for ax in figures[0].axes if ax.get_visible()]
    assert [ax.get_title(loc="left") for ax in shown if ax.lines] == ["a cat", "a dog", "a pig"]
    images = [ax.images[0] for ax in shown if ax.images]
    assert len(images) == 3 and images[1].origin == "lower"  # low bands lie below
    np.testing.assert_array_equal(images[1].get_array()[5], np.full(10, 2.0, dtype=np.float32))
    assert said(capsys) == "Three sounds. 3 sounds of 0.10 seconds: a cat; a dog; a pig."
    with pytest.raises(ValueError, match="needs waves"):
        plots.spectrograms(waves, mels[0], ["a", "b", "c"], rate=8000)


def test_images_of_bytes_are_understood_and_other_ranges_refused():
    images = world.render(world.sample(2, seed=0), device="cpu")
    as_bytes = drawing.as_images((images * 255).round().to(torch.uint8))
    assert np.abs(as_bytes - drawing.as_images(images)).max() < 0.5 / 255 + 1e-6
    with pytest.raises(ValueError, match="these go up to 2..: divide them by 255"):
        drawing.as_images(images * 255)


def test_korean_letters_get_a_font_where_there_is_one(monkeypatch):
    from matplotlib.font_manager import fontManager

    class Font:
        name = "NanumGothic"

    monkeypatch.setattr(fontManager, "ttflist", [Font])
    assert drawing.korean_font() == "NanumGothic"
    with matplotlib.rc_context():
        drawing.style()
        assert matplotlib.rcParams["font.family"] == ["DejaVu Sans", "NanumGothic"]
        monkeypatch.setattr(fontManager, "ttflist", [])
        drawing.style()
        assert matplotlib.rcParams["font.family"] == ["DejaVu Sans"]
