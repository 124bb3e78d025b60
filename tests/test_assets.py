import hashlib

import pytest
import torch

from mmlesson import assets

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
    """An empty assets folder in place of the course's own."""
    monkeypatch.setattr(assets, "folder", lambda: tmp_path)
    return tmp_path


def weights():
    generator = torch.Generator().manual_seed(0)
    return {"scale": torch.tensor(2.5), "matrix": torch.randn(3, 4, generator=generator).T}  # not contiguous


def test_folder_is_the_one_of_the_checkout():
    assert assets.folder() == assets.root() / "assets"
    assert (assets.root() / "pyproject.toml").is_file()


def test_folder_of_an_installed_package(tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "__file__", str(tmp_path / "site-packages" / "mmlesson" / "assets.py"))
    assert assets.root() is None
    with pytest.raises(FileNotFoundError, match="assets folder is missing.*git checkout assets"):
        assets.folder()
    installed = tmp_path / "site-packages" / "mmlesson" / "_assets"
    installed.mkdir(parents=True)
    assert assets.folder() == installed.resolve()


def test_weights_and_card_come_back(shipped):
    path = assets.save_weights("tiny", weights(), CARD, about="Two tensors.")
    loaded = assets.load_weights("tiny")
    assert loaded.keys() == weights().keys()
    assert all(torch.equal(loaded[key], value) for key, value in weights().items())
    card = assets.card("tiny")
    assert card == {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), **CARD}
    assert (shipped / "tiny.md").read_text(encoding="utf-8").endswith("# tiny\n\nTwo tensors.\n")


def test_same_weights_same_bytes(shipped):
    first = assets.save_weights("one", weights(), CARD).read_bytes()
    assert assets.save_weights("two", weights(), CARD).read_bytes() == first


def test_tied_weights_can_be_saved(shipped):
    table = torch.arange(6.0).view(2, 3)
    assets.save_weights("tied", {"input": table, "output": table}, CARD)
    assert torch.equal(assets.load_weights("tied")["output"], table)


def test_changed_bytes_are_refused(shipped):
    path = assets.save_weights("tiny", weights(), CARD)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # one bit of one weight
    path.write_bytes(data)
    with pytest.raises(ValueError, match="not the ones that their card describes.*expected.*git checkout.*make assets"):
        assets.load_weights("tiny")


def test_missing_weights_say_what_to_do(shipped):
    assets.save_weights("tiny", weights(), CARD).unlink()
    with pytest.raises(FileNotFoundError, match="tiny.safetensors are missing.*git checkout assets"):
        assets.load_weights("tiny")


def test_an_unknown_name_lists_the_known_ones(shipped):
    assets.save_weights("tiny", weights(), CARD)
    with pytest.raises(FileNotFoundError, match="no checkpoint 'tinny'.*found cards for tiny"):
        assets.load_weights("tinny")


@pytest.mark.parametrize("text", ["# no front matter\n", "---\nsha256: 1\n---\n", "---\n{broken\n---\n", "---\nhalf"])
def test_a_damaged_card_is_named(shipped, text):
    assets.save_weights("tiny", weights(), CARD)
    (shipped / "tiny.md").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"assets/tiny.md has no .*command.*front matter"):
        assets.load_weights("tiny")


def test_an_incomplete_card_is_refused_before_writing(shipped):
    with pytest.raises(ValueError, match="lacks seed"):
        assets.save_weights("tiny", weights(), {key: CARD[key] for key in CARD if key != "seed"})
    with pytest.raises(ValueError, match="plain numbers"):
        assets.save_weights("tiny", weights(), {**CARD, "seconds": torch.tensor(1.0)})
    assert not list(shipped.iterdir())
