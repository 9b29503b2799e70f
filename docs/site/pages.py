# SPDX-License-Identifier: MIT
"""What the site has beside the pages of docs/: the README, one page per public module, the notebooks, the order.

MkDocs calls `on_config`, `on_files` and `on_page_markdown`; `make site` runs it.
"""

import ast
import base64
import json
import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("datamodules", "lightning_modules", "callbacks", "experiments")
# Pages of the repository that lie elsewhere in the site.
PLACES = {
    "README.md": "index.md", "docs/README.md": "contents.md", "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}  # fmt: skip
LINK = re.compile(r"(\]\()([^)#\s:]+)")
ROW = re.compile(r"^\| (?:\*\*(.+?)\*\*|\[[^]]+\]\(([^)]+)\)) \|", re.MULTILINE)


def modules() -> list[str]:
    """Dotted names of all modules with a docstring that do not begin with an underscore; a package by its own name."""
    found = []
    for file in sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py")):
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if "._" not in name and ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))):
            found.append(name)
    return found


def api_page(module: str) -> str:
    """Where a module's page lies in the site."""
    path = module.replace(".", "/")
    return f"api/{path}/index.md" if (ROOT / path).is_dir() else f"api/{path}.md"


def api_order(names: list[str], package: str = "") -> list:
    """The pages of modules as a tree of MkDocs' `nav`: a package's own page, its modules, the packages in it."""
    inside = [name.removeprefix(package) for name in names if name.startswith(package)]
    packages = {name.partition(".")[0] for name in inside if "." in name}
    order: list = [api_page(package[:-1])] if package[:-1] in names else []
    order += [{name: api_page(package + name)} for name in inside if "." not in name and name not in packages]
    return order + [{name: api_order(names, f"{package}{name}.")} for name in sorted(packages)]


def notebook_page(notebook: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, its answers as text, and the pictures among them by file name."""
    parts, pictures = [f"[This page as a notebook]({notebook.name})"], {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        for answer in cell.get("outputs", []):
            data = answer.get("data", {})
            said = "".join(answer.get("text", data.get("text/plain", [])))
            if "image/png" in data:
                name = f"{notebook.stem}_{len(pictures)}.png"
                pictures[name] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![What this cell draws]({name})")
            elif said:
                parts.append(f"```text\n{said.rstrip()}\n```")
    return "\n\n".join(parts) + "\n", pictures


def moved(text: str, source: str, page: str) -> str:
    """A page with its relative links as the site needs them.

    Args:
        source: where the page lies in the repository.
        page: where it lies in the site.
    """

    def link(match: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[2]))
        place = PLACES.get(target, target.removeprefix("docs/") if target.startswith("docs/") else None)
        return match[0] if place is None else match[1] + posixpath.relpath(place, posixpath.dirname(page) or ".")

    return LINK.sub(link, text)


def on_config(config):
    """The order: the sections of docs/README.md's table, the notebooks, the reference, the project."""
    order = [{"Home": "index.md"}, {"All pages": "contents.md"}]
    for section, page in ROW.findall((ROOT / "docs/README.md").read_text(encoding="utf-8")):
        if section:
            order.append({section: []})
        elif page.endswith(".md"):
            order[-1][next(iter(order[-1]))].append(page)
    if notebooks := sorted((ROOT / "docs/notebooks").glob("*.ipynb")):
        order.append({"Notebooks": [f"notebooks/{one.stem}.md" for one in notebooks]})
    order.append({"API reference": api_order(modules())})
    config.nav = [*order, {"Project": ["contributing.md", "changelog.md"]}]
    return config


def on_files(files, config):
    """Adds what is not in docs/; its index makes room for the README."""
    from mkdocs.structure.files import File  # late: the tests of the functions above need no MkDocs

    files.remove(files.get_file_from_path("README.md"))
    for source, page in PLACES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=moved(text, source, page)))
    for notebook in sorted((ROOT / "docs/notebooks").glob("*.ipynb")):
        text, pictures = notebook_page(notebook)
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=text))
        for name, picture in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=picture))
    for name in modules():
        text = f"# {name.rpartition('.')[2]}\n\n`{name}`\n\n::: {name}\n"
        files.append(File.generated(config, api_page(name), content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Mends the links of pages that lie in docs/ as they do in the site."""
    return moved(markdown, f"docs/{page.file.src_uri}", page.file.src_uri) if page.file.abs_src_path else markdown
