"""What several sections read out of the JSON document of ``stats``."""

from collections.abc import Iterable, Mapping
from typing import Any

Document = Mapping[str, Any]

#: What stands below a picture of figures that the table of channels has.
IN_TABLE = '<p class="data"><a href="#channels">Data: the table of channels</a></p>'


def state_of(group: Document) -> str:
    if group["active"] is None:
        return ""
    return "collapsed" if group["collapsed"] else "active" if group["active"] else "inactive"


def others_of(document: Document) -> list[Document]:
    """The channels of the encoder that this one is set beside; none where there is none."""
    return document["against"]["summary"]["per_channel"] if document["against"] else []


def beside(document: Document, how: str = "a line") -> str:
    """What a caption adds where a picture shows both encoders."""
    return f"; the other encoder is {how}" if document["against"] else ""


def asked_for(document: Document, name: str) -> Any:
    return document["with"][name]


def shape_rows(document: Document) -> list[tuple[str, list[float | None], bool]]:
    shape = asked_for(document, "shape")
    if not shape:
        return []
    return [
        ("skewness", [each["skewness"] for each in shape["channels"]], True),
        ("excess kurtosis", [each["excess_kurtosis"] for each in shape["channels"]], True),
    ]


def with_minus(words: Iterable[str]) -> list[str]:
    return [word.replace("-", "−") for word in words]
