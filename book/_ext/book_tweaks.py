"""Small mends to Jupyter Book's pages."""

from myst_nb.core import render
from myst_nb.core.utils import coalesce_streams


def join_streams(outputs):
    """What a cell prints arrives in pieces, which may end within a line; myst-nb would break the line there."""
    joined, streams = [], {}
    for output in outputs:
        name = output["name"] if output["output_type"] == "stream" else None
        if name in streams:
            streams[name]["text"] += output["text"]
            continue
        joined.append(output)
        if name:
            streams[name] = output
    return coalesce_streams(joined)


def drop_repeated_scripts(app, pagename, templatename, context, doctree):
    """sphinx-thebe adds one inline script twice, which makes every page log a SyntaxError."""
    seen, kept = set(), []
    for script in context.get("script_files", []):
        body = getattr(script, "attributes", {}).get("body")
        if body is None or body not in seen:
            kept.append(script)
            seen.add(body)
    context["script_files"] = kept


def list_bibliography(app, pagename, templatename, context, doctree):
    """docutils makes the bibliography a list without items: a screen reader is told of entries that no list may hold."""
    if "body" in context:
        context["body"] = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')


def setup(app):
    """Called by Sphinx."""
    render.coalesce_streams = join_streams
    app.connect("html-page-context", list_bibliography)
    app.connect("html-page-context", drop_repeated_scripts, priority=990)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
