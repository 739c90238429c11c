"""XML that is not trusted: parsed without entities of its own."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from xml.parsers import expat

from meshsim.io.raw import unpacked

HEAD = 1 << 20  # declarations stand before the first element


def parse(data: bytes) -> ElementTree.Element:
    """The root element.

    Raises:
        ValueError: it is not complete XML, or declares entities.
    """
    refuse_entities(data)
    try:
        return ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise ValueError(f"is not complete XML ({error})") from None


def check_file(path: str) -> None:
    """Raise `ValueError` if an XML file that a library will parse declares entities."""
    with unpacked(path) as file:
        refuse_entities(bytes(file.read(HEAD)))


def refuse_entities(data: bytes) -> None:
    """Raise `ValueError` if entities are declared before the first element.

    A document type without declarations (`<!DOCTYPE Xdmf SYSTEM "Xdmf.dtd" []>`, which most XDMF
    files carry) is harmless: nothing is loaded for it.
    """

    class Reached(Exception):
        pass

    def declared(*_: object) -> None:
        raise ValueError("declares XML entities, which no mesh needs: not read")

    def started(*_: object) -> None:
        raise Reached

    parser = expat.ParserCreate()
    parser.EntityDeclHandler = declared
    parser.StartElementHandler = started
    try:
        parser.Parse(data, False)
    except (Reached, expat.ExpatError):
        return  # what is wrong with the rest is for the real parser to say
