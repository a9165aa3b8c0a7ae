"""The documentation is whole: its links lead somewhere, and the reference has every public name.

`make docs` builds the site and checks more; these tests need no MkDocs.
"""

import ast
import pathlib
import re

import pytest

import tfadv

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "flags/README.md"]


def without_code(text):
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(path):
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", without_code(path.read_text(encoding="utf-8")), re.M)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_resolve(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), link
        assert not anchor or anchor in anchors(path), link


def test_the_reference_has_every_public_name():
    referenced = []
    for page in ROOT.glob("docs/reference/*.md"):
        referenced += re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.M)
    public = set()
    for name in tfadv.__all__:
        value = getattr(tfadv, name)
        public |= public_names(value, f"tfadv.{name}")
    assert sorted(referenced) == sorted(public)


def public_names(value, path):
    """The public names in a module of the library; the name itself for all else."""
    if not hasattr(value, "__path__") and not hasattr(value, "__file__"):
        return {path}
    names = getattr(value, "__all__", None) or [
        name
        for name, member in vars(value).items()
        if getattr(member, "__module__", None) == value.__name__
        and not name.startswith("_")
        and callable(member)
    ]
    return {name for each in names for name in public_names(getattr(value, each), f"{path}.{each}")}


def test_a_reader_can_reach_every_page():
    """Every page is in the navigation of the site, or another page links to it."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    text += "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for page in ROOT.glob("docs/**/*.md"):
        assert re.search(rf"\b{re.escape(str(page.relative_to(ROOT / 'docs')))}\b", text)


def test_messages_in_troubleshooting_are_those_of_the_code():
    text = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\| `([^`]+)` \|", text, re.M)
    assert len(messages) > 15
    sources = [*ROOT.glob("tfadv/**/*.py"), *ROOT.glob("tools/*.py")]
    said = [node.value for path in sources for node in strings(path)]
    said += [path.read_text(encoding="utf-8") for path in ROOT.glob("tools/*.sh")]
    assert not [message for message in messages if not any(message in each for each in said)]


def strings(path):
    """The string constants of a file; those of f-strings in pieces."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node


def test_the_citation_names_this_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {tfadv.__version__}\n" in citation
