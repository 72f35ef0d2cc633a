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
    """The channels of the encoder that this one is set beside; none where they do not go with these, one by one."""
    if not document["against"]:
        return []
    other = document["against"]["summary"]
    is_alike = other["channels"] == document["channels"] and (other["overall"]["kl"] is None) is (
        document["overall"]["kl"] is None
    )
    return other["per_channel"] if is_alike else []


def beside(there: Any, how: str = "a line") -> str:
    """What a caption adds where ``there``, of the other encoder, is in the picture."""
    return f"; the other encoder is {how}" if there else ""


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
