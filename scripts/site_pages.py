"""The pages of the site that are not files of docs/: a hook of mkdocs (see mkdocs.yml; `scripts/docs` builds the site).

Four things happen here, the first three so that nothing is written twice:

- README, CONTRIBUTING, SECURITY and CHANGELOG become pages, README the first one.
- The reference has a page for each group of public names. It follows `gesso.__all__`: a name that is added there
  appears under the room that defines it, and a room that no group lists gets a group of its own.
- Pages link to files of the repository relative to themselves, as editors and code hosts understand it. A file outside
  docs/ that a page links to is carried into the site, and the link is changed to lead there; a folder is shown by its
  README.md. A link to what does not exist is left as it is, and then fails the build.
- Words of code in running text stay on one line: browsers would break `--control-mode` behind its hyphens.
"""

import posixpath
import re
from collections import defaultdict
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
INLINE_LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)\s]*)?(\))")

BLOCK = re.compile(r"<pre\b.*?</pre>", re.DOTALL)
INLINE_CODE = re.compile(r"(<code\b[^>]*>)(.*?)(</code>)", re.DOTALL)
HYPHENATED = re.compile(r"<[^>]*>|[^\s<>]*-[^\s<>]*")  # a tag, which is left alone, or a word with a hyphen
MAX_WHOLE = 48  # characters of a word that is kept on one line; a longer one must fit a narrow screen

# Title of a page of the reference and the rooms whose names it shows, in the order of the menu. Errors have a page of
# their own, whatever room they are from.
GROUPS = {
    "Drawing": ("pipelines", "runtime", "studio"),
    "Requests": ("request",),
    "Prompts": ("text", "frontends"),
    "Samplers and schedules": ("diffusion",),
    "Models and library": ("library", "families", "checkpoints", "models"),
    "Adapters": ("adapters",),
    "Hints for ControlNets": ("hints",),
    "Pictures and metadata": ("pictures", "metadata"),
    "Events": ("events",),
    "Plug-ins": ("registry",),
    "Errors": ("errors",),
}


# ---- the reference ---------------------------------------------------------------------------------------------------


def public_names() -> dict[str, str]:
    """Each name of `gesso.__all__` but the version, and the path of its definition, read without importing anything."""
    package = griffe.load("gesso", search_paths=[ROOT / "src"], submodules=False)
    paths = {}
    for export in package.exports or ():
        name = str(export)
        if not name.startswith("__"):
            member = package.members[name]
            paths[name] = member.target_path if isinstance(member, griffe.Alias) else member.path
    return paths


def group_of(name: str, path: str) -> str:
    """The title of the page that shows a public name which is defined at `path`."""
    room = path.split(".")[1]
    if name.endswith("Error"):
        return "Errors"
    return next((title for title, rooms in GROUPS.items() if room in rooms), room.capitalize())


def reference() -> dict[str, list[str]]:
    """Title of each page of the reference that has any names, and these names."""
    groups = defaultdict(list)
    for name, path in public_names().items():
        groups[group_of(name, path)].append(name)
    order = [*GROUPS, *sorted(set(groups) - set(GROUPS))]
    return {title: sorted(groups[title]) for title in order if groups[title]}


def reference_uri(title: str) -> str:
    return f"reference/{re.sub('[^a-z]+', '-', title.lower())}.md"


def reference_pages() -> dict[str, str]:
    """Path in the site and Markdown of each page of the reference."""
    groups = reference()
    lines = [
        "# Reference",
        "",
        "Everything that `gesso` offers to a program: `from gesso import Engine, TextToImage, ...`. Nothing else is",
        "promised to stay where it is; what is imported from a module of the package may move.",
        "",
    ]
    pages = {}
    for title, names in groups.items():
        uri = reference_uri(title)
        links = ", ".join(f"[`{name}`]({posixpath.basename(uri)}#gesso.{name})" for name in names)
        lines.append(f"- [{title}]({posixpath.basename(uri)}): {links}")
        pages[uri] = "\n\n".join([f"# {title}", *(f"::: gesso.{name}" for name in names)]) + "\n"
    return {"reference/index.md": "\n".join(lines) + "\n", **pages}


# ---- files of the repository -----------------------------------------------------------------------------------------


def repository_path(uri: str) -> str:
    """Where a page of the site lies in the repository; for the reference, which does not, below docs/."""
    for path, page in PAGES.items():
        if uri == page:
            return path
    return uri.removeprefix("repository/") if uri.startswith("repository/") else f"docs/{uri}"


def site_uri(path: str) -> str:
    """Where a file of the repository lies in the site."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    # Without an ending a browser would not show LICENSE but save it.
    return f"repository/{path}" + ("" if posixpath.splitext(path)[1] else ".txt")


def linked(uri: str, target: str) -> str | None:
    """The file of the repository that a link on a page means, or None where there is none."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(repository_path(uri)), target))
    if (ROOT / path).is_dir():
        path += "/README.md"
    return path if not path.startswith("..") and (ROOT / path).is_file() else None


def expanded(entries: list[str]) -> list[str]:
    """Entries of the menu; one with a star stands for the pages that it matches and that are not named beside it."""
    docs = ROOT / "docs"
    pages = []
    for entry in entries:
        matches = sorted(path.relative_to(docs).as_posix() for path in docs.glob(entry)) if "*" in entry else [entry]
        pages += [page for page in matches if page == entry or page not in entries]
    return pages


# ---- what mkdocs calls -----------------------------------------------------------------------------------------------


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    assert config.nav is not None
    for section in config.nav:
        for title, entries in section.items():
            if isinstance(entries, list):
                section[title] = expanded(entries)
    pages = [{title: reference_uri(title)} for title in reference()]
    config.nav.append({"Reference": ["reference/index.md", *pages]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path, uri in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    for uri, text in reference_pages().items():
        files.append(File.generated(config, uri, content=text))
    pages = [file for file in files if file.is_documentation_page()]
    while pages:  # a page that is carried may itself link to more
        page = pages.pop()
        for _, target, _, _ in INLINE_LINK.findall(page.content_string):
            path = linked(page.src_uri, target)
            if path is None or files.get_file_from_path(site_uri(path)) is not None:
                continue
            file = File.generated(
                config, site_uri(path), abs_src_path=str(ROOT / path), inclusion=InclusionLevel.NOT_IN_NAV
            )
            files.append(file)
            if file.is_documentation_page():
                pages.append(file)
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    uri = page.file.src_uri

    def led(match: re.Match[str]) -> str:
        path = linked(uri, match[2])
        if path is None:
            return match[0]
        target = posixpath.relpath(site_uri(path), posixpath.dirname(uri) or ".")
        return f"{match[1]}{target}{match[3] or ''}{match[4]}"

    return INLINE_LINK.sub(led, markdown)


# ---- code in running text --------------------------------------------------------------------------------------------


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with `words_kept_whole`; blocks of code are left alone."""
    parts, at = [], 0
    for block in BLOCK.finditer(html):
        parts += [words_kept_whole(html[at : block.start()]), block[0]]
        at = block.end()
    return "".join([*parts, words_kept_whole(html[at:])])


def words_kept_whole(html: str) -> str:
    """HTML whose words with hyphens in <code> are in a <span class="whole">, which site.css keeps on one line."""

    def whole(match: re.Match[str]) -> str:
        word = match[0]
        is_left_alone = word.startswith("<") or len(word) > MAX_WHOLE
        return word if is_left_alone else f'<span class="whole">{word}</span>'

    return INLINE_CODE.sub(lambda code: code[1] + HYPHENATED.sub(whole, code[2]) + code[3], html)
