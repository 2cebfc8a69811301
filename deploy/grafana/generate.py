"""Generates the Grafana dashboards stops.json and run.json from `dashboards/`.

`python deploy/grafana/generate.py` writes them, `--check` exits with 1 if they are out of date.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards import run, stops

FOLDER = Path(__file__).parent


def boards() -> Iterator[tuple[Path, str]]:
    """Each dashboard's file and its expected content."""
    for name, board in (("stops.json", stops.board()), ("run.json", run.board())):
        yield FOLDER / name, json.dumps(board.build(), cls=JSONEncoder, indent=2) + "\n"


def main() -> None:
    """Write the dashboards, or with --check only compare."""
    built = list(boards())
    drifted = [path for path, text in built if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        for path in drifted:
            sys.stderr.write(f"{path} is not what the code says: run `make docs`\n")
        sys.exit(1 if drifted else 0)
    for path, text in built:
        path.write_text(text)


if __name__ == "__main__":
    main()
