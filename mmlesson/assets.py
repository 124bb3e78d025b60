"""Files shipped with the course: checkpoints and their model cards, interview cards, drawings. Never a download.

A checkpoint is two files: `assets/<name>.safetensors` (never a pickle) and the model card `assets/<name>.md`, whose
front matter (YAML between two `---` lines) says how the weights were made and holds their sha256.
"""

import hashlib
from pathlib import Path

CARD_KEYS = ("sha256", "command", "seed", "steps", "seconds", "metrics", "config")


def root():
    """The folder of the repository (Path) when the package runs from a checkout, else None."""
    parent = Path(__file__).resolve().parent.parent
    return parent if (parent / "pyproject.toml").is_file() and (parent / "assets").is_dir() else None


def folder():
    """The folder (Path) of the shipped files: `assets/` of the checkout, else the copy inside the installed package.

    Raises FileNotFoundError if there is neither.
    """
    if root():
        return root() / "assets"
    installed = Path(__file__).resolve().parent / "_assets"
    if not installed.is_dir():
        raise FileNotFoundError(
            "The course's assets folder is missing: expected assets/ in the repository or mmlesson/_assets in an "
            "installed package. Run `git checkout assets` in a clone, or install the package again."
        )
    return installed


def card(name):
    """The model card of checkpoint `name` as a dict with at least the keys in CARD_KEYS.

    Raises FileNotFoundError if there is no such card, ValueError if it is damaged.
    """
    import yaml

    path = folder() / f"{name}.md"
    if not path.is_file():
        known = sorted(p.stem for p in folder().glob("*.safetensors"))
        raise FileNotFoundError(
            f"There is no checkpoint {name!r}: expected the model card assets/{name}.md, found cards for "
            f"{', '.join(known) or 'none'}. Check the name, or make the checkpoints with `make assets`."
        )
    parts = path.read_text(encoding="utf-8").split("---\n", 2)
    try:
        front = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0] else None
    except yaml.YAMLError:
        front = None
    missing = [key for key in CARD_KEYS if not isinstance(front, dict) or key not in front]
    if missing:
        raise ValueError(
            f"The model card assets/{name}.md has no {', '.join(missing)} in its front matter: expected YAML between "
            f"two --- lines. Restore it with `git checkout assets`, or make it again with `make assets`."
        )
    return front


def load_weights(name, device="cpu"):
    """State dict {key: tensor} of checkpoint `name` on `device`, once its sha256 is found equal to its model card's.

    Raises FileNotFoundError if the checkpoint is missing, ValueError if its bytes are not the ones described.
    """
    from safetensors.torch import load

    expected = card(name)["sha256"]
    path = folder() / f"{name}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"The weights assets/{name}.safetensors are missing although their card is there. "
            "Restore them with `git checkout assets`, or make them again with `make assets`."
        )
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise ValueError(
            f"The weights assets/{name}.safetensors are not the ones that their card describes: sha256 is "
            f"{found[:12]}..., expected {str(expected)[:12]}... Restore both files with `git checkout assets`, or "
            "make them again with `make assets`."
        )
    return {key: tensor.to(device) for key, tensor in load(data).items()}


def save_weights(name, state_dict, card, about=""):
    """Write the checkpoint `name`: its weights, and its model card with the weights' sha256. Returns the weights' Path.

    state_dict: {key: tensor} on any device. card: dict with the keys of CARD_KEYS, less sha256, in plain Python
    numbers, strings, lists and dicts. about: Markdown for the body of the card: what it is, from which data.
    Raises ValueError, before anything is written, if the card is incomplete or is not plain.
    """
    import yaml
    from safetensors.torch import save

    missing = [key for key in CARD_KEYS[1:] if key not in card]
    if missing:
        raise ValueError(f"The card of {name!r} lacks {', '.join(missing)}: a checkpoint ships with how it was made.")
    # One clone a tensor, because safetensors refuses tensors that share memory (tied weights).
    data = save({key: tensor.detach().cpu().contiguous().clone() for key, tensor in state_dict.items()})
    front = {"sha256": hashlib.sha256(data).hexdigest(), **card}
    try:
        text = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    except yaml.YAMLError as error:
        raise ValueError(
            f"The card of {name!r} must hold plain numbers, strings, lists and dicts ({error.args[-1]!r} is not one): "
            "convert tensors and numpy numbers with .item() or .tolist()."
        ) from None
    path = folder() / f"{name}.safetensors"
    path.write_bytes(data)
    body = f"---\n{text}---\n\n# {name}\n\n{about.strip()}\n" if about else f"---\n{text}---\n\n# {name}\n"
    path.with_suffix(".md").write_text(body, encoding="utf-8", newline="\n")
    return path
