"""Pages: the routes under which a browser finds the LLM tab, and the hook that puts it into Locust's page."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import flask
import orjson
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from fineserve_shapes.webui.chartlibrary import plotly_js
from fineserve_shapes.webui.feed import Feed

logger = logging.getLogger(__name__)

KEY = "llm"
ASSETS = Path(__file__).parent
TAGS = (
    b'<link rel="stylesheet" href="./fineserve/llm.css">'
    b'<script defer src="./fineserve/charts.js"></script><script defer src="./fineserve/streams.js"></script>'
    b'<script defer src="./fineserve/llm.js"></script>'
)
FORM_TAG = b'<link rel="stylesheet" href="./fineserve/form.css">'


FILES = {
    "llm.js": (ASSETS / "llm.js", 0),
    "llm.css": (ASSETS / "llm.css", 0),
    "form.css": (ASSETS / "form.css", 0),
    "charts.js": (ASSETS / "charts.js", 0),
    "streams.js": (ASSETS / "streams.js", 0),
    "plotly.min.js": (plotly_js(), 86_400),
}
"""What is served, and for how many seconds a browser need not ask again."""


def install(web_ui: Any, feed: Feed, registry: CollectorRegistry) -> None:
    """Add the tab to Locust's web UI: once, before it serves. All routes ask for the login where there is one."""
    prefix = (web_ui.app.blueprints["locust"].url_prefix or "").rstrip("/")
    pages = flask.Blueprint("fineserve", __name__, url_prefix=f"{prefix}/fineserve")

    @pages.route("/llm.json")
    @web_ui.auth_required_if_enabled
    def read() -> flask.Response:
        asked = flask.request.args
        found = feed.read(
            asked.get("run", ""),
            asked.get("version", 0, type=int),
            asked.getlist("stream"),
            asked.getlist("server_s", type=float),
        )
        return _uncached(flask.Response(orjson.dumps(found), mimetype="application/json"))

    @pages.route("/metrics")
    @web_ui.auth_required_if_enabled
    def metrics() -> flask.Response:
        encode, content_type = choose_encoder(flask.request.headers.get("Accept", ""))
        return _uncached(flask.Response(encode(registry), content_type=content_type))

    @pages.route("/<name>")
    @web_ui.auth_required_if_enabled
    def file(name: str) -> flask.Response:
        if name not in FILES:
            flask.abort(404)
        path, max_age = FILES[name]
        return flask.send_file(path, mimetype=None, conditional=True, max_age=max_age)

    web_ui.app.register_blueprint(pages)
    logger.info("Prometheus finds the figures at %s/fineserve/metrics of the web interface%s", prefix,
                ", behind its login (without one: --prometheus-port)" if web_ui.web_login else "")  # fmt: skip
    tabs = web_ui.template_args.setdefault("extended_tabs", [])
    tabs.append({"title": "LLM", "key": KEY})

    # who picks classes may pick no shape, and then users are what runs
    tags = TAGS if web_ui.userclass_picker_is_active else FORM_TAG + TAGS

    @web_ui.app.after_request
    def add_script(response: flask.Response) -> flask.Response:
        if flask.request.endpoint == "locust.index" and response.status_code == 200:
            before, end, after = response.get_data().rpartition(b"</body>")
            if end:
                response.set_data(before + tags + end + after)
        return response


def _uncached(response: flask.Response) -> flask.Response:
    response.headers["Cache-Control"] = "no-store"
    return response
