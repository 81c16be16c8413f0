"""The documents of the project, and their parts: code blocks, inline code, links and headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.command import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Document:
    """One Markdown file, with the code blocks taken out of its prose."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def content(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @property
    def prose(self) -> str:
        return FENCE.sub("", self.content)

    def blocks(self, language: str) -> list[str]:
        """Return the text of the code blocks of one language; commands have none."""
        return [match["text"] for match in FENCE.finditer(self.content) if match["language"] == language]

    @property
    def languages(self) -> set[str]:
        return {match["language"] for match in FENCE.finditer(self.content)}

    def inline_code(self) -> list[str]:
        """Return the text of each inline code span, with line breaks as spaces."""
        return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", self.prose)]

    def links(self) -> list[str]:
        return re.findall(r"\]\(([^)]+)\)", self.prose)

    def anchors(self) -> set[str]:
        """Return the anchors of the headings, as GitHub makes them."""
        headings = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def documents() -> list[Document]:
    return [Document(path) for path in DOCUMENTS]


def command_lines(block: str) -> Iterator[str]:
    """Yield the commands of a block, with continued lines joined."""
    for line in block.replace("\\\n", " ").splitlines():
        if line.strip():
            yield line
