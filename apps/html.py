"""Pages that open anywhere: one file, pictures inside it, nothing fetched, nothing executed."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fieldforge.fields.container import replacing

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .25rem .7rem; text-align: right }
th:first-child, td:first-child { text-align: left } thead { border-bottom: 1px solid #999 }
tbody tr:nth-child(odd) { background: #f4f4f4 } figure { display: inline-block; margin: .3rem; vertical-align: top }
figcaption { font-size: 13px; color: #555; max-width: 30rem } img { max-width: 100% }
.pixels { image-rendering: pixelated }
.card { display: inline-block; vertical-align: top; margin: .3rem .3rem 1rem; width: 200px } .card figure { margin: 0 }
.card h3 { font-size: 14px; margin: .3rem 0 }
code { background: #f4f4f4; padding: 0 .2rem }
.banner { font-size: 1.2rem; padding: .8rem 1rem; background: #f4f4f4; border-left: .4rem solid }
"""


class Page:
    """A page that is put together from top to bottom; every text is escaped.

    Args:
        title: in the window's bar, and as the first heading.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts = [f"<h1>{html.escape(title)}</h1>"]

    def heading(self, text: str) -> None:
        """A section begins."""
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def paragraph(self, text: str) -> None:
        """A paragraph of plain text."""
        self._parts.append(f"<p>{html.escape(text)}</p>")

    def banner(self, text: str, color: str) -> None:
        """The sentence that matters, beside a bar of a CSS colour."""
        self._parts.append(f'<p class="banner" style="border-color: {html.escape(color)}">{html.escape(text)}</p>')

    def items(self, texts: Sequence[str]) -> None:
        """A list."""
        self._parts.append(f"<ul>{''.join(f'<li>{html.escape(text)}</li>' for text in texts)}</ul>")

    def code(self, text: str) -> None:
        """A line to type."""
        self._parts.append(f"<p><code>{html.escape(text)}</code></p>")

    def table(self, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table of texts; the first column names the row."""
        head = "".join(f"<th>{html.escape(text)}</th>" for text in headings)
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(text)}</td>' for text in row)}</tr>" for row in rows)
        self._parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")

    def picture(self, pixels: np.ndarray, caption: str = "", *, width: int | None = None) -> None:
        """An array (height, width[, 1 or 3]) of values in [0, 1], shown `width` pixels wide (None: its own)."""
        from PIL import Image

        values = np.round(np.clip(np.nan_to_num(pixels), 0, 1) * 255).astype(np.uint8)
        values = values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values
        stream = io.BytesIO()
        Image.fromarray(values).save(stream, "PNG")
        self.png(stream.getvalue(), caption, width, is_enlarged=width is not None and width > values.shape[1])

    def card(self, title: str, pictures: Mapping[str, np.ndarray], *, width: int = 192) -> None:
        """Pictures one below another under a title; cards stand beside each other."""
        self._parts.append(f'<div class="card"><h3>{html.escape(title)}</h3>')
        for caption, pixels in pictures.items():
            self.picture(pixels, caption, width=width)
        self._parts.append("</div>")

    def figure(self, figure: Any, caption: str = "") -> None:
        """A matplotlib figure."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        FigureCanvasAgg(figure)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", metadata={"Software": None})
        self.png(stream.getvalue(), caption)

    def text(self) -> str:
        """The whole page."""
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            f"<title>{html.escape(self.title)}</title><style>{_STYLE}</style></head>\n"
            f"<body>\n{chr(10).join(self._parts)}\n</body></html>\n"
        )

    def write(self, path: Path) -> None:
        """Write the page in one step.

        Raises:
            OSError: the file system refused.
        """
        with replacing(path) as file:
            file.write(self.text().encode())

    def png(self, png: bytes, caption: str = "", width: int | None = None, *, is_enlarged: bool = False) -> None:
        """A PNG file's bytes, shown `width` pixels wide; enlarged pixels stay square."""
        size = "" if width is None else f' width="{width}"'
        style = ' class="pixels"' if is_enlarged else ""
        source = base64.b64encode(png).decode()
        said = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
        self._parts.append(
            f'<figure><img{style}{size} alt="{html.escape(caption, quote=True)}" '
            f'src="data:image/png;base64,{source}">{said}</figure>'
        )
