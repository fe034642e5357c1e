"""A conversation: the tokens of its prompts, what is left out of them, and what stays."""

import pytest

from chat_models import PLAIN_TEMPLATE, with_metadata
from maskprobe import ArgumentError, ContextFull, Model, ModelError
from maskprobe.cli.conversation import ANSWER_MIN, Conversation

# One that refuses a system message, as Gemma's; one that knows none.
REFUSING = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
DROPPING = "{% for m in messages %}{% if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}"
TRIMMING = PLAIN_TEMPLATE.replace("message.content", "message.content | trim")
WITH_VARIABLE = PLAIN_TEMPLATE + "{{ extra or '' }}"


@pytest.fixture(scope="module")
def model_with(bundled_model_path, tmp_path_factory):
    """model_with(template): the bundled model with that chat template."""
    folder = tmp_path_factory.mktemp("chat")
    made: dict[str, Model] = {}

    def model(template: str) -> Model:
        if template not in made:
            path = with_metadata(bundled_model_path, folder / f"{len(made)}.gguf", tokenizer__chat_template=template)
            made[template] = Model(path, n_threads=1)
        return made[template]

    yield model
    for one in made.values():
        one.close()


@pytest.fixture
def model(model_with) -> Model:
    return model_with(PLAIN_TEMPLATE)


def text_of(model: Model, tokens: list[int]) -> str:
    return model.detokenize(tokens, special=True).decode()


def one_by_one(model: Model, text: str) -> list[int]:
    """Tokens of a text that the tokenizer would not choose: each character by itself."""
    return [token for c in text for token in model.tokenize(c, add_special=False)]


# --- prompts ----------------------------------------------------------------------------------------------------------


def test_a_prompt_is_the_whole_conversation_in_the_template(model):
    talk = Conversation(model, 2048)
    talk.system = "be short"
    talk.ask("def one():")
    talk.answered("return 1", model.tokenize("return 1", add_special=False))
    prompt = talk.ask("def two():")
    messages = [*talk.messages, {"role": "user", "content": "def two():"}]
    assert text_of(model, prompt.tokens).endswith(model.chat_format(messages))
    assert [message["role"] for message in talk.messages] == ["system", "user", "assistant"]
    assert prompt.n_dropped == 0


def test_a_new_prompt_begins_with_the_tokens_that_were_generated(model):
    """Also where the tokenizer would cut the text in another way: else nothing after it came from the cache."""
    talk = Conversation(model, 2048)
    known: list[int] = []
    for i in range(4):
        prompt = talk.ask(f"message {i}")
        assert prompt.tokens[: len(known)] == known
        answer = f"return value_{i}"
        tokens = one_by_one(model, answer)
        assert tokens != model.tokenize(answer, add_special=False)
        talk.answered(answer, tokens)
        known = [*prompt.tokens, *tokens]
    assert len(talk.messages) == 8


def test_the_token_that_ended_an_answer_is_kept_where_the_template_has_it(model_with):
    model = model_with(PLAIN_TEMPLATE.replace("<|im_end|>", "{{ eos_token }}"))
    talk = Conversation(model, 2048)
    prompt = talk.ask("x")
    tokens = [*one_by_one(model, "yes"), model.info.token_eos]
    talk.answered("yes", tokens)
    assert talk.ask("y").tokens[: len(prompt.tokens) + len(tokens)] == [*prompt.tokens, *tokens]


@pytest.mark.parametrize(
    ("content", "cut"),
    [("return va", 9), ("return", 6), ("", 0), ("ret\ufffd", 3)],
    ids=["in a token", "at a token", "nothing", "in a character"],
)
def test_an_answer_that_was_cut_keeps_the_tokens_of_what_is_left(model, content, cut):
    """A stop string cuts anywhere, Ctrl-C in the middle of a character."""
    talk = Conversation(model, 2048)
    prompt = talk.ask("x")
    tokens = one_by_one(model, "return value")
    talk.answered(content, tokens)
    after = talk.ask("y").tokens
    assert after[: len(prompt.tokens) + cut] == prompt.tokens + tokens[:cut]
    messages = [*talk.messages, {"role": "user", "content": "y"}]
    assert text_of(model, after).endswith(model.chat_format(messages))


def test_where_the_template_changes_an_answer_its_text_counts(model_with):
    model = model_with(TRIMMING)
    talk = Conversation(model, 2048)
    talk.ask("x")
    talk.answered("  return 1\n\n", one_by_one(model, "  return 1\n\n"))
    messages = [*talk.messages, {"role": "user", "content": "y"}]
    expected = model.tokenize(model.chat_format(messages), parse_special=True)
    assert talk.ask("y").tokens == expected


def test_another_answer_to_the_same_message(model):
    talk = Conversation(model, 2048)
    with pytest.raises(ArgumentError, match="no message"):
        talk.ask_again()
    first = talk.ask("x")
    talk.answered("one", one_by_one(model, "one"))
    assert talk.ask_again().tokens == first.tokens
    assert [m["content"] for m in talk.messages] == ["x", "one"]  # until there is the new one
    talk.answered("two", one_by_one(model, "two"))
    assert [m["content"] for m in talk.messages] == ["x", "two"]


def test_what_is_not_answered_changes_nothing(model):
    talk = Conversation(model, 2048)
    talk.ask("x")
    talk.answered("one", one_by_one(model, "one"))
    before = talk.ask("y")
    talk.ask("something else")
    assert len(talk.messages) == 2 and talk.ask("y") == before
    talk.answered("two", [])
    with pytest.raises(ArgumentError, match="no prompt"):
        talk.answered("three", [])


def test_turns_are_taken_back_one_by_one(model):
    talk = Conversation(model, 2048)
    talk.system = "s"
    prompts = []
    for text in ("x", "y"):
        prompts.append(talk.ask(text))
        talk.answered(f"to {text}", one_by_one(model, f"to {text}"))
    assert talk.undo() == "y" and talk.ask("y") == prompts[1]
    assert talk.undo() == "x" and talk.ask("x") == prompts[0]
    assert talk.undo() is None and talk.system == "s"


# --- the system message -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [REFUSING + PLAIN_TEMPLATE, DROPPING], ids=["refused", "dropped"])
def test_a_template_without_system_messages(template, model_with):
    """Their text goes before the first message of the user, also when that is another one."""
    model = model_with(template)
    talk = Conversation(model, 2048)
    assert talk.system_in_user
    talk.system = "be short"
    assert "be short\n\nx" in text_of(model, talk.ask("x").tokens)
    talk.answered("one", [])
    assert text_of(model, talk.ask("y").tokens).count("be short") == 1
    assert talk.messages[0] == {"role": "system", "content": "be short"}


def test_the_system_message_can_be_changed_and_taken_away(model):
    talk = Conversation(model, 2048)
    assert not talk.system_in_user and talk.system is None
    talk.ask("x")
    talk.answered("one", [])
    for text in ("first", "second", None):
        talk.system = text
        assert talk.system == text
        shown = text_of(model, talk.ask("y").tokens)
        assert all((f"system\n{other}" in shown) == (other == text) for other in ("first", "second"))
    talk.system = "third"
    talk.clear()
    assert talk.messages == [{"role": "system", "content": "third"}]


# --- what fits --------------------------------------------------------------------------------------------------------


def filled(model: Model, n_ctx: int, n_turns: int, system: str | None = None) -> tuple[Conversation, list[int]]:
    """A conversation of equal turns, and how many turns each new one dropped."""
    talk = Conversation(model, n_ctx)
    talk.system = system
    dropped = []
    for i in range(n_turns):
        prompt = talk.ask(f"message {i:03}", 20)
        assert len(prompt.tokens) + 20 <= n_ctx
        dropped.append(prompt.n_dropped)
        talk.answered("return 1", model.tokenize("return 1", add_special=False))
    return talk, dropped


@pytest.mark.parametrize("system", [None, "be short"])
def test_the_oldest_turns_give_way(model, system):
    talk, dropped = filled(model, 400, 40, system)
    assert dropped[0] == 0 and sum(dropped) > 20
    assert sum(n > 0 for n in dropped) < sum(dropped) / 2  # several at once: each drop evaluates all anew
    shown = text_of(model, talk.ask("last", 20).tokens)
    kept = [i for i in range(40) if f"message {i:03}" in shown]
    assert kept == list(range(kept[0], 40)) and shown.count("<|im_start|>user") == len(kept) + 1
    assert (system is None) or f"system\n{system}" in shown
    assert talk.n_turns == 40  # to be saved


def test_a_conversation_far_too_long_is_cut_in_one_go(model):
    """It was loaded for instance. What is left takes at most half of the context, and one turn more would not."""
    talk = Conversation(model, 400)
    talk.replace([{"role": role, "content": f"number {i}"} for i in range(2000) for role in ("user", "assistant")])
    prompt = talk.ask("last")
    shown = text_of(model, prompt.tokens)
    n_kept = 2000 - prompt.n_dropped
    assert f"number {2000 - n_kept}" in shown and f"number {1999 - n_kept}" not in shown
    assert 200 - 50 < len(prompt.tokens) <= 200


def test_what_was_left_out_does_not_come_back_by_itself(model):
    talk, _ = filled(model, 400, 40)
    for _ in range(40):
        talk.undo()
        assert talk.ask("x", 20).n_dropped == 0
    assert talk.n_turns == 0


def test_a_message_that_is_too_long_by_itself(model):
    talk, _ = filled(model, 400, 5, "be short")
    before = talk.messages
    with pytest.raises(ContextFull) as error:
        talk.ask("x = 1\n" * 500)
    message = str(error.value)
    assert "400" in message and "-c" in message and "\n" not in message and str(ANSWER_MIN) in message
    assert talk.messages == before and talk.ask("short").n_dropped == 0


def test_the_longest_message_that_fits(model):
    talk = Conversation(model, 256)
    fitting = 0
    for n in range(1, 300):
        try:
            prompt = talk.ask("x\n" * n)
        except ContextFull:
            break
        fitting = len(prompt.tokens)
    assert 256 - ANSWER_MIN - 4 <= fitting <= 256 - ANSWER_MIN


def test_an_answer_that_filled_the_context_goes_with_its_turn(model):
    talk = Conversation(model, 256)
    talk.ask("x")
    talk.answered("y\n" * 120, one_by_one(model, "y\n" * 120))
    prompt = talk.ask("and now")
    assert prompt.n_dropped == 1 and len(prompt.tokens) < 128


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_model_without_a_template_is_refused(bundled_model_path):
    with Model(bundled_model_path, n_threads=1) as model, pytest.raises(ModelError, match="chat template"):
        Conversation(model, 256)


def test_messages_that_the_template_refuses_change_nothing(model_with):
    model = model_with(
        "{% if messages[0]['role'] != 'user' %}{{ raise_exception('user first') }}{% endif %}" + PLAIN_TEMPLATE
    )
    talk = Conversation(model, 256)
    talk.ask("x")
    talk.answered("one", [])
    before = talk.messages
    with pytest.raises(ArgumentError, match="user first"):
        talk.replace([{"role": "assistant", "content": "hello"}])
    assert talk.messages == before


def test_variables_go_to_the_template(model_with):
    model = model_with(WITH_VARIABLE)
    assert text_of(model, Conversation(model, 256, {"extra": "more"}).ask("x").tokens).endswith("more")
    with pytest.raises(ArgumentError, match="unknown_one"):
        Conversation(model, 256, {"unknown_one": 1})
