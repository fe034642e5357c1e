"""The page at / in a browser, with a real server on the bundled model: chats, shading, Stop, what is measured, keys."""

import json
from collections import Counter
from urllib.request import urlopen

import pytest

from browser import chromium, tab
from serving import chat_model, process, until

CODE = "def add(a, b):\n    return a + b\n\ndef sub(a, b):"
KEY = "a-key-of-tests"


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def server(folder, browser):
    """A model, and one whose file is broken."""
    broken = folder / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    with process("-m", f"tiny={chat_model(folder)}", "-m", f"broken={broken}", "-c", 4096) as running:
        yield running


@pytest.fixture
def page(browser, server):
    with tab(browser, server.url) as one:
        yield one.open()


def test_a_chat_comes_to_its_end_and_its_tokens_are_shaded(page):
    page.settings(temperature=0, max_tokens=120, draft="on")
    foot = page.ask(CODE)
    told = [token for chunk in page.streamed() for token in chunk["maskprobe"]["tokens"]]
    assert len(told) == 120 and foot.startswith("120 tokens, in ") and "cut at the most tokens" in foot
    assert [(text, source) for text, source, _ in page.spans()] == [(token["text"], token["source"]) for token in told]
    assert all(is_shaded == (source != "model") for _, source, is_shaded in page.spans())
    counts = Counter(token["source"] for token in told)
    assert counts["model"] < 120  # some were drafted
    assert page.legend() == counts
    drafted = 120 - counts["model"]
    assert page.text("#legend-note") == f"The newest answer: 120 tokens, {drafted} of them drafted."
    # Each pass adds one token of the model's own, but for one that is cut short; the first comes with the prompt.
    n_passes = counts["model"] - 1 + (told[-1]["source"] != "model")
    assert f"in {n_passes} pass" in foot
    assert f"{n_passes} passes: " in page.text("#chart-text")
    assert page.text("#tree-facts").startswith(f"Pass {n_passes}, ")
    assert page.page.locator("#tree .node").first.is_visible()
    page.page.uncheck("#shading")
    assert not any(is_shaded for _, _, is_shaded in page.spans())
    page.page.check("#shading")
    assert any(is_shaded for _, _, is_shaded in page.spans())


def test_without_drafting_no_token_is_shaded(page):
    page.settings(temperature=0, max_tokens=40, draft="off")
    page.ask(CODE)
    spans = page.spans()
    assert len(spans) == 40 and {source for _, source, _ in spans} == {"model"}
    assert not any(is_shaded for _, _, is_shaded in spans)
    assert page.legend() == {"model": 40}
    assert page.page.locator("#measure").is_disabled()
    assert "plain already" in page.text("#speed-result")


def running(server) -> int:
    with urlopen(f"{server.url}/internal/generations") as answer:
        return len(json.load(answer)["generations"])


@pytest.mark.parametrize("how", ["button", "Escape", "new chat"])
def test_stop_ends_a_long_answer(page, server, how):
    page.settings(temperature=1, max_tokens=100_000, draft="off")
    page.send("Count:")
    page.page.locator("article.assistant .token").nth(3).wait_for(state="attached")
    if how == "Escape":
        page.page.keyboard.press("Escape")
    else:
        page.page.click("#stop" if how == "button" else "#new-chat")
    until(lambda: running(server) == 0)
    if how == "new chat":
        assert page.page.locator("article").count() == 0
    else:
        foot = page.page.locator("article.assistant .foot")
        foot.wait_for()
        assert "stopped" in foot.inner_text()
        assert len(page.spans()) < 4000
    assert page.page.locator("#stop").is_disabled() and page.page.locator("#send").is_enabled()
    assert page.page.evaluate("document.activeElement.id") == "input"
    page.settings(max_tokens=5)
    assert "stopped" not in page.ask("Again.")


def test_plain_decoding_is_measured_beside_it(page):
    page.settings(temperature=0.8, max_tokens=80, draft="on", seed=7)
    page.ask(CODE)
    rows = page.page.locator("#speed tbody tr")
    assert rows.count() == 1
    assert page.text("#speed-result") == ""  # no speed-up is shown that was not measured
    page.page.click("#measure")
    rows.nth(1).wait_for()
    plain = rows.nth(1).locator("td").all_inner_texts()
    assert plain[0] == rows.nth(0).locator("td").first.inner_text() and plain[2] == "1.00"
    assert page.text("#speed-result").endswith("The texts are equal.")
    drafted, other = ({**body, "draft": ""} for body in page.bodies)
    assert drafted == other and page.bodies[1]["draft"] == "off" and drafted["seed"] == 7
    page.ask("Something else.")
    assert rows.count() == 1 and page.text("#speed-result") == ""


def test_what_was_said_before_goes_with_the_next_message(page):
    page.settings(temperature=0, max_tokens=8, system="Be brief.", draft="auto")
    page.ask("One.")
    first = page.answer()
    page.ask("Two.")
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "One."}]
    said += [{"role": "assistant", "content": first}, {"role": "user", "content": "Two."}]
    assert page.bodies[1]["messages"] == said
    page.page.click("#new-chat")
    page.ask("Three.")
    assert [message["content"] for message in page.bodies[2]["messages"]] == ["Be brief.", "Three."]
    page.open()
    assert page.page.locator("article").count() == 0  # the page alone keeps it


def test_the_times_of_passes_are_shown(page):
    page.settings(temperature=0, max_tokens=60)
    page.ask(CODE)
    page.page.locator("#times tbody tr").first.wait_for()
    cells = page.page.locator("#times tbody tr").first.locator("th, td").all_inner_texts()
    assert cells[0] == "1" and float(cells[1]) > 0 and cells[3] == "1.00"


def test_a_model_that_cannot_be_loaded_is_said_so(page):
    page.settings(model="broken", max_tokens=5)
    page.send("Hello")
    alert = page.page.get_by_role("alert")
    alert.wait_for()
    assert alert.inner_text().startswith("the model broken cannot be loaded: ")
    assert page.page.input_value("#input") == "Hello"  # to be sent to another
    page.settings(model="tiny")
    assert " in " in page.ask("Hello")
    assert len(page.statuses) == 1


def test_what_the_server_refuses_is_shown_as_it_says_it(page):
    page.settings(max_tokens=5)
    page.send("word " * 5000)
    alert = page.page.get_by_role("alert")
    alert.wait_for()
    assert "4096" in alert.inner_text()
    assert page.page.locator("article").count() == 0 and len(page.statuses) == 1


def test_a_wrong_field_is_not_sent(page):
    page.settings(temperature=-1)
    page.page.evaluate("document.getElementById('settings').open = false")
    page.send("Hello")
    assert page.page.locator("#settings").get_attribute("open") is not None
    assert not page.bodies and page.page.locator("article").count() == 0


def test_a_server_that_has_gone(browser, folder):
    with tab(browser, "") as one:
        with process("-m", f"tiny={chat_model(folder)}", "-c", 256) as server:
            one.url = server.url
            one.open()
        one.send("Hello")
        alert = one.page.get_by_role("alert")
        alert.wait_for()
        assert "does not answer" in alert.inner_text()
        one.problems = [line for line in one.problems if "ERR_CONNECTION_REFUSED" not in line]


def test_a_key_is_asked_for_and_kept_for_the_tab(browser, folder):
    options = ("-m", f"tiny={chat_model(folder)}", "-c", 256, "--api-key", KEY)
    with process(*options) as server, tab(browser, server.url) as one:
        one.page.goto(server.url)
        one.page.locator("#key").wait_for()
        assert one.page.evaluate("document.activeElement.id") == "key"
        one.page.fill("#key", "wrong")
        one.page.press("#key", "Enter")
        one.page.locator("#key").wait_for()
        assert one.page.locator("#model option").count() == 0
        one.page.fill("#key", KEY)
        one.page.press("#key", "Enter")
        one.page.locator("#model option").wait_for(state="attached")
        assert one.page.locator("#key-form").is_hidden()
        one.settings(max_tokens=5)
        assert " in " in one.ask("Hello")
        stored = "JSON.stringify([Object.values(sessionStorage), Object.values(localStorage), document.cookie])"
        assert json.loads(one.page.evaluate(stored)) == [[KEY], [], ""]
        one.open()  # again, in the same tab
        assert one.page.locator("#key-form").is_hidden()
        assert not any(KEY in url for url in one.requests)


def test_the_policy_of_the_page_allows_nothing_from_outside(server):
    with urlopen(server.url) as answer:
        policy, text = answer.headers["Content-Security-Policy"], answer.read().decode()
    assert "default-src 'self'" in policy and "unsafe" not in policy
    assert "http://" not in text and "https://" not in text
