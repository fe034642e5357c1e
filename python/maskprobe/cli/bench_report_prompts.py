"""The prompts of maskprobe-bench report. They lie in the package, so that every machine decodes the same ones."""

from .bench_prompts import Prompt

QUESTIONS = (
    "Why does ice float on water?",
    "What is the difference between a lake and a sea?",
    "How do bees find their way back to the hive?",
    "Why do we have leap years?",
)
CODE = (
    "Write a Python function that returns the n-th Fibonacci number, with a loop.",
    "Write a Python class for a stack with the methods push, pop and is_empty.",
    "Write a Python function that counts how often each word occurs in a text, and explain it line by line.",
    "Add error handling to this function:\n\ndef read_numbers(path):\n    with open(path) as file:\n"
    "        return [int(line) for line in file]",
)
SUMMARIES = (
    "Summarize in two sentences: The town's old bridge was closed in spring, because its wooden beams had begun to "
    "rot. For half a year everybody who wanted to cross the river had to take the ferry, which carries twelve people "
    "and does not run in strong wind. In October the bridge was opened again. Its beams are of oak, as they were "
    "before, but they rest on steel now, and engineers say that the bridge will stand for another hundred years.",
    "Summarize in one sentence: A library in the north lends not only books but tools. Members borrow drills, ladders "
    "and sewing machines for a week. The library's director says that most tools in a house are used for minutes in a "
    "year, and that a shared drill is used every day. Nothing has been stolen so far, and two drills came back cleaner "
    "than they had been.",
    "List the three most important facts of this report: The harvest began two weeks early. Dry weather in June had "
    "ripened the wheat before its time, and the farmers feared small grains. The first fields gave 6 tonnes per "
    "hectare, a tonne less than last year. Barley suffered less, because it had been sown in autumn. Prices rose by "
    "eight percent within a month.",
    "What does the writer want? Dear Sir or Madam, on 3 May I ordered a lamp from your shop, order 1182. A lamp came, "
    "but its glass was broken. I sent pictures of it on 7 May and have not heard from you. Please send a new glass or "
    "return the price of the lamp. Kind regards",
)
REWRITING = (
    "Correct the mistakes in this text: Yesterday me and my brother goes to the market and buyed apples. The apples "
    "was red and very sweet. We eated three of it on the way home.",
    "Rewrite this text in the past tense: The train leaves the station at noon. A woman runs after it and waves. "
    "Nobody sees her, and the train disappears behind the hill.",
    "Turn this list into one paragraph: - the museum opens at nine - children pay nothing - the tower is closed in "
    "winter - there is a cafe on the second floor",
    "Write this as a JSON object: The customer Anna Berg, 34 years old, lives in Oslo and has ordered two chairs and a "
    "table.",
)
SUMS = (
    "A shop sells pencils at 3 for 2 dollars. How much do 12 pencils cost? Show each step.",
    "A tank holds 240 litres. It is filled with 15 litres a minute and loses 3 litres a minute. When is it full?",
    "What is 17 times 24? Show how you get there.",
    "Tom has twice as many marbles as Mia. Together they have 36. How many has each?",
)
WRITING = (
    "Write a short story about a lighthouse keeper who finds a letter.",
    "Write a friendly e-mail that invites a colleague to a picnic on Saturday.",
    "Describe a rainy evening in a small town.",
    "Write a poem of eight lines about the first snow.",
)

TASKS = {
    "questions": QUESTIONS,
    "code": CODE,
    "summaries": SUMMARIES,
    "rewriting": REWRITING,
    "sums": SUMS,
    "writing": WRITING,
}


def report_prompts() -> list[Prompt]:
    """One of each kind after another: where the time ends, the kinds are there alike."""
    rounds = zip(*TASKS.values(), strict=True)
    return [
        Prompt(task, str(number), text)
        for number, texts in enumerate(rounds, 1)
        for task, text in zip(TASKS, texts, strict=True)
    ]
