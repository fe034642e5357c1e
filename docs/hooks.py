"""What mkdocs makes of links to files of the repository, which are no part of the site."""

import re
from typing import Any

LINK = r"(!?)\[([^\]]*)\]\(%s([^)#]+)(#[^)]*)?\)"


def on_page_markdown(markdown: str, config: Any, page: Any = None, **_: Any) -> str:
    """Links to "../PATH" lead to the repository, where `repo_url` names one; else the path stands after the text.

    From a page in a folder they begin with "../../"."""

    def replaced(match: re.Match[str]) -> str:
        _, text, path, anchor = match.groups()
        if config.get("repo_url"):
            return f"[{text}]({config['repo_url'].rstrip('/')}/blob/main/{path}{anchor or ''})"
        return text if path in text else f"{text} (`{path}`)"

    up = "../" * (1 + (page.file.src_uri.count("/") if page else 0))
    return re.sub(LINK % re.escape(up), replaced, markdown)
