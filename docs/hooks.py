"""What mkdocs makes of links to files of the repository, which are no part of the site."""

import re
from typing import Any

OUTSIDE = re.compile(r"(!?)\[([^\]]*)\]\(\.\./([^)#]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, config: Any, **_: Any) -> str:
    """Links to "../PATH" lead to the repository, where `repo_url` names one; else the path stands after the text."""

    def replaced(match: re.Match[str]) -> str:
        _, text, path, anchor = match.groups()
        if config.get("repo_url"):
            return f"[{text}]({config['repo_url'].rstrip('/')}/blob/main/{path}{anchor or ''})"
        return text if path in text else f"{text} (`{path}`)"

    return OUTSIDE.sub(replaced, markdown)
