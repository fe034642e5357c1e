"""Headless Chromium for tests of the page: one browser, and pages that note what goes wrong on them."""

import contextlib
import json
import shutil

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SLOW_MS = 60_000  # two cores may be busy with something else

# Keeps what the page reads of streams: the browser itself does not keep it.
KEEP_STREAMS = """
    const original = window.fetch;
    window.streams = [];
    window.fetch = async (...request) => {
        const response = await original(...request);
        if (!String(request[0]).endsWith("chat/completions") || !response.ok) return response;
        const [page, copy] = response.body.tee();
        const number = window.streams.push("") - 1;
        new Response(copy).text().then((text) => (window.streams[number] = text), () => {});
        return new Response(page, response);
    };
"""


@contextlib.contextmanager
def chromium():
    """Skips where there is no browser."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"there is no browser ({', '.join(NAMES)})")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])  # tests may run as root
        yield browser
        browser.close()


class Tab:
    """A page of the server at `url`, with what a reader does there."""

    def __init__(self, browser, url: str, **context) -> None:
        self.url = url
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
        self.page = self.context.new_page()
        self.page.set_default_timeout(SLOW_MS)
        self.page.add_init_script(KEEP_STREAMS)
        self.problems: list[str] = []  # of the page's own code, and what the browser refuses
        self.statuses: list[str] = []  # answers with an error status: the browser counts them as errors too
        self.requests: list[str] = []
        self.bodies: list[dict] = []  # of the chats
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", self._console)
        self.page.on("request", self._request)

    def _console(self, message) -> None:
        if message.type in ("error", "warning"):
            is_status = message.text.startswith("Failed to load resource: the server responded with a status of")
            (self.statuses if is_status else self.problems).append(message.text)

    def _request(self, request) -> None:
        self.requests.append(request.url)
        if request.url.endswith("/chat/completions"):
            self.bodies.append(json.loads(request.post_data))

    def open(self) -> "Tab":
        self.page.goto(self.url)
        self.page.wait_for_selector("#model option", state="attached")
        return self

    def settings(self, **values: object) -> "Tab":
        """Fields by their id, with _ for -."""
        self.page.evaluate("document.getElementById('settings').open = true")
        for name, value in values.items():
            field = self.page.locator(f"#{name.replace('_', '-')}")
            if field.evaluate("field => field.tagName") == "SELECT":
                field.select_option(str(value))
            else:
                field.fill(str(value))
        return self

    def send(self, text: str) -> None:
        self.page.fill("#input", text)
        self.page.press("#input", "Enter")

    def ask(self, text: str) -> str:
        """Sends, waits for the end of the answer, and returns the line below it."""
        n = self.page.locator("article.assistant .foot").count()
        self.send(text)
        foot = self.page.locator("article.assistant .foot").nth(n)
        foot.wait_for()
        return foot.inner_text()

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def answer(self) -> str:
        return self.page.locator("article.assistant .text").last.evaluate("view => view.textContent")

    def streamed(self) -> list[dict]:
        """The chunks of the newest answer, as the server sent them."""
        body = self.page.evaluate("window.streams.at(-1)")
        return [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: {")]

    def spans(self) -> list[tuple[str, str, bool]]:
        """(text, source, whether it is shaded) of the newest answer's tokens, as they are on the screen."""
        return [
            tuple(one)
            for one in self.page.locator("article.assistant .text")
            .last.locator(".token")
            .evaluate_all(
                "spans => spans.map(span => [span.textContent, span.dataset.source,"
                " getComputedStyle(span).backgroundColor !== 'rgba(0, 0, 0, 0)'])"
            )
        ]

    def legend(self) -> dict[str, int]:
        rows = self.page.locator("#legend tbody tr")
        found = rows.evaluate_all("rows => rows.map(row => [row.dataset.source, Number(row.cells[1].textContent)])")
        return dict(found)

    def close(self) -> None:
        """Nothing may have gone wrong, and nothing but the server may have been asked."""
        self.context.close()
        assert not self.problems, self.problems
        outside = [url for url in self.requests if not url.startswith((self.url, "blob:", "data:"))]
        assert not outside, outside


@contextlib.contextmanager
def tab(browser, url: str, **context):
    """`context`: settings of the browser (viewport, color_scheme, reduced_motion, ...)."""
    one = Tab(browser, url, **context)
    try:
        yield one
    except BaseException:
        one.context.close()
        raise
    one.close()


def stream(*chunks: dict, end: str = "data: [DONE]\n\n") -> str:
    """The body of a streamed answer."""
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + end


def chunk(*tokens: tuple[str, str], finish: str | None = None, **more: object) -> dict:
    """A chunk of (text, source) tokens with their evidence; `more` beside it (stats, tree)."""
    evidence = [
        {"id": i, "text": text, "logprob": -0.5, "margin": 1.0, "from_draft": source != "model", "source": source}
        for i, (text, source) in enumerate(tokens)
    ]
    content = "".join(text for text, _ in tokens)
    return {
        "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}],
        "maskprobe": {"tokens": evidence, **more},
    }


def answer_with(page, body: str, status: int = 200) -> None:
    """From now on chats are answered with this body."""
    kind = "text/event-stream" if status == 200 else "application/json"
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=status, body=body, content_type=kind))
