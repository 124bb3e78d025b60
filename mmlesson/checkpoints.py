"""The shipped checkpoints. `load_pretrained("clip_resnet", device)` gives a model, ready to be asked.

A checkpoint is two files in assets/checkpoints: `<name>.safetensors` (never a pickle), and the model card `<name>.md`,
whose front matter (YAML between two `---` lines) says how the weights were made and holds their sha256.
"""

import hashlib
import importlib
import re

import mmlesson

CARD_KEYS = ("sha256", "command", "seed", "steps", "seconds", "metrics", "config")


def load_pretrained(name, device="cpu"):
    """The shipped model `name` on `device`: built as its card says, with its weights, frozen, in eval mode.

    Raises what `card` and `load_weights` raise; ValueError if the card's builder is no function of mmlesson.models.
    """
    config = card(name)["config"]
    model = _builder(name, config.get("builder"))(**config.get("build", {})).to(device)
    missing, unexpected = model.load_state_dict(load_weights(name, device), strict=False)
    # Flamingo ships only what is trained: the parts that it takes from other checkpoints are frozen.
    missing = [key for key, p in model.named_parameters() if key in missing and p.requires_grad]
    if missing or unexpected:
        raise ValueError(
            f"The weights of {name!r} do not fit the model that its card describes: "
            f"missing {', '.join(missing[:3]) or 'none'}, unexpected {', '.join(unexpected[:3]) or 'none'}. "
            "Restore both with `git checkout assets`, or make them again with `make assets`."
        )
    return model.eval().requires_grad_(False)


def _builder(name, builder):
    """The function that a card names, such as "mmlesson.models.clip.clip_resnet"."""
    found = re.fullmatch(r"(mmlesson\.models\.\w+)\.(\w+)", str(builder))
    function = getattr(importlib.import_module(found[1]), found[2], None) if found else None
    if function is None:
        raise ValueError(
            f"The model card of {name!r} names the builder {builder!r}: expected a function or class of "
            "mmlesson.models, such as mmlesson.models.clip.clip_resnet."
        )
    return function


def card(name):
    """The model card of checkpoint `name`, as a dict with at least the keys in CARD_KEYS.

    Raises FileNotFoundError if there is no such card, ValueError if it is damaged.
    """
    import yaml

    path = _folder() / f"{name}.md"
    if not path.is_file():
        known = sorted(p.stem for p in _folder().glob("*.safetensors"))
        raise FileNotFoundError(
            f"There is no checkpoint {name!r}: expected the model card assets/checkpoints/{name}.md, found cards for "
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
            f"The model card assets/checkpoints/{name}.md has no {', '.join(missing)} in its front matter: expected "
            "YAML between two --- lines. Restore it with `git checkout assets`, or make it again with `make assets`."
        )
    return front


def load_weights(name, device="cpu"):
    """State dict {key: tensor} of checkpoint `name` on `device`, after its sha256 was found equal to its model card's.

    Raises FileNotFoundError if the checkpoint is missing, ValueError if its bytes are not the ones described.
    """
    from safetensors.torch import load

    expected = card(name)["sha256"]
    path = _folder() / f"{name}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"The weights assets/checkpoints/{name}.safetensors are missing although their card is there. "
            "Restore them with `git checkout assets`, or make them again with `make assets`."
        )
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise ValueError(
            f"The weights assets/checkpoints/{name}.safetensors are not the ones that their card describes: sha256 is "
            f"{found[:12]}..., expected {str(expected)[:12]}... Restore both files with `git checkout assets`, or "
            "make them again with `make assets`."
        )
    return {key: tensor.to(device) for key, tensor in load(data).items()}


def save_weights(name, state_dict, card, about=""):
    """Write the checkpoint `name`: its weights, and its model card with their sha256. Returns the weights' Path.

    state_dict: {key: tensor} on any device. card: dict with the keys of CARD_KEYS except sha256, in plain Python
    numbers, strings, lists and dicts. about: Markdown for the body of the card (what it is, made from which data).
    Raises ValueError, before anything is written, if the card is incomplete or not plain.
    """
    import yaml
    from safetensors.torch import save

    missing = [key for key in CARD_KEYS[1:] if key not in card]
    if missing:
        raise ValueError(f"The card of {name!r} lacks {', '.join(missing)}: a checkpoint ships with how it was made.")
    # One clone per tensor: safetensors refuses tensors that share memory (tied weights).
    data = save({key: tensor.detach().cpu().contiguous().clone() for key, tensor in state_dict.items()})
    front = {"sha256": hashlib.sha256(data).hexdigest(), **card}
    try:
        text = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    except yaml.YAMLError as error:
        raise ValueError(
            f"The card of {name!r} must hold plain numbers, strings, lists and dicts ({error.args[-1]!r} is not one): "
            "convert tensors and numpy numbers with .item() or .tolist()."
        ) from None
    path = _folder() / f"{name}.safetensors"
    path.write_bytes(data)
    body = f"---\n{text}---\n\n# {name}\n\n{about.strip()}\n" if about else f"---\n{text}---\n\n# {name}\n"
    path.with_suffix(".md").write_text(body, encoding="utf-8", newline="\n")
    return path


def _folder():
    return mmlesson.assets() / "checkpoints"
