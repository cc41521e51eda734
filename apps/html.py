"""Pages that open anywhere: one file, pictures inside it, nothing fetched, nothing executed."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .25rem .7rem; text-align: right }
th:first-child, td:first-child { text-align: left } thead { border-bottom: 1px solid #999 }
tbody tr:nth-child(odd) { background: #f4f4f4 } figure { display: inline-block; margin: .3rem; vertical-align: top }
figcaption { font-size: 13px; color: #555; max-width: 30rem } img { max-width: 100% }
.pixels { image-rendering: pixelated }
code { background: #f4f4f4; padding: 0 .2rem }
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
        self._image(stream.getvalue(), caption, width, is_enlarged=width is not None and width > values.shape[1])

    def figure(self, figure: Any, caption: str = "") -> None:
        """A matplotlib figure."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        FigureCanvasAgg(figure)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", metadata={"Software": None})
        self._image(stream.getvalue(), caption, None)

    def write(self, path: Path) -> None:
        """Write the page in one step.

        Raises:
            OSError: the file system refused.
        """
        text = (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            f"<title>{html.escape(self.title)}</title><style>{_STYLE}</style></head>\n"
            f"<body>\n{chr(10).join(self._parts)}\n</body></html>\n"
        )
        part = path.with_name(f"{path.name}.part")
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)

    def _image(self, png: bytes, caption: str, width: int | None, *, is_enlarged: bool = False) -> None:
        size = "" if width is None else f' width="{width}"'
        style = ' class="pixels"' if is_enlarged else ""
        source = base64.b64encode(png).decode()
        said = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
        self._parts.append(
            f'<figure><img{style}{size} alt="{html.escape(caption, quote=True)}" '
            f'src="data:image/png;base64,{source}">{said}</figure>'
        )
