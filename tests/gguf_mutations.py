"""Damage for GGUF files: blind, as storage and networks do it, and aware of the fields, as only a bad writer can."""

from __future__ import annotations

import copy
import random
import struct

from gguf_bytes import (
    ARRAY,
    BLOCKS,
    BOOL,
    F32,
    FORMATS,
    I32,
    STR,
    U8,
    U16,
    U32,
    U64,
    File,
    Tensor,
    Value,
    tensor_size,
)


def words(text: str) -> list[str]:
    return text.split()


INTEGERS = [0, 1, 2, 3, 4, 7, 8, 16, 31, 64, 255, 256, 257, 512, 513, 65535, 65536, 1 << 20, 1 << 24, 1 << 30]
INTEGERS += [(1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -1, -2, -(1 << 31)]
FLOATS = [0.0, -0.0, 1.0, -1.0, 1e-30, 1e30, -1e-5, 0.5, 2.0, float("inf"), float("-inf"), float("nan")]
TEXTS = [b"", b" ", b"a", b"a b", b"a\0b", b"\xff\xfe", b"%s%n", b"x" * 300, b"<0x0A>", b"llama", b"gpt2", b"none"]
MAX_DATA = 1 << 20  # bytes that one mutated tensor may take

# What llama.cpp reads for one architecture or another, below "<architecture>."
ARCHITECTURE_KEYS = words(
    """
    vocab_size context_length embedding_length embedding_length_out embedding_length_per_layer_input block_count
    leading_dense_block_count feed_forward_length expert_feed_forward_length expert_shared_feed_forward_length
    use_parallel_residual expert_count expert_used_count expert_shared_count expert_group_count expert_group_used_count
    expert_weights_scale expert_weights_norm expert_gating_func moe_every_n_layers nextn_predict_layers
    n_deepstack_layers deepstack_mapping pooling_type logit_scale decoder_start_token_id attn_logit_softcapping
    router_logit_softcapping final_logit_softcapping swin_norm residual_scale embedding_scale interleave_moe_layer_step
    full_attention_interval attention.head_count attention.head_count_kv attention.max_alibi_bias attention.clamp_kqv
    attention.key_length attention.value_length attention.layer_norm_epsilon attention.layer_norm_rms_epsilon
    attention.causal attention.sliding_window attention.sliding_window_pattern attention.scale attention.output_scale
    attention.temperature_length attention.key_length_mla attention.value_length_mla attention.key_length_swa
    attention.value_length_swa attention.shared_kv_layers attention.recurrent_layers attention.relative_buckets_count
    rope.dimension_count rope.dimension_count_swa rope.dimension_sections rope.freq_base rope.freq_base_swa
    rope.scale_linear rope.scaling.type rope.scaling.factor rope.scaling.attn_factor
    rope.scaling.original_context_length rope.scaling.finetuned rope.scaling.yarn_log_multiplier
    rope.scaling.yarn_ext_factor rope.scaling.yarn_attn_factor rope.scaling.yarn_beta_fast rope.scaling.yarn_beta_slow
    ssm.conv_kernel ssm.inner_size ssm.state_size ssm.time_step_rank ssm.group_count ssm.dt_b_c_rms wkv.head_size
    classifier.output_labels experts_per_group num_loops hrm.layers_per_stack hrm.h_cycles hrm.l_cycles
    attention.compress_ratios attention.indexer.types
"""
)
GENERAL_KEYS = words(
    """
    general.type general.architecture general.alignment general.file_type general.name general.tensor_extra.name
    general.tensor_extra.prec_a4 split.no split.count split.tensors.count tokenizer.ggml.model tokenizer.ggml.pre
    tokenizer.ggml.tokens tokenizer.ggml.token_type tokenizer.ggml.token_type_count tokenizer.ggml.scores
    tokenizer.ggml.merges tokenizer.ggml.bos_token_id tokenizer.ggml.eos_token_id tokenizer.ggml.eot_token_id
    tokenizer.ggml.eom_token_id tokenizer.ggml.unknown_token_id tokenizer.ggml.seperator_token_id
    tokenizer.ggml.padding_token_id tokenizer.ggml.mask_token_id tokenizer.ggml.add_bos_token
    tokenizer.ggml.add_eos_token tokenizer.ggml.add_sep_token tokenizer.ggml.add_space_prefix
    tokenizer.ggml.remove_extra_whitespaces tokenizer.ggml.precompiled_charsmap tokenizer.chat_template
    tokenizer.ggml.fim_pre_token_id tokenizer.ggml.suppress_tokens tokenizer.ggml.normalizer.lowercase
"""
)
NAMES = {
    "model": [b"llama", b"gpt2", b"bert", b"t5", b"rwkv", b"plamo2", b"gemma4", b"hybriddna", b"whitespace", b"test"],
    "pre": [b"llama-bpe", b"gpt-2", b"tekken", b"glm4", b"gemma4", b"kimi-k2", b"refact", b"superbpe", b"default"],
    "type": [b"none", b"linear", b"yarn", b"longrope", b"model", b"adapter", b"spiral"],
    "architecture": [
        name.encode()
        for name in words(
            """
        arcee baichuan bert bitnet clip cohere2 command-r deci exaone falcon gemma gemma2 gemma3 glm4 gpt-oss gpt2
        gptneox granite granite_swa granitemoe hunyuan-dense internlm2 jais jamba lfm2 llama llama4 mamba mamba2 mellum
        minicpm mistral3 mpt nanbeige olmo olmo2 orion phi2 phi3 plamo qwen qwen2 qwen2vl qwen3 qwen3vl refact rwkv6
        seed_oss smallthinker smollm3 stablelm starcoder starcoder2 step35 talkie xverse"""
        )
    ],
}


class Mutator:
    """One random change after another, all drawn from one generator."""

    def __init__(self, rng: random.Random, others: list[bytes]) -> None:
        self.rng = rng
        self.others = others

    def mutate(self, data: bytes) -> bytes:
        if self.rng.random() < 0.3:
            return self.damage(data)
        file = File.parse(data)
        for _ in range(self.rng.choice([1, 1, 1, 2, 3])):
            try:
                self.change(file)
            except (IndexError, ValueError, StopIteration):  # an earlier change left nothing to work on
                continue
        data = file.pack()
        return self.damage(data) if self.rng.random() < 0.05 else data

    # --- blind -------------------------------------------------------------------------------------------------------

    def damage(self, data: bytes) -> bytes:
        pick = self.rng.choice([self.flip_bits, self.overwrite, self.put_integer, self.cut, self.splice, self.shift])
        changed = bytearray(data)
        pick(changed)
        return bytes(changed)

    def place(self, data: bytearray) -> int:
        """More often near the start, where the header is."""
        limit = self.rng.choice([24, 200, 1000, 8000, len(data)])
        return self.rng.randrange(min(limit, len(data)))

    def flip_bits(self, data: bytearray) -> None:
        for _ in range(self.rng.choice([1, 1, 2, 8])):
            data[self.place(data)] ^= 1 << self.rng.randrange(8)

    def overwrite(self, data: bytearray) -> None:
        start = self.place(data)
        for i in range(start, min(start + self.rng.choice([1, 2, 4, 16, 64]), len(data))):
            data[i] = self.rng.choice([0, 255, 127, 128, self.rng.randrange(256)])

    def put_integer(self, data: bytearray) -> None:
        size = self.rng.choice([4, 8])
        start = self.place(data)
        value = self.rng.choice(INTEGERS) % (1 << 8 * size)
        data[start : start + size] = value.to_bytes(size, "little")

    def cut(self, data: bytearray) -> None:
        del data[self.place(data) :]

    def splice(self, data: bytearray) -> None:
        source = self.rng.choice([bytes(data), *self.others])
        start, length = self.rng.randrange(len(source)), self.rng.choice([8, 64, 512, 4096])
        place = self.place(data)
        data[place : place + length] = source[start : start + length]

    def shift(self, data: bytearray) -> None:
        place = self.place(data)
        if self.rng.random() < 0.5:
            del data[place : place + self.rng.choice([1, 4, 8, 32])]
        else:
            data[place:place] = self.rng.randbytes(self.rng.choice([1, 4, 8, 32]))

    # --- fields ------------------------------------------------------------------------------------------------------

    def change(self, file: File) -> None:
        values = [self.set_number] * 6 + [self.set_known_key] * 5 + [self.retype, self.rename_key, self.drop_key]
        values += [self.repeat_key, self.change_array, self.change_array, self.repeat_element, self.make_per_layer]
        values += [self.change_architecture]
        tensors = [self.retype_tensor, self.resize_tensor, self.resize_tensor, self.drop_tensor, self.repeat_tensor]
        tensors += [self.rename_tensor, self.swap_tensors, self.misplace_tensor, self.damage_data, self.cut_layers]
        self.rng.choice(self.rng.choice([values, values, tensors]))(file)

    def any_value(self, file: File, **wanted: object) -> Value:
        return self.rng.choice([v for _, v in file.values if all(getattr(v, k) == x for k, x in wanted.items())])

    def number(self, kind: int, near: object = None) -> object:
        rng = self.rng
        if kind == STR:
            return rng.choice(TEXTS)
        if kind == BOOL:
            return rng.random() < 0.5
        if kind not in (F32, 12):
            value = rng.choice(INTEGERS)
            if isinstance(near, int) and rng.random() < 0.4:
                value = rng.choice([near - 1, near + 1, near * 2, near // 2, -near])
            size = struct.calcsize(FORMATS[kind])
            value %= 1 << 8 * size
            return value - (1 << 8 * size) if FORMATS[kind].islower() and value >> (8 * size - 1) else value
        return -near if isinstance(near, float) and rng.random() < 0.2 else rng.choice(FLOATS)

    def text_for(self, key: bytes) -> bytes:
        return self.rng.choice(NAMES.get(key.rsplit(b".", 1)[-1].decode(errors="replace"), TEXTS) + TEXTS[:3])

    def set_number(self, file: File) -> None:
        key, value = self.rng.choice([pair for pair in file.values if pair[1].type != ARRAY])
        value.value = self.text_for(key) if value.type == STR else self.number(value.type, value.value)

    def random_value(self, key: bytes, file: File) -> Value:
        rng = self.rng
        kind = rng.choice([U32, U32, U32, F32, F32, STR, BOOL, I32, U64, U16, U8, ARRAY])
        if kind != ARRAY:
            return Value(kind, self.text_for(key) if kind == STR else self.number(kind))
        item = rng.choice([U32, I32, F32, BOOL, STR, U8])
        count = rng.choice([0, 1, 2, 3, 4, 100])
        return Value(ARRAY, [self.number(item) for _ in range(count)], item)

    def architecture(self, file: File) -> bytes:
        return next(v.value for key, v in file.values if key == b"general.architecture" and v.type == STR)

    def set_known_key(self, file: File) -> None:
        arch = self.architecture(file)
        names = [arch + b"." + key.encode() for key in ARCHITECTURE_KEYS] * 2 + [key.encode() for key in GENERAL_KEYS]
        key = self.rng.choice(names)
        file.set(key.decode(errors="replace"), self.random_value(key, file))

    def change_architecture(self, file: File) -> None:
        """Another architecture, with the keys that go with it."""
        old, new = self.architecture(file), self.rng.choice(NAMES["architecture"])
        file.set("general.architecture", Value(STR, new))
        renamed = [(new + key[len(old) :] if key.startswith(old + b".") else key, value) for key, value in file.values]
        file.values[:] = renamed

    def retype(self, file: File) -> None:
        index = self.rng.randrange(len(file.values))
        file.values[index] = (file.values[index][0], self.random_value(file.values[index][0], file))

    def rename_key(self, file: File) -> None:
        index = self.rng.randrange(len(file.values))
        name = bytearray(file.values[index][0])
        name[self.rng.randrange(len(name))] = self.rng.choice(b"\0a.%\xff")
        file.values[index] = (bytes(name), file.values[index][1])

    def drop_key(self, file: File) -> None:
        del file.values[self.rng.randrange(len(file.values))]

    def repeat_key(self, file: File) -> None:
        file.values.append(copy.deepcopy(self.rng.choice(file.values)))

    def change_array(self, file: File) -> None:
        array = self.any_value(file, type=ARRAY)
        items, rng = array.value, self.rng
        for _ in range(rng.choice([1, 1, 5])):
            index = rng.randrange(len(items))
            action = rng.randrange(5)
            if action == 0:
                del items[index]
            elif action == 1:
                items.insert(index, self.number(array.item))
            elif action == 2 and array.item == STR:
                items[index] = items[index][: rng.randrange(len(items[index]) + 1)]
            elif action == 3:
                del items[index : index + rng.choice([2, 100, len(items)])]
            else:
                items[index] = self.number(array.item, items[index])

    def repeat_element(self, file: File) -> None:
        items = self.any_value(file, type=ARRAY).value
        items[self.rng.randrange(len(items))] = self.rng.choice(items)

    def make_per_layer(self, file: File) -> None:
        pairs = [(i, v) for i, (key, v) in enumerate(file.values) if v.type == U32 and not key.startswith(b"tokenizer")]
        index, value = self.rng.choice(pairs)
        numbers = [self.rng.choice([value.value, self.number(U32)]) for _ in range(self.rng.choice([1, 2, 2, 2, 3]))]
        item = self.rng.choice([U32, I32])
        numbers = [n - (1 << 32) if item == I32 and n >> 31 else n for n in numbers]
        file.values[index] = (file.values[index][0], Value(ARRAY, numbers, item))

    # --- tensors -----------------------------------------------------------------------------------------------------

    def fill(self, tensor: Tensor) -> None:
        """As much data as the shape says, where that is not too much."""
        size = tensor_size(tensor.dims, tensor.type) if tensor.type in BLOCKS else len(tensor.data)
        if 0 < size <= MAX_DATA and self.rng.random() < 0.9:
            tensor.data = (tensor.data * (size // max(len(tensor.data), 1) + 1))[:size]

    def retype_tensor(self, file: File) -> None:
        tensor = self.rng.choice(file.tensors)
        tensor.type = self.rng.choice([*BLOCKS, *BLOCKS, 4, 5, 36, 42, 1000, -1])
        self.fill(tensor)

    def resize_tensor(self, file: File) -> None:
        tensor = self.rng.choice(file.tensors)
        action = self.rng.randrange(4)
        if action == 0:
            self.rng.shuffle(tensor.dims)
        elif action == 1:
            tensor.dims.insert(self.rng.randrange(len(tensor.dims) + 1), self.rng.choice([0, 1, 1, 2]))
        elif action == 2:
            tensor.dims.pop()
        else:
            index = self.rng.randrange(len(tensor.dims))
            tensor.dims[index] = self.number(U64, tensor.dims[index])
        self.fill(tensor)

    def drop_tensor(self, file: File) -> None:
        del file.tensors[self.rng.randrange(len(file.tensors))]

    def cut_layers(self, file: File) -> None:
        """Only the first layer, or all but the first, with or without a count that says so."""
        first = self.rng.random() < 0.7
        kept = [t for t in file.tensors if not t.name.startswith(b"blk.") or t.name.startswith(b"blk.0.") == first]
        file.tensors[:] = kept
        name = self.rng.choice(["block_count", "nextn_predict_layers"])
        file.set(f"{self.architecture(file).decode(errors='replace')}.{name}", Value(U32, 1))

    def repeat_tensor(self, file: File) -> None:
        tensor = copy.deepcopy(self.rng.choice(file.tensors))
        if self.rng.random() < 0.7:
            suffix = self.rng.choice([b".bias", b".scale"])
            tensor.name = tensor.name.replace(b"blk.0", b"blk.1").replace(b".weight", suffix)
        file.tensors.append(tensor)

    def rename_tensor(self, file: File) -> None:
        self.rng.choice(file.tensors).name = self.rng.choice([*TEXTS, *(tensor.name for tensor in file.tensors)])

    def swap_tensors(self, file: File) -> None:
        one, other = self.rng.choice(file.tensors), self.rng.choice(file.tensors)
        one.name, other.name = other.name, one.name

    def misplace_tensor(self, file: File) -> None:
        self.rng.choice(file.tensors).offset = self.rng.choice(INTEGERS) % (1 << 64)

    def damage_data(self, file: File) -> None:
        tensor = self.rng.choice(file.tensors)
        data = bytearray(tensor.data)
        (self.overwrite if self.rng.random() < 0.7 else self.flip_bits)(data)
        tensor.data = bytes(data)
