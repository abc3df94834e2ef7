"""The plotting library that a page carries along: plotly.js, as the package plotly ships it (MIT License)."""

from __future__ import annotations

import base64
import gzip

from stabcheck.renderers.html.markup import Html


def packed() -> Html:
    """An element that holds the library compressed: 2 MB instead of 5, which `script.js` unpacks in the browser.

    Raises:
        ModuleNotFoundError: plotly is not installed.
    """
    from plotly.offline import get_plotlyjs  # type: ignore[import-not-found,import-untyped,unused-ignore]

    # No time stamp: the same report gives the same file.
    data = base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()
    notice = "<!-- plotly.js, Copyright Plotly, Inc., MIT License: https://github.com/plotly/plotly.js -->"
    return Html(f'{notice}\n<script type="application/octet-stream" id="plotly">{data}</script>')
