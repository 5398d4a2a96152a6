"""Documentation of a dataclass lists its fields, with the comments that stand beside them in the source."""

import inspect
import re
from dataclasses import is_dataclass

FIELD = re.compile(r"    (?P<field>\w+: [^#]+?)(  # (?P<comment>.*))?")


def list_fields(app, what, name, obj, options, lines):
    """Append the fields to the docstring; those of a parent class are with the parent."""
    if what != "class" or not is_dataclass(obj):
        return
    source = inspect.getsource(obj).replace(inspect.getdoc(obj), "")
    fields = [found for line in source.splitlines() if (found := FIELD.fullmatch(line))]
    lines += [f"- ``{found['field']}``" + (f": {found['comment']}" if found["comment"] else "") for found in fields]
    lines.append("")


def leave_out_signature(app, what, name, obj, options, signature, returns):
    """The fields say it better."""
    return ("", "") if what == "class" and is_dataclass(obj) else None


def setup(app):
    """Called by Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", list_fields)
    app.connect("autodoc-process-signature", leave_out_signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
