"""maskprobe-serve: an HTTP server for clients of OpenAI, llama-server and Ollama. Reference: docs/server.md.

app.py             the application: routes, what every request passes through
openai_routes.py   /v1/...            ollama_routes.py   /api/...            native_routes.py   /tokenize, /health, ...
bodies.py          JSON bodies and their fields, checked        errors.py      exceptions -> status codes and shapes
running.py         one generation of a request                  answering.py   answers, whole or streamed; disconnects
models.py          models by name: loading, eviction            admission.py   whose turn it is
metrics.py         what is counted                              openapi.py     the description at /openapi.json
"""
