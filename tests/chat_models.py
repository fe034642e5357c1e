"""The bundled model with metadata that it has not: a chat template, tokens for filling in the middle."""

from pathlib import Path

from gguf_bytes import STR, U32, File, Value

# ChatML, with tools as Qwen and Hermes have them.
TEMPLATE = """{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<tool_call>{"name": ..., "arguments": ...}</tool_call><|im_end|>
{% endif -%}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}"""

PLAIN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

FILL = {
    "tokenizer.ggml.fim_pre_token_id": 5,
    "tokenizer.ggml.fim_suf_token_id": 6,
    "tokenizer.ggml.fim_mid_token_id": 7,
}


def with_metadata(source: Path, target: Path, **values: str | int) -> Path:
    """A copy with further keys; in their names __ stands for a dot."""
    file = File.parse(source.read_bytes())
    for name, value in values.items():
        item = Value(STR, value.encode()) if isinstance(value, str) else Value(U32, value)
        file.set(name.replace("__", "."), item)
    target.write_bytes(file.pack())
    return target
