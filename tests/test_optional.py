"""What is absent is skipped at home and fails where everything is required."""

import importlib.metadata
import sys

import pytest
from optional import absent, load_openai_clip_model_module


def test_absent_skips_or_fails(monkeypatch):
    monkeypatch.delenv("MMLESSON_REQUIRE_ALL", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no browser"):
        absent("There is no browser.")
    monkeypatch.setenv("MMLESSON_REQUIRE_ALL", "1")
    with pytest.raises(pytest.fail.Exception, match="no browser.*asks for it"):
        absent("There is no browser.")


def test_openai_clip_loads_without_its_package():
    before = set(sys.modules)
    module = load_openai_clip_model_module()
    assert module.CLIP.__name__ == "CLIP" and module.ModifiedResNet.__name__ == "ModifiedResNet"
    assert not {"clip", "torchvision"} & (set(sys.modules) - before)


def test_openai_clip_not_installed_says_how(monkeypatch):
    def not_found(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.delenv("MMLESSON_REQUIRE_ALL", raising=False)
    monkeypatch.setattr(importlib.metadata, "files", not_found)
    with pytest.raises(pytest.skip.Exception, match="make test"):
        load_openai_clip_model_module()
