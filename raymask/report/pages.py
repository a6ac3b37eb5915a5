"""The templates of the pages that raymask writes."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


@cache
def page_template(name: str) -> Template:
    """A template of this package by its file's name; what it is not given is an error."""
    loader = PackageLoader("raymask.report")
    pages = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    return pages.get_template(name)
