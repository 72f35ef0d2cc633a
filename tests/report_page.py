"""A report read back: its tags, tables, headings and texts, by the standard library's parser."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "br", "img", "link", "input", "hr"}


@dataclass
class Tag:
    """One opened tag, and all text within it."""

    name: str
    attributes: dict[str, str]
    parents: tuple[str, ...]
    parts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.parts)


@dataclass
class Page(HTMLParser):
    """What a page holds, in its order; raises ``AssertionError`` for tags that do not match."""

    tags: list[Tag] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._open: list[Tag] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute twice in {tag}"
        opened = Tag(tag, {name: value or "" for name, value in attrs}, tuple(each.name for each in self._open))
        self.tags.append(opened)
        if tag not in VOID:
            self._open.append(opened)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open[-1].name == tag, f"</{tag}> within <{self._open[-1].name}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for tag in self._open:
            tag.parts.append(data)

    @property
    def unclosed(self) -> list[str]:
        return [tag.name for tag in self._open]

    def all(self, name: str) -> list[Tag]:
        return [tag for tag in self.tags if tag.name == name]

    def section(self, heading: str) -> str:
        """The text of the section of this heading."""
        (found,) = [tag for tag in self.all("section") if tag.text.strip().startswith(heading)]
        return found.text

    def table(self, caption: str) -> dict[str, list[str]]:
        """The columns of the table whose caption begins so, by their headings; the last row may be a total."""
        first = next(
            place
            for place, tag in enumerate(self.tags)
            if tag.name == "caption" and tag.text.startswith(caption)
        )  # fmt: skip
        rows: list[list[str]] = []
        for tag in self.tags[first:]:
            if tag.name == "table":
                break
            if tag.name == "tr":
                rows.append([])
            elif tag.name in ("th", "td"):
                rows[-1].append(tag.text)
        return {name: [row[place] for row in rows[1:]] for place, name in enumerate(rows[0])}


def parse(text: str) -> Page:
    page = Page()
    page.feed(text)
    page.close()
    assert page.unclosed == []
    return page


def figure(shown: str) -> float | None:
    """A number as the page shows it; None for a dash."""
    return None if shown == "–" else float(shown.replace("−", "-").replace(",", ""))
