"""Links between the documents lead somewhere: each file that they name exists, and each heading."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(ROOT / "docs").glob("*.md"),
    ROOT / "checkpoints/README.md",
]


def prose(file: Path) -> str:
    """The text of a document without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", file.read_text(encoding="utf-8"), flags=re.M | re.S)


def anchors(file: Path) -> set[str]:
    """What GitHub calls the headings of a document."""
    found: list[str] = []
    for heading in re.findall(r"^#+ (.+)$", prose(file), re.M):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        again = sum(re.sub(r"-\d+$", "", other) == slug for other in found)
        found.append(f"{slug}-{again}" if again else slug)
    return set(found)


def links(file: Path) -> list[str]:
    """What the document links to within the project."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(file))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


@pytest.mark.parametrize("document", sorted(DOCUMENTS), ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    for target in links(document):
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), f"{target}: no such file"
        assert not anchor or anchor in anchors(file), f"{target}: no such heading"


def test_every_document_can_be_reached_from_the_readme():
    seen, ahead = set(), [ROOT / "README.md"]
    while ahead:
        document = ahead.pop()
        seen.add(document)
        found = {(document.parent / target.partition("#")[0]).resolve() for target in links(document)}
        ahead += [file for file in found if file.suffix == ".md" and file.is_file() and file not in seen]
    assert set(DOCUMENTS) <= seen
