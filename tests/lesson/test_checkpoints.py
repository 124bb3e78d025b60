"""Checkpoints are what their cards say; a damaged or missing one is named in a sentence."""

import hashlib

import pytest
import torch

import mmlesson
from mmlesson import checkpoints
from mmlesson.checkpoints import load_pretrained

CARD = {
    "command": "make assets",
    "seed": 0,
    "steps": 10,
    "seconds": 1.5,
    "metrics": {"zero_shot": 0.9},
    "config": {"width": 8},
}


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """An empty folder of checkpoints in place of the course's own."""
    monkeypatch.setattr(mmlesson, "assets", lambda: tmp_path)
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def weights():
    generator = torch.Generator().manual_seed(0)
    return {"scale": torch.tensor(2.5), "matrix": torch.randn(3, 4, generator=generator).T}  # not contiguous


def test_the_assets_are_those_of_the_clone():
    assert mmlesson.assets() == mmlesson.repository() / "assets"
    assert (mmlesson.repository() / "pyproject.toml").is_file()


def test_the_assets_of_an_installed_package(tmp_path, monkeypatch):
    monkeypatch.setattr(mmlesson, "__file__", str(tmp_path / "site-packages" / "mmlesson" / "__init__.py"))
    assert mmlesson.repository() is None
    with pytest.raises(FileNotFoundError, match="assets folder is missing.*git checkout assets"):
        mmlesson.assets()
    installed = tmp_path / "site-packages" / "mmlesson" / "_assets"
    installed.mkdir(parents=True)
    assert mmlesson.assets() == installed.resolve()


def test_weights_and_card_come_back(shipped):
    path = checkpoints.save_weights("tiny", weights(), CARD, about="Two tensors.")
    loaded = checkpoints.load_weights("tiny")
    assert loaded.keys() == weights().keys()
    assert all(torch.equal(loaded[key], value) for key, value in weights().items())
    card = checkpoints.card("tiny")
    assert card == {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), **CARD}
    assert (shipped / "tiny.md").read_text(encoding="utf-8").endswith("# tiny\n\nTwo tensors.\n")


def test_same_weights_same_bytes(shipped):
    first = checkpoints.save_weights("one", weights(), CARD).read_bytes()
    assert checkpoints.save_weights("two", weights(), CARD).read_bytes() == first


def test_tied_weights_can_be_saved(shipped):
    table = torch.arange(6.0).view(2, 3)
    checkpoints.save_weights("tied", {"input": table, "output": table}, CARD)
    assert torch.equal(checkpoints.load_weights("tied")["output"], table)


def test_changed_bytes_are_refused(shipped):
    path = checkpoints.save_weights("tiny", weights(), CARD)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # one bit of one weight
    path.write_bytes(data)
    with pytest.raises(ValueError, match="not the ones that their card describes.*expected.*git checkout.*make assets"):
        checkpoints.load_weights("tiny")


def test_missing_weights_say_what_to_do(shipped):
    checkpoints.save_weights("tiny", weights(), CARD).unlink()
    with pytest.raises(FileNotFoundError, match="tiny.safetensors are missing.*git checkout assets"):
        checkpoints.load_weights("tiny")


def test_an_unknown_name_lists_the_known_ones(shipped):
    checkpoints.save_weights("tiny", weights(), CARD)
    with pytest.raises(FileNotFoundError, match="no checkpoint 'tinny'.*found cards for tiny"):
        checkpoints.load_weights("tinny")


@pytest.mark.parametrize("text", ["# no front matter\n", "---\nsha256: 1\n---\n", "---\n{broken\n---\n", "---\nhalf"])
def test_a_damaged_card_is_named(shipped, text):
    checkpoints.save_weights("tiny", weights(), CARD)
    (shipped / "tiny.md").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"assets/checkpoints/tiny.md has no .*command.*front matter"):
        checkpoints.load_weights("tiny")


def test_an_incomplete_card_is_refused_before_writing(shipped):
    with pytest.raises(ValueError, match="lacks seed"):
        checkpoints.save_weights("tiny", weights(), {key: CARD[key] for key in CARD if key != "seed"})
    with pytest.raises(ValueError, match="plain numbers"):
        checkpoints.save_weights("tiny", weights(), {**CARD, "seconds": torch.tensor(1.0)})
    assert not list(shipped.iterdir())


CLIP_CARD = {**CARD, "config": {"builder": "mmlesson.models.flava.ImageCodebook", "build": {"width": 8}}}


def codebook():
    from mmlesson.models.flava import ImageCodebook

    torch.manual_seed(0)
    return ImageCodebook(width=8)


def test_a_pretrained_model_is_built_as_its_card_says_frozen_and_in_eval_mode(shipped):
    built = codebook()
    checkpoints.save_weights("small", built.state_dict(), CLIP_CARD)
    model = load_pretrained("small")
    assert type(model) is type(built) and not model.training and not any(p.requires_grad for p in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), built.state_dict().values()))


@pytest.mark.parametrize(
    "name", ["clip_resnet", "clip_vit", "codebook", "flava", "language_model", "flamingo", "gemini"]
)
def test_every_shipped_model_loads_by_its_name(name):
    model = load_pretrained(name)
    assert sum(p.numel() for p in model.parameters()) == checkpoints.card(name)["config"]["parameters"]


@pytest.mark.parametrize("builder", ["os.system", "mmlesson.models.flava.missing", "mmlesson.train.fit", None])
def test_a_card_can_name_nothing_but_a_model(shipped, builder):
    card = {**CLIP_CARD, "config": {"builder": builder}}
    checkpoints.save_weights("small", codebook().state_dict(), card)
    with pytest.raises(ValueError, match="names the builder .*expected a function or class of mmlesson.models"):
        load_pretrained("small")


def test_weights_that_do_not_fit_are_named(shipped):
    weights = codebook().state_dict()
    del weights["encoder.0.bias"]
    checkpoints.save_weights("small", {**weights, "extra": torch.zeros(1)}, CLIP_CARD)
    with pytest.raises(ValueError, match="missing encoder.0.bias, unexpected extra.*git checkout assets"):
        load_pretrained("small")
