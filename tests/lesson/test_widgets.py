"""Explorers redraw in place, and each says in a sentence what it shows."""

import math

import ipywidgets
import matplotlib
import pytest
import torch
from matplotlib.figure import Figure

from mmlesson import drawing, widgets

IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
CAPTIONS = ["a red apple", "a blue duck", "a green car", "a pink cat"]


@pytest.fixture(autouse=True)
def course_style():
    with matplotlib.rc_context():
        drawing.style()
        yield


def figure(value):
    fig = Figure(figsize=(1, 1))
    fig.text(0.5, 0.5, str(value))
    return fig, f"It is {value}."


def shown(notebook):
    """(the images, the visible lines) that were displayed, first to last, after the controls."""
    images = [entry for entry in notebook if "image/png" in entry["data"]]
    lines = [entry for entry in notebook if list(entry["data"]) == ["text/plain"]]
    return images, lines


def assert_redrawn(notebook, count):
    """`count` different images, each in the place of the one before, each with its own sentence."""
    images, lines = shown(notebook)
    assert len({p["data"]["image/png"] for p in images}) == len(images) == len(lines) == count
    assert [p["update"] for p in images] == [line["update"] for line in lines] == [False] + [True] * (count - 1)
    assert len({p["display_id"] for p in images}) == len({line["display_id"] for line in lines}) == 1
    for image, line in zip(images, lines):
        assert image["metadata"]["image/png"]["alt"] == image["data"]["text/plain"]
        assert line["data"]["text/plain"].split() == image["data"]["text/plain"].split()


def test_moving_a_slider_changes_the_image_in_place(notebook):
    explorer = widgets.explore(figure, "A number", value=(1, 5))
    controls = notebook.pop(0)["data"]
    assert "application/vnd.jupyter.widget-view+json" in controls
    assert controls["text/plain"] == "(In a running notebook, controls stand here: value.)"
    for value in (4, 5):
        explorer.controls["value"].value = value
    assert_redrawn(notebook, 3)
    assert [line["data"]["text/plain"] for line in shown(notebook)[1]] == ["It is 3.", "It is 4.", "It is 5."]


def test_a_cell_that_ends_with_the_explorer_shows_it_once(notebook):
    from IPython.display import display

    explorer = widgets.explore(figure, value=[1, 2])
    before = len(notebook)
    display(explorer)
    assert len(notebook) == before


def test_controls_are_named_and_keep_their_kind():
    explorer = widgets.explore(lambda **values: figure(values), logit_scale=(0.5, 2.0, 0.5), head=["a", "b"])
    slider, menu = explorer.controls.values()
    assert isinstance(slider, ipywidgets.FloatSlider) and (slider.min, slider.max, slider.step) == (0.5, 2.0, 0.5)
    assert (slider.description, menu.description) == ("logit scale", "head")
    assert not slider.continuous_update
    assert isinstance(menu, ipywidgets.Dropdown) and menu.options == ("a", "b")


def test_a_terminal_gets_the_sentence(capsys):
    widgets.explore(figure, value=(1, 5))
    assert capsys.readouterr().out == "It is 3.\n"


def test_bad_controls_and_draws_are_told():
    with pytest.raises(ValueError, match=r"The control value must be \(low, high\).*, not None"):
        widgets.explore(figure, value=None)
    with pytest.raises(TypeError, match=r"draw must return \(figure, sentence\)"):
        widgets.explore(lambda value: figure(value)[0], value=(1, 5))


def test_a_draw_that_fails_later_says_so(notebook):
    explorer = widgets.explore(lambda value: figure(1 / (value - 4)), value=(1, 5))
    explorer.controls["value"].value = 4
    assert notebook[-1]["update"] and notebook[-1]["data"]["text/plain"].startswith(
        "draw failed with ZeroDivisionError"
    )


def test_a_stage_draws_the_same_as_a_whole_figure():
    def build():
        fig = Figure(figsize=(2, 1), layout="none")
        return fig, fig.text(0.1, 0.1, "fixed"), fig.text(0.5, 0.6, "before")

    fig, _, moving = build()
    stage = widgets.Stage(fig, [moving])
    first = stage.png()
    moving.set_text("after")
    second = stage.png()
    whole, _, text = build()
    text.set_text("after")
    assert first != second
    assert pixels(second) == pixels(drawing.png(whole))


def pixels(png):
    import io

    from PIL import Image

    return Image.open(io.BytesIO(png)).tobytes()


def test_temperature_explorer_shows_the_softmax(notebook):
    similarity = torch.eye(4) * 0.5
    explorer = widgets.temperature_explorer(similarity, IMAGES, CAPTIONS)
    slider = explorer.controls["scale"]
    assert slider.description == "logit scale" and slider.value == pytest.approx(1 / 0.07)
    slider.value = 10.0
    probability = math.exp(5) / (math.exp(5) + 3)
    assert explorer.sentence.startswith(
        "Logit scale 10.0 (temperature 0.100): the matching caption gets a probability of "
        f"{probability:.2f} on average, the entropy is 0.12 of at most 1.39 nats, and the loss over the rows is "
        f"{-math.log(probability):.2f}."
    )
    slider.value = 1.0
    assert_redrawn(notebook, 3)


def test_temperature_explorer_stays_finite_at_both_ends():
    explorer = widgets.temperature_explorer(torch.eye(4) * 2 - 1)
    for scale in (1.0, 100.0):
        explorer.controls["scale"].value = scale
        assert "nan" not in explorer.sentence
    assert "probability of 1.00 on average, the entropy is 0.00" in explorer.sentence


def test_matrix_over_training_plays_the_saved_steps(notebook):
    snapshots = {0: torch.zeros(4, 4), 50: torch.eye(4) * 0.3, 100: torch.eye(4) * 0.9}
    explorer = widgets.matrix_over_training(snapshots, IMAGES, CAPTIONS)
    assert "Step 0: the matching caption has the highest score for 0 of 4" in explorer.sentence
    for step in (50, 100):
        explorer.controls["step"].value = step
    assert "Step 100: the matching caption has the highest score for 4 of 4" in explorer.sentence
    assert_redrawn(notebook, 3)
    with pytest.raises(ValueError, match="at least two saved steps, not 1"):
        widgets.matrix_over_training({0: torch.eye(2)})


def test_head_explorer_scores_each_head(notebook):
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5]]).expand(4, 4)
    attention = torch.full((2, 4, 2, 4, 4), 0.01)
    attention[1, :, 0, 0, 0] = 1  # layer 1, head 0 looks into the box
    attention[:, :, 1, 3, 3] = 1  # the heads 1 look past it
    explorer = widgets.head_explorer(IMAGES, attention, boxes, CAPTIONS)
    explorer.controls["head"].value = (1, 0)
    assert explorer.sentence.startswith("Layer 1, head 0 on a red apple: hit, 90% inside the box, which covers 25%.")
    assert explorer.sentence.endswith("Over all images this head hits 100%; at random it would be 25%.")
    explorer.controls["head"].value = (0, 1)
    explorer.controls["image"].value = 2
    assert (
        explorer.sentence.startswith("Layer 0, head 1 on a green car: miss")
        and "this head hits 0%" in explorer.sentence
    )
    assert_redrawn(notebook, 4)
    with pytest.raises(ValueError, match=r"\(layers, 4 images, heads, gh, gw\), not \(2, 3, 2, 4, 4\)"):
        widgets.head_explorer(IMAGES, attention[:, :3], boxes)


def test_mask_explorer_masks_and_fills(notebook):
    asked = []

    def fill(index, masked, words):
        asked.append((index, masked.clone(), words))
        return torch.full((3, 4, 4), 0.5), [("blue", 0.75) for _ in words]

    def block_mask(grid, patches, generator):
        mask = torch.zeros(grid, grid, dtype=torch.bool)
        mask.view(-1)[:patches] = True
        return mask

    explorer = widgets.mask_explorer(IMAGES, CAPTIONS, fill, block_mask, grid=4)
    controls = explorer.controls
    assert [label for label, _ in controls["cells"].options][:5] == ["A1", "B1", "C1", "D1", "A2"]
    assert [label for label, _ in controls["words"].options] == ["1 a", "2 red", "3 apple"]
    assert explorer.sentence == ("6 of 16 patches are masked. It reads: a ____ apple. It says: blue (75%, was red).")
    controls["fraction"].value = 0.0
    controls["cells"].value = ((0, 1), (3, 3))
    assert explorer.sentence.startswith("2 of 16 patches are masked.")
    assert asked[-1][1].nonzero().tolist() == [[0, 1], [3, 3]]
    controls["image"].value = 1  # another caption: its words take the place of the first one's
    assert [label for label, _ in controls["words"].options] == ["1 a", "2 blue", "3 duck"]
    assert explorer.sentence.endswith("It reads: a blue duck. No word is masked.")
    controls["words"].value = (1,)
    assert asked[-1][0] == 1 and asked[-1][2] == (1,)
    assert explorer.sentence.endswith("It reads: a ____ duck. It says: blue (75%).")
    images, lines = shown(notebook)
    assert len({p["display_id"] for p in images}) == 1 and len(images) == len(lines) >= 5


def test_masked_cells_are_gray_and_nothing_else():
    image = torch.rand(8, 8, 3).numpy()
    masked = torch.zeros(4, 4, dtype=torch.bool)
    masked[1, 2] = True
    grayed = widgets._grayed(image, masked)
    assert (grayed[2:4, 4:6] == 0.45).all()
    assert (grayed != image).any(axis=2).sum() == 4


def test_shot_explorer_asks_for_every_number_of_examples(notebook):
    asked = []

    def ask(examples, said, query):
        asked.append((examples, said, query))
        right = 0.9 if "wug" in said else 0.1
        return {"wug": right, "dax": 1 - right} if right > 0.5 else {"dax": 1 - right, "wug": right}

    explorer = widgets.shot_explorer(IMAGES, [0, 1, 0, 1], ["apple", "duck"], ["dax", "wug", "lomi"], ask)
    assert asked == [([0, 1, 2][:n], ["dax", "wug", "dax"][:n], 3) for n in range(4)]
    assert explorer.sentence == "After apple = dax, duck = wug, apple = dax, the model calls the duck 'wug' (90%)."
    asked.clear()
    explorer.controls["call_1"].value = "lomi"
    assert asked[-1] == ([0, 1, 2], ["dax", "lomi", "dax"], 3)
    explorer.controls["examples"].value = ()
    assert explorer.sentence == "After no examples, the model calls the duck 'dax' (90%)."


def test_gate_explorer_turns_the_gate_that_is_chosen(notebook):
    asked = []

    def ask(alpha, layer, part):
        asked.append((round(alpha, 1), layer, part))
        return {"dax": 0.75, "wug": 0.25}

    explorer = widgets.gate_explorer(["layer 1", "layer 2"], ask)
    assert asked == [(0.0, None, "both")]
    explorer.controls["alpha"].value = 1.0
    explorer.controls["layer"].value = 1
    explorer.controls["part"].value = "dense"
    assert asked[1:] == [(1.0, None, "both"), (1.0, 1, "both"), (1.0, 1, "dense")]
    assert explorer.sentence == "alpha = 1.0 in layer 2 (dense): the gate is +0.76, and it says 'dax' (75%)."


def test_draw_explorer_generates_once_and_grows():
    asked = []

    def generate(prompt, guidance, temperature, seed):
        asked.append((prompt, guidance, temperature, seed))
        return torch.linspace(0, 1, 5).view(5, 1, 1, 1).expand(5, 3, 8, 8), torch.full((4, 2), 1.5)

    explorer = widgets.draw_explorer(["red", "blue"], ["cat", "dog"], generate)
    assert asked == [("red cat", 2.0, pytest.approx(0.7), 10)]
    assert "8 of 8 codes" in explorer.sentence and "1.5 nats" in explorer.sentence
    explorer.controls["codes"].value = 0.5
    assert len(asked) == 1 and "4 of 8 codes" in explorer.sentence
    explorer.controls["color"].value = "blue"
    explorer.controls["seed"].value = 3
    assert [a[0] for a in asked] == ["red cat", "blue cat", "blue cat"] and asked[-1][-1] == 3


def test_listen_explorer_tells_what_was_heard():
    def listen(color, object, language, voice):
        heard = f"{color} {object}" if voice == "f1" else "blue dog"
        return {"mel": torch.rand(40, 20), "image": torch.rand(3, 8, 8), "said": f"{color} {object}", "heard": heard}

    explorer = widgets.listen_explorer(["red"], ["cat"], {"English": "en"}, ["f1", "m7"], listen)
    assert explorer.sentence == "f1 says 'red cat'; the model writes 'red cat', as it was said."
    explorer.controls["voice"].value = "m7"
    assert explorer.sentence == "m7 says 'red cat'; the model writes 'blue dog', but it was 'red cat'."
