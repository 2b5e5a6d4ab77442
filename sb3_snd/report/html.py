"""Turn a report in Markdown into one HTML page that needs no other file.

Knows markdown-it and ``page.html``, which holds the style and the script that sorts tables. Knows neither runs
nor models.
"""

import base64
import html
import mimetypes
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import unquote

from sb3_snd.common.extras import require

#: a table scrolls on its own, by keyboard, too
TABLE_OPEN = '<div class="table" role="region" aria-label="table" tabindex="0"><table>\n'
TABLE_CLOSE = "</table></div>\n"


def write_html(source: Path, target: Path) -> None:
    """
    Write a report as one HTML page with its pictures inside. HTML in the report is escaped.

    :param source: Path of the report, in Markdown with a heading in its first line; its pictures are files beside it
    :param target: Path of the page
    :raises ImportError: if markdown-it is missing; the message names the extra
    """
    parser = require("markdown_it", "plots").MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(source.read_text(encoding="utf-8"))
    for image in _images(tokens):
        image.attrs["src"] = _data_uri(source.parent / unquote(image.attrs["src"]))
    parser.add_render_rule("table_open", lambda *_: TABLE_OPEN)
    parser.add_render_rule("table_close", lambda *_: TABLE_CLOSE)
    title = "".join(part.content for part in tokens[1].children)  # of the heading, with which every report begins
    body = parser.renderer.render(tokens, parser.options, {})
    page = Template(files("sb3_snd.report").joinpath("page.html").read_text(encoding="utf-8"))
    target.write_text(page.substitute(title=html.escape(title), body=body), encoding="utf-8")


def _images(tokens: Sequence[Any]) -> Iterator[Any]:
    return (child for token in tokens for child in token.children or () if child.type == "image")


def _data_uri(path: Path) -> str:
    return f"data:{mimetypes.guess_type(path.name)[0]};base64,{base64.b64encode(path.read_bytes()).decode()}"
