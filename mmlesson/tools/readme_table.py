"""The run contract, `python -m mmlesson contract`: what every lesson costs, as measured, in the README's table.

Each lesson's scorecard() writes `results/<lesson>.json`; the table stands between two marks in README.md.
"""

import json
import os
from pathlib import Path

import mmlesson

BEGIN, END = "<!-- contract:begin -->", "<!-- contract:end -->"


def read_results(notebooks, folder):
    """The results of `notebooks` (file stems, such as "03_clip") in `folder` (Path): a list of dicts, in that order.

    The results of a lesson are named by its slug, such as clip.json. Raises FileNotFoundError if some are missing,
    ValueError if one is damaged or if they are not from one run.
    """
    slugs = {notebook: notebook.partition("_")[2] for notebook in notebooks}
    missing = [slug for slug in slugs.values() if not (folder / f"{slug}.json").is_file()]
    if missing or not notebooks:
        raise FileNotFoundError(
            f"There are no results for {', '.join(missing) or 'any lesson'} in {folder}: run `make contract`, which "
            "executes every lesson first."
        )
    results = []
    for notebook, slug in slugs.items():
        try:
            result = json.loads((folder / f"{slug}.json").read_text(encoding="utf-8"))
            results.append({**result, "notebook": notebook, "machine": _machine(result), "cost": _cost(result)})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{folder / slug}.json is damaged ({error!r}): delete it, then run `make contract`."
            ) from None
    machines = {result["machine"] for result in results}
    if len(machines) > 1:
        raise ValueError(
            f"The results in {folder} are not from one run ({'; '.join(sorted(machines))}): run `make contract`, which "
            "executes every lesson anew."
        )
    return results


def table(results):
    """The Markdown table of read_results()'s answer."""
    lines = [
        f"Measured by `make contract` on {results[0]['machine']}:",
        "",
        "| lesson | minutes | peak memory |",
        "| --- | ---: | ---: |",
    ]
    for result in results:
        minutes, megabytes = result["cost"]
        name = result["notebook"]
        lines.append(f"| [{name}](notebooks/{name}.ipynb) | {minutes:.1f} | {megabytes:,} MB |")
    return "\n".join(lines)


def rewrite(readme, results):
    """Put the table of `results` between the two marks of `readme` (Path). Raises ValueError if they are not there."""
    before, begin, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(
            f"{readme.name} has no place for the table: expected a line {BEGIN} and, after it, a line {END}."
        )
    readme.write_text(f"{before}{BEGIN}\n{table(results)}\n{END}{after}", encoding="utf-8", newline="\n")


def main():
    """Rewrite the README's table from the results of all notebooks in the checkout."""
    root = mmlesson.repository()
    if not root:
        raise FileNotFoundError("The table stands in the README of a clone: run this in the folder of the repository.")
    notebooks = sorted(path.stem for path in (root / "notebooks").glob("*.ipynb"))
    results = read_results(notebooks, Path(os.environ.get("MMLESSON_RESULTS") or root / "results"))
    rewrite(root / "README.md", results)
    print(f"README.md: the costs of {len(results)} lessons on {results[0]['machine']}.")
    return 0


def _machine(result):
    versions = result["versions"]
    return (
        f"{result['device']} with {result['threads']} threads, Python {versions['python']}, torch {versions['torch']}, "
        f"transformers {versions['transformers']}, mmlesson {versions['mmlesson']}"
    )


def _cost(result):
    """Minutes (float) and megabytes of memory at the peak (int)."""
    return result["seconds"] / 60, round(result["peak_memory_mb"])
