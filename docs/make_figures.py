"""Draw the pictures of a page: run its examples in order, and save `figure` where the page shows an image of _figures/.

conf.py calls this at every build, so that a picture is always what the code above it draws.
"""

import doctest
import re
from pathlib import Path
from typing import Any

FOLDER = "_figures"
_CODE = r"^```pycon\n(?P<code>.*?)^```$"
_IMAGE = rf"!\[[^\]]*\]\({FOLDER}/(?P<image>[^)]+)\)"
_PART = re.compile(f"{_CODE}|{_IMAGE}", re.DOTALL | re.MULTILINE)


def make_figures(page: Path) -> list[Path]:
    """Write the pictures of a page and return their paths."""
    names: dict[str, Any] = {}
    made = []
    (page.parent / FOLDER).mkdir(exist_ok=True)
    for part in _PART.finditer(page.read_text(encoding="utf-8")):
        if part["image"]:
            made.append(page.parent / FOLDER / part["image"])
            names["figure"].savefig(made[-1], metadata={"Date": None})
        else:
            for example in doctest.DocTestParser().get_examples(part["code"]):
                if example.exc_msg is None:  # what is there to fail draws nothing
                    exec(compile(example.source, str(page), "exec"), names)
    return made
