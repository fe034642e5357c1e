"""What the page makes of answers that are made up: every kind of token and failure; use without a mouse, looks."""

import json

import pytest

from browser import answer_with, chromium, chunk, stream, tab
from serving import chat_model, process

SOURCES = ("token", "pair", "triple", "n-gram", "mask", "row before", "rejected rows", "earlier texts", "heads")
SOURCES += ("proposer", "constraint", "one that is new")
ALL_KINDS = [("The", "model"), *((f" word{i}", source) for i, source in enumerate(SOURCES)), (".", "model")]
BROKEN = "The connection broke before the answer was complete."


def stats(passes: int, rows: int, drafted: int, n_gen: int, gen_ms: float = 100.0) -> dict:
    return {"passes": passes, "rows": rows, "drafted": drafted, "accepted": 0, "n_gen": n_gen, "gen_ms": gen_ms}


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def server(tmp_path_factory, browser):
    with process("-m", f"tiny={chat_model(tmp_path_factory.mktemp('served'))}", "-c", 256) as running:
        yield running


@pytest.fixture
def page(browser, server):
    with tab(browser, server.url) as one:
        yield one.open()


def test_what_a_model_writes_is_text(page):
    page.page.evaluate("window.hurt = false")
    text = "<img src=x onerror='window.hurt = true'><b>bold</b>&amp;<script>window.hurt = true</script>"
    tree = {"nodes": [{"parent": -1, "text": text, "source": "model", "accepted": True}]}
    answer_with(page.page, stream(chunk((text, "model"), (text, text)), chunk(finish="stop", tree=tree)))
    page.ask(text)
    assert page.answer() == text * 2
    assert page.text(".user .text") == text
    assert page.page.locator("main img, main b, main script, aside img, aside b, aside script").count() == 0
    page.page.hover(".text .token >> nth=1")
    assert text in page.text("#token-detail")
    assert not page.page.evaluate("window.hurt")
    assert len([url for url in page.requests if url.endswith("/x")]) == 0


def test_passes_follow_from_the_tokens(page):
    """The first token comes with the prompt; each pass ends with a token of the model's own, but for one cut short."""
    answer_with(
        page.page,
        stream(
            chunk(("a", "model"), stats=stats(0, 0, 0, 1)),
            chunk(("b", "n-gram"), stats=stats(1, 6, 5, 3)),
            chunk(("c", "model"), stats=stats(1, 6, 5, 3)),
            chunk(("d", "model"), stats=stats(3, 14, 11, 5)),  # two passes in one reading
            chunk(("e", "token"), ("f", "token"), stats=stats(3, 14, 11, 5)),
            chunk(finish="length", stats=stats(3, 14, 11, 6)),
        ),
    )
    foot = page.ask("?")
    assert foot.startswith("6 tokens, in 3 passes, 50.0 tokens/s, cut at the most tokens")
    assert page.text("#chart-text").startswith("3 passes: 4.7 rows and 1.00 accepted tokens per pass")
    assert page.text("#tree-facts") == "Pass 3, about 4 rows, 2 of about 3 candidates accepted."
    assert "+ 1 candidate not accepted" in page.text("#tree")
    passes = []
    for i in range(6):
        page.page.hover(f".text .token >> nth={i}")
        passes.append(page.page.locator("#token-detail dd").nth(3).inner_text())
    assert passes == ["the prompt's", "1", "1", "2", "3", "3"]


def test_a_whole_tree_is_shown_where_the_server_tells_it(page):
    nodes = [
        {"parent": -1, "text": "root", "source": "model", "accepted": True},
        {"parent": 0, "text": " no", "source": "token", "accepted": False},
        {"parent": 0, "text": " yes", "source": "n-gram", "accepted": True},
        {"parent": 2, "text": "!", "source": "pair", "accepted": False},
        {"parent": 2, "text": "\n", "source": "mask", "accepted": True},
        {"parent": 4, "text": "own", "source": "model", "accepted": True},
    ]
    tokens = [("root", "model"), (" yes", "n-gram"), ("\n", "mask"), ("own", "model")]
    answer_with(page.page, stream(chunk(*tokens, stats=stats(1, 5, 4, 4), tree={"nodes": nodes}), chunk(finish="stop")))
    page.ask("?")
    shown = page.page.locator("#tree .node").evaluate_all("list => list.map(node => node.textContent)")
    assert shown == [
        "root (root)",
        "␣yes (n-gram of this text, accepted)",
        "↵ (mask, accepted)",
        "own (the model's own)",
        "! (after 2 tokens, not accepted)",
        "␣no (after 1 token, not accepted)",
    ]
    assert page.page.locator("#tree ul ul ul li").count() == 2 and "not tell" not in page.text("#tree")


def refused(line: str) -> dict:
    return {"error": {"message": line, "type": "server_error", "param": None, "code": None}}


@pytest.mark.parametrize(
    ("body", "status", "line", "is_kept"),
    [
        (stream(chunk(("Half", "model")), refused("it is shutting down")), 200, "it is shutting down", True),
        (stream(chunk(("Half", "model")), end=""), 200, BROKEN, True),
        (stream(end=""), 200, BROKEN, False),
        (json.dumps(refused("the queue is full")), 429, "the queue is full", False),
        ("<html>Bad gateway\nmore</html>", 502, "<html>Bad gateway", False),
        ("", 500, "The server answered 500.", False),
    ],
)
def test_failures_are_shown_plainly(page, body, status, line, is_kept):
    answer_with(page.page, body, status)
    page.send("A question")
    alert = page.page.get_by_role("alert")
    alert.wait_for()
    assert alert.inner_text() == line
    assert page.page.locator("article").count() == (2 if is_kept else 0)
    assert page.page.input_value("#input") == ("" if is_kept else "A question")
    assert page.page.locator("#send").is_enabled()


def test_code_fences_are_monospaced_and_the_rest_is_not(page):
    texts = ["See", ":\n", "``", "`py\n", "x = 1", "\n", "```", "\n", "Done", " ```", "."]
    answer_with(page.page, stream(chunk(*((text, "model") for text in texts)), chunk(finish="stop")))
    page.ask("?")
    fonts = page.page.locator(".text .token").evaluate_all(
        "list => list.map(span => getComputedStyle(span).fontFamily.includes('monospace'))"
    )
    assert fonts == [False, False, False, True, True, True, True, True, False, False, False]
    assert page.answer() == "".join(texts)


def test_sentences_are_spoken_and_not_tokens(page):
    texts = ["Hel", "lo", " there", ".", " How", " are you", "?", "\n", "Fi", "ne"]
    answer_with(
        page.page, stream(*(chunk((text, "model")) for text in texts), chunk(finish="stop", stats=stats(9, 9, 0, 10)))
    )
    page.ask("?")
    page.page.locator("#spoken p", has_text="ended").wait_for(state="attached")
    spoken = page.page.locator("#spoken p").evaluate_all("list => list.map(line => line.textContent)")
    assert " ".join(spoken) == "Hello there. How are you? Fine The answer has ended: 10 tokens."
    assert page.page.locator("#spoken").get_attribute("aria-live") == "polite"
    assert page.page.locator("#log").get_attribute("aria-live") == "off"  # it would be read twice


def test_all_of_it_without_a_mouse(page):
    answer_with(page.page, stream(chunk(*ALL_KINDS), chunk(finish="stop")))
    keys, focused = page.page.keyboard, "document.activeElement.id || document.activeElement.className"
    page.page.focus("#input")
    keys.type("one")
    keys.press("Shift+Enter")
    keys.type("two")
    keys.press("Enter")
    page.page.locator("article .foot").wait_for()
    assert page.bodies[0]["messages"][-1]["content"] == "one\ntwo"
    assert page.page.evaluate(focused) == "input"
    seen = []
    page.page.evaluate("document.activeElement.blur(); window.getSelection().removeAllRanges(); window.scrollTo(0, 0)")
    page.page.focus(".skip")
    for _ in range(14):
        seen.append(page.page.evaluate(focused))
        keys.press("Tab")
    assert seen[:8] == ["skip", "model", "theme", "shading", "new-chat", "log", "text", "input"]
    assert seen[8:11] == ["send", "draft", ""] and seen[11] == "measure"  # Stop is off; "": the summary
    page.page.focus(".assistant .text")
    keys.press("ArrowRight")
    keys.press("ArrowRight")
    detail = page.text("#token-detail")
    for part in ("word0", "-0.500 (60.7 %)", "after 1 token", "1"):
        assert part in detail
    described = page.page.evaluate("document.activeElement.getAttribute('aria-describedby')")
    assert described == "token-detail"
    keys.press("End")
    assert "the model's own" in page.text("#token-detail")
    keys.press("Escape")
    assert page.page.locator("#token-detail").is_hidden()


def test_every_field_has_a_name(page):
    unnamed = page.page.evaluate(
        """() => [...document.querySelectorAll("input, select, textarea, button")]
            .filter((field) => !field.labels?.[0]?.textContent.trim() && !field.textContent.trim())
            .map((field) => field.outerHTML)"""
    )
    assert unnamed == []
    assert page.page.evaluate("document.documentElement.lang") == "en"
    for role in ("banner", "main", "complementary", "log"):
        assert page.page.get_by_role(role).count() == 1


CONTRASTS = """() => {
    const numbers = (color) => {
        const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
        canvas.fillStyle = color;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const light = ([r, g, b]) => {
        const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
    };
    const paper = (element) => {
        for (; element; element = element.parentElement) {
            const color = numbers(getComputedStyle(element).backgroundColor);
            if (color[3] === 255) return color;
            if (color[3] > 0) throw new Error("half transparent: " + element.outerHTML);
        }
    };
    const found = [];
    const isShown = (element, mark) => !["none", "normal", ""].includes(getComputedStyle(element, mark).content);
    for (const element of document.querySelectorAll("body *")) {
        if (!element.checkVisibility() || element.disabled || element.tagName === "OPTION") continue;
        const parts = ["::before", "::after"].filter((mark) => isShown(element, mark));
        if ([...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())) parts.push(null);
        for (const part of parts) {
            const lights = [numbers(getComputedStyle(element, part).color), paper(element)].map(light);
            const contrast = (Math.max(...lights) + 0.05) / (Math.min(...lights) + 0.05);
            found.push([contrast, element.outerHTML.slice(0, 120) + (part ?? "")]);
        }
    }
    return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("chosen", ["by the system", "on the page"])
def test_contrast_in_both_themes(browser, server, scheme, chosen):
    system = scheme if chosen == "by the system" else {"light": "dark", "dark": "light"}[scheme]
    with tab(browser, server.url, color_scheme=system, viewport={"width": 1280, "height": 3000}) as page:
        page.open()
        if chosen == "on the page":
            page.page.select_option("#theme", scheme)
        tokens = [*ALL_KINDS, ("\nline", "n-gram"), ("", "token"), ("\n", "mask"), ("end", "model")]
        nodes = [
            {"parent": i - 1, "text": text, "source": source, "accepted": i % 2 == 0}
            for i, (text, source) in enumerate(tokens)
        ]
        answer_with(
            page.page, stream(chunk(*tokens, stats=stats(2, 9, 7, 16), tree={"nodes": nodes}), chunk(finish="stop"))
        )
        page.ask("?")
        answer_with(page.page, json.dumps({"error": {"message": "an error"}}), 400)
        page.send("!")
        page.page.get_by_role("alert").wait_for()
        page.page.hover(".text .token >> nth=1")
        background = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 29)"}[scheme]
        found = page.page.evaluate(CONTRASTS)
        assert len(found) > 60
        assert [one for one in found if one[0] < 4.5] == []


def test_each_evidence_has_a_colour_and_a_line_of_its_own(page):
    answer_with(page.page, stream(chunk(*ALL_KINDS), chunk(finish="stop")))
    page.ask("?")
    styles = page.page.locator(".text .drafted").evaluate_all(
        "list => list.map(span => getComputedStyle(span)).map(style => [style.backgroundColor,"
        " [style.textDecorationLine, style.textDecorationStyle, style.textDecorationThickness].join(' ')])"
    )
    assert len(styles) == len(SOURCES)
    for i in range(2):
        assert len({style[i] for style in styles}) == len(SOURCES)


@pytest.mark.parametrize("size", [100, 200])
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_cut_off(browser, server, width, size):
    with tab(browser, server.url, viewport={"width": width, "height": 700}) as page:
        page.open()
        page.page.evaluate(f"document.documentElement.style.fontSize = '{size}%'")
        long = [("A" * 200, "model"), *ALL_KINDS, ("https" + "/long" * 60, "n-gram"), ("end", "model")]
        answer_with(page.page, stream(chunk(*long, stats=stats(2, 14, 12, 14)), chunk(finish="stop")))
        page.settings()
        page.ask("B" * 300)
        widest = page.page.evaluate("document.documentElement.scrollWidth")
        assert widest <= width
        for name in (
            "#input",
            "#send",
            "#stop",
            "#draft",
            "#temperature",
            "#model",
            "#new-chat",
            "#measure",
            "#legend",
        ):
            page.page.locator(name).scroll_into_view_if_needed()
            box = page.page.locator(name).bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= width, name
        for i in (1, len(long) - 1):
            page.page.locator(".text .token").nth(i).hover()
            box = page.page.locator("#token-detail").bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= width


@pytest.mark.parametrize(("motion", "n"), [("reduce", 0), ("no-preference", 1)])
def test_nothing_moves_where_that_is_not_wanted(browser, server, motion, n):
    with tab(browser, server.url, reduced_motion=motion) as page:
        page.open()
        page.page.route("**/v1/chat/completions", lambda route: None)  # an answer that never comes
        page.send("?")
        page.page.locator("article.running").wait_for()
        assert page.page.evaluate("document.getAnimations().length") == n
        page.page.keyboard.press("Escape")
        page.page.locator("article .foot").wait_for()
