"""The runs behind the stored figures. Read one to check a claim.

downstream.py, adapters.py    eighteen small tasks for one frozen model, and how FLAVA is asked
few_shot.py                   accuracy of Flamingo by the number of examples
gemini_evaluation.py          scores of the Gemini-style model on unseen pairs and voices
flava_ablation.py, flamingo_ablation.py, gemini_ablation.py    the variants, and how one is trained and scored
codebook.py                   the perceptual fine-tuning of the image codebook's decoder
parity/                       other implementations: maps of parameter names, comparisons, official weights
"""

import json

import mmlesson


def stored_boards(name):
    """The scores of a stored ablation, assets/ablations/<name>.json: {variant: [scores of one run per seed]}."""
    path = mmlesson.assets() / "ablations" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))["boards"]
