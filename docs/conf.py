"""How the pages are built: `sphinx-build -n -W docs docs/_build/html`."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import drawings

drawings.draw_all(Path(__file__).parent / "_static" / "drawings")  # before the pages that show them are read

project = "rtcflow"
author = "rtcflow authors"
copyright = "2026, rtcflow authors"
release = version = installed_version("rtcflow")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}
html_theme = "furo"
html_title = f"rtcflow {release}"
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["custom.css"]

myst_enable_extensions = ["attrs_block", "colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
maximum_signature_line_length = 90  # longer ones have a line for each argument
autoclass_content = "class"
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# `names` in docstrings become links where there is something to link to, and stay words elsewhere.
default_role = "py:obj"
nitpick_ignore_regex = [
    (r"py:obj", r".*"),
    # Other people's types: no inventories of their pages are fetched, so that building needs no network.
    (r"py:.*", r"(?!rtcflow).*"),
    # Type variables and private names in signatures.
    (r"py:.*", r"rtcflow\.(media\.playout\.PlayoutFrame|connection\.handler_loop\..*|serving\..*)"),
    (r"py:.*", r"rtcflow\.(.*\.)?(T|T_contra|_\w+|_\w+\..*)"),
    (r"py:class", r"rtcflow\.transports\.linked\.LinkTransport"),  # a base class without names of its own
]
