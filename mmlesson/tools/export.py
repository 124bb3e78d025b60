"""`make export`: nbdev writes mmlesson/models from the "#| export" cells, and the marks of answers are dropped."""

import subprocess
import sys
from pathlib import Path

from mmlesson.tools.student import without_marks


def main():
    """Write mmlesson/models in the working directory."""
    subprocess.run([Path(sys.executable).with_name("nbdev-export")], check=True)
    for path in Path("mmlesson/models").glob("*.py"):
        path.write_bytes(without_marks(path.read_bytes().decode()).encode())  # line ends stay as nbdev writes them


if __name__ == "__main__":
    main()
