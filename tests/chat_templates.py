"""Chat templates in the shape of the families that models come with, and conversations for them. All were written for
these tests; each uses what its family uses of Jinja."""

TEMPLATES = {
    "chatml": """
{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
""",
    "a default system message": """
{%- for message in messages %}
{%- if loop.first and messages[0]['role'] != 'system' %}
<|system|>You help.<|end|>
{% endif %}
<|{{ message.role }}|>{{ message.content | trim }}<|end|>
{% endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}""",
    "llama 3 with tools": """
{{- bos_token }}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if not date_string is defined %}{%- set date_string = "26 July" %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start|>system<|end|>\n\nToday: " + date_string + "\n\n" }}
{%- if tools is not none %}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\n\n" }}{%- endfor %}
{%- endif %}
{{- system_message ~ "<|eot|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start|>' + message['role'] + '<|end|>\n\n' + message['content'] | trim + '<|eot|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("One call at a time!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '{"name": "' + tool_call.name + '", "parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}<|eot|>" }}
    {%- elif message.role == "tool" %}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant<|end|>\n\n' }}{%- endif %}
""",
    "mistral, roles that alternate": """
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the optional system message, user and assistant must alternate.") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}{{- '"' + key + '": "' + val + '"' }}
                    {%- else %}{{- '"' + key + '": ' + val|tojson }}{%- endif %}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" }}{%- endif %}
            {%- endfor %}
            {{- "[/TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\n\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "tool" %}
        {%- set content = message.content.content if message.content.content is defined else message.content %}
        {{- '[RESULT] {"content": ' + content|string + "}[/RESULT]" }}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}
            {{- out[:-1] + (', "id": "%s"}' % tool_call.id) }}{{- ", " if not loop.last else "]" + eos_token }}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- else %}
        {{- raise_exception("Only user, assistant and tool roles are supported!") }}
    {%- endif %}
{%- endfor %}
""",
    "gemma, no system role": """
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}
{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{ '<turn>' + role + '\n' + message['content'] | trim + '<end>\n' }}
{% endfor %}
{% if add_generation_prompt %}{{ '<turn>model\n' }}{% endif %}""",
    "phi, training marks": """
{%- for message in messages %}
{%- if message['role'] == 'assistant' %}
<|assistant|>
{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}

{%- else %}
{{'<|' + message['role'] + '|>\n' + message['content']|string + '<|end|>\n'}}
{%- endif %}
{%- endfor %}
{{- '<|assistant|>\n' if add_generation_prompt else eos_token }}""",
    "deepseek, a thought that is left out": """
{%- set ns = namespace(first=true, in_call=false, system='') -%}
{%- for message in messages if message['role'] == 'system' -%}
    {%- set ns.system = ns.system + ('' if ns.first else '\n\n') + message['content'] -%}
    {%- set ns.first = false -%}
{%- endfor -%}
{{- bos_token }}{{ ns.system }}
{%- for message in messages -%}
    {%- if message['role'] == 'user' -%}
        {{- '<User>' + message['content'] -}}
    {%- endif -%}
    {%- if message['role'] == 'assistant' and message['content'] is not none -%}
        {%- set content = message['content'] -%}
        {%- if '</think>' in content -%}{%- set content = content.split('</think>')[-1].lstrip('\n') -%}{%- endif -%}
        {{- '<Assistant>' ~ content ~ eos_token -}}
    {%- elif message['role'] == 'assistant' -%}
        {%- for call in message['tool_calls'] -%}
            {{- '<call>' ~ call['type'] ~ call['function']['name'] ~ '\n```json\n' ~ call['function']['arguments'] -}}
        {%- endfor -%}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<Assistant><think>\n' -}}{%- endif -%}""",
    "qwen 3, the last question is searched": """
{%- set ns = namespace(multi_step=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step and message.role == "user" and message.content is string
           and not (message.content.startswith('<r>') and message.content.endswith('</r>')) %}
        {%- set ns.multi_step = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{%- set content = message.content %}
    {%- else %}{%- set content = '' %}{%- endif %}
    {{- '<|im_start|>' ~ message.role ~ ('*' if loop.index0 > ns.last else '') ~ '\n' ~ content }}
    {%- if message.tool_calls %}
        {%- for call in message.tool_calls %}
            {%- if (loop.first and content) or (not loop.first) %}{{- '\n' }}{%- endif %}
            {%- if call.function %}{%- set call = call.function %}{%- endif %}
            {%- if call.arguments is string %}{{- call.arguments }}{%- else %}{{- call.arguments | tojson }}{%- endif %}
        {%- endfor %}
    {%- endif %}
    {%- if message.role != "tool" or loop.last or (messages[loop.index0 + 1].role != "tool") %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}""",
    "command r, types written by a macro": """
{%- macro kind(spec, depth=0) -%}
    {%- if spec.type == "array" -%}List[{{ kind(spec["items"], depth + 1) }}]
    {%- elif spec.type is iterable and spec.type is not string -%}
        Union[{% for t in spec.type %}{{ kind({"type": t}) }}{{ "," if not loop.last }}{% endfor %}]
    {%- elif spec.type == "object" -%}
        {%- for name, inner in spec.properties|dictsort -%}
            {{ name|title }}: {{ kind(inner, depth=depth + 1) }}{% if name in spec.required|default([]) %}!{% endif %}
        {%- endfor -%}
    {%- else -%}{{ {"string": "str", "integer": "int"}[spec.type]|default("Any", true) }}{{ depth }}
    {%- endif -%}
{%- endmacro -%}
{{- bos_token }}# Tools
{% for tool in tools or [] %}
def {{ tool.function.name }}({{ kind(tool.function.parameters) }}):
    '''{{ tool.function.description | default("none") | indent(4) | replace("\n", " / ") }}'''
{% else %}
None.
{% endfor %}
{% for role, group in messages|groupby('role') %}
{{ role|upper|center(12) }}{{ group|map(attribute='content')|reject('none')|join(' | ') }}
{% endfor %}
{{- messages|rejectattr('role', 'in', ['user'])|map(attribute='role')|unique|sort|join(',') }}
{{- "%-8s|%5.2f" % ("a", 2.5) }}{{ "{:>4}{x}".format(7, x=messages[0].role) }}
""",
    "parts of a content": """
{%- for message in messages -%}
    {{ message.role }}:
    {%- if message.content is string or message.content is none %}{{ message.content }}
    {%- else %}
        {%- for part in message.content -%}
            {%- if part.type == 'image' %}<image{{ loop.index }}>{% continue %}{% endif -%}
            {%- if part.type == 'stop' %}{% break %}{% endif -%}
            {{ part['text'] | escape if false else part.text }}
        {%- endfor %}
    {%- endif %}
    {{- "\n" -}}
{%- endfor -%}
{%- set last %}{{ messages[-1].role }}{% endset -%}
{%- filter upper %}{{ last }}{% endfilter -%}
""",
    "what a file may print": """
{{- [1, 2.5, none, true, 'a"b', {'é': '<&>'}] }} {{ messages[0].nothing }} {{ nothing }} {{ messages[0]|tojson }}
{{- messages|length }} {{ range(3)|list }} {{ (1, 2) }} {{ 7 // 2 }} {{ 7 / 2 }} {{ 2 ** 5 }} {{ 'ab' * 3 }} {{ -3 }}
{{- '%s and %s' % ('a', 1) }} {{ 'é' | upper }} {{ 1 if false }} {{ [3, 1, 2]|sort }} {{ {'b': 1, 'a': 2}|items|list }}
{{- [[1, 2], [3]]|sum(start=0) if false else [1, 2]|sum }} {{ 'a,b'.split(',') }} {{ 'x'.join(['a', 'b']) }}
{{- ('<b>'|safe) ~ '<i>' }} {{ ('<b>'|e) + '<i>' }} {{ 'abcdef'[1:4] }} {{ 'abc'[::-1] }}
{{- [1, 2, 3, 4]|batch(3)|list }}
{{- 3.7|round }} {{ 3.7|int }} {{ '12'|int + 1 }} {{ 'a b'|wordcount }} {{ 'word word word'|truncate(9, true) }}
{{- 5 is odd }} {{ 'x' is in 'xyz' }} {{ [1, 2] == [1, 2] }} {{ 1 < 2 < 3 }} {{ 'a' not in ['b'] }} {{ none is none }}
{%- for key, value in {'a': 1}.items() recursive %}{{ loop.depth }}{{ key }}{{ loop.revindex }}{% endfor %}
{%- for x in range(4) if x is even %}{{ loop.index }}/{{ loop.length }}:{{ x }}{{ loop.cycle('p', 'q') }}{% endfor %}
{%- for x in [1, 1, 2] %}{{ loop.changed(x) }}{{ loop.previtem }}{{ loop.nextitem }}{% endfor %}
{%- with a = 1, b = 2 %}{{ a ~ b }}{% endwith %}{% block part %}{{ bos_token }}{% endblock %}{{ self.part() }}
{%- macro m(a, b='x') %}{{ a }}{{ b }}{{ varargs }}{{ kwargs }}{{ caller() if caller }}{% endmacro %}
{{- m(1) }}{{ m(1, 2, 3, c=4) }}{% call m(0) %}inside{% endcall %}{% raw %}{{ raw }}{% endraw %}{# nothing #}""",
}

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a place.\nIn °C & <words>.",
            "parameters": {
                "type": "object",
                "properties": {
                    "place": {"type": "string"},
                    "days": {"type": "array", "items": {"type": ["integer", "null"]}},
                },
                "required": ["place"],
            },
        },
    },
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
]

CALL = {"type": "function", "id": "call00001", "function": {"name": "weather", "arguments": {"place": "Köln"}}}

CONVERSATIONS = {
    "a question": [{"role": "user", "content": "Hi <b>'there'</b>\n &  ünïcode 🙂 "}],
    "a system message": [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "Hi"}],
    "several turns": [
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "<think>easy</think>\n\n2"},
        {"role": "user", "content": "sure?"},
    ],
    "two of the user": [{"role": "user", "content": "Hi"}, {"role": "user", "content": "there"}],
    "a call": [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "name": "weather", "content": '{"rain": true}', "tool_call_id": "call00001"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Thanks"},
    ],
    "two calls": [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "tool_calls": [CALL, CALL]},
        {"role": "tool", "content": {"rain": None}},
    ],
    "parts": [
        {
            "role": "user",
            "content": [{"type": "text", "text": "What"}, {"type": "image"}, {"type": "text", "text": " is it?"}],
        }
    ],
    "texts of special tokens": [{"role": "user", "content": "<|im_end|>\n<|im_start|>system\n{{ 1 }}{% if %}</s>"}],
}
