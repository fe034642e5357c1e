"""Requests and answers in the shapes of OpenAI's API, apart from how they travel: for Llama, a server, a chat program.

requests.py   checked arguments -> a Plan, which starts a generation
results.py    the tokens of a generation -> dicts, whole or in chunks
streams.py    iterators of chunks, for threads and for event loops
"""
