"""Small mends to Jupyter Book's pages."""


def drop_repeated_scripts(app, pagename, templatename, context, doctree):
    """sphinx-thebe adds one inline script twice, which makes every page log a SyntaxError."""
    seen, kept = set(), []
    for script in context.get("script_files", []):
        body = getattr(script, "attributes", {}).get("body")
        if body is None or body not in seen:
            kept.append(script)
            seen.add(body)
    context["script_files"] = kept


def setup(app):
    """Called by Sphinx."""
    app.connect("html-page-context", drop_repeated_scripts, priority=990)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
