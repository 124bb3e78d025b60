"""What a machine may lack: a test that needs it skips with a reason, or fails where everything is required."""

import importlib.metadata
import importlib.util
import os

import pytest


def absent(reason):
    """Skip the test for `reason`; fail it where MMLESSON_REQUIRE_ALL=1 (the full run, see .ci/run)."""
    if os.environ.get("MMLESSON_REQUIRE_ALL") == "1":
        pytest.fail(f"{reason} MMLESSON_REQUIRE_ALL=1 asks for it.", pytrace=False)
    pytest.skip(reason)


def load_openai_clip_model_module():
    """The module clip/model.py of the openai-clip package, loaded by its path.

    `import clip` would run the package's __init__, which imports torchvision and pkg_resources; the model needs none.
    """
    try:
        files = importlib.metadata.files("openai-clip") or []
    except importlib.metadata.PackageNotFoundError:
        absent("openai-clip is not installed: run `make test`, or pip install -c constraints.txt -e '.[test]'.")
    path = next(file.locate() for file in files if file.as_posix() == "clip/model.py")
    spec = importlib.util.spec_from_file_location("openai_clip_model", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
