"""Prepares the documentation for MkDocs; mkdocs.yml names this file.

The site consists of `docs/`, and of what those pages link to elsewhere in the repository: README.md
becomes the home page, other Markdown files become pages, and source files become pages that show
them. So a link works in the repository and in the site without being written twice.
"""

import json
import os
import re
from pathlib import Path
from textwrap import dedent

import griffe
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
# Pages from outside of docs/ that no page need link to.
PAGES = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "flags/README.md"]
EXAMPLES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("examples/*.*"))
LANGUAGES = {".py": "python", ".sh": "bash", ".sbatch": "bash"}
PUBLIC = {
    name
    for page in ROOT.glob("docs/reference/*.md")
    for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.M)
}
LINK = re.compile(r"\]\(([^)\s]+)\)")


def page_of(path):
    """Returns where in the site a file of the repository is."""
    if path in ("README.md", "flags/README.md"):
        # Not flags/index.md, which would be the first page of its part of the navigation.
        return {"README.md": "index.md", "flags/README.md": "flags.md"}[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return path if path.endswith(".md") else f"source/{path}.md"


def targets(markdown, path):
    """Yields each relative link of a file: the link, the path in the repository, the anchor."""
    for link in LINK.findall(markdown):
        target, hash_, anchor = link.partition("#")
        if target and "://" not in target and not target.startswith(("mailto:", "data:")):
            where = os.path.normpath(os.path.join(os.path.dirname(path), target))
            yield link, where, hash_ + anchor


def rewritten(markdown, path):
    """Returns the text of a file of the repository with links that fit the site."""
    replaced = {}
    for link, target, anchor in targets(markdown, path):
        if (ROOT / target).is_file():
            start = os.path.dirname(page_of(path)) or "."
            replaced[link] = os.path.relpath(page_of(target), start) + anchor
    text = LINK.sub(lambda match: f"]({replaced.get(match[1], match[1])})", markdown)
    return text if path.startswith("docs/reference/") else linked(text)


def linked(text):
    """Returns a text in which public names, such as `tfadv.attacks.PGD`, link to the reference."""
    return re.sub(
        r"`(tfadv(\.\w+)+)`", lambda m: f"[{m[0]}][{m[1]}]" if m[1] in PUBLIC else m[0], text
    )


def shown(path):
    """Returns a page that shows a source file."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".ipynb"):
        return notebook(json.loads(text))
    language = LANGUAGES.get(Path(path).suffix, "text")
    search = "" if path in EXAMPLES else "---\nsearch:\n  exclude: true\n---\n"
    return f"{search}# {path}\n\n````{language}\n{text.rstrip()}\n````\n"


def notebook(document):
    """Returns the page of a notebook: its text, its code, and what the code printed and drew."""
    parts = []
    for cell in document["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                image = "".join(data["image/png"]).replace("\n", "")
                parts.append(f"![what the code above draws](data:image/png;base64,{image})")
            elif output["output_type"] == "stream":
                parts.append(f"```text\n{''.join(output['text']).rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def on_files(files, config):
    pages = [*PAGES, *(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md"))]
    texts = {path: (ROOT / path).read_text(encoding="utf-8") for path in pages}
    sources = {*EXAMPLES}
    for path, text in texts.items():
        sources.update(target for _, target, _ in targets(text, path))
    for path, text in texts.items():
        if not path.startswith("docs/"):
            # The home page has no neighbours to navigate to.
            head = "---\nhide:\n  - navigation\n---\n" if path == "README.md" else ""
            text = head + rewritten(text, path)
            files.append(File.generated(config, page_of(path), content=text))
    for path in sorted(sources - {*pages}):
        if (ROOT / path).is_file() and not path.startswith("docs/"):
            files.append(File.generated(config, page_of(path), content=shown(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    # Generated pages have been rewritten before.
    if page.file.generated_by:
        return markdown
    return rewritten(markdown, f"docs/{page.file.src_uri}")


class KerasDocstrings(griffe.Extension):
    """Reads what Keras's docstrings have beyond Google's style, and links names to their place."""

    def on_object(self, *, obj, **options):
        if obj.docstring is None:
            return
        text = obj.docstring.value
        text = re.sub(r"^Call arguments:$", "Other parameters: Call arguments:", text, flags=re.M)
        text = re.sub(r"^(Examples?|References?):$", r"**\1:**", text, flags=re.M)
        # Griffe takes what stands before a colon in these sections for a type.
        section = re.compile(r"^(Returns|Yields):\n((?: {4}.*\n?|\n(?= {4}))*)", re.M)
        text = section.sub(lambda match: f"**{match[1]}:** {dedent(match[2]).strip()}\n", text)
        obj.docstring.value = linked(text)
