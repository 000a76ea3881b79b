"""A drawn chart as part of a page: an <svg> element that follows the page's width, theme and font.

The texts in it are escaped by the writer of the XML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree import ElementTree

from autoprune.report.page.drawing import PALETTE, Chart, Tips, drawn

_SVG, _LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_MARKS = (f"{{{_SVG}}}use", f"{{{_SVG}}}path")


def svg(chart: Chart, narrow: bool) -> str:
    """The chart as an <svg> element for a page: no size of its own, colours by CSS variables, ids of its own."""
    key = f"{chart.name}-{'narrow' if narrow else 'wide'}"
    data, tips = drawn(chart, narrow, "svg", {"svg.hashsalt": key})
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _LINK)
    tree = ElementTree.fromstring(data)
    for child in [e for e in tree if e.tag == f"{{{_SVG}}}metadata"]:
        tree.remove(child)
    for defs in tree.iter(f"{{{_SVG}}}defs"):
        for style in defs.findall(f"{{{_SVG}}}style"):
            defs.remove(style)  # it would hold for the whole page
    _add_tips(tree, tips)
    for element in tree.iter():
        for name, value in element.attrib.items():
            if name == "id":
                element.set(name, f"{key}-{value}")
            elif name == f"{{{_LINK}}}href":
                element.set(name, f"#{key}-{value[1:]}")
            elif "url(#" in value:
                element.set(name, value.replace("url(#", f"url(#{key}-"))
    for name in ("width", "height", "version"):
        tree.attrib.pop(name, None)
    label = f"{chart.title}. {chart.caption}"  # no <title>: it would pop up wherever the mouse is
    tree.attrib |= {"role": "img", "class": key.rpartition("-")[2], "aria-label": label}
    roles = {light: role for role, (light, _) in PALETTE.items()}
    for element in tree.iter():
        if "style" in element.attrib:
            element.set("style", re.sub("#[0-9a-f]{6}", lambda m: _variable(roles, m[0]), element.attrib["style"]))
    return ElementTree.tostring(tree, encoding="unicode")


def _add_tips(tree: ElementTree.Element, tips: Tips) -> None:
    """What is said under the mouse, mark by mark."""
    places = {e.get("id"): e for e in tree.iter() if e.get("id") in tips}
    for name, texts in tips.items():
        place = places.get(name)
        inside = {e for defs in place.iter(f"{{{_SVG}}}defs") for e in defs.iter()} if place is not None else set()
        drawn = [] if place is None else [e for e in place.iter() if e.tag in _MARKS and e not in inside]
        if len(drawn) == len(texts):
            for mark, text in zip(drawn, texts, strict=True):
                ElementTree.SubElement(mark, f"{{{_SVG}}}title").text = text


def _variable(roles: Mapping[str, str], color: str) -> str:
    return f"var(--{roles[color]})" if color in roles else color
