import sys
from importlib.metadata import version as installed_version
from pathlib import Path

project = "optdecode"
author = "the optdecode authors"
project_copyright = author
version = release = installed_version("optdecode")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "myst_parser",
]
myst_enable_extensions = ["dollarmath", "amsmath"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "optdecode"
html_copy_source = False

autodoc_typehints = "none"  # numpydoc's Parameters give the types
autodoc_member_order = "bysource"
numpydoc_class_members_toctree = False
numpydoc_show_inherited_class_members = False


def setup(app):
    """Draw the pictures anew before pages are read."""
    sys.path.insert(0, str(app.srcdir))
    from make_figures import make_figures

    def draw(app):
        for page in ("seeing.md", "tutorial.md"):
            make_figures(Path(app.srcdir) / page)

    app.connect("builder-inited", draw)
