"""HTML and SVG as a tree, so that it is always well-formed and text of others is always only text. Pure."""

import re
from typing import Final
from xml.etree import ElementTree as ET

Content = ET.Element | str | None

# What XML cannot hold; any program may have said it.
_UNPRINTABLE: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def element(tag: str, *content: Content, **attributes: object) -> ET.Element:
    """Make an element: its content in order, its attributes with "_" for "-" (`class_` is class; None is left out)."""
    made = ET.Element(tag, {_name(name): _printable(value) for name, value in attributes.items() if value is not None})
    last: ET.Element | None = None
    for part in content:
        if isinstance(part, ET.Element):
            made.append(part)
            last = part
        elif part is not None and last is None:
            made.text = (made.text or "") + _printable(part)
        elif part is not None and last is not None:
            last.tail = (last.tail or "") + _printable(part)
    return made


def _name(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def _printable(value: object) -> str:
    return _UNPRINTABLE.sub("\ufffd", f"{value:g}" if isinstance(value, float) else str(value))


def document(root: ET.Element) -> str:
    """The page as text that both an HTML and an XML parser read."""
    return f"<!DOCTYPE html>\n{ET.tostring(root, encoding='unicode')}\n"
